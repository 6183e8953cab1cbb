//! A player without a screen, for tests, load and demonstrations: chooses renditions, keeps a
//! buffer, moves a playhead in real time, and counts what a viewer would notice.

mod abr;
mod check;
mod loader;
mod report;

pub use abr::Level;
pub use report::{Report, SegmentReport};

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method};
use swarm_core::timeline::hls::{HlsPlaylist, Multivariant, RenditionKind};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use self::abr::Abr;
use self::loader::{Loaded, Loader, Playhead};
use self::report::SEGMENTS_MAX;
use crate::Agent;
use crate::driver::Command;
use crate::gateway::Fetched;

/// How often the playhead is moved.
const TICK: Duration = Duration::from_millis(20);
/// How often the core hears how playback is going.
const TELL_EVERY: u32 = 15;
/// Attempts at the first playlist.
const ATTEMPTS: u32 = 10;
/// What is there before playback begins or goes on if segments are played while they arrive, and longer
/// than this.
const ENOUGH_MS: u64 = 1000;
const RETRY: Duration = Duration::from_millis(500);

/// How to play. Whether segments are played while they arrive says the agent's
/// [`progressive_ms`](crate::Config::progressive_ms).
#[derive(Clone, Debug)]
pub struct PlayOptions {
    /// Which HLS playlist, multivariant or media; the agent's stream without.
    pub url: Option<String>,
    /// Which rendition.
    pub level: Level,
    /// How many target durations behind the end of a live playlist to begin. Default: 3.
    pub hold_back_targets: u32,
    /// Most media to load ahead of the playhead, in milliseconds. Default: 30 s.
    pub buffer_max_ms: u64,
}

impl Default for PlayOptions {
    fn default() -> Self {
        Self {
            url: None,
            level: Level::Auto,
            hold_back_targets: 3,
            buffer_max_ms: 30_000,
        }
    }
}

/// Why playback could not begin.
#[derive(Debug, Error)]
pub enum PlayError {
    /// The stream cannot be had.
    #[error("origin: no playlist at {url}: {why}")]
    Playlist {
        /// Which.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// A DASH manifest: play it with a player of its own, through the endpoint.
    #[error("input: {0} is not HLS; the virtual player plays HLS only")]
    NotHls(String),
}

/// Plays until `stop` resolves or the stream ends.
///
/// # Errors
/// [`PlayError`], if playback could not begin; later faults are counted in the report.
pub async fn play(
    agent: &Agent,
    options: PlayOptions,
    stop: impl Future<Output = ()>,
) -> Result<Report, PlayError> {
    let began = Instant::now();
    agent.own_player.store(true, Ordering::Relaxed);
    let _own = Own(agent);
    let url = options
        .url
        .clone()
        .unwrap_or_else(|| agent.stream().to_string());
    let mut stop = std::pin::pin!(stop);
    let sources = tokio::select! {
        sources = find_sources(agent, &url) => sources?,
        () = &mut stop => return Ok(Report::default()),
    };
    let mut player = Player::new(agent, began, &options, sources);
    player.run(stop).await;
    Ok(player.finish())
}

/// While it lives, the agent does not estimate what its player says.
struct Own<'a>(&'a Agent);

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.0.own_player.store(false, Ordering::Relaxed);
    }
}

/// The media playlists of one track, by rising bit rate.
struct Source {
    urls: Vec<String>,
    bitrates: Vec<u64>,
    is_main: bool,
}

async fn find_sources(agent: &Agent, url: &str) -> Result<Vec<Source>, PlayError> {
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(RETRY).await;
        }
        match agent
            .gateway
            .fetch(Method::GET, url, None, HeaderMap::new())
            .await
        {
            Ok(Fetched::Playlist(text)) => match text.hls {
                Some(HlsPlaylist::Multivariant(list)) if !list.variants.is_empty() => {
                    return Ok(choose(list));
                }
                Some(HlsPlaylist::Multivariant(_)) => why = "it names no variants".into(),
                Some(HlsPlaylist::Media(_)) => {
                    let (urls, bitrates) = (vec![url.to_owned()], vec![0]);
                    return Ok(vec![Source {
                        urls,
                        bitrates,
                        is_main: true,
                    }]);
                }
                None => return Err(PlayError::NotHls(url.into())),
            },
            Ok(Fetched::Object(object)) => why = format!("the CDN said {}", object.status),
            Err(error) => why = error.to_string(),
        }
    }
    Err(PlayError::Playlist {
        url: url.into(),
        why,
    })
}

/// All variants with a picture (or all, if none has one), and the default sound that goes with them.
fn choose(list: Multivariant) -> Vec<Source> {
    let mut variants = list.variants;
    if variants.iter().any(|variant| !variant.is_audio) {
        variants.retain(|variant| !variant.is_audio);
    }
    variants.sort_by_key(|variant| variant.bandwidth_bps);
    // Variants may share a playlist and differ in their sound alone.
    variants.dedup_by(|a, b| a.url == b.url);
    let group = variants
        .first()
        .and_then(|variant| variant.audio_group.clone());
    let mut sources = vec![Source {
        urls: variants.iter().map(|variant| variant.url.clone()).collect(),
        bitrates: variants
            .iter()
            .map(|variant| variant.bandwidth_bps)
            .collect(),
        is_main: true,
    }];
    let sounds: Vec<_> = list
        .renditions
        .into_iter()
        .filter(|rendition| rendition.kind == RenditionKind::Audio)
        .filter(|rendition| Some(&rendition.group) == group.as_ref())
        .collect();
    let sound = sounds
        .iter()
        .find(|sound| sound.is_default)
        .or(sounds.first());
    if let Some(url) = sound.and_then(|sound| sound.url.clone()) {
        sources.push(Source {
            urls: vec![url],
            bitrates: vec![0],
            is_main: false,
        });
    }
    sources
}

/// One track as the playhead sees it.
struct Lane {
    loaded: mpsc::Receiver<Loaded>,
    edge_ms: Arc<AtomicU64>,
    /// Where its last whole segment ends, on the player's clock.
    whole_ms: u64,
    /// Up to where the one after that is there.
    reached_ms: Arc<AtomicU64>,
    /// The duration of its last segment: what is loaded again before playback goes on.
    step_ms: u64,
    is_over: bool,
}

impl Lane {
    /// Where its media ends, on the player's clock.
    fn end_ms(&self) -> u64 {
        self.whole_ms.max(self.reached_ms.load(Ordering::Relaxed))
    }
}

struct Player<'a> {
    agent: &'a Agent,
    began: Instant,
    lanes: Vec<Lane>,
    playhead: Arc<Playhead>,
    tasks: JoinSet<()>,
    position: Duration,
    moved: Instant,
    playing: bool,
    report: Report,
    stalled: Duration,
    lag_sum_ms: u64,
    lag_count: u64,
}

impl<'a> Player<'a> {
    fn new(agent: &'a Agent, began: Instant, options: &PlayOptions, sources: Vec<Source>) -> Self {
        let playhead = Arc::new(Playhead::default());
        let mut tasks = JoinSet::new();
        let mut lanes = Vec::new();
        for source in sources {
            let (sender, loaded) = mpsc::channel(4);
            let edge_ms = Arc::new(AtomicU64::new(0));
            let reached_ms = Arc::new(AtomicU64::new(0));
            let level = if source.is_main {
                options.level
            } else {
                Level::Fixed(0)
            };
            let loader = Loader {
                gateway: agent.gateway.clone(),
                abr: Abr::new(level, source.bitrates),
                urls: source.urls,
                is_main: source.is_main,
                hold_back_targets: options.hold_back_targets,
                buffer_max_ms: options.buffer_max_ms,
                playhead: playhead.clone(),
                edge_ms: edge_ms.clone(),
                grain_ms: agent.progressive_ms,
                reached_ms: reached_ms.clone(),
                loaded: sender,
                next_seq: None,
                loaded_ms: 0,
                inits: HashSet::new(),
            };
            tasks.spawn(loader.run());
            lanes.push(Lane {
                loaded,
                edge_ms,
                whole_ms: 0,
                reached_ms,
                step_ms: 0,
                is_over: false,
            });
        }
        Self {
            agent,
            began,
            lanes,
            playhead,
            tasks,
            position: Duration::ZERO,
            moved: Instant::now(),
            playing: false,
            report: Report::default(),
            stalled: Duration::ZERO,
            lag_sum_ms: 0,
            lag_count: 0,
        }
    }

    async fn run(&mut self, mut stop: std::pin::Pin<&mut impl Future<Output = ()>>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = &mut stop => return,
            }
            self.take_loaded();
            self.advance(Instant::now());
            if count.is_multiple_of(TELL_EVERY) {
                self.tell().await;
            }
            count = count.wrapping_add(1);
            if self.is_over() {
                return;
            }
        }
    }

    fn take_loaded(&mut self) {
        for lane in &mut self.lanes {
            while let Ok(loaded) = lane.loaded.try_recv() {
                match loaded {
                    Loaded::Segment {
                        duration_ms,
                        report,
                        valid,
                    } => {
                        lane.whole_ms += u64::from(duration_ms);
                        lane.step_ms = duration_ms.into();
                        self.report.invalid += u32::from(!valid);
                        if self.report.segments.len() >= SEGMENTS_MAX {
                            self.report.segments.remove(0);
                        }
                        self.report.segments.push(report);
                    }
                    Loaded::Failed { duration_ms } => {
                        lane.whole_ms += u64::from(duration_ms);
                        self.report.failed += 1;
                    }
                    Loaded::Jump => self.report.jumps += 1,
                    Loaded::Switched => self.report.switches += 1,
                    Loaded::Stopped(why) => {
                        tracing::warn!(why, "a track has stopped");
                        lane.is_over = true;
                    }
                    Loaded::Ended => lane.is_over = true,
                }
            }
        }
    }

    /// Moves the playhead, up to where media ends.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.moved);
        self.moved = now;
        let end = Duration::from_millis(self.end_ms());
        if self.playing {
            self.position += elapsed;
            if self.position >= end && !self.is_over() {
                self.position = end;
                self.playing = false;
                self.report.stalls += 1;
            }
            self.position = self.position.min(end);
            self.lag_sum_ms += self.lag_ms();
            self.lag_count += 1;
        } else {
            if self.report.startup_ms.is_some() {
                self.stalled += elapsed;
            }
            let enough_ms = self.enough_ms();
            let enough = enough_ms > 0 && self.buffer_ms() >= enough_ms;
            if enough {
                self.playing = true;
                let startup_ms = now.duration_since(self.began).as_millis() as u64;
                self.report.startup_ms.get_or_insert(startup_ms);
            }
        }
        self.playhead
            .position_ms
            .store(self.position.as_millis() as u64, Ordering::Relaxed);
    }

    /// What must be there before playback begins or goes on; 0 if that is not known yet.
    fn enough_ms(&self) -> u64 {
        let steps = self.lanes.iter().map(|lane| lane.step_ms);
        match (self.agent.progressive_ms, steps.min().unwrap_or(0)) {
            (0, step_ms) => step_ms,
            (_, 0) => ENOUGH_MS,
            (_, step_ms) => step_ms.min(ENOUGH_MS),
        }
    }

    /// Where the track that ends first ends.
    fn end_ms(&self) -> u64 {
        self.lanes.iter().map(Lane::end_ms).min().unwrap_or(0)
    }

    fn buffer_ms(&self) -> u64 {
        self.end_ms()
            .saturating_sub(self.position.as_millis() as u64)
    }

    fn lag_ms(&self) -> u64 {
        let edges = self
            .lanes
            .iter()
            .map(|lane| lane.edge_ms.load(Ordering::Relaxed));
        edges
            .max()
            .unwrap_or(0)
            .saturating_sub(self.position.as_millis() as u64)
    }

    fn is_over(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_over) && self.buffer_ms() == 0
    }

    async fn tell(&self) {
        let command = Command::Player {
            buffer_ms: self.buffer_ms() as u32,
            lag_ms: self.lag_ms() as u32,
            stalled: !self.playing && self.report.startup_ms.is_some(),
        };
        self.agent.gateway.driver.tell(command).await;
    }

    fn finish(mut self) -> Report {
        self.tasks.abort_all();
        self.take_loaded();
        let stats = self.agent.stats();
        let (played_ms, buffer_ms) = (self.position.as_millis() as u64, self.buffer_ms());
        Report {
            played_ms,
            buffer_ms,
            stalled_ms: self.stalled.as_millis() as u64,
            latency_ms: self.lag_sum_ms / self.lag_count.max(1),
            bytes_cdn: stats.bytes_cdn,
            bytes_p2p: stats.bytes_p2p,
            bytes_up: stats.bytes_up,
            bad_pieces: stats.bad_pieces,
            backstops: stats.backstops,
            ..self.report
        }
    }
}
