//! `shoal simulate` from outside: the fields that others rely on, and that a replay is a replay.

use std::process::{Command, Output};

use serde_json::Value;

/// Fields of the command's contract; all but the hash are numbers.
const FIELDS: [&str; 12] = [
    "offload",
    "offload_bound",
    "cdn_copies_per_segment",
    "stall_ratio",
    "stall_ratio_cdn_only",
    "startup_ms_p50",
    "startup_ms_p50_cdn_only",
    "bytes_wasted_ratio",
    "bad_pieces_played",
    "core_bytes_per_viewer",
    "wall_s",
    "event_hash",
];

fn simulate(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .arg("simulate")
        .args(args.split(' '))
        .output()
        .unwrap()
}

fn report(args: &str) -> (Value, String) {
    let output = simulate(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args}: {said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let last = printed.lines().last().unwrap();
    (serde_json::from_str(last).unwrap(), said)
}

#[test]
fn a_run_says_how_to_replay_it_and_the_replay_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("report.html");
    let options = "--scenario small-channel --viewers 6 --bitrate-mbps 5 --segment-s 4 \
                   --latency-s 10 --minutes 0.75 --seed 7";
    let options = options.split_whitespace().collect::<Vec<_>>().join(" ");
    let (first, said) = report(&format!("{options} --html {} --json -", html.display()));
    for field in FIELDS {
        let is_there = first[field].is_number() || field == "event_hash";
        assert!(is_there, "{field} in {first}");
    }
    let heading = said.lines().next().unwrap();
    assert!(
        heading.contains("seed 7") && heading.contains("commit "),
        "{heading}"
    );
    assert!(said.lines().nth(2).unwrap().contains("\"seed\":7"));
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script"));
    let replay = first["replay"].as_str().unwrap();
    let again = replay.strip_prefix("shoal simulate ").unwrap();
    let (again, _) = report(&format!("{again} --threads 1 --json -"));
    assert_eq!(first["event_hash"], again["event_hash"]);
    assert_eq!(first["offload"], again["offload"]);
}

#[test]
fn several_seeds_are_summed_up_in_one_object() {
    let (summary, _) =
        report("--scenario small-channel --viewers 3 --minutes 0.5 --seeds 3 --json -");
    assert_eq!(summary["seeds"], serde_json::json!([1, 2, 3]));
    let (least, most) = (
        &summary["spread"]["offload"][0],
        &summary["spread"]["offload"][1],
    );
    let offload = summary["offload"].as_f64().unwrap();
    assert!(least.as_f64().unwrap() <= offload && offload <= most.as_f64().unwrap());
    assert_eq!(summary["event_hash"].as_array().unwrap().len(), 3);
}

#[test]
fn a_printed_configuration_is_a_scenario_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    let printed = simulate("--scenario flash-crowd --viewers 77 --print-config").stdout;
    std::fs::write(&file, &printed).unwrap();
    let again = simulate(&format!("--scenario {} --print-config", file.display())).stdout;
    assert_eq!(printed, again);
    assert!(
        String::from_utf8(printed)
            .unwrap()
            .contains("viewers = 77\n")
    );
}
