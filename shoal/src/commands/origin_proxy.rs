//! `shoal origin-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{Failure, commands::bind, file};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: file::FileArgs,
    /// Where to listen, in the place of `listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The origin's URL, in the place of `origin`.
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// A file with the key to sign with, in the place of `signing_key` and `signing_key_file`.
    #[arg(long, value_name = "FILE")]
    signing_key_file: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let default = origin_proxy::default_config();
    let change = |config: &mut origin_proxy::Config| {
        file::set(&mut config.listen, args.listen);
        file::set(&mut config.origin, args.origin);
        if args.signing_key_file.is_some() {
            config.signing_key = None;
            config.signing_key_file = args.signing_key_file;
        }
    };
    let loaded = args
        .file
        .load(default, change, origin_proxy::Config::check)?;
    let Some(config) = loaded else {
        return Ok(());
    };
    let listener = bind(config.listen).await?;
    let signs = config.signing_key.is_some() || config.signing_key_file.is_some();
    let listen = listener.local_addr().unwrap_or(config.listen);
    let origin = config.origin_name();
    tracing::info!(%listen, origin, signs, "origin-proxy");
    if let Some(listen) = config.tls.listen {
        tracing::info!(%listen, http3 = config.tls.http3, "origin-proxy with TLS");
    }
    if !signs {
        tracing::warn!("no signing key: viewers will share nothing (see `shoal keygen`)");
    }
    Ok(origin_proxy::run(listener, config, stop.cancelled_owned()).await?)
}
