//! `cargo xtask deny`: licences, sources, duplicates and advisories of every dependency.

use anyhow::Result;

use crate::shell;

/// The checks that need no network.
pub(crate) const OFFLINE_CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Installs cargo-deny if it is missing and runs all its checks, advisories included.
pub(crate) fn run() -> Result<()> {
    if shell::find_program("cargo-deny").is_none() {
        shell::run(shell::cargo().args(["install", "--locked", "cargo-deny"]))?;
    }
    shell::run(shell::cargo().args(["deny", "check"]).args(OFFLINE_CHECKS))?;
    shell::run(shell::cargo().args(["deny", "check", "advisories"]))
}
