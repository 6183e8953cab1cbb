//! What has changed among the streams. Time comes in.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use crate::api::Stream;

/// Streams that are watched at the same time.
const STREAMS_MAX: usize = 10_000;

/// Starts that other nodes are told: those look every second, and remember the earlier ones.
const STARTS_MAX: usize = 1_000;
/// Streams that are asked for one by one, at each look.
const UNLISTED_MAX: usize = 200;

/// What happened to a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Event {
    /// The same for every attempt to tell it, whichever node makes it.
    pub(super) id: String,
    pub(super) event: Kind,
    pub(super) stream: String,
    /// Milliseconds since 1970.
    started_at_ms: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Kind {
    #[serde(rename = "stream.start")]
    Start,
    #[serde(rename = "stream.end")]
    End,
}

/// What there is to say of a stream that is over.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Ended {
    /// When it was last seen with viewers.
    ended_at_ms: u64,
    /// Most viewers at a time.
    viewers_max: usize,
    bytes_p2p: u64,
    bytes_cdn: u64,
    offload: f64,
    stalls: u64,
    stalled_ms: u64,
}

struct Seen {
    started_at_ms: u64,
    seen_at_ms: u64,
    viewers_max: usize,
    last: Stream,
}

pub(super) struct Watch {
    end_after_ms: u64,
    streams: BTreeMap<String, Seen>,
}

impl Watch {
    pub(super) const fn new(end_after_ms: u64) -> Self {
        Self {
            end_after_ms,
            streams: BTreeMap::new(),
        }
    }

    /// What has happened since the last look: ends before starts.
    pub(super) fn look(&mut self, now_ms: u64, streams: Vec<Stream>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut started = Vec::new();
        for stream in streams.into_iter().filter(|stream| stream.viewers > 0) {
            if let Some(seen) = self.streams.get_mut(&stream.stream) {
                seen.seen_at_ms = now_ms;
                seen.viewers_max = seen.viewers_max.max(stream.viewers);
                seen.last = stream;
            } else if self.streams.len() < STREAMS_MAX {
                let seen = Seen::new(now_ms, stream);
                started.push(seen.event(Kind::Start));
                self.streams.insert(seen.last.stream.clone(), seen);
            }
        }
        self.streams.retain(|_, seen| {
            let over = now_ms.saturating_sub(seen.seen_at_ms) > self.end_after_ms;
            if over {
                events.push(seen.event(Kind::End));
            }
            !over
        });
        events.append(&mut started);
        events
    }

    /// The latest starts: streams, and when they started.
    pub(super) fn starts(&self) -> Vec<(String, u64)> {
        let all = self.streams.iter();
        let mut all: Vec<_> = all
            .map(|(name, seen)| (name.clone(), seen.started_at_ms))
            .collect();
        all.sort_by_key(|(_, started_at_ms)| Reverse(*started_at_ms));
        all.truncate(STARTS_MAX);
        all
    }

    /// Takes over what another node has told, so that an end that this one tells is that start's.
    pub(super) fn adopt(&mut self, starts: Vec<(String, u64)>) {
        for (name, started_at_ms) in starts.into_iter().take(STREAMS_MAX) {
            if let Some(seen) = self.streams.get_mut(&name) {
                seen.started_at_ms = started_at_ms;
            }
        }
    }

    /// Streams that would be taken for ended before long, those first that were not seen for longest.
    pub(super) fn unlisted(&self, now_ms: u64) -> Vec<String> {
        let since_ms = |seen: &Seen| now_ms.saturating_sub(seen.seen_at_ms);
        let late = |seen: &&Seen| since_ms(seen) > self.end_after_ms / 2;
        let mut late: Vec<&Seen> = self.streams.values().filter(late).collect();
        late.sort_by_key(|seen| seen.seen_at_ms);
        late.truncate(UNLISTED_MAX);
        late.iter().map(|seen| seen.last.stream.clone()).collect()
    }

    /// A stream has viewers, though it was not listed.
    pub(super) fn still_there(&mut self, now_ms: u64, stream: &str) {
        if let Some(seen) = self.streams.get_mut(stream) {
            seen.seen_at_ms = now_ms;
        }
    }
}

impl Seen {
    const fn new(now_ms: u64, stream: Stream) -> Self {
        Self {
            started_at_ms: now_ms,
            seen_at_ms: now_ms,
            viewers_max: stream.viewers,
            last: stream,
        }
    }

    fn event(&self, event: Kind) -> Event {
        let last = &self.last;
        let (name, ended) = match event {
            Kind::Start => ("start", None),
            Kind::End => {
                let ended = Ended {
                    ended_at_ms: self.seen_at_ms,
                    viewers_max: self.viewers_max,
                    bytes_p2p: last.bytes_p2p,
                    bytes_cdn: last.bytes_cdn,
                    offload: last.offload,
                    stalls: last.stalls,
                    stalled_ms: last.stalled_ms,
                };
                ("end", Some(ended))
            }
        };
        Event {
            id: format!("{}-{}-{name}", last.stream, self.started_at_ms),
            event,
            stream: last.stream.clone(),
            started_at_ms: self.started_at_ms,
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, viewers: usize, bytes_p2p: u64) -> Stream {
        Stream {
            stream: name.into(),
            viewers,
            bytes_p2p,
            ..Stream::default()
        }
    }

    fn told(events: &[Event]) -> Vec<(Kind, &str)> {
        let events = events.iter();
        events.map(|e| (e.event, e.stream.as_str())).collect()
    }

    #[test]
    fn a_stream_that_is_only_not_listed_does_not_end() {
        let mut watch = Watch::new(5_000);
        watch.look(1_000, vec![stream("small", 1, 0), stream("over", 1, 0)]);
        for now_ms in (2_000..20_000).step_by(1_000) {
            for name in watch.unlisted(now_ms) {
                if name == "small" {
                    watch.still_there(now_ms, &name);
                }
            }
            let ended = watch.look(now_ms, vec![]);
            assert!(told(&ended).iter().all(|end| *end == (Kind::End, "over")));
        }
        assert_eq!(watch.streams.len(), 1, "and the other one did");
    }

    #[test]
    fn the_end_that_another_node_tells_is_that_of_the_start_that_was_told() {
        let (mut speaker, mut next) = (Watch::new(5_000), Watch::new(5_000));
        let start = speaker.look(1_000, vec![stream("a", 1, 0)]);
        next.look(1_700, vec![stream("a", 1, 0), stream("b", 1, 0)]);
        next.adopt(speaker.starts());
        let ends = next.look(9_000, vec![]);
        assert_eq!(told(&ends), [(Kind::End, "a"), (Kind::End, "b")]);
        let id = |event: &Event| event.id.rsplit_once('-').unwrap().0.to_owned();
        assert_eq!(id(&ends[0]), id(&start[0]));
        assert_eq!(ends[1].started_at_ms, 1_700, "nobody has told of it");
    }

    #[test]
    fn streams_start_once_and_end_after_a_while_without_viewers() {
        let mut watch = Watch::new(5_000);
        let first = watch.look(1_000, vec![stream("a", 2, 0), stream("b", 0, 0)]);
        assert_eq!(told(&first), [(Kind::Start, "a")]);
        assert!(watch.look(2_000, vec![stream("a", 9, 70)]).is_empty());
        // A gap that is short is none.
        assert!(watch.look(6_000, vec![]).is_empty());
        assert!(watch.look(7_000, vec![stream("a", 1, 80)]).is_empty());
        let last = watch.look(12_001, vec![stream("b", 1, 0)]);
        assert_eq!(told(&last), [(Kind::End, "a"), (Kind::Start, "b")]);
        let ended = last[0].ended.as_ref().unwrap();
        assert_eq!((ended.ended_at_ms, ended.viewers_max), (7_000, 9));
        assert_eq!((last[0].started_at_ms, ended.bytes_p2p), (1_000, 80));
        assert_ne!(last[0].id, first[0].id);
        assert!(watch.unlisted(14_501).is_empty());
        assert_eq!(watch.unlisted(14_502), ["b"]);
        let again = watch.look(13_000, vec![stream("a", 1, 0), stream("b", 1, 0)]);
        assert_eq!(told(&again), [(Kind::Start, "a")]);
        assert_ne!(again[0].id, first[0].id);
    }
}
