//! The directory machine at growing sizes: each in a process of its own, so that memory is its own.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::{Better, Report};
use crate::shell;

const SIZES: [&str; 3] = ["10000", "100000", "1000000"];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    for size in SIZES {
        let mut command = shell::cargo();
        command.args([
            "bench",
            "--quiet",
            "-p",
            "swarm-core",
            "--bench",
            "directory",
            "--",
            size,
        ]);
        let (success, printed) = shell::run_recorded(&mut command)?;
        ensure!(success, "`{}` failed", shell::describe(&command));
        let last = printed.lines().rev().find(|line| line.starts_with('{'));
        let figures: Value = serde_json::from_str(last.context("the directory prints no JSON")?)?;
        for (field, name, unit) in [
            ("join_us", "time of a join", "us"),
            ("median_join_us", "median join", "us"),
            ("p99_join_us", "join, p99", "us"),
            ("slowest_join_us", "slowest join", "us"),
            ("bytes_per_viewer", "memory of a viewer", "bytes"),
        ] {
            let value = figures[field]
                .as_f64()
                .with_context(|| format!("no {field}"))?;
            let name = format!("directory of {size}: {name}");
            report.add(name, unit, Better::Less, value, &[]);
        }
    }
    Ok(())
}
