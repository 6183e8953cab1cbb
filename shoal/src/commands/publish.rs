//! `shoal publish`.

use std::net::SocketAddr;
use std::path::PathBuf;

use live_source::{Config, Input};
use tokio_util::sync::CancellationToken;

use crate::{
    Failure,
    commands::{bind, print},
    file,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A media file to loop for ever (needs ffmpeg). Without it: the built-in clip.
    file: Option<PathBuf>,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
    /// Publish HLS. With nothing named: HLS and DASH, or what the file says.
    #[arg(long)]
    hls: bool,
    /// Publish HLS with low latency: parts of half a second, for which playlists and players wait.
    #[arg(long)]
    ll_hls: bool,
    /// Publish DASH.
    #[arg(long)]
    dash: bool,
    /// Publish DASH with low latency: segments can be fetched while they are made.
    #[arg(long)]
    ll_dash: bool,
    /// Length of a segment in seconds, even, 2 to 10.
    #[arg(long, value_name = "SECONDS")]
    segment_s: Option<u64>,
    /// Settings, a TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the default settings, and end.
    #[arg(long)]
    print_config: bool,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    if args.print_config {
        let text = toml::to_string(&Config::default()).map_err(Failure::of)?;
        print(&format!("# Documented at `live_source::Config`.\n{text}"));
        return Ok(());
    }
    let listen = args.listen;
    let config = config_of(args)?;
    let (hls, dash) = (config.hls, config.dash);
    let source = live_source::LiveSource::new(config)?;
    let listener = bind(listen).await?;
    let addr = listener.local_addr().map_err(Failure::environment)?;
    for (on, path) in [(hls, live_source::HLS_PATH), (dash, live_source::DASH_PATH)] {
        if on {
            print(&format!("http://{addr}{path}"));
        }
    }
    Ok(source.run(listener, stop.cancelled_owned()).await?)
}

fn config_of(args: Args) -> Result<Config, Failure> {
    let mut config: Config = file::settings(args.config.as_deref())?;
    file::set(&mut config.input, args.file.map(Input::File));
    file::set(
        &mut config.segment_ms,
        args.segment_s.map(|s| s.saturating_mul(1000)),
    );
    let (hls, dash) = (args.hls || args.ll_hls, args.dash || args.ll_dash);
    if hls || dash {
        (config.hls, config.dash) = (hls, dash);
        (config.ll_hls, config.ll_dash) = (args.ll_hls, args.ll_dash);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            hls: false,
            ll_hls: false,
            dash: false,
            ll_dash: false,
            segment_s: None,
            config: None,
            print_config: false,
        }
    }

    #[test]
    fn flags_win_over_the_file_and_absent_flags_leave_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.toml");
        std::fs::write(&path, "dash = false\nsegment_ms = 4000").unwrap();
        let with_file = Args {
            config: Some(path),
            ..args()
        };
        let config = config_of(Args {
            segment_s: Some(6),
            ..with_file
        })
        .unwrap();
        assert_eq!(
            (config.hls, config.dash, config.segment_ms),
            (true, false, 6000)
        );
        let config = config_of(Args {
            dash: true,
            file: Some("a.mp4".into()),
            ..args()
        })
        .unwrap();
        assert_eq!((config.hls, config.dash), (false, true));
        let low = config_of(Args {
            ll_hls: true,
            ..args()
        })
        .unwrap();
        assert_eq!(
            (low.hls, low.ll_hls, low.dash, low.ll_dash),
            (true, true, false, false)
        );
        assert_eq!(config.input, Input::File("a.mp4".into()));
    }
}
