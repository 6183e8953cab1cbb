//! `cargo xtask bench sim`: how fast the simulator is.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Better, Output, Report};
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Viewers of the simulated evening.
    #[arg(long, default_value_t = 1000)]
    viewers: u32,
    /// Simulated minutes.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    #[command(flatten)]
    pub(super) output: Output,
}

pub(crate) fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("sim");
    let run = simulate(args)?;
    let number = |name: &str| run[name].as_f64().with_context(|| format!("no {name}"));
    let viewer_seconds = f64::from(args.viewers) * args.minutes * 60.0;
    let wall_s = number("wall_s")?;
    report.add(
        "viewer-seconds simulated",
        "per wall second",
        Better::More,
        viewer_seconds / wall_s,
        &[],
    );
    report.add(
        "events",
        "per wall second",
        Better::More,
        number("events")? / wall_s,
        &[],
    );
    report.add(
        "core state of a viewer",
        "bytes",
        Better::Less,
        number("core_bytes_per_viewer")?,
        &[],
    );
    Ok(report)
}

/// The report of one run of the optimised simulator.
fn simulate(args: &Args) -> Result<Value> {
    let mut command = shell::cargo();
    command.args(["run", "--release", "--quiet", "-p", "swarm-sim", "--"]);
    command.args(["--scenario", "evening-match", "--json", "-"]);
    command.args(["--viewers", &args.viewers.to_string()]);
    command.args(["--minutes", &args.minutes.to_string()]);
    let (success, printed) = shell::run_recorded(&mut command)?;
    ensure!(success, "`{}` failed", shell::describe(&command));
    let last = printed.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(last.context("the simulator prints no JSON")?)
        .context("the simulator's report")
}
