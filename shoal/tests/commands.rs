//! The binary from outside: what it prints, and how it ends.

use std::process::{Command, Output};

fn shoal(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(args)
        .output()
        .unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = shoal(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "demo",
        "publish",
        "origin-proxy",
        "tracker",
        "peer",
        "keygen",
        "token",
        "simulate",
    ] {
        assert!(stdout(&["--help"]).contains(command));
        assert!(stdout(&[command, "--help"]).contains("Usage:"), "{command}");
    }
}

#[test]
fn printed_configurations_parse_back_to_the_defaults() {
    let proxy = stdout(&["origin-proxy", "--print-config"]);
    assert_eq!(
        origin_proxy::Config::from_toml(&proxy).unwrap(),
        origin_proxy::Config::default()
    );
    let tracker = stdout(&["tracker", "--print-config"]);
    assert_eq!(
        tracker::Config::from_toml(&tracker).unwrap(),
        tracker::Config::default()
    );
    let peer: peer_agent::Config = toml::from_str(&stdout(&["peer", "--print-config"])).unwrap();
    assert_eq!(peer, peer_agent::Config::default());
    let source = stdout(&["publish", "--print-config"]);
    assert_eq!(source, live_source::DEFAULT_TOML);
}

#[test]
fn a_generated_key_goes_into_the_proxys_settings() {
    let printed = stdout(&["keygen"]);
    let config = origin_proxy::Config::from_toml(&printed).unwrap();
    let secret = config.signing_key.unwrap();
    let public = stdout(&["keygen", "--public-of", &secret]);
    assert!(
        printed.contains(&format!("public_key = \"{}\"", public.trim())),
        "{printed}"
    );
    assert_ne!(printed, stdout(&["keygen"]));
}

#[test]
fn a_token_is_signed_with_a_key_that_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("2026-11.key");
    let key = path.to_str().unwrap();
    for kind in [&["--es256"][..], &[]] {
        let _ = std::fs::remove_file(&path);
        let public = stdout(&[&["token", "--new-key", key][..], kind].concat());
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
        let again = shoal(&["token", "--new-key", key]);
        assert_eq!(again.status.code(), Some(2), "a key is not written over");
        let stream = "0123456789abcdef0123456789ABCDEF";
        let token = stdout(&["token", "--key", key, "--stream", stream]);
        assert_eq!(token.trim().split('.').count(), 3, "{token}");
        let proxy = "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw/main";
        assert!(stdout(&["token", "--key", key, "--stream", proxy]).len() > 100);
    }
    for wrong in [&["--stream", "news"][..], &["--stream", "x/main"], &[]] {
        let output = shoal(&[&["token", "--key", key][..], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn mistakes_end_with_code_2_and_one_line_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "listn = 1").unwrap();
    let file = file.to_str().unwrap();
    let three = folder.path().join("three.toml");
    std::fs::write(&three, "hls = true\nsegment_ms = 3000").unwrap();
    let three = three.to_str().unwrap();
    for (args, named) in [
        (vec!["tracker", "--config", file], "listn"),
        (
            vec!["origin-proxy", "--config", "no-such-file.toml"],
            "no-such-file.toml",
        ),
        (vec!["peer", "--tracker", "ws://127.0.0.1:1/"], "`stream`"),
        (
            vec!["publish", "no-such-file.mp4", "--listen", "127.0.0.1:0"],
            "no-such-file.mp4",
        ),
        (
            vec!["publish", "--config", three, "--listen", "127.0.0.1:0"],
            "three.toml, line 2: configuration: segment_ms must",
        ),
        (
            vec!["origin-proxy", "--origin", "127.0.0.1:8080"],
            "origin: an origin is a URL",
        ),
        (vec!["keygen", "--public-of", "short"], "key"),
        (vec!["simulate", "--scenario", "nope"], "evening-match"),
        (vec!["simulate", "--set", "wievers=3"], "wievers"),
    ] {
        let output = shoal(&args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(
            said.contains(named) && said.starts_with("shoal: "),
            "{args:?}: {said}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_flag_that_is_wrong_is_named_itself() {
    for seconds in ["3", "0", "12", "two", "18446744073709551615"] {
        let output = shoal(&["publish", "--segment-s", seconds]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("'--segment-s <SECONDS>': must be 2, 4, 6, 8 or 10"),
            "{said}"
        );
    }
}

#[test]
fn a_taken_address_ends_with_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for command in ["tracker", "origin-proxy", "publish"] {
        let output = shoal(&[command, "--listen", &addr]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{addr} is taken")), "{said}");
    }
}

#[test]
fn logs_have_no_colours_where_nobody_looks_at_them() {
    let output = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(["tracker", "--config", "no-such-file.toml"])
        .env("RUST_LOG", "a=b=c")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("RUST_LOG is ignored"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn a_demo_has_nothing_to_complain_about_on_a_usual_system() {
    let demo = "ulimit -n 1024; exec \"$0\" demo --headless --viewers 0 --seconds 0 --json -";
    let output = Command::new("sh")
        .args(["-c", demo, env!("CARGO_BIN_EXE_shoal")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("WARN"), "{said}");
}
