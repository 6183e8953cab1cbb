//! Loads one track, segment after segment, as far ahead as the player wants.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use sha2::{Digest, Sha256};
use swarm_core::id::TrackId;
use swarm_core::timeline::hls::HlsPlaylist;
use swarm_core::timeline::{Listed, Track};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::abr::Abr;
use super::check::{check_init, check_segment};
use super::report::SegmentReport;
use crate::driver::Command;
use crate::gateway::{Fetched, Gateway};
use crate::media::{self, Object, Options, Report as Delivery};

/// Attempts at one segment or playlist before it is given up.
const ATTEMPTS: u32 = 4;
const RETRY: Duration = Duration::from_millis(400);
/// Longest and shortest pause between looks at a playlist.
const REFRESH: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(6));

/// What a loader tells the player.
#[derive(Debug)]
pub(super) enum Loaded {
    /// A segment of this duration is there.
    Segment {
        duration_ms: u32,
        report: SegmentReport,
        valid: bool,
    },
    /// A segment could not be had; this much media is missing.
    Failed { duration_ms: u32 },
    /// Segments had left the playlist before they were loaded.
    Jump,
    /// Another rendition is played from now on.
    Switched,
    /// The playlist cannot be had, or has no segments; nothing more will come.
    Stopped(String),
    /// The stream has ended.
    Ended,
}

/// What the player lets its loaders see.
#[derive(Debug, Default)]
pub(super) struct Playhead {
    pub(super) position_ms: AtomicU64,
}

/// One track of the stream, and how it is to be loaded.
pub(super) struct Loader {
    pub(super) gateway: Arc<Gateway>,
    /// Media playlists of the renditions, by rising bit rate.
    pub(super) urls: Vec<String>,
    pub(super) abr: Abr,
    /// Whether this is the picture, whose levels count.
    pub(super) is_main: bool,
    pub(super) hold_back_targets: u32,
    pub(super) buffer_max_ms: u64,
    pub(super) playhead: Arc<Playhead>,
    /// Where the end of the playlist is, on the player's clock.
    pub(super) edge_ms: Arc<AtomicU64>,
    /// Media that the player takes at a time while a segment arrives; 0: whole segments.
    pub(super) grain_ms: u32,
    /// Up to where media is there, on the player's clock, if that is within a segment.
    pub(super) reached_ms: Arc<AtomicU64>,
    pub(super) loaded: mpsc::Sender<Loaded>,
    pub(super) next_seq: Option<u64>,
    pub(super) loaded_ms: u64,
    pub(super) inits: HashSet<String>,
}

/// The player has gone.
struct Gone;

impl Loader {
    pub(super) async fn run(mut self) {
        // An error means that nobody listens any more.
        let _ = self.load().await;
    }

    async fn load(&mut self) -> Result<(), Gone> {
        let mut level = self.abr.current();
        let mut last_track = None;
        loop {
            let url = self.urls[level].clone();
            let track = match self.playlist(&url).await {
                Ok(track) => track,
                Err(why) => return self.tell(Loaded::Stopped(format!("{url}: {why}"))).await,
            };
            if let Some(old) = last_track
                .replace(track.track)
                .filter(|old| *old != track.track)
            {
                self.leave(old).await;
            }
            self.note_edge(&track);
            self.load_inits(&track).await;
            let mut progressed = false;
            while let Some(listed) = self.next(&track).await? {
                self.wait_for_room().await;
                self.segment(&listed, level).await?;
                self.note_edge(&track);
                progressed = true;
                let wanted = self.abr.current();
                if wanted != level {
                    level = wanted;
                    self.tell(Loaded::Switched).await?;
                    break;
                }
                if self.is_stale(&track, &listed) {
                    break;
                }
            }
            if track.ended && self.next(&track).await?.is_none() {
                return self.tell(Loaded::Ended).await;
            }
            if !progressed {
                let half = Duration::from_millis(u64::from(track.target_ms) / 4);
                sleep(half.clamp(REFRESH.0, REFRESH.1)).await;
            }
        }
    }

    /// Whether the playlist should be read again before its next segment: it is live, and few are
    /// left of it.
    fn is_stale(&self, track: &Track, listed: &Listed) -> bool {
        let last = track.segments.last().map_or(0, |last| last.info.seq);
        !track.ended && listed.info.seq + 1 >= last
    }

    async fn tell(&self, loaded: Loaded) -> Result<(), Gone> {
        self.loaded.send(loaded).await.map_err(|_| Gone)
    }

    async fn leave(&mut self, track: TrackId) {
        self.gateway.driver.tell(Command::TrackEnded(track)).await;
    }

    async fn playlist(&self, url: &str) -> Result<Track, String> {
        let mut why = String::new();
        for attempt in 0..ATTEMPTS * 4 {
            if attempt > 0 {
                sleep(RETRY).await;
            }
            match self
                .gateway
                .fetch(Method::GET, url, None, HeaderMap::new())
                .await
            {
                Ok(Fetched::Playlist(text)) => match text.hls {
                    Some(HlsPlaylist::Media(track)) if !track.segments.is_empty() => {
                        return Ok(track);
                    }
                    Some(HlsPlaylist::Media(_)) => why = "the playlist is empty".into(),
                    _ => why = "it is not a media playlist".into(),
                },
                Ok(Fetched::Object(object)) => why = format!("the CDN said {}", object.status),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// The next segment, if the playlist has it.
    async fn next(&mut self, track: &Track) -> Result<Option<Listed>, Gone> {
        let Some(first) = track.segments.first() else {
            return Ok(None);
        };
        let next = match self.next_seq {
            Some(next) if next < first.info.seq => {
                self.next_seq = Some(first.info.seq);
                self.tell(Loaded::Jump).await?;
                first.info.seq
            }
            // The source has begun to count again.
            Some(next) if next > track.segments.last().map_or(0, |last| last.info.seq) + 100 => {
                self.next_seq = None;
                self.tell(Loaded::Jump).await?;
                start_of(track, self.hold_back_targets)
            }
            Some(next) => next,
            None => start_of(track, self.hold_back_targets),
        };
        self.next_seq = Some(next);
        Ok(track
            .segments
            .iter()
            .find(|listed| listed.info.seq >= next)
            .cloned())
    }

    /// Where the end of the playlist is.
    fn note_edge(&self, track: &Track) {
        let next = self
            .next_seq
            .unwrap_or_else(|| start_of(track, self.hold_back_targets));
        let ahead = track
            .segments
            .iter()
            .filter(|listed| listed.info.seq >= next);
        let ahead_ms: u64 = ahead.map(|listed| u64::from(listed.info.duration_ms)).sum();
        self.edge_ms
            .store(self.loaded_ms + ahead_ms, Ordering::Relaxed);
    }

    async fn wait_for_room(&self) {
        let played = || self.playhead.position_ms.load(Ordering::Relaxed);
        while self.loaded_ms.saturating_sub(played()) > self.buffer_max_ms {
            sleep(REFRESH.0).await;
        }
    }

    async fn load_inits(&mut self, track: &Track) {
        for init in &track.inits {
            let key = format!("{}#{:?}", init.url, init.range);
            if self.inits.contains(&key) {
                continue;
            }
            let fetched = self
                .gateway
                .fetch(Method::GET, &init.url, init.range, HeaderMap::new())
                .await;
            let bytes = match fetched {
                Ok(Fetched::Object(object)) => {
                    collect(object, |_| {}).await.map(|(bytes, _)| bytes)
                }
                Ok(Fetched::Playlist(_)) => Err("it is a playlist".into()),
                Err(error) => Err(error.to_string()),
            };
            match bytes.as_deref().map(check_init) {
                Ok(Ok(())) => {
                    self.inits.insert(key);
                }
                Ok(Err(why)) => tracing::warn!(url = init.url, why, "bad initialisation segment"),
                Err(why) => tracing::warn!(url = init.url, why, "no initialisation segment"),
            }
        }
    }

    async fn segment(&mut self, listed: &Listed, level: usize) -> Result<(), Gone> {
        let duration_ms = listed.info.duration_ms;
        let asked = Instant::now();
        let mut got = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(RETRY).await;
            }
            match self.open(listed).await {
                Ok(found) => {
                    got = Some(found);
                    break;
                }
                Err(why) => tracing::debug!(url = listed.url, why, "segment did not come"),
            }
        }
        self.next_seq = Some(listed.info.seq + 1);
        self.loaded_ms += u64::from(duration_ms);
        let Some((bytes, delivery)) = got else {
            return self.tell(Loaded::Failed { duration_ms }).await;
        };
        self.abr.on_segment(delivery.reported_bps);
        let checked = check_segment(&bytes);
        if let Err(why) = checked {
            tracing::warn!(url = listed.url, why, "segment is no media");
        }
        let report = SegmentReport {
            url: listed.url.clone(),
            seq: listed.info.seq,
            level: self.is_main.then_some(level),
            sha256: hex::encode(Sha256::digest(&bytes)),
            len: bytes.len() as u64,
            bytes_p2p: delivery.bytes_p2p,
            bytes_cdn: delivery.bytes_cdn,
            waited_ms: asked.elapsed().as_millis() as u64,
            reported_bps: delivery.reported_bps,
        };
        self.tell(Loaded::Segment {
            duration_ms,
            report,
            valid: checked.is_ok(),
        })
        .await
    }

    async fn open(&self, listed: &Listed) -> Result<(Vec<u8>, Delivery), String> {
        let name = listed.info.name;
        let located = self
            .gateway
            .catalog
            .find(name)
            .ok_or("the playlist is gone")?;
        let options = Options {
            grain_ms: self.grain_ms,
            ..Options::default()
        };
        let opened = media::open(&self.gateway, name, located, options).await;
        let object = opened.map_err(|error| error.to_string())?;
        let whole = object.len;
        let on_bytes = |part| {
            if let Some(whole) = whole.filter(|whole| self.grain_ms > 0 && part < *whole) {
                let ms = media::media_ms(listed.info.duration_ms, (part, whole), self.grain_ms);
                let reached_ms = self.loaded_ms + u64::from(ms);
                self.reached_ms.fetch_max(reached_ms, Ordering::Relaxed);
            }
        };
        collect(object, on_bytes).await
    }
}

/// The first segment to play: so many target durations behind the end, or the beginning of a
/// stream that has ended.
fn start_of(track: &Track, hold_back_targets: u32) -> u64 {
    let first = track.segments.first().map_or(0, |first| first.info.seq);
    if track.ended {
        return first;
    }
    let hold_back_ms = u64::from(track.target_ms) * u64::from(hold_back_targets);
    let mut behind_ms = 0;
    for listed in track.segments.iter().rev() {
        behind_ms += u64::from(listed.info.duration_ms);
        // Durations are rounded; a few milliseconds do not make a segment.
        if behind_ms + 50 >= hold_back_ms {
            return listed.info.seq;
        }
    }
    first
}

/// All of a body and where it came from. `on_bytes` hears how much there is of it so far.
async fn collect(
    mut object: Object,
    on_bytes: impl Fn(u64),
) -> Result<(Vec<u8>, Delivery), String> {
    if !matches!(object.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Err(format!("the CDN said {}", object.status));
    }
    let mut bytes = Vec::with_capacity(object.len.unwrap_or(0).min(1 << 26) as usize);
    while let Some(chunk) = object.body.recv().await {
        bytes.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
        on_bytes(bytes.len() as u64);
    }
    if object.len.is_some_and(|len| len != bytes.len() as u64) {
        return Err("the answer has another length than it says".into());
    }
    let delivery = object
        .report
        .await
        .map_err(|_| "the answer broke off".to_owned())?;
    Ok((bytes, delivery))
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::id::Name;
    use swarm_core::timeline::{Parts, SegmentInfo};

    #[test]
    fn live_starts_three_targets_behind_the_end() {
        let listed = |seq| Listed {
            info: SegmentInfo {
                name: Name(seq),
                seq,
                duration_ms: 1990,
                content: None,
            },
            url: String::new(),
            range: None,
        };
        let mut track = Track {
            track: TrackId(1),
            stream: None,
            target_ms: 2000,
            ended: false,
            inits: vec![],
            segments: (10..20).map(listed).collect(),
            parts: Parts::default(),
        };
        assert_eq!(start_of(&track, 3), 17);
        track.segments.truncate(2);
        assert_eq!(start_of(&track, 3), 10);
        track.ended = true;
        track.segments.push(listed(12));
        assert_eq!(start_of(&track, 1), 10);
    }
}
