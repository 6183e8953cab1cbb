//! Every task of the repository as `cargo xtask <task>`. CI runs `cargo xtask test`, nothing else.

mod bench;
mod counts;
mod demo;
mod deny;
mod deps;
mod docs;
mod scan;
mod setup;
mod shell;
mod soak;
mod test;
mod tidy;
mod wasm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The tasks of this repository"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, and on request testing, needs beside Rust and Node.
    Setup(setup::Args),
    /// Build the browser viewer into player-shim/dist.
    Wasm(wasm::Args),
    /// Run everything on this machine: build the browser viewer, then `shoal demo`.
    Demo(demo::Args),
    /// Run the whole test suite; the last line is `N passed, N failed`.
    Test(test::Args),
    /// Measure one part on this machine, next to what does the same job otherwise.
    Bench(bench::Args),
    /// Check file and function lengths, dependency directions, leftover markers, and links in the documentation.
    Tidy,
    /// Simulate with random options until the time is up or an invariant breaks.
    Soak(soak::Args),
    /// Check licences, sources and advisories of all dependencies (installs cargo-deny).
    Deny,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup(args) => setup::run(args),
        Task::Wasm(args) => wasm::run(args),
        Task::Demo(args) => demo::run(args),
        Task::Test(args) => test::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Tidy => tidy::run(),
        Task::Soak(args) => soak::run(&args),
        Task::Deny => deny::run(),
    }
}
