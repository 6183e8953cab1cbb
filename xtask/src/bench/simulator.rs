//! Running the optimised simulator, and reading what it reports.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell;

/// The report of a run with these options; with several seeds, the medians. Broken invariants are in it,
/// as `problems`.
pub(super) fn report<'a>(options: impl Iterator<Item = &'a str>) -> Result<Value> {
    let mut command = shell::cargo();
    command.args(["run", "--release", "--quiet", "-p", "swarm-sim", "--"]);
    command.args(options).args(["--json", "-"]);
    let (success, printed) = shell::run_recorded(&mut command)?;
    read(success, &printed).with_context(|| format!("`{}`", shell::describe(&command)))
}

/// What the simulator has printed: the report comes before the complaint that an invariant was broken.
fn read(success: bool, printed: &str) -> Result<Value> {
    let last = printed.lines().rev().find(|line| line.starts_with('{'));
    let report: Value = serde_json::from_str(last.context("the simulator prints no JSON")?)
        .context("the simulator's report")?;
    ensure!(
        success || number(&report, "problems")? > 0.0,
        "the simulator fails though no invariant is broken"
    );
    Ok(report)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_invariant_is_part_of_the_report_and_other_failures_are_none() {
        let printed = "$ cargo\n{\"problems\":2,\"offload\":0.9}\nerror: an invariant was broken\n";
        let report = read(false, printed).unwrap();
        assert_eq!(number(&report, "problems").unwrap(), 2.0);
        assert!(read(false, "{\"problems\":0}\nerror: disk full\n").is_err());
        assert!(read(false, "error: these options make no sense\n").is_err());
        assert!(read(true, "{\"problems\":0}\n").is_ok());
    }
}
