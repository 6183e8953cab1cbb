//! `cargo xtask bench sim`: how fast the simulator is, and what the core's machines cost.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Better, Output, Report, simulator};
use crate::shell;

/// What `swarm-core/benches` measures: the folder of each, and how it is called here.
const HANDLES: [(&str, &str); 7] = [
    ("peer/have", "Peer::handle, a have-map"),
    ("peer/piece", "Peer::handle, a piece arrives"),
    ("peer/request", "Peer::handle, a neighbour's request"),
    ("peer/wanted", "Peer::handle, the player's request"),
    ("peer/timer", "Peer::handle, a timer"),
    (
        "directory/join and leave",
        "Directory::handle, a viewer joins and leaves",
    ),
    ("directory/status", "Directory::handle, a report"),
];
/// What the viewer-seconds are compared with: the same run without peers.
const TWIN: &str = "the twin without peers";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Viewers of the simulated evening.
    #[arg(long, default_value_t = 1000)]
    viewers: u32,
    /// Simulated minutes.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Seed of the simulated evening.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

pub(crate) fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("sim");
    evening(args, &mut report)?;
    handles(&mut report)?;
    Ok(report)
}

/// One run of the optimised simulator, and its twin.
fn evening(args: &Args, report: &mut Report) -> Result<()> {
    let options = [
        ("--scenario", "evening-match".to_owned()),
        ("--viewers", args.viewers.to_string()),
        ("--minutes", args.minutes.to_string()),
        ("--seed", args.seed.to_string()),
    ];
    let options = options.iter().flat_map(|(name, value)| [*name, value]);
    let run = simulator::report(options)?;
    let number = |name: &str| simulator::number(&run, name);
    let (twin_s, wall_s) = (number("wall_s_cdn_only")?, number("wall_s")?);
    let (twin_events, events) = (number("events_cdn_only")?, number("events")?);
    let (own_s, own_events) = (wall_s - twin_s, events - twin_events);
    let viewer_seconds = f64::from(args.viewers) * args.minutes * 60.0;
    report.add(
        "viewer-seconds simulated",
        "per wall second",
        Better::More,
        viewer_seconds / own_s,
        &[(TWIN, viewer_seconds / twin_s)],
    );
    report.add(
        "events of a viewer",
        "per simulated second",
        Better::Less,
        own_events / viewer_seconds,
        &[(TWIN, twin_events / viewer_seconds)],
    );
    report.add(
        "events",
        "per wall second",
        Better::More,
        own_events / own_s,
        &[(TWIN, twin_events / twin_s)],
    );
    let state = number("core_bytes_per_viewer")?;
    report.add("core state of a viewer", "bytes", Better::Less, state, &[]);
    Ok(())
}

/// The medians of the core's micro-benchmarks.
fn handles(report: &mut Report) -> Result<()> {
    let mut bench = shell::cargo();
    bench.args(["bench", "-p", "swarm-core", "--bench", "machines", "--"]);
    bench.args(["--warm-up-time", "0.5", "--measurement-time", "2"]);
    shell::run(&mut bench)?;
    let folder = simulator::target_folder()?.join("criterion");
    for (name, shown) in HANDLES {
        let file = folder.join(name).join("new/estimates.json");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let estimates: Value = serde_json::from_str(&text)?;
        let median_ns = estimates["median"]["point_estimate"].as_f64();
        let median_ns = median_ns.with_context(|| format!("no median in {}", file.display()))?;
        report.add(shown, "ns", Better::Less, median_ns, &[]);
    }
    Ok(())
}
