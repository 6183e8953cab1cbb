//! The built-in clip as an endless live stream.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::clip::{LOOP_MS, Track};
use crate::cmaf::{BOX_HEADER_LEN, Media, TrackInfo};
use crate::dash::{Form, Manifest};
use crate::hls::{self, Listed, ListedPart, LowLatency, Rendition, Window};
use crate::object::Lookup;
use crate::reload::Directives;
use crate::respond::{GENERATION_BOX_LEN, sent_len};
use crate::route::{File, Route};
use crate::timeline::{Edge, Timeline};
use crate::{Config, Error};

/// The clip, its plan and its clock.
pub(crate) struct LoopedClip {
    video: Vec<(Track, Rate)>,
    audio: (Track, Rate),
    timeline: Timeline,
    clock: Clock,
    padding_bytes: usize,
    dash_form: Form,
    part_byteranges: bool,
    /// Of low-latency HLS, if it is published.
    part_target_s: Option<f64>,
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
            part_ms: config.published_part_ms(),
            window_segments: config.window_segments,
        };
        let mut tracks = crate::clip::load()?;
        let audio = tracks.pop().ok_or(Error::Clip {
            track: "audio",
            reason: "missing".into(),
        })?;
        let unrated = |track| (track, Rate::default());
        let mut clip = Self {
            video: tracks.into_iter().map(unrated).collect(),
            audio: unrated(audio),
            timeline,
            clock: Clock {
                started: Instant::now(),
                position_at_start_ms,
            },
            padding_bytes: config.padding_bytes,
            dash_form: Form::of(config),
            part_byteranges: config.part_byteranges,
            part_target_s: None,
            numbering: Mutex::default(),
        };
        let infos = clip.tracks().map(|track| &track.info);
        clip.part_target_s = config
            .ll_hls
            .then(|| hls::part_target_s(infos, timeline.part_ms));
        let rates: Vec<Rate> = clip.tracks().map(|track| clip.rate(track)).collect();
        let rated = clip.video.iter_mut().chain([&mut clip.audio]);
        rated.zip(rates).for_each(|((_, slot), rate)| *slot = rate);
        Ok(clip)
    }

    /// Whether there is a track with this name.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.track(id).is_some()
    }

    /// The object that `route` names now. `resets` counts the sequence resets asked so far.
    pub(crate) fn lookup(&self, route: &Route<'_>, directives: Directives, resets: u64) -> Lookup {
        let position_ms = self.clock.position_ms();
        let edge = self.timeline.edge(position_ms);
        let base = self.base(edge, resets);
        let found = |text: String| Lookup::Found(text.into());
        match route {
            Route::Multivariant => {
                found(hls::multivariant(&self.renditions(), Some(&self.sound())))
            }
            Route::Manifest => {
                let (video, audio) = (self.renditions(), self.sound());
                let manifest = Manifest {
                    video: &video,
                    audio: Some(&audio),
                    timeline: &self.timeline,
                    edge,
                    base,
                    form: self.dash_form,
                };
                found(manifest.write())
            }
            Route::Time => found(hls::rfc3339(self.timeline.epoch_unix_ms + position_ms)),
            Route::Track(id, file) => match self.track(id) {
                Some(track) => self.lookup_file(track, *file, directives, edge, base),
                None => Lookup::Unknown,
            },
        }
    }

    /// Resolves when the next part, or segment, is published.
    pub(crate) async fn change(&self) {
        let left_ms = self.timeline.next_ms(self.clock.position_ms());
        tokio::time::sleep(Duration::from_millis(left_ms)).await;
    }

    fn lookup_file(
        &self,
        track: &Track,
        file: File,
        directives: Directives,
        edge: Edge,
        base: u64,
    ) -> Lookup {
        match file {
            File::Init => Lookup::Found(track.info.init.clone()),
            File::Playlist => self.playlist(track, directives, edge, base),
            File::Segment(_) | File::Timed(_) => match self.index_of(track, file, base) {
                None => Lookup::Unknown,
                Some(index) if index >= edge.end => Lookup::NotYet {
                    next: index == edge.end,
                },
                Some(index) if index < edge.kept => Lookup::Expired,
                Some(index) => Lookup::Found(self.segment(track, index)),
            },
            File::Part(_, part) if part >= self.timeline.parts() => Lookup::Unknown,
            File::Part(_, part) => match self.index_of(track, file, base) {
                None => Lookup::Unknown,
                Some(index) if (index, part) >= (edge.end, edge.open_parts) => Lookup::NotYet {
                    next: (index, part) == (edge.end, edge.open_parts),
                },
                Some(index) if index < edge.kept => Lookup::Expired,
                Some(index) => Lookup::Found(self.part(track, index, part)),
            },
        }
    }

    /// The media index of a segment, or of a part's.
    fn index_of(&self, track: &Track, file: File, base: u64) -> Option<u64> {
        match file {
            File::Segment(number) | File::Part(number, _) => number.checked_add(base),
            File::Timed(ticks) => {
                let nominal = ticks.checked_mul(1000)? / u64::from(track.info.timescale);
                let index = (nominal + self.timeline.segment_ms / 2) / self.timeline.segment_ms;
                let start = self.timeline.start_ticks(&track.info, index);
                (start == ticks).then_some(index)
            }
            File::Init | File::Playlist => None,
        }
    }

    fn playlist(&self, track: &Track, directives: Directives, edge: Edge, base: u64) -> Lookup {
        let window = self.window(track, edge, base);
        let target_s = self.timeline.segment_ms / 1000;
        let Some(part_target_s) = self.part_target_s else {
            return Lookup::Found(window.write(target_s, None).into());
        };
        let others = self.tracks().filter(|other| other.info.id != track.info.id);
        let low_latency = LowLatency {
            are_ranges: self.part_byteranges,
            part_target_s,
            skip: directives.skip,
            reports: others
                .map(|other| (other.info.id.clone(), window.edge()))
                .collect(),
        };
        hls::answer(&window, target_s, &low_latency, directives)
    }

    fn window(&self, track: &Track, edge: Edge, base: u64) -> Window {
        let oldest = edge.oldest.max(base);
        Window {
            first_number: oldest - base,
            segments: (oldest..edge.end)
                .map(|index| self.listed(track, index, self.timeline.parts()))
                .collect(),
            open: Some(self.listed(track, edge.end, edge.open_parts)),
        }
    }

    fn listed(&self, track: &Track, index: u64, parts: u64) -> Listed {
        let info = &track.info;
        let first = |part| self.first_sample(track, index, part);
        let seconds = |samples: u64| info.seconds(samples * u64::from(info.sample_duration));
        let start_ms =
            first(0) * u64::from(info.sample_duration) * 1000 / u64::from(info.timescale);
        Listed {
            start_unix_ms: self.timeline.epoch_unix_ms + start_ms,
            duration_s: seconds(first(self.timeline.parts()) - first(0)),
            parts: (0..parts)
                .map(|part| ListedPart {
                    duration_s: seconds(first(part + 1) - first(part)),
                    is_independent: track.sample(first(part)).is_sync(),
                    len: match self.part_byteranges {
                        true => sent_len(part, &self.part(track, index, part)),
                        false => 0,
                    },
                })
                .collect(),
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
        let parts = (0..self.timeline.parts()).map(|part| self.part(track, index, part));
        let parts: Vec<Bytes> = parts.collect();
        match &parts[..] {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }

    fn part(&self, track: &Track, index: u64, part: u64) -> Bytes {
        let padding_bytes = self.padding_bytes(track) / self.timeline.parts() as usize;
        self.padded_part(track, index, part, padding_bytes)
    }

    fn padding_bytes(&self, track: &Track) -> usize {
        match track.info.media {
            Media::Video { .. } => self.padding_bytes,
            Media::Audio { .. } => 0,
        }
    }

    fn padded_part(&self, track: &Track, index: u64, part: u64, padding_bytes: usize) -> Bytes {
        let first = |part| self.first_sample(track, index, part);
        let sequence = index * self.timeline.parts() + part;
        let filler = filler(&track.info.id, sequence, padding_bytes);
        track.mux(
            sequence as u32,
            part == 0,
            first(part)..first(part + 1),
            &filler,
        )
    }

    fn first_sample(&self, track: &Track, index: u64, part: u64) -> u64 {
        let TrackInfo {
            timescale,
            sample_duration,
            ..
        } = track.info;
        self.timeline
            .first_sample_of_part(index, part, timescale, sample_duration)
    }

    fn track(&self, id: &str) -> Option<&Track> {
        self.tracks().find(|track| track.info.id == id)
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.video
            .iter()
            .chain([&self.audio])
            .map(|(track, _)| track)
    }

    fn renditions(&self) -> Vec<Rendition<'_>> {
        self.video.iter().map(rendition).collect()
    }

    fn sound(&self) -> Rendition<'_> {
        rendition(&self.audio)
    }

    /// Peak and average of the segments as they are served, over as many loops as it takes to repeat.
    fn rate(&self, track: &Track) -> Rate {
        let mut segments = 1;
        while !(segments * self.timeline.segment_ms).is_multiple_of(LOOP_MS) {
            segments += 1;
        }
        let timescale = u64::from(track.info.timescale);
        let (mut peak_bps, mut bits_sum, mut ticks_sum) = (0, 0, 0);
        for index in 0..segments {
            let samples =
                self.first_sample(track, index + 1, 0) - self.first_sample(track, index, 0);
            let ticks = samples * u64::from(track.info.sample_duration);
            // Without making the filler, of which there may be much.
            let parts = (0..self.timeline.parts())
                .map(|part| self.padded_part(track, index, part, 0).len() + BOX_HEADER_LEN);
            let len = parts.sum::<usize>() + self.padding_bytes(track) + GENERATION_BOX_LEN;
            let bits = len as u64 * 8;
            peak_bps = peak_bps.max((bits * timescale).div_ceil(ticks));
            bits_sum += bits;
            ticks_sum += ticks;
        }
        Rate {
            peak_bps,
            average_bps: (bits_sum * timescale).div_ceil(ticks_sum),
        }
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
        track: &track.info,
        peak_bps: rate.peak_bps,
        average_bps: rate.average_bps,
    }
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
