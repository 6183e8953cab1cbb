//! `cargo xtask bench <what>`: measures one part of Shoal on this machine, next to what does the
//! same job otherwise, in the same run. Absolute numbers depend on the machine, ratios much less.

mod proxy;
mod proxy_audience;
mod proxy_load;
mod proxy_origin;
mod proxy_servers;
mod report;
mod sim;
mod simulator;
mod targets;
mod tracker;

pub(crate) use report::{Better, Report};

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The origin-proxy, next to nginx and Varnish.
    Proxy(proxy::Args),
    /// The simulator, and the core's machines in it.
    Sim(sim::Args),
    /// The swarm against its targets, simulated: the table of docs/benchmarks.md.
    Targets(targets::Args),
    /// The tracker, beside other trackers.
    Tracker(tracker::Args),
}

/// Where the figures go besides the table that is always printed.
#[derive(clap::Args)]
pub(crate) struct Output {
    /// Print one JSON object as the last line of standard output.
    #[arg(long, value_name = "-", value_parser = ["-"])]
    json: Option<String>,
}

/// Runs one benchmark and prints its figures.
pub(crate) fn run(args: Args) -> Result<()> {
    let (report, output) = match args.what {
        What::Proxy(args) => (proxy::run(&args)?, args.output),
        What::Sim(args) => (sim::run(&args)?, args.output),
        What::Targets(args) => (targets::run(&args)?, args.output),
        What::Tracker(args) => (tracker::run(&args)?, args.output),
    };
    eprint!("{}", report.to_table());
    if output.json.is_some() {
        println!("{}", report.to_json());
    }
    Ok(())
}
