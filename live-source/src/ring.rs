//! One track that comes frame by frame: cut into parts and segments, of which the newest are kept.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::cmaf::{Media, Place, Sample, TrackInfo};
use crate::hls::{Listed, ListedPart, Window};
use crate::object::Lookup;
use crate::respond::sent_len;

/// The frames of one part are at most so long; no encoder of ours comes near.
const PART_BYTES_MAX: usize = 64 << 20;

/// How tracks are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) segment_ms: u64,
    pub(crate) part_ms: u64,
    pub(crate) window_segments: u64,
}

/// A track.
pub(crate) struct Ring {
    pub(crate) info: TrackInfo,
    plan: Plan,
    /// The number of the oldest segment kept.
    first_number: u64,
    segments: VecDeque<Segment>,
    /// The segment that is being made, whole parts only.
    open: Option<Segment>,
    /// The part that is being made.
    pending: Vec<Sample>,
    pending_start: u64,
    pending_len: usize,
    /// When the next sample is due, in ticks.
    next: Option<u64>,
    /// Of the next fragment.
    sequence: u32,
}

struct Segment {
    start: u64,
    parts: Vec<Part>,
}

struct Part {
    bytes: Bytes,
    ticks: u64,
    is_independent: bool,
}

impl Ring {
    pub(crate) fn new(info: TrackInfo, plan: Plan) -> Self {
        Self {
            info,
            plan,
            first_number: 0,
            segments: VecDeque::new(),
            open: None,
            pending: Vec::new(),
            pending_start: 0,
            pending_len: 0,
            next: None,
            sequence: 0,
        }
    }

    /// Takes the next sample, which starts at `start` or thereabouts. Returns whether a part has become
    /// whole by it.
    pub(crate) fn push(&mut self, start: u64, sample: Sample) -> Result<bool, String> {
        let start = self.steady(start);
        self.next = Some(start + u64::from(self.info.sample_duration));
        let (segment_ms, part_ms) = (self.plan.segment_ms, self.plan.part_ms);
        let is_video = matches!(self.info.media, Media::Video { .. });
        let is_next = |this: &Self, from: u64, unit_ms| {
            this.index(start, unit_ms) > this.index(from, unit_ms)
        };
        let open_start = self
            .open
            .as_ref()
            .map_or(self.pending_start, |open| open.start);
        let is_first = self.open.is_none() && self.pending.is_empty();
        let begins_segment =
            !is_first && is_next(self, open_start, segment_ms) && (!is_video || sample.is_sync());
        let begins_part = begins_segment
            || (!self.pending.is_empty() && is_next(self, self.pending_start, part_ms));
        if begins_part {
            self.close_part();
        }
        if begins_segment {
            self.close_segment();
        }
        if self.pending.is_empty() {
            self.pending_start = start;
        }
        if is_first {
            self.first_number = self.index(start, segment_ms);
        }
        self.pending_len += sample.data.len();
        if self.pending_len > PART_BYTES_MAX {
            return Err("a part that is too long".into());
        }
        self.pending.push(sample);
        Ok(begins_part)
    }

    /// Whether there is a whole segment.
    pub(crate) fn is_started(&self) -> bool {
        !self.segments.is_empty()
    }

    /// One past the newest whole segment.
    pub(crate) fn end(&self) -> u64 {
        self.first_number + self.segments.len() as u64
    }

    pub(crate) fn window(&self, epoch_unix_ms: u64) -> Window {
        let listed = self.plan.window_segments as usize;
        let skipped = self.segments.len().saturating_sub(listed);
        let list = |segment: &Segment| self.listed(segment, epoch_unix_ms);
        Window {
            first_number: self.first_number + skipped as u64,
            segments: self.segments.iter().skip(skipped).map(list).collect(),
            open: self.open.as_ref().map(list),
        }
    }

    pub(crate) fn segment(&self, number: u64) -> Lookup {
        if number >= self.end() {
            return Lookup::NotYet {
                next: number == self.end(),
            };
        }
        match self.kept(number) {
            Some(segment) => {
                let parts: Vec<Bytes> = segment
                    .parts
                    .iter()
                    .map(|part| part.bytes.clone())
                    .collect();
                Lookup::Found(parts.concat().into())
            }
            None => Lookup::Expired,
        }
    }

    pub(crate) fn part(&self, number: u64, part: u64) -> Lookup {
        if number < self.first_number {
            return Lookup::Expired;
        }
        let open = self.open.as_ref().filter(|_| number == self.end());
        let segment = open.or_else(|| self.kept(number));
        let parts = segment.map_or(&[][..], |segment| &segment.parts);
        match usize::try_from(part).ok().and_then(|part| parts.get(part)) {
            Some(part) => Lookup::Found(part.bytes.clone()),
            None if number < self.end() => Lookup::Unknown,
            None => Lookup::NotYet {
                next: number == self.end() && part == parts.len() as u64,
            },
        }
    }

    fn kept(&self, number: u64) -> Option<&Segment> {
        let index = number.checked_sub(self.first_number)?;
        self.segments.get(usize::try_from(index).ok()?)
    }

    /// Time as a count of samples: what is reported jitters at seams of the input.
    fn steady(&self, start: u64) -> u64 {
        let jump = self.plan.part_ms * u64::from(self.info.timescale) / 1000;
        match self.next {
            Some(next) if start < next.saturating_add(jump) => next,
            _ => start,
        }
    }

    fn index(&self, ticks: u64, unit_ms: u64) -> u64 {
        (u128::from(ticks) * 1000 / u128::from(self.info.timescale) / u128::from(unit_ms)) as u64
    }

    fn close_part(&mut self) {
        let Some(first) = self.pending.first() else {
            return;
        };
        let place = Place {
            sequence: self.sequence,
            start: self.pending_start,
            begins_segment: self.open.is_none(),
        };
        let part = Part {
            bytes: self.info.mux(place, self.pending.iter(), &[]),
            ticks: self.pending.len() as u64 * u64::from(self.info.sample_duration),
            is_independent: first.is_sync(),
        };
        let start = self.pending_start;
        let open = self.open.get_or_insert_with(|| Segment {
            start,
            parts: Vec::new(),
        });
        open.parts.push(part);
        self.sequence = self.sequence.wrapping_add(1);
        self.pending.clear();
        self.pending_len = 0;
    }

    fn close_segment(&mut self) {
        self.segments.extend(self.open.take());
        while self.segments.len() as u64 > 2 * self.plan.window_segments {
            self.segments.pop_front();
            self.first_number += 1;
        }
    }

    fn listed(&self, segment: &Segment, epoch_unix_ms: u64) -> Listed {
        let seconds = |ticks| self.info.seconds(ticks);
        Listed {
            start_unix_ms: epoch_unix_ms + (seconds(segment.start) * 1000.0) as u64,
            duration_s: seconds(segment.parts.iter().map(|part| part.ticks).sum()),
            parts: segment
                .parts
                .iter()
                .enumerate()
                .map(|(index, part)| ListedPart {
                    len: sent_len(index as u64, &part.bytes),
                    duration_s: seconds(part.ticks),
                    is_independent: part.is_independent,
                })
                .collect(),
        }
    }
}
