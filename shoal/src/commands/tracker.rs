//! `shoal tracker`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{
    Failure,
    commands::{bind, print},
    file,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Settings, a TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the default settings with their documentation, and end.
    #[arg(long)]
    print_config: bool,
    /// Where to listen, in the place of `listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    if args.print_config {
        print(tracker::default_config());
        return Ok(());
    }
    let mut config: tracker::Config = file::settings(args.config.as_deref())?;
    file::set(&mut config.listen, args.listen);
    config.check()?;
    let listener = bind(config.listen).await?;
    tracing::info!(listen = %config.listen, "tracker");
    Ok(tracker::run(listener, config, stop.cancelled_owned()).await?)
}
