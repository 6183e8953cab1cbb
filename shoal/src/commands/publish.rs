//! `shoal publish`.

use std::net::SocketAddr;
use std::path::PathBuf;

use live_source::{Config, DEFAULT_TOML, Input};
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
    /// Length of a segment in seconds: 2, 4, 6, 8 or 10.
    #[arg(long, value_name = "SECONDS", value_parser = parse_segment_s)]
    segment_s: Option<u64>,
    #[command(flatten)]
    settings: file::FileArgs,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let listen = args.listen;
    let Some(config) = config_of(args)? else {
        return Ok(());
    };
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

fn config_of(args: Args) -> Result<Option<Config>, Failure> {
    let change = |config: &mut Config| {
        file::set(&mut config.input, args.file.map(Input::File));
        file::set(&mut config.segment_ms, args.segment_s.map(|s| s * 1000));
        let (hls, dash) = (args.hls || args.ll_hls, args.dash || args.ll_dash);
        if hls || dash {
            (config.hls, config.dash) = (hls, dash);
            (config.ll_hls, config.ll_dash) = (args.ll_hls, args.ll_dash);
        }
    };
    args.settings.load(DEFAULT_TOML, change, Config::validate)
}

fn parse_segment_s(text: &str) -> Result<u64, &'static str> {
    match text.parse() {
        Ok(seconds @ (2 | 4 | 6 | 8 | 10)) => Ok(seconds),
        _ => Err("must be 2, 4, 6, 8 or 10"),
    }
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
            settings: file::FileArgs {
                config: None,
                print_config: false,
            },
        }
    }

    fn config_of(args: Args) -> Config {
        super::config_of(args).unwrap().unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_absent_flags_leave_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.toml");
        std::fs::write(&path, "dash = false\nsegment_ms = 4000").unwrap();
        let mut with_file = args();
        with_file.settings.config = Some(path);
        let config = config_of(Args {
            segment_s: Some(6),
            ..with_file
        });
        assert_eq!(
            (config.hls, config.dash, config.segment_ms),
            (true, false, 6000)
        );
        let config = config_of(Args {
            dash: true,
            file: Some("a.mp4".into()),
            ..args()
        });
        assert_eq!((config.hls, config.dash), (false, true));
        let low = config_of(Args {
            ll_hls: true,
            ..args()
        });
        assert_eq!(
            (low.hls, low.ll_hls, low.dash, low.ll_dash),
            (true, true, false, false)
        );
        assert_eq!(config.input, Input::File("a.mp4".into()));
    }
}
