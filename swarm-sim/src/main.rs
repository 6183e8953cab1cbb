//! `swarm-sim`: the simulator by itself. `shoal simulate` takes the same options.

use std::process::ExitCode;

use clap::Parser;
use swarm_sim::cli::{SimulateArgs, exit_code, simulate};

#[derive(Parser)]
#[command(about = "Simulates a large audience with the real machines, in virtual time")]
struct Args {
    #[command(flatten)]
    simulate: SimulateArgs,
}

fn main() -> ExitCode {
    match simulate(&Args::parse().simulate) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
