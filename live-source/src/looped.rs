//! The built-in clip as an endless live stream.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::clip::{LOOP_MS, Media, Track};
use crate::dash::Manifest;
use crate::hls::{self, Rendition};
use crate::object::{Kind, Lookup, Stream};
use crate::respond::GENERATION_BOX_LEN;
use crate::timeline::{Edge, Timeline};
use crate::{Config, Error};

/// The clip, its plan and its clock.
pub(crate) struct LoopedClip {
    video: Vec<(Track, Rate)>,
    audio: (Track, Rate),
    timeline: Timeline,
    clock: Clock,
    padding_bytes: usize,
    dash_timeline: bool,
    numbering: Mutex<Numbering>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    peak_bps: u64,
    average_bps: u64,
}

/// Which segment is numbered 0; moves when the sequence is reset.
#[derive(Debug, Default)]
struct Numbering {
    resets_seen: u64,
    base: u64,
}

/// Media position from a monotonic clock: a step of the wall clock must not tear the stream.
struct Clock {
    started: Instant,
    /// Negative when the plan starts in the future.
    position_at_start_ms: i64,
}

impl LoopedClip {
    /// Loads the clip and lays out its time from `config`, which must be valid.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let now_ms = wall.as_millis() as u64;
        let window_ms = config.window_segments * config.segment_ms;
        let already_run_ms = config.already_run_ms.unwrap_or(window_ms);
        let epoch_unix_ms = config
            .start_unix_ms
            .unwrap_or_else(|| now_ms.saturating_sub(already_run_ms));
        let position_at_start_ms = now_ms as i64 - epoch_unix_ms as i64;
        let timeline = Timeline {
            epoch_unix_ms,
            segment_ms: config.segment_ms,
            window_segments: config.window_segments,
        };
        let mut tracks = crate::clip::load()?;
        let audio = tracks.pop().ok_or(Error::Clip {
            track: "audio",
            reason: "missing".into(),
        })?;
        let with_rate = |track: Track, padding_bytes| {
            let rate = rate(&track, &timeline, padding_bytes);
            (track, rate)
        };
        Ok(Self {
            video: tracks
                .into_iter()
                .map(|t| with_rate(t, config.padding_bytes))
                .collect(),
            audio: with_rate(audio, 0),
            timeline,
            clock: Clock {
                started: Instant::now(),
                position_at_start_ms,
            },
            padding_bytes: config.padding_bytes,
            dash_timeline: config.dash_timeline,
            numbering: Mutex::default(),
        })
    }

    /// What `path` (below `/live/`) names, whether or not it exists yet.
    pub(crate) fn classify(&self, path: &str) -> Option<Kind> {
        match path {
            "main.m3u8" => return Some(Kind::Multivariant),
            "main.mpd" => return Some(Kind::Manifest),
            "time" => return Some(Kind::Time),
            _ => {}
        }
        let (id, file) = path.split_once('/')?;
        let stream = match self.track(id)?.media {
            Media::Video { .. } => Stream::Video,
            Media::Audio { .. } => Stream::Audio,
        };
        match file {
            "index.m3u8" => Some(Kind::Playlist),
            "init.mp4" => Some(Kind::Init(stream)),
            _ => segment_number(file).map(|_| Kind::Segment(stream)),
        }
    }

    /// The object under `path` (below `/live/`) now. `resets` counts the sequence resets asked so far.
    pub(crate) fn lookup(&self, path: &str, resets: u64) -> Lookup {
        let position_ms = self.clock.position_ms();
        self.lookup_at(path, position_ms, resets)
    }

    /// As [`Self::lookup`], at a given media position.
    pub(crate) fn lookup_at(&self, path: &str, position_ms: u64, resets: u64) -> Lookup {
        let edge = self.timeline.edge(position_ms);
        let base = self.base(edge, resets);
        let found = |text: String| Lookup::Found(text.into());
        match path {
            "main.m3u8" => return found(hls::multivariant(&self.renditions(), &self.sound())),
            "main.mpd" => {
                let (video, audio) = (self.renditions(), self.sound());
                let (timeline, explicit) = (&self.timeline, self.dash_timeline);
                let (video, audio) = (&video[..], &audio);
                return found(
                    Manifest {
                        video,
                        audio,
                        timeline,
                        edge,
                        base,
                        explicit,
                    }
                    .write(),
                );
            }
            "time" => return found(hls::rfc3339(self.timeline.epoch_unix_ms + position_ms)),
            _ => {}
        }
        let named = path
            .split_once('/')
            .and_then(|(id, file)| Some((self.track(id)?, file)));
        let Some((track, file)) = named else {
            return Lookup::Unknown;
        };
        match file {
            "index.m3u8" => found(hls::media(track, &self.timeline, edge, base)),
            "init.mp4" => Lookup::Found(track.init.clone()),
            _ => match segment_number(file).and_then(|number| number.checked_add(base)) {
                None => Lookup::Unknown,
                Some(index) if index >= edge.end => Lookup::NotYet {
                    next: index == edge.end,
                },
                Some(index) if index < edge.kept => Lookup::Expired,
                Some(index) => Lookup::Found(self.segment(track, index)),
            },
        }
    }

    fn base(&self, edge: Edge, resets: u64) -> u64 {
        let mut numbering = self
            .numbering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if numbering.resets_seen != resets {
            *numbering = Numbering {
                resets_seen: resets,
                base: edge.oldest,
            };
        }
        numbering.base
    }

    fn segment(&self, track: &Track, index: u64) -> Bytes {
        let padding = match track.media {
            Media::Video { .. } => self.padding_bytes,
            Media::Audio { .. } => 0,
        };
        segment(track, &self.timeline, index, padding)
    }

    fn track(&self, id: &str) -> Option<&Track> {
        self.video
            .iter()
            .chain([&self.audio])
            .map(|(track, _)| track)
            .find(|track| track.id == id)
    }

    fn renditions(&self) -> Vec<Rendition<'_>> {
        self.video.iter().map(rendition).collect()
    }

    fn sound(&self) -> Rendition<'_> {
        rendition(&self.audio)
    }
}

impl Clock {
    fn position_ms(&self) -> u64 {
        let position_ms = self.position_at_start_ms + self.started.elapsed().as_millis() as i64;
        position_ms.max(0) as u64
    }
}

fn rendition((track, rate): &(Track, Rate)) -> Rendition<'_> {
    Rendition {
        track,
        peak_bps: rate.peak_bps,
        average_bps: rate.average_bps,
    }
}

fn segment(track: &Track, timeline: &Timeline, index: u64, padding_bytes: usize) -> Bytes {
    let sample = |i| timeline.first_sample(i, track.timescale, track.sample_duration);
    let filler = filler(track.id, index, padding_bytes);
    track.mux(index as u32, sample(index)..sample(index + 1), &filler)
}

/// Bytes that no compression or de-duplication shrinks, the same on every source (SplitMix64).
fn filler(id: &str, index: u64, len: usize) -> Vec<u8> {
    let mut state = id.bytes().fold(index, |state, byte| {
        (state << 5) ^ (state >> 59) ^ u64::from(byte)
    });
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Peak and average of the segments as they are served, over as many loops as it takes to repeat.
fn rate(track: &Track, timeline: &Timeline, padding_bytes: usize) -> Rate {
    let mut segments = 1;
    while !(segments * timeline.segment_ms).is_multiple_of(LOOP_MS) {
        segments += 1;
    }
    let bits = |index| {
        let sample = |i| timeline.first_sample(i, track.timescale, track.sample_duration);
        let ticks = (sample(index + 1) - sample(index)) * u64::from(track.sample_duration);
        let stamped =
            segment(track, timeline, index, 0).len() + padding_bytes + 8 + GENERATION_BOX_LEN;
        (stamped as u64 * 8, ticks)
    };
    let timescale = u64::from(track.timescale);
    let (mut peak_bps, mut bits_sum, mut ticks_sum) = (0, 0, 0);
    for (bits, ticks) in (0..segments).map(bits) {
        peak_bps = peak_bps.max((bits * timescale).div_ceil(ticks));
        bits_sum += bits;
        ticks_sum += ticks;
    }
    Rate {
        peak_bps,
        average_bps: (bits_sum * timescale).div_ceil(ticks_sum),
    }
}

fn segment_number(file: &str) -> Option<u64> {
    let digits = file.strip_prefix("seg-")?.strip_suffix(".m4s")?;
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
