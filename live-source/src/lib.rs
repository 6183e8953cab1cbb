//! A live HLS and DASH origin that needs no broadcaster: the built-in clip, or any file or ffmpeg
//! input, published for ever over HTTP. It feeds demos and rehearsals, and with its fault switches it
//! is the origin that tests misbehave with.
//!
//! Everything lives under `/live/`: `main.m3u8` (HLS) and `main.mpd` (DASH) name the same segments.
//!
//! ```no_run
//! # async fn example() -> Result<(), live_source::Error> {
//! let source = live_source::LiveSource::new(live_source::Config::default())?;
//! let (faults, stats) = (source.faults(), source.stats());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
//! source.run(listener, async { tokio::signal::ctrl_c().await.unwrap() }).await?;
//! # drop((faults, stats)); Ok(()) }
//! ```
//!
//! With [`Config::ll_hls`] and [`Config::ll_dash`] the same is published with low latency: playlists list
//! parts of half a second and wait for them, and DASH segments can be fetched while they are made.
//!
//! The clip's segments are a function of rendition and number alone, so two sources started with the
//! same [`Config::start_unix_ms`] are redundant origins with equal bytes.

mod admin;
mod clip;
mod cmaf;
mod config;
mod dash;
mod encoder;
mod error;
mod faults;
mod ffmpeg;
mod hls;
mod looped;
mod object;
mod packager;
mod reload;
mod respond;
mod ring;
mod route;
mod server;
mod stats;
mod timeline;

pub use config::{Config, DEFAULT_TOML, Input, Rung};
pub use error::Error;
pub use faults::{Fault, FaultPlan, Faults, Rule, Target};
pub use server::{LiveSource, run};
pub use stats::{Counts, Stats};

/// The folder under which everything is served.
pub const BASE_PATH: &str = "/live/";
/// The HLS multivariant playlist.
pub const HLS_PATH: &str = "/live/main.m3u8";
/// The DASH manifest.
pub const DASH_PATH: &str = "/live/main.mpd";
