//! `shoal simulate`: see `docs/SIMULATOR.md`.

use swarm_sim::cli::{SimulateArgs, simulate};

use crate::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    simulate: SimulateArgs,
}

/// Computes until it is done; a signal ends the process at once.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let args = &args.simulate;
    if !args.list {
        let options = args.options();
        options.map_err(|error| Failure::misuse(format!("{error:#}")))?;
    }
    simulate(args).map_err(|error| Failure::of(format!("{error:#}")))
}
