//! A small world in virtual time: viewers, a CDN, a tracker that introduces everybody to everybody.
//! Bytes are counted, not moved; the wires are the real ones.

use alloc::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::cmp::Reverse;

use crate::{
    id::{FetchId, Name, PeerId, RequestId, SegmentId, Slot, StreamId, TrackId},
    peer::{
        Action, Environment, Event, FetchOutcome, Input, Outbox, Payload, Peer, Policy, Source,
    },
    record::{Record, piece_len_for},
    rng::{Rng, mix},
    time::Instant,
    timeline::{Content, SegmentInfo},
    wire::tracker::{Nat, ViewerFlags},
};

pub(super) const TRACK: TrackId = TrackId(7);
pub(super) const STREAM: StreamId = StreamId([3; 16]);
/// Segments that the playlist lists.
const WINDOW: u64 = 8;
/// Segments behind the end at which players start.
const START_BEHIND: u64 = 3;
const BUFFER_MS_MAX: u64 = 30_000;
const PLAYER_TICK_MS: u64 = 250;
/// Steps in which a CDN body arrives.
const FETCH_STEPS: u32 = 4;

/// What can be set before and during a run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) segment_ms: u64,
    pub(super) bitrate_bps: u64,
    pub(super) upload_bps: u64,
    pub(super) cdn_bps: u64,
    pub(super) cdn_ttfb_ms: u64,
    pub(super) latency_ms: u64,
    /// Whether playlists tell the content (HLS with tags) or only records do (DASH).
    pub(super) tagged: bool,
    /// Whether the CDN's answers carry records at all.
    pub(super) records: bool,
    /// Whether one side hears of its links only after the other's first messages.
    pub(super) hello_first: bool,
    pub(super) policy: Policy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_ms: 2000,
            bitrate_bps: 2_000_000,
            upload_bps: 10_000_000,
            cdn_bps: 40_000_000,
            cdn_ttfb_ms: 40,
            latency_ms: 15,
            tagged: true,
            records: true,
            hello_first: false,
            policy: Policy::default(),
        }
    }
}

/// How a viewer cheats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cheat {
    Honest,
    /// Every piece that it sends is bad.
    Corrupts,
    /// Promises and announces, and never sends a piece.
    BlackHole,
}

#[derive(Clone, Debug)]
enum Happening {
    Poll,
    PlayerTick,
    Wake(Instant),
    FetchStep {
        fetch: FetchId,
        step: u32,
    },
    Frame {
        slot: Slot,
        link: u64,
        bytes: Vec<u8>,
    },
    Record {
        slot: Slot,
        link: u64,
        segment: SegmentId,
    },
    Piece {
        slot: Slot,
        link: u64,
        segment: SegmentId,
        piece: u8,
        good: bool,
    },
    Sent {
        slot: Slot,
        link: u64,
        len: u32,
    },
    LinkUp {
        slot: Slot,
        link: u64,
    },
    TrackerUp,
    TrackerFrame(Vec<u8>),
}

#[derive(Debug)]
struct Fetching {
    name: Name,
    range: Option<(u32, u32)>,
    since: Instant,
}

/// One end of a link.
#[derive(Clone, Copy, Debug)]
struct End {
    node: usize,
    slot: Slot,
    link: u64,
    buffered: u32,
}

/// One viewer with its driver and player.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) peer: Peer,
    pub(super) alive: bool,
    pub(super) cheat: Cheat,
    pub(super) stalls: u32,
    pub(super) startup_ms: Option<u64>,
    pub(super) played: Vec<u64>,
    pub(super) backstops: u32,
    pub(super) reported_bps: Vec<u64>,
    /// To whom it has told the tracker that it is linked.
    pub(super) linked: Vec<PeerId>,
    id: PeerId,
    joined_at: Instant,
    links: BTreeMap<Slot, End>,
    connecting: BTreeMap<Slot, PeerId>,
    store: BTreeMap<SegmentId, u64>,
    fetches: BTreeMap<FetchId, Fetching>,
    uplink_free: Instant,
    wake: Option<Instant>,
    next_seq: Option<u64>,
    waiting: Option<RequestId>,
    listed: u64,
    requests: u32,
    buffer_ms: u64,
    stalled: bool,
    buffer_at: Instant,
    /// Who has told the tracker that it misbehaves.
    accusers: BTreeSet<usize>,
}

/// Everything.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) tracker_up: bool,
    pub(super) cdn_up: bool,
    /// Bytes that the CDN has served.
    pub(super) cdn_bytes: u64,
    pub(super) cdn_segment_bytes: BTreeMap<u64, u64>,
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    happenings: BTreeMap<u64, Happening>,
    order: u64,
    links: u64,
    rng: Rng,
    out: Outbox,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        Self {
            options,
            now: Instant::from_millis(100_000),
            nodes: Vec::new(),
            tracker_up: true,
            cdn_up: true,
            cdn_bytes: 0,
            cdn_segment_bytes: BTreeMap::new(),
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            order: 0,
            links: 0,
            rng: Rng::new(seed),
            out: Outbox::new(),
        }
    }

    /// A viewer arrives.
    pub(super) fn add(&mut self, cheat: Cheat) -> usize {
        let index = self.nodes.len();
        let policy = Arc::new(self.options.policy.clone());
        self.nodes.push(Node {
            peer: Peer::new(policy, self.rng.next_u64(), self.now),
            alive: true,
            cheat,
            stalls: 0,
            startup_ms: None,
            played: Vec::new(),
            backstops: 0,
            reported_bps: Vec::new(),
            linked: Vec::new(),
            accusers: BTreeSet::new(),
            id: PeerId(self.rng.next_u64()),
            joined_at: self.now,
            links: BTreeMap::new(),
            connecting: BTreeMap::new(),
            store: BTreeMap::new(),
            fetches: BTreeMap::new(),
            uplink_free: self.now,
            wake: None,
            next_seq: None,
            waiting: None,
            listed: 0,
            requests: 0,
            buffer_ms: 0,
            stalled: false,
            buffer_at: self.now,
        });
        let upload_bps_max = self.options.upload_bps;
        let environment = Environment {
            flags: ViewerFlags::NATIVE,
            nat: Nat::Open,
            upload_bps_max,
        };
        self.input(index, Input::Environment(environment));
        self.input(
            index,
            Input::Join {
                stream: STREAM,
                token: b"",
            },
        );
        self.schedule(0, index, Happening::Poll);
        self.schedule(0, index, Happening::PlayerTick);
        index
    }

    /// A viewer vanishes without a word.
    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
    }

    /// The tracker dies: open connections break.
    pub(super) fn kill_tracker(&mut self) {
        self.tracker_up = false;
        for index in 0..self.nodes.len() {
            self.input(index, Input::TrackerDown);
        }
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(Reverse((at, order, node))) = self.heap.peek().copied() {
            if at > end {
                break;
            }
            self.heap.pop();
            self.now = self.now.max(at);
            let happening = self.happenings.remove(&order);
            if let Some(happening) = happening.filter(|_| self.nodes[node].alive) {
                self.happen(node, happening);
            }
        }
        self.now = end;
    }

    /// 1 - CDN bytes / bytes that CDN-only viewers would have fetched, of segments from `from` on.
    pub(super) fn offload(&self, from: u64) -> f64 {
        let len = self.segment_len() as f64;
        let mut delivered = 0.0;
        for node in self.nodes.iter().filter(|node| node.alive) {
            delivered += node.played.iter().filter(|seq| **seq >= from).count() as f64 * len;
        }
        let cdn: u64 = self
            .cdn_segment_bytes
            .range(from..)
            .map(|(_, bytes)| bytes)
            .sum();
        1.0 - cdn as f64 / delivered
    }

    pub(super) fn newest(&self) -> u64 {
        self.now.as_micros() / 1000 / self.options.segment_ms
    }

    fn segment_len(&self) -> u32 {
        (self.options.bitrate_bps * self.options.segment_ms / 8000) as u32
    }

    pub(super) fn record(&self, seq: u64) -> Record {
        let len = self.segment_len();
        let piece_len = piece_len_for(len);
        let hash = |piece: u64| {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&mix(seq << 8 | piece).to_be_bytes());
            hash
        };
        Record {
            stream: STREAM,
            name: Name(seq),
            epoch: 0,
            seq,
            duration_ms: self.options.segment_ms as u32,
            len,
            piece_len,
            piece_hashes: (0..u64::from(len.div_ceil(piece_len))).map(hash).collect(),
            signature: [0; 64],
        }
    }

    fn record_of(&self, id: SegmentId) -> Option<Record> {
        let newest = self.newest();
        let seqs = newest.saturating_sub(40)..=newest;
        seqs.map(|seq| self.record(seq))
            .find(|record| record.id() == id)
    }

    fn schedule(&mut self, ms: u64, node: usize, happening: Happening) {
        let at = self.now.plus_ms(ms);
        self.schedule_at(at, node, happening);
    }

    fn schedule_at(&mut self, at: Instant, node: usize, happening: Happening) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, node)));
        self.happenings.insert(self.order, happening);
    }

    fn input(&mut self, index: usize, input: Input<'_>) {
        let mut out = core::mem::take(&mut self.out);
        out.clear();
        self.nodes[index].peer.handle(self.now, input, &mut out);
        let actions: Vec<Action> = out.actions().to_vec();
        let arena = out.arena().to_vec();
        self.out = out;
        for action in actions {
            self.act(index, action, &arena);
        }
        let wakeup = self.nodes[index].peer.next_wakeup();
        let at = wakeup.map(|wakeup| wakeup.at);
        if let Some(at) = at {
            assert!(at > self.now, "{wakeup:?} is not later than {:?}", self.now);
        }
        if self.nodes[index].wake != at {
            self.nodes[index].wake = at;
            if let Some(at) = at {
                self.schedule_at(at, index, Happening::Wake(at));
            }
        }
    }

    fn happen(&mut self, index: usize, happening: Happening) {
        let is_link = |world: &Self, slot: Slot, link: u64| {
            world.nodes[index]
                .links
                .get(&slot)
                .is_some_and(|end| end.link == link)
        };
        match happening {
            Happening::Poll => self.poll(index),
            Happening::PlayerTick => self.player_tick(index),
            Happening::Wake(at) if self.nodes[index].wake == Some(at) => {
                self.nodes[index].wake = None;
                self.input(index, Input::Tick);
            }
            Happening::FetchStep { fetch, step } => self.fetch_step(index, fetch, step),
            Happening::Frame { slot, link, bytes } if is_link(self, slot, link) => {
                let bytes = &bytes;
                self.input(index, Input::Frame { slot, bytes });
            }
            Happening::Record {
                slot,
                link,
                segment,
            } if is_link(self, slot, link) => self.record_arrives(index, slot, segment),
            Happening::Piece {
                slot,
                link,
                segment,
                piece,
                good,
            } if is_link(self, slot, link) => {
                self.piece_arrives(index, slot, segment, piece, good);
            }
            Happening::Sent { slot, link, len } if is_link(self, slot, link) => {
                let end = self.nodes[index]
                    .links
                    .get_mut(&slot)
                    .expect("the link is there");
                end.buffered -= len;
                let buffered = end.buffered;
                self.input(index, Input::Sent { slot, buffered });
            }
            Happening::LinkUp { slot, link } if is_link(self, slot, link) => {
                self.input(index, Input::LinkUp(slot));
            }
            Happening::TrackerUp => {
                let input = match self.tracker_up {
                    true => Input::TrackerUp,
                    false => Input::TrackerDown,
                };
                self.input(index, input);
            }
            Happening::TrackerFrame(frame) if self.tracker_up => {
                self.input(index, Input::TrackerFrame(&frame));
            }
            _ => {}
        }
    }

    fn record_arrives(&mut self, index: usize, slot: Slot, segment: SegmentId) {
        if let Some(record) = self.record_of(segment) {
            self.nodes[index].store.entry(segment).or_insert(0);
            let (source, record) = (Source::Peer(slot), &record);
            self.input(index, Input::Record { source, record });
        }
    }

    fn piece_arrives(
        &mut self,
        index: usize,
        slot: Slot,
        segment: SegmentId,
        piece: u8,
        good: bool,
    ) {
        if !good {
            return self.input(index, Input::Misbehaved(slot));
        }
        let Some(stored) = self.nodes[index].store.get_mut(&segment) else {
            return;
        };
        let bit = 1 << piece;
        if *stored & bit != 0 {
            let len = self
                .record_of(segment)
                .map_or(0, |r| r.piece_size(u32::from(piece)));
            return self.input(index, Input::Surplus { slot, len });
        }
        *stored |= bit;
        self.input(
            index,
            Input::Pieces {
                source: Source::Peer(slot),
                segment,
                bits: bit,
            },
        );
    }

    fn poll(&mut self, index: usize) {
        let newest = self.newest();
        let tagged = self.options.tagged && self.options.records;
        let infos: Vec<SegmentInfo> = (newest - WINDOW..=newest)
            .map(|seq| {
                let record = self.record(seq);
                SegmentInfo {
                    name: Name(seq),
                    seq,
                    duration_ms: self.options.segment_ms as u32,
                    content: tagged.then(|| Content {
                        id: record.id(),
                        len: record.len,
                        piece_len: record.piece_len,
                        epoch: 0,
                    }),
                }
            })
            .collect();
        self.nodes[index].listed = newest;
        self.input(
            index,
            Input::Timeline {
                track: TRACK,
                segments: &infos,
            },
        );
        self.nodes[index]
            .next_seq
            .get_or_insert(newest - START_BEHIND + 1);
        self.ask_next(index);
        let period = self.options.segment_ms;
        let jitter = self.rng.at_most(period / 10);
        self.schedule(period - period / 20 + jitter, index, Happening::Poll);
    }

    fn ask_next(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(seq) = node.next_seq else { return };
        if node.waiting.is_some() || seq > node.listed || node.buffer_ms > BUFFER_MS_MAX {
            return;
        }
        node.requests += 1;
        let request = RequestId(node.requests);
        node.waiting = Some(request);
        self.input(
            index,
            Input::Wanted {
                request,
                name: Name(seq),
                grain_ms: 0,
            },
        );
    }

    fn player_tick(&mut self, index: usize) {
        self.advance_player(index);
        let node = &self.nodes[index];
        let (buffer, stalled) = (node.buffer_ms as u32, node.stalled);
        let lag_ms = 0;
        self.input(
            index,
            Input::Player {
                buffer_ms: buffer,
                lag_ms,
                stalled,
            },
        );
        self.ask_next(index);
        self.schedule(PLAYER_TICK_MS, index, Happening::PlayerTick);
    }

    fn advance_player(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let passed = now.ms_since(node.buffer_at);
        node.buffer_at = now;
        if node.startup_ms.is_none() {
            return;
        }
        if passed > node.buffer_ms && !node.stalled {
            node.stalls += 1;
            node.stalled = true;
        }
        node.buffer_ms = node.buffer_ms.saturating_sub(passed);
    }

    fn delivered(&mut self, index: usize, request: RequestId, payload: Payload) {
        self.advance_player(index);
        if let Payload::Segment(id) = payload {
            let full = self
                .record_of(id)
                .map(|record| record.piece_hashes.len() as u32);
            let mask = super::super::segment::mask(full.expect("only real segments"));
            assert_eq!(
                self.nodes[index].store.get(&id),
                Some(&mask),
                "delivered incomplete"
            );
        }
        let now = self.now;
        let segment_ms = self.options.segment_ms;
        let node = &mut self.nodes[index];
        if node.waiting != Some(request) {
            return;
        }
        node.waiting = None;
        node.stalled = false;
        node.buffer_ms += segment_ms;
        node.startup_ms.get_or_insert(now.ms_since(node.joined_at));
        let seq = node.next_seq.expect("it has asked");
        node.played.push(seq);
        node.next_seq = Some(seq + 1);
        self.ask_next(index);
    }
}

mod driver;
