//! Running the optimised simulator, and reading what it reports.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell;

/// The report of a run with these options; with several seeds, the medians.
pub(super) fn report<'a>(options: impl Iterator<Item = &'a str>) -> Result<Value> {
    let mut command = shell::cargo();
    command.args(["run", "--release", "--quiet", "-p", "swarm-sim", "--"]);
    command.args(options).args(["--json", "-"]);
    let (success, printed) = shell::run_recorded(&mut command)?;
    ensure!(success, "`{}` failed", shell::describe(&command));
    let last = printed.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(last.context("the simulator prints no JSON")?)
        .context("the simulator's report")
}

/// A number of a report, by its name.
pub(super) fn number(report: &Value, name: &str) -> Result<f64> {
    report[name]
        .as_f64()
        .with_context(|| format!("no {name} in the report"))
}

/// Where cargo puts what it builds.
pub(super) fn target_folder() -> Result<PathBuf> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = shell::query(shell::cargo().args(metadata)).context("cargo metadata fails")?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder.context("it names no target folder")?.into())
}
