//! `shoal tracker`.

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use crate::{Failure, commands::bind, file};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: file::FileArgs,
    /// Where to listen, in the place of `listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let default = tracker::default_config();
    let change = |config: &mut tracker::Config| file::set(&mut config.listen, args.listen);
    let loaded = args.file.load(default, change, tracker::Config::check)?;
    let Some(config) = loaded else {
        return Ok(());
    };
    let listener = bind(config.listen).await?;
    let listen = listener.local_addr().unwrap_or(config.listen);
    tracing::info!(%listen, "tracker");
    Ok(tracker::run(listener, config, stop.cancelled_owned()).await?)
}
