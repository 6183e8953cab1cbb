//! Names the commit that a simulation was built from, so that a report can be replayed.

use std::process::Command;

/// What else a simulation is made of.
const CORE: &str = "../swarm-core/src";
const MANIFESTS: [&str; 2] = ["../Cargo.toml", "../Cargo.lock"];

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let status = [
        "--no-optional-locks",
        "status",
        "--porcelain",
        "--",
        ".",
        CORE,
    ];
    let changes = git(&[&status[..], &MANIFESTS].concat());
    // What is not committed cannot be replayed by the commit's name.
    let commit = match changes {
        Some(changes) if !changes.is_empty() => commit + "-dirty",
        _ => commit,
    };
    println!("cargo::rustc-env=SHOAL_COMMIT={commit}");
    for path in ["build.rs", "src", "scenarios", CORE]
        .into_iter()
        .chain(MANIFESTS)
    {
        println!("cargo::rerun-if-changed={path}");
    }
    // Every commit and every change of branch adds a line to this file.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What git says, if it is there and this is its repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
