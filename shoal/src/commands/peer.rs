//! `shoal peer`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use peer_agent::{Agent, Config, DEFAULT_TOML, Snapshot, playback};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    Failure,
    commands::{JsonTo, print},
    file, shutdown,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tracker's WebSocket URL, in the place of `tracker`.
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// The HLS playlist or DASH manifest on the CDN, in the place of `stream`.
    #[arg(long, value_name = "URL")]
    stream: Option<String>,
    /// Where players on this machine find the stream, in the place of `listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// A key that may sign the stream's segments, as `shoal keygen` prints it or in hexadecimal;
    /// may be repeated. In the place of `public_keys`, and turns `trust_cdn` off.
    #[arg(long = "key", value_name = "KEY", allow_hyphen_values = true)]
    keys: Vec<String>,
    /// What entitles this viewer to join, in the place of `token`.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Whether to use peers, in the place of `p2p`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    p2p: Option<bool>,
    /// Whether to take from peers and give nothing, in the place of `leech`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    leech: Option<bool>,
    /// Most that is uploaded, in Mbit/s, in the place of `upload_bps_max`.
    #[arg(long, value_name = "MBPS", value_parser = parse_mbps)]
    upload_mbps: Option<u64>,
    /// Media that the player takes at a time while a segment arrives, in milliseconds, in the place of
    /// `progressive_ms`. 0: whole segments.
    #[arg(long, value_name = "MS")]
    progressive_ms: Option<u32>,
    /// Settings, a TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the default settings with their documentation, and end.
    #[arg(long)]
    print_config: bool,
    /// Play the stream here, without a picture (HLS only).
    #[arg(long)]
    headless: bool,
    /// End after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// At the end, print how it went as one JSON object: `-` for standard output.
    #[arg(long, value_name = "-")]
    json: Option<JsonTo>,
}

pub(crate) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    if args.print_config {
        print(DEFAULT_TOML);
        return Ok(());
    }
    let config = config_of(&args)?;
    let agent = Agent::start(config).await?;
    if let Some(seconds) = args.seconds {
        shutdown::after(&stop, Duration::from_secs(seconds));
    }
    if args.json.is_none() {
        print(&agent.endpoint_url());
    }
    tracing::info!(endpoint = agent.endpoint_url(), "peer");
    let report = if args.headless {
        let played = playback::play(&agent, playback::PlayOptions::default(), stop.cancelled());
        Some(Box::pin(played).await.map_err(Failure::of)?)
    } else {
        stop.cancelled().await;
        None
    };
    let snapshot = agent.stats();
    agent.shutdown().await;
    if args.json.is_some() {
        print(&summary(&snapshot, report.as_ref()));
    }
    Ok(())
}

fn summary(snapshot: &Snapshot, report: Option<&playback::Report>) -> String {
    let all = snapshot.bytes_cdn + snapshot.bytes_p2p;
    json!({
        "bytes_cdn": snapshot.bytes_cdn,
        "bytes_p2p": snapshot.bytes_p2p,
        "bytes_up": snapshot.bytes_up,
        "offload": snapshot.bytes_p2p as f64 / all.max(1) as f64,
        "bad_pieces": snapshot.bad_pieces,
        "links": snapshot.links,
        "playback": report,
    })
    .to_string()
}

fn config_of(args: &Args) -> Result<Config, Failure> {
    let mut config: Config = file::settings(args.config.as_deref())?;
    file::set(&mut config.tracker, args.tracker.clone());
    file::set(&mut config.stream, args.stream.clone());
    file::set(&mut config.listen, args.listen);
    file::set(&mut config.token, args.token.clone());
    file::set(&mut config.p2p, args.p2p);
    file::set(&mut config.leech, args.leech);
    file::set(&mut config.upload_bps_max, args.upload_mbps);
    file::set(&mut config.progressive_ms, args.progressive_ms);
    if !args.keys.is_empty() {
        config.public_keys = args.keys.iter().map(|key| hex_key(key)).collect();
        config.trust_cdn = false;
    }
    config
        .check()
        .map_err(|error| Failure::misuse(error.to_string()))?;
    Ok(config)
}

/// The agent's notation of a key. What is no key stays as it is, for the agent to complain of.
fn hex_key(text: &str) -> String {
    let key: Option<[u8; 32]> = URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    key.map_or_else(|| text.to_owned(), hex::encode)
}

fn parse_mbps(text: &str) -> Result<u64, String> {
    let mbps: f64 = text
        .parse()
        .map_err(|_| "it must be a number of Mbit/s".to_owned())?;
    if (0.0..=100_000.0).contains(&mbps) {
        Ok((mbps * 1e6) as u64)
    } else {
        Err("it must be from 0 to 100000".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn config(line: &str) -> Result<Config, Failure> {
        config_of(&Line::parse_from(line.split(' ')).args)
    }

    #[test]
    fn switches_override_the_file_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.toml");
        std::fs::write(
            &path,
            "stream = \"http://c/a.m3u8\"\nleech = true\np2p = false",
        )
        .unwrap();
        let file = path.display();
        let kept = config(&format!("peer --config {file}")).unwrap();
        assert_eq!((kept.leech, kept.p2p), (true, false));
        let changed = config(&format!("peer --config {file} --leech false --p2p")).unwrap();
        assert_eq!((changed.leech, changed.p2p), (false, true));
        assert_eq!(changed.stream, "http://c/a.m3u8");
        assert_eq!(changed.progressive_ms, 0);
        let takes = config(&format!("peer --config {file} --progressive-ms 500")).unwrap();
        assert_eq!(takes.progressive_ms, 500);
    }

    #[test]
    fn keys_of_both_notations_are_taken() {
        let (_, public) = origin_proxy::keygen().unwrap();
        let one = config(&format!("peer --stream http://c/a.m3u8 --key {public}")).unwrap();
        assert_eq!(one.public_keys[0].len(), 64);
        assert!(!one.trust_cdn);
        let hex = one.public_keys[0].clone();
        let two = config(&format!("peer --stream http://c/a.m3u8 --key {hex}")).unwrap();
        assert_eq!(one, two);
        let error = config("peer --stream http://c/a.m3u8 --key 12")
            .unwrap_err()
            .to_string();
        assert!(error.contains("12"), "{error}");
    }

    #[test]
    fn a_missing_stream_is_the_users_fault() {
        let error = config("peer").unwrap_err();
        assert!(error.to_string().contains("`stream`"));
    }
}
