//! One file for each command: its arguments, and how they become settings.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::Failure;

pub(crate) mod demo;
pub(crate) mod keygen;
pub(crate) mod origin_proxy;
pub(crate) mod peer;
pub(crate) mod publish;
pub(crate) mod simulate;
pub(crate) mod token;
pub(crate) mod tracker;

/// What `--json` takes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum JsonTo {
    /// The last line of standard output.
    #[value(name = "-")]
    Stdout,
}

pub(crate) async fn bind(addr: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| Failure::listen(addr, &error))
}

/// Prints text that was asked for. A reader that has gone away is no failure.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}
