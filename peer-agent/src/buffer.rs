//! An estimate of a player that does not say how it is doing: what it was given, less the time that
//! has gone by since.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use swarm_core::id::TrackId;
use swarm_core::timeline::Track;
use tokio::time::Instant;

/// A track that got nothing for this long is not played any more.
const FORGET: Duration = Duration::from_secs(30);
/// Segments of a playlist's end that are remembered.
const WINDOW_MAX: usize = 64;
/// Tracks remembered at most.
const TRACKS_MAX: usize = 64;

/// How a player is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlayerState {
    pub(crate) buffer_ms: u32,
    pub(crate) lag_ms: u32,
    pub(crate) stalled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Estimate {
    tracks: BTreeMap<TrackId, Played>,
}

#[derive(Debug, Default)]
struct Played {
    /// Number and duration in milliseconds.
    window: VecDeque<(u64, u32)>,
    waiting: u32,
    given: Option<Given>,
}

#[derive(Debug)]
struct Given {
    /// When playback would have begun if it had never stopped.
    started: Instant,
    last: Instant,
    media: Duration,
    /// The newest segment, and how much of it was given.
    seq: u64,
    part: Duration,
}

impl Estimate {
    /// A playlist was read.
    pub(crate) fn on_playlist(&mut self, track: &Track) {
        if self.tracks.len() >= TRACKS_MAX && !self.tracks.contains_key(&track.track) {
            self.tracks.clear();
        }
        let window = &mut self.tracks.entry(track.track).or_default().window;
        window.clear();
        let newest = track.segments.len().saturating_sub(WINDOW_MAX);
        let segments = track.segments.iter().skip(newest);
        window.extend(segments.map(|listed| (listed.info.seq, listed.info.duration_ms)));
    }

    /// The player waits for a segment.
    pub(crate) fn on_asked(&mut self, track: TrackId) {
        self.tracks.entry(track).or_default().waiting += 1;
    }

    /// The player waits no more; `given` is the segment's number and duration if it got it.
    pub(crate) fn on_answered(&mut self, track: TrackId, given: Option<(u64, u32)>, now: Instant) {
        let Some(played) = self.tracks.get_mut(&track) else {
            return;
        };
        played.waiting = played.waiting.saturating_sub(1);
        if let Some((seq, duration_ms)) = given {
            played.give(seq, Duration::from_millis(duration_ms.into()), now);
        }
    }

    /// The player, which plays segments while they arrive, has got the first `ms` of one.
    pub(crate) fn on_progress(&mut self, track: TrackId, (seq, ms): (u64, u32), now: Instant) {
        if let Some(played) = self.tracks.get_mut(&track)
            && ms > 0
        {
            played.give(seq, Duration::from_millis(ms.into()), now);
        }
    }

    /// How the player is doing; `None` if nothing is played.
    pub(crate) fn state(&mut self, now: Instant) -> Option<PlayerState> {
        let mut all: Option<PlayerState> = None;
        for played in self.tracks.values_mut() {
            let Some(given) = &mut played.given else {
                continue;
            };
            if now.duration_since(given.last) >= FORGET {
                continue;
            }
            let buffer = given.settle(now);
            let ahead = played.window.iter().filter(|(seq, _)| *seq > given.seq);
            let ahead_ms: u32 = ahead.map(|(_, duration_ms)| *duration_ms).sum();
            let under_way = played.window.iter().find(|(seq, _)| *seq == given.seq);
            let part_ms = given.part.as_millis() as u32;
            let rest_ms = under_way.map_or(0, |(_, whole_ms)| whole_ms.saturating_sub(part_ms));
            let ahead_ms = ahead_ms.saturating_add(rest_ms);
            let buffer_ms = buffer.as_millis() as u32;
            let one = PlayerState {
                buffer_ms,
                lag_ms: buffer_ms.saturating_add(ahead_ms),
                stalled: buffer_ms == 0 && played.waiting > 0,
            };
            all = Some(all.map_or(one, |others| PlayerState {
                buffer_ms: others.buffer_ms.min(one.buffer_ms),
                lag_ms: others.lag_ms.max(one.lag_ms),
                stalled: others.stalled || one.stalled,
            }));
        }
        all
    }
}

impl Played {
    /// The player has got so much of a segment, from its beginning.
    fn give(&mut self, seq: u64, part: Duration, now: Instant) {
        match &mut self.given {
            Some(given) if now.duration_since(given.last) < FORGET => {
                given.settle(now);
                if seq > given.seq {
                    given.media += part;
                    (given.seq, given.part) = (seq, part);
                } else if seq == given.seq {
                    given.media += part.saturating_sub(given.part);
                    given.part = given.part.max(part);
                }
                given.last = now;
            }
            given => {
                *given = Some(Given {
                    started: now,
                    last: now,
                    media: part,
                    seq,
                    part,
                })
            }
        }
    }
}

impl Given {
    /// The buffer now. A player that has run dry has waited, not played.
    fn settle(&mut self, now: Instant) -> Duration {
        let elapsed = now.duration_since(self.started);
        if elapsed > self.media {
            self.started = now - self.media;
        }
        self.media.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::id::Name;
    use swarm_core::timeline::{Listed, Parts, SegmentInfo};

    const TRACK: TrackId = TrackId(1);

    fn playlist(seqs: std::ops::Range<u64>) -> Track {
        let listed = |seq| Listed {
            info: SegmentInfo {
                name: Name(seq),
                seq,
                duration_ms: 2000,
                content: None,
            },
            url: String::new(),
            range: None,
        };
        Track {
            track: TRACK,
            stream: None,
            target_ms: 2000,
            ended: false,
            inits: vec![],
            segments: seqs.map(listed).collect(),
            parts: Parts::default(),
        }
    }

    #[test]
    fn the_buffer_is_what_was_given_less_the_time_since() {
        let (mut estimate, start) = (Estimate::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(estimate.state(start), None);
        estimate.on_playlist(&playlist(0..6));
        for (seq, ms) in [(3, 0), (4, 100), (4, 150)] {
            estimate.on_asked(TRACK);
            estimate.on_answered(TRACK, Some((seq, 2000)), at(ms));
        }
        let state = estimate.state(at(1000)).unwrap();
        assert_eq!(
            state,
            PlayerState {
                buffer_ms: 3000,
                lag_ms: 5000,
                stalled: false
            }
        );
        estimate.on_asked(TRACK);
        let dry = estimate.state(at(9000)).unwrap();
        assert_eq!(
            dry,
            PlayerState {
                buffer_ms: 0,
                lag_ms: 2000,
                stalled: true
            }
        );
        estimate.on_answered(TRACK, Some((5, 2000)), at(9000));
        assert_eq!(estimate.state(at(9500)).unwrap().buffer_ms, 1500);
        assert_eq!(estimate.state(at(60_000)), None);
    }

    #[test]
    fn what_was_given_of_a_segment_that_still_comes_is_counted_once() {
        let (mut estimate, start) = (Estimate::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        estimate.on_playlist(&playlist(0..5));
        estimate.on_asked(TRACK);
        estimate.on_progress(TRACK, (3, 0), start);
        assert_eq!(estimate.state(start), None);
        let mut given = |ms: u32, now| {
            estimate.on_progress(TRACK, (3, ms), now);
            let state = estimate.state(now).unwrap();
            (state.buffer_ms, state.lag_ms)
        };
        assert_eq!(given(500, start), (500, 4000));
        assert_eq!(given(1500, at(100)), (1400, 3900));
        assert_eq!(given(1000, at(100)), (1400, 3900), "asked for again");
        estimate.on_answered(TRACK, Some((3, 2000)), at(200));
        let state = estimate.state(at(200)).unwrap();
        assert_eq!((state.buffer_ms, state.lag_ms), (1800, 3800));
    }
}
