//! Viewers behind real NATs: the kernel's, in namespaces of the test's own. Needs Linux, and the right to make user
//! namespaces.
#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

const SECONDS: u32 = 60;

/// Ends with all that it has started.
struct Homes(Child);

impl Drop for Homes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the tracker says of its viewers: how their NATs work, how many links each has, and whether it has
/// anything from others.
fn seen(line: &str) -> Vec<(String, u64, bool)> {
    let mesh: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let viewers = mesh["viewers"].as_array().cloned().unwrap_or_default();
    let mut seen: Vec<_> = viewers
        .iter()
        .map(|viewer| {
            let nat = viewer["nat"].as_str().unwrap_or_default().to_owned();
            let has_some = viewer["bytes_p2p"].as_u64() > Some(0);
            (nat, viewer["links"].as_u64().unwrap_or_default(), has_some)
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn viewers_find_out_how_their_nats_work_and_link_where_that_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nat.sh");
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount-proc"])
        .args(["--pid", "--fork", "--kill-child", "sh", script])
        .args([env!("CARGO_BIN_EXE_shoal")])
        .arg(dir.path())
        .arg(SECONDS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("environment: `unshare` (util-linux) is there");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let homes = Homes(child);
    // Whoever is in the internet reaches everybody. A symmetric NAT and one that lets in only whom it was sent to
    // do not reach each other; two of the latter do.
    let expected = [("cone", 2), ("cone", 2), ("open", 3), ("symmetric", 1)]
        .map(|(nat, links)| (nat.to_owned(), links, true));
    let mut last = Vec::new();
    for line in lines {
        last = seen(&line.unwrap());
        if last == expected {
            return drop(homes);
        }
    }
    let logs = ["demo.log", "peer1.log", "peer2.log", "peer3.log"]
        .map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default());
    panic!("{last:?}\n{}", logs.join("\n"));
}
