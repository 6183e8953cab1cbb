//! A part of the world: some viewers with their machines, networks and players, and one queue of
//! events in a total order.

use std::sync::Arc;

use swarm_core::{
    peer::{Outbox, Policy},
    rng::{Rng, mix},
    timeline::SegmentInfo,
};

use super::{
    Digest, ORIGIN_US,
    catalog::Catalog,
    event::Event,
    letters::{Frames, Letters, WINDOW_US, local_of, number, part_of},
    node::{Node, Played},
    tracker::Call,
};
use crate::{
    measure::Metrics,
    options::{Options, us},
    population::{House, Viewer, household_of},
    queue::Queue,
    random::{between, chance},
    trace::Trace,
};

const SAMPLE_US: u64 = 1_000_000;
/// One viewer in so many is sampled each second.
const SAMPLED: u64 = 10;
/// The machine has filled its tables by then.
const SETTLED_US: u64 = 10_000_000;

/// Some of the viewers, and all that happens to them.
pub(crate) struct Part {
    pub(super) index: u32,
    pub(super) options: Arc<Options>,
    pub(super) now: u64,
    pub(super) end: u64,
    /// End of the window of time under way.
    until: u64,
    pub(super) queue: Queue<Event>,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    pub(super) houses: Vec<House>,
    pub(super) audience: u32,
    pub(super) catalog: Catalog,
    pub(super) frames: Frames,
    pub(super) links: u32,
    pub(super) policy: Arc<Policy>,
    pub(super) out: Outbox,
    /// What a playlist lists, used again for every one.
    pub(super) listing: Vec<SegmentInfo>,
    pub(super) digest: Digest,
    events: u64,
    pub(super) metrics: Metrics,
    pub(super) trace: Trace,
    /// Everything works and everybody is honest from now on.
    pub(super) healed: bool,
    /// The network is in two parts.
    pub(super) parted: bool,
    pub(super) outbox: Vec<Letters<Event>>,
    pub(super) inbox: Vec<Letters<Event>>,
    pub(super) to_tracker: Letters<Call>,
    pub(super) from_tracker: Letters<Event>,
}

impl Part {
    pub(super) fn new(
        options: &Arc<Options>,
        index: u32,
        enabled: bool,
        trace_viewers: u32,
    ) -> Self {
        let end = ORIGIN_US + options.end_us();
        let window = (ORIGIN_US + options.measure_from_us(), end);
        let policy = Policy {
            enabled,
            ..Policy::default()
        };
        let letters = || (0..options.parts()).map(|_| Letters::default()).collect();
        let mut part = Self {
            index,
            options: Arc::clone(options),
            now: ORIGIN_US,
            end,
            until: ORIGIN_US,
            queue: Queue::new(ORIGIN_US),
            rng: Rng::new(mix(options.seed ^ mix(u64::from(index)))),
            nodes: Vec::new(),
            houses: Vec::new(),
            audience: 0,
            catalog: Catalog::new(options.ladder_bps(), options.segment_us()),
            frames: Frames::default(),
            links: 0,
            policy: Arc::new(policy),
            out: Outbox::new(),
            listing: Vec::new(),
            digest: Digest::new(),
            events: 0,
            metrics: Metrics::new(ORIGIN_US, window),
            trace: Trace::new(trace_viewers),
            healed: false,
            parted: false,
            outbox: letters(),
            inbox: letters(),
            to_tracker: Letters::default(),
            from_tracker: Letters::default(),
        };
        part.plan_arrivals();
        part.plan_faults();
        part.queue.push(ORIGIN_US, Event::Sample);
        part
    }

    /// This part's share of the arrivals: viewers are dealt out in turn.
    fn plan_arrivals(&mut self) {
        let options = Arc::clone(&self.options);
        let mut rng = Rng::new(mix(options.seed ^ 0xa11));
        let mut dealt = 0;
        for arrival in &options.arrivals {
            let count = (f64::from(options.viewers) * arrival.share).round() as u32;
            for _ in 0..count {
                let at_s = between(&mut rng, arrival.at_s, arrival.at_s + arrival.over_s);
                if dealt % options.parts() == self.index {
                    self.add_node(ORIGIN_US + us(at_s));
                }
                dealt += 1;
            }
        }
        if let Some(exit) = &options.exit {
            self.queue.push(ORIGIN_US + us(exit.at_s), Event::Exit);
        }
    }

    /// The next viewer comes at `at`.
    pub(super) fn add_node(&mut self, at: u64) {
        let local = self.nodes.len() as u32;
        let viewer = number(self.index, local);
        let house = local_of(household_of(&self.options, viewer)) as usize;
        while self.houses.len() <= house.max(local as usize) {
            let next = number(self.index, self.houses.len() as u32);
            self.houses.push(House::new(&self.options, next));
        }
        let mut node = Node::new(&self.options, viewer, &self.houses[house]);
        if self.healed {
            node.viewer.reform();
        }
        self.nodes.push(node);
        self.queue.push(at, Event::Arrive { node: local });
    }

    /// The number that the rest of the world knows a viewer by.
    pub(super) const fn number(&self, node: u32) -> u32 {
        number(self.index, node)
    }

    /// The household of a viewer.
    pub(super) fn house_of(&mut self, node: u32) -> &mut House {
        let household = self.nodes[node as usize].viewer.contact.household;
        &mut self.houses[local_of(household) as usize]
    }

    /// Sends an event to the part that `viewer` (its number) is in.
    pub(super) fn post(&mut self, viewer: u32, at: u64, event: Event) {
        let part = part_of(viewer);
        if part == self.index as usize {
            self.queue.push(at, event);
            return;
        }
        let until = self.until;
        if at < until {
            self.metrics.on_problem(self.now, || {
                format!("a letter arrives {} us too early", until - at)
            });
        }
        self.outbox[part].send(at, event);
    }

    /// Takes in what others have sent; then everything before `until` happens.
    pub(super) fn run_until(&mut self, until: u64) {
        let (queue, frames) = (&mut self.queue, &mut self.frames);
        for letters in self.inbox.iter_mut().chain([&mut self.from_tracker]) {
            letters.open(frames, |at, event| queue.push(at, event));
        }
        self.until = until;
        while let Some((at, event)) = self.queue.pop_before(until) {
            self.now = at;
            self.events += 1;
            self.happen(event);
        }
    }

    pub(super) fn next_at(&mut self) -> u64 {
        self.queue.next_at().unwrap_or(u64::MAX)
    }

    pub(super) const fn events(&self) -> u64 {
        self.events
    }

    pub(super) const fn hash(&self) -> u64 {
        self.digest.0
    }

    /// Who is watching.
    pub(super) fn audience(&self) -> impl Iterator<Item = &Viewer> + Clone {
        let present = self.nodes.iter().filter(|node| node.live.is_some());
        present.map(|node| &node.viewer)
    }

    /// The end: what was counted, and how all visits went.
    pub(super) fn close(mut self) -> (Metrics, Vec<Played>, Trace) {
        self.now = self.end;
        self.check_convergence();
        for node in 0..self.nodes.len() as u32 {
            self.close_accounts(node);
        }
        let played: Vec<Played> = self.nodes.iter().filter_map(|node| node.played).collect();
        (std::mem::take(&mut self.metrics), played, self.trace)
    }

    pub(super) fn note(&mut self, kind: u64, node: u32, fact: u64) {
        self.digest.note(self.now, kind, node, fact);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { node } => self.arrive(node),
            Event::Leave { node } => self.leave(node),
            Event::Poll { node } => self.poll(node),
            Event::PlayerTick { node } => self.player_tick(node),
            Event::Ask { node } => self.ask_next(node),
            Event::Wake { node } => self.wake(node),
            Event::Switch { node, from } => self.switch(node, from),
            Event::FetchStep { node, fetch } => self.fetch_step(node, fetch),
            Event::Mapped { node } => self.mapped(node),
            Event::Knock { node, knock } => self.knocked(node, *knock),
            Event::Reply { at, reply } => self.replied(at, &reply),
            Event::Frame { at, frame } => self.frame_arrives(at, frame),
            Event::Record { at, place } => self.record_arrives(at, place),
            Event::Piece { at, moving } => self.piece_arrives(at, moving),
            Event::Backlog { at, until } => self.backlog(at, until),
            Event::Sent { at, len } => self.sent(at, len),
            Event::LinkUp { at } => self.link_up(at),
            Event::LinkDown { at } => self.link_down(at),
            Event::TrackerUp { node } => self.tracker_up(node),
            Event::TrackerDown { node } => self.tracker_down(node),
            Event::TrackerSays { node, frame } => self.tracker_says(node, frame),
            Event::Exit => self.mass_exit(),
            Event::Heal => self.heal(),
            Event::Part => self.part_network(),
            Event::Rejoin => self.parted = false,
            Event::Sample => self.sample(),
        }
    }

    fn mass_exit(&mut self) {
        let Some(exit) = self.options.exit.clone() else {
            return;
        };
        let mut rng = Rng::new(mix(self.options.seed
            ^ 0xe817
            ^ u64::from(self.index) << 32));
        for node in 0..self.nodes.len() as u32 {
            if self.nodes[node as usize].live.is_some() && chance(&mut rng, exit.share) {
                let at = self.now + us(between(&mut rng, 0.0, exit.over_s));
                self.queue.push(at, Event::Leave { node });
            }
        }
    }

    /// Once a second: the audience, and a sample of the viewers.
    fn sample(&mut self) {
        let now = self.now;
        let is_measured = self.metrics.is_measured(now);
        let second = (now - ORIGIN_US) / SAMPLE_US;
        let mut stalled = 0;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(live) = &mut node.live else { continue };
            live.player.advance(now);
            stalled += u32::from(live.player.is_stalled());
            if !(index as u64 + second).is_multiple_of(SAMPLED) {
                continue;
            }
            let bytes = live.peer.memory_bytes() as u64;
            super::checks::check_memory(&mut self.metrics, now, index, bytes);
            if !is_measured {
                continue;
            }
            if let Some(latency_us) = live.player.latency_us(now) {
                self.metrics.latency_us.add(latency_us);
            }
            self.metrics.upload_bps.0 += node.viewer.upload_bps;
            self.metrics.upload_bps.1 += 1;
            if live.joined_at + SETTLED_US < now {
                self.metrics.on_core(bytes);
            }
        }
        self.metrics.on_audience(now, self.audience, stalled);
        if second.is_multiple_of(SAMPLED) {
            self.catalog.forget(now);
        }
        self.queue.push(now + SAMPLE_US, Event::Sample);
    }
}

const _: () = assert!(WINDOW_US < SAMPLE_US);
