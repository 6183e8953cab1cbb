//! `cargo xtask demo`: from a clone to a playing stream with one command.

use anyhow::Result;

use crate::{setup, shell, wasm};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to `shoal demo` as they are; see `cargo xtask demo -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    demo_args: Vec<String>,
}

/// Installs what is missing, builds the browser viewer and hands over to `shoal demo`.
pub(crate) fn run(args: Args) -> Result<()> {
    setup::run(setup::Args::default())?;
    wasm::run(wasm::Args::default())?;
    let mut command = shell::cargo();
    command
        .args(["run", "--release", "-p", "shoal", "--", "demo"])
        .args(args.demo_args);
    hand_over(&mut command)
}

/// The demo takes this process's place, so that Ctrl-C reaches it alone.
#[cfg(unix)]
fn hand_over(command: &mut std::process::Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    anyhow::bail!(
        "environment: cannot start {}: {}",
        shell::describe(command),
        command.exec()
    )
}

#[cfg(not(unix))]
fn hand_over(command: &mut std::process::Command) -> Result<()> {
    shell::run(command)
}
