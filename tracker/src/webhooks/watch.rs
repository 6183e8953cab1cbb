//! What has changed among the streams. Time comes in.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::api::{Census, Stream, offload};

/// Streams that are watched at the same time.
const STREAMS_MAX: usize = 10_000;
/// Streams that other nodes are told of, the latest: as many fit into one message between nodes.
const TOLD_MAX: usize = 2_000;
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
    #[serde(flatten)]
    sums: Sums,
    offload: f64,
}

/// Sums over a stream's viewers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    bytes_p2p: u64,
    bytes_cdn: u64,
    stalls: u64,
    stalled_ms: u64,
}

/// A stream whose start was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Watched {
    stream: String,
    started_at_ms: u64,
    /// When it had viewers the last time.
    seen_at_ms: u64,
    viewers_max: usize,
    /// What the nodes' sums have lost: they begin anew where nobody watches for a moment, and where
    /// the stream gets another owner.
    past: Sums,
    /// The nodes' sums, as they were last.
    last: Sums,
    /// It is known that nobody watches; that it is not listed alone does not say so.
    #[serde(skip)]
    is_unwatched: bool,
}

/// What nodes tell each other of the webhooks that were sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// By the node that speaks for all: what it does not list is over.
    pub(super) speaks: bool,
    /// Streams are left out.
    cut: bool,
    streams: Vec<Watched>,
}

pub(super) struct Watch {
    end_after_ms: u64,
    /// Since when this node tells what ends.
    speaks_since_ms: Option<u64>,
    streams: BTreeMap<String, Watched>,
}

impl Told {
    /// Adds what another node says; who speaks knows better.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if other.speaks && !self.speaks {
            std::mem::swap(self, &mut other);
        }
        if other.speaks || !self.speaks {
            self.cut |= other.cut;
            self.streams.append(&mut other.streams);
        }
    }
}

impl Watch {
    pub(super) const fn new(end_after_ms: u64) -> Self {
        Self {
            end_after_ms,
            speaks_since_ms: None,
            streams: BTreeMap::new(),
        }
    }

    /// What has happened since the last look: ends before starts. Ends only where this node `speaks`:
    /// one that is alone does not know what is watched elsewhere.
    pub(super) fn look(&mut self, now_ms: u64, census: Census, speaks: bool) -> Vec<Event> {
        let exact = speaks && census.whole;
        let all_listed = exact && !census.cut;
        let mut started = Vec::new();
        for stream in census.streams.into_iter().filter(|s| s.viewers > 0) {
            if let Some(watched) = self.streams.get_mut(&stream.stream) {
                watched.see(now_ms, &stream, exact);
            } else if self.streams.len() < STREAMS_MAX {
                let watched = Watched::new(now_ms, &stream);
                started.push(watched.event(Kind::Start));
                self.streams.insert(stream.stream, watched);
            }
        }
        if all_listed {
            let unseen = self.streams.values_mut().filter(|w| w.seen_at_ms < now_ms);
            unseen.for_each(Watched::on_unwatched);
        }
        let mut events = self.take_ended(now_ms, speaks, census.whole);
        events.append(&mut started);
        events
    }

    /// The ends of streams that are known to have been without viewers for long, once no node is missing that
    /// may have some. A node that has just begun to speak waits for as long itself: it may have heard of them
    /// long ago.
    fn take_ended(&mut self, now_ms: u64, speaks: bool, whole: bool) -> Vec<Event> {
        if !speaks {
            self.speaks_since_ms = None;
            return Vec::new();
        }
        let speaks_since_ms = *self.speaks_since_ms.get_or_insert(now_ms);
        if !whole {
            return Vec::new();
        }
        let end_after_ms = self.end_after_ms;
        let is_over = |watched: &Watched| {
            let since_ms = watched.seen_at_ms.max(speaks_since_ms);
            watched.is_unwatched && now_ms.saturating_sub(since_ms) > end_after_ms
        };
        let ended = self.streams.extract_if(.., |_, watched| is_over(watched));
        ended.map(|(_, watched)| watched.event(Kind::End)).collect()
    }

    /// What other nodes are to know.
    pub(super) fn told(&self, speaks: bool) -> Told {
        let mut streams: Vec<Watched> = self.streams.values().cloned().collect();
        let cut = streams.len() > TOLD_MAX;
        if cut {
            streams.sort_by_key(|watched| Reverse(watched.started_at_ms));
            streams.truncate(TOLD_MAX);
        }
        Told {
            speaks,
            cut,
            streams,
        }
    }

    /// Takes over what other nodes have told, so that this one can go on at any time.
    pub(super) fn follow(&mut self, told: Told) {
        self.speaks_since_ms = None;
        if told.speaks && !told.cut {
            self.streams.clear();
        }
        for heard in told.streams {
            let known = self.streams.get(&heard.stream);
            // Where two were told, all take the later start.
            let is_news = known.is_none_or(|known| heard.order() > known.order());
            if is_news && (known.is_some() || self.streams.len() < STREAMS_MAX) {
                self.streams.insert(heard.stream.clone(), heard);
            }
        }
    }

    /// Streams that would be taken for ended before long, those first that were not seen for longest.
    pub(super) fn unlisted(&self, now_ms: u64) -> Vec<String> {
        let since_ms = |watched: &Watched| now_ms.saturating_sub(watched.seen_at_ms);
        let late = |watched: &&Watched| since_ms(watched) > self.end_after_ms / 2;
        let mut late: Vec<&Watched> = self.streams.values().filter(late).collect();
        late.sort_by_key(|watched| watched.seen_at_ms);
        late.truncate(UNLISTED_MAX);
        late.iter().map(|watched| watched.stream.clone()).collect()
    }

    /// A stream has viewers, though it was not listed.
    pub(super) fn still_there(&mut self, now_ms: u64, stream: &str) {
        if let Some(watched) = self.streams.get_mut(stream) {
            watched.seen_at_ms = now_ms;
            watched.is_unwatched = false;
        }
    }

    /// A stream that was not listed has no viewers: all nodes say so.
    pub(super) fn not_there(&mut self, stream: &str) {
        if let Some(watched) = self.streams.get_mut(stream) {
            watched.on_unwatched();
        }
    }
}

impl Sums {
    const fn of(stream: &Stream) -> Self {
        Self {
            bytes_p2p: stream.bytes_p2p,
            bytes_cdn: stream.bytes_cdn,
            stalls: stream.stalls,
            stalled_ms: stream.stalled_ms,
        }
    }

    fn with(self, other: Self, one: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            bytes_p2p: one(self.bytes_p2p, other.bytes_p2p),
            bytes_cdn: one(self.bytes_cdn, other.bytes_cdn),
            stalls: one(self.stalls, other.stalls),
            stalled_ms: one(self.stalled_ms, other.stalled_ms),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }
}

impl Watched {
    fn new(now_ms: u64, stream: &Stream) -> Self {
        Self {
            stream: stream.stream.clone(),
            started_at_ms: now_ms,
            seen_at_ms: now_ms,
            viewers_max: stream.viewers,
            past: Sums::default(),
            last: Sums::of(stream),
            is_unwatched: false,
        }
    }

    /// It has viewers. Sums that fell have begun anew, unless some nodes' are missing (not `exact`).
    fn see(&mut self, now_ms: u64, stream: &Stream, exact: bool) {
        self.seen_at_ms = now_ms;
        self.is_unwatched = false;
        self.viewers_max = self.viewers_max.max(stream.viewers);
        let sums = Sums::of(stream);
        if exact {
            let lost = self.last.with(sums, u64::saturating_sub);
            self.past = self.past.plus(lost);
            self.last = sums;
        } else {
            self.last = self.last.with(sums, u64::max);
        }
    }

    /// Nobody watches: no node has sums of it any more.
    fn on_unwatched(&mut self) {
        self.past = self.sums();
        self.last = Sums::default();
        self.is_unwatched = true;
    }

    fn sums(&self) -> Sums {
        self.past.plus(self.last)
    }

    /// Of two words on one stream the greater counts.
    fn order(&self) -> (u64, u64, u64) {
        let sums = self.sums();
        let bytes = sums.bytes_p2p.saturating_add(sums.bytes_cdn);
        (self.started_at_ms, bytes, self.seen_at_ms)
    }

    fn event(&self, event: Kind) -> Event {
        let (name, ended) = match event {
            Kind::Start => ("start", None),
            Kind::End => {
                let sums = self.sums();
                let ended = Ended {
                    ended_at_ms: self.seen_at_ms,
                    viewers_max: self.viewers_max,
                    sums,
                    offload: offload(sums.bytes_p2p, sums.bytes_cdn),
                };
                ("end", Some(ended))
            }
        };
        Event {
            id: format!("{}-{}-{name}", self.stream, self.started_at_ms),
            event,
            stream: self.stream.clone(),
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

    fn census(streams: Vec<Stream>) -> Census {
        Census {
            streams,
            cut: false,
            whole: true,
        }
    }

    fn told(events: &[Event]) -> Vec<(Kind, &str)> {
        let events = events.iter();
        events.map(|e| (e.event, e.stream.as_str())).collect()
    }

    impl Watch {
        fn see(&mut self, now_ms: u64, streams: Vec<Stream>) -> Vec<Event> {
            self.look(now_ms, census(streams), true)
        }
    }

    #[test]
    fn a_stream_that_is_only_not_listed_does_not_end() {
        let mut watch = Watch::new(5_000);
        watch.see(1_000, vec![stream("small", 1, 0), stream("over", 1, 0)]);
        for now_ms in (2_000..20_000).step_by(1_000) {
            for name in watch.unlisted(now_ms) {
                if name == "small" {
                    watch.still_there(now_ms, &name);
                }
            }
            let ended = watch.see(now_ms, vec![]);
            assert!(told(&ended).iter().all(|end| *end == (Kind::End, "over")));
        }
        assert_eq!(watch.streams.len(), 1, "and the other one did");
    }

    #[test]
    fn of_more_streams_than_can_be_asked_for_none_ends_that_was_not() {
        let mut watch = Watch::new(5_000);
        watch.see(1_000, vec![stream("small", 1, 0), stream("over", 1, 70)]);
        let cut = || Census {
            cut: true,
            ..census(vec![])
        };
        assert!(watch.look(60_000, cut(), true).is_empty());
        watch.not_there("over");
        let ends = watch.look(61_000, cut(), true);
        assert_eq!(told(&ends), [(Kind::End, "over")]);
        assert_eq!(ends[0].ended.as_ref().unwrap().sums.bytes_p2p, 70);
        // One that has viewers again is to be asked for again.
        watch.not_there("small");
        watch.still_there(62_000, "small");
        assert!(watch.look(90_000, cut(), true).is_empty());
    }

    #[test]
    fn the_next_node_to_speak_goes_on_where_the_last_one_ended() {
        let (mut speaker, mut next) = (Watch::new(5_000), Watch::new(5_000));
        let start = speaker.see(1_000, vec![stream("a", 1, 0), stream("b", 3, 0)]);
        speaker.see(2_000, vec![stream("a", 1, 90), stream("b", 1, 0)]);
        // Its sums began anew: another node runs it now.
        speaker.see(3_000, vec![stream("a", 1, 10), stream("b", 1, 0)]);
        next.follow(speaker.told(true));
        assert!(next.see(90_000, vec![stream("a", 1, 30)]).is_empty());
        // It waits itself, however long ago the other one saw it.
        assert!(next.see(94_000, vec![stream("a", 1, 30)]).is_empty());
        let ends = next.see(99_001, vec![]);
        assert_eq!(told(&ends), [(Kind::End, "a"), (Kind::End, "b")]);
        for (start, end) in start.iter().zip(&ends) {
            let id = |event: &Event| event.id.rsplit_once('-').unwrap().0.to_owned();
            assert_eq!(id(start), id(end));
        }
        let ended: Vec<&Ended> = ends.iter().flat_map(|end| &end.ended).collect();
        assert_eq!((ended[0].sums.bytes_p2p, ended[1].viewers_max), (110, 3));
    }

    #[test]
    fn who_listens_forgets_what_the_speaker_has_ended_and_nothing_else() {
        let (mut speaker, mut next) = (Watch::new(5_000), Watch::new(5_000));
        speaker.see(1_000, vec![stream("a", 1, 0), stream("b", 1, 0)]);
        next.follow(speaker.told(true));
        // Nobody speaks, and one of those that answer has just come.
        let mut all = Watch::new(5_000).told(false);
        all.merge(next.told(false));
        let mut other = Watch::new(5_000);
        other.look(2_000, census(vec![stream("a", 1, 0)]), false);
        all.merge(other.told(false));
        let mut newcomer = Watch::new(5_000);
        newcomer.follow(all.clone());
        next.follow(all);
        for watch in [&newcomer, &next] {
            assert_eq!(watch.streams.len(), 2);
            assert_eq!(watch.streams["a"].started_at_ms, 2_000, "the later one");
        }
        speaker.see(5_000, vec![stream("b", 1, 0)]);
        speaker.see(6_001, vec![stream("b", 1, 0)]);
        let mut all = next.told(false);
        all.merge(speaker.told(true));
        all.merge(newcomer.told(false));
        next.follow(all);
        assert_eq!(next.streams.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn who_is_alone_tells_starts_and_no_ends() {
        let mut watch = Watch::new(5_000);
        watch.see(1_000, vec![stream("elsewhere", 9, 50)]);
        let here = || vec![stream("here", 1, 0)];
        let alone = watch.look(2_000, census(here()), false);
        assert_eq!(told(&alone), [(Kind::Start, "here")]);
        assert!(watch.look(60_000, census(here()), false).is_empty());
        // The others are there again, and not all of them answer at once.
        let mut part = census(here());
        part.whole = false;
        assert!(watch.look(61_000, part, true).is_empty());
        let all = vec![stream("elsewhere", 9, 70), stream("here", 1, 0)];
        assert!(watch.see(62_000, all).is_empty());
        let ends = watch.see(67_001, vec![]);
        assert_eq!(told(&ends), [(Kind::End, "elsewhere"), (Kind::End, "here")]);
        assert_eq!(ends[0].ended.as_ref().unwrap().sums.bytes_p2p, 70);
    }

    #[test]
    fn what_is_told_fits_between_nodes() {
        let mut watch = Watch::new(5_000);
        for number in 0..2 * TOLD_MAX as u64 {
            let name = format!("{number:032x}");
            watch.see(
                1_000 + number,
                vec![stream(&name, usize::MAX, u64::MAX / 2)],
            );
        }
        let told = watch.told(true);
        assert!(told.cut && told.streams.len() == TOLD_MAX);
        assert!(serde_json::to_vec(&told).unwrap().len() < 900_000);
        let mut next = Watch::new(5_000);
        next.follow(told);
        watch
            .streams
            .retain(|_, watched| next.streams.contains_key(&watched.stream));
        assert_eq!(watch.streams.len(), TOLD_MAX);
        let oldest = watch.streams.values().map(|w| w.started_at_ms).min();
        assert_eq!(oldest, Some(1_000 + TOLD_MAX as u64), "the latest");
    }

    #[test]
    fn streams_start_once_and_end_after_a_while_without_viewers() {
        let mut watch = Watch::new(5_000);
        let first = watch.see(1_000, vec![stream("a", 2, 0), stream("b", 0, 0)]);
        assert_eq!(told(&first), [(Kind::Start, "a")]);
        assert!(watch.see(2_000, vec![stream("a", 9, 70)]).is_empty());
        // A gap that is short is none.
        assert!(watch.see(6_000, vec![]).is_empty());
        assert!(watch.see(7_000, vec![stream("a", 1, 10)]).is_empty());
        let last = watch.see(12_001, vec![stream("b", 1, 0)]);
        assert_eq!(told(&last), [(Kind::End, "a"), (Kind::Start, "b")]);
        let ended = last[0].ended.as_ref().unwrap();
        assert_eq!((ended.ended_at_ms, ended.viewers_max), (7_000, 9));
        assert_eq!((last[0].started_at_ms, ended.sums.bytes_p2p), (1_000, 80));
        assert_ne!(last[0].id, first[0].id);
        assert!(watch.unlisted(14_501).is_empty());
        assert_eq!(watch.unlisted(14_502), ["b"]);
        let again = watch.see(13_000, vec![stream("a", 1, 0), stream("b", 1, 0)]);
        assert_eq!(told(&again), [(Kind::Start, "a")]);
        assert_ne!(again[0].id, first[0].id);
    }
}
