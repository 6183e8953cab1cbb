//! The world: viewers with their machines, networks and players, the tracker's machine, the CDN,
//! and one queue of events in a total order.

pub(crate) mod catalog;
mod cdn;
mod driver;
mod network;
pub(crate) mod node;
mod tracker;
mod watching;

use std::sync::Arc;

use swarm_core::{
    directory::{self, Directory},
    id::SegmentId,
    peer::{Outbox, Policy},
    rng::{Rng, mix},
    time::Instant,
};

use crate::{
    measure::Metrics,
    options::{Options, us},
    population::House,
    queue::Queue,
    random::{between, chance},
};
use catalog::Catalog;
use network::Frames;
use node::Node;

/// The run begins at this moment, so that there are older segments.
pub(crate) const ORIGIN_US: u64 = 1_000_000_000;
const SAMPLE_US: u64 = 1_000_000;

/// Something that happens to a node. Nodes that have left are skipped.
#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive {
        node: u32,
    },
    Leave {
        node: u32,
    },
    Poll {
        node: u32,
    },
    PlayerTick {
        node: u32,
    },
    Ask {
        node: u32,
    },
    Wake {
        node: u32,
    },
    Switch {
        node: u32,
        from: u8,
        channel: u32,
    },
    FetchStep {
        node: u32,
        fetch: u32,
    },
    Frame {
        node: u32,
        slot: u8,
        link: u32,
        frame: u32,
    },
    Record {
        node: u32,
        slot: u8,
        link: u32,
        segment: SegmentId,
    },
    Piece {
        node: u32,
        slot: u8,
        link: u32,
        segment: SegmentId,
        piece: u8,
        bad: bool,
        queued: bool,
    },
    Sent {
        node: u32,
        slot: u8,
        link: u32,
        len: u32,
    },
    LinkUp {
        node: u32,
        slot: u8,
        link: u32,
    },
    LinkDown {
        node: u32,
        slot: u8,
        link: u32,
    },
    TrackerUp {
        node: u32,
    },
    TrackerHears {
        node: u32,
        frame: u32,
    },
    TrackerSays {
        node: u32,
        frame: u32,
    },
    TrackerLost {
        node: u32,
    },
    TrackerTick,
    Exit,
    Sample,
}

/// A world with or without peers.
pub(crate) struct World {
    options: Arc<Options>,
    now: u64,
    end: u64,
    queue: Queue<Event>,
    rng: Rng,
    nodes: Vec<Node>,
    houses: Vec<House>,
    audience: u32,
    catalog: Catalog,
    frames: Frames,
    links: u32,
    policy: Arc<Policy>,
    out: Outbox,
    directory: Directory,
    directory_out: directory::Outbox,
    directory_wake: u64,
    hash: u64,
    events: u64,
    pub(crate) metrics: Metrics,
    /// Bytes of core per viewer: sum, number and maximum of samples.
    core_bytes: (u64, u64, u64),
    groups: (u64, u64),
    upload: (f64, u64),
}

impl World {
    /// The world of `options`; its CDN-only twin if `enabled` is false.
    pub(crate) fn new(options: &Arc<Options>, enabled: bool) -> Self {
        let end = ORIGIN_US + options.end_us();
        let window = (ORIGIN_US + options.measure_from_us(), end);
        let policy = Policy {
            enabled,
            ..Policy::default()
        };
        let mut rules = directory::Policy::default();
        if options.isolated_groups {
            rules.long_links = 0;
        }
        let began = Instant::from_micros(ORIGIN_US);
        let mut world = Self {
            options: Arc::clone(options),
            now: ORIGIN_US,
            end,
            queue: Queue::new(ORIGIN_US),
            rng: Rng::new(mix(options.seed)),
            nodes: Vec::new(),
            houses: Vec::new(),
            audience: 0,
            catalog: Catalog::new(options.ladder_bps(), options.segment_us()),
            frames: Frames::default(),
            links: 0,
            policy: Arc::new(policy),
            out: Outbox::new(),
            directory: Directory::new(Arc::new(rules), options.seed, began),
            directory_out: directory::Outbox::new(),
            directory_wake: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            metrics: Metrics::new(ORIGIN_US, window),
            core_bytes: (0, 0, 0),
            groups: (0, 0),
            upload: (0.0, 0),
        };
        world.plan_arrivals();
        world.queue.push(ORIGIN_US, Event::Sample);
        world
    }

    fn plan_arrivals(&mut self) {
        let options = Arc::clone(&self.options);
        let mut rng = Rng::new(mix(options.seed ^ 0xa11));
        for arrival in &options.arrivals {
            let count = (f64::from(options.viewers) * arrival.share).round() as u32;
            for _ in 0..count {
                let at_s = between(&mut rng, arrival.at_s, arrival.at_s + arrival.over_s);
                self.add_node(ORIGIN_US + us(at_s));
            }
        }
        if let Some(exit) = &options.exit {
            self.queue.push(ORIGIN_US + us(exit.at_s), Event::Exit);
        }
    }

    /// The next viewer comes at `at`.
    fn add_node(&mut self, at: u64) {
        let index = self.nodes.len() as u32;
        self.houses.push(House::new(&self.options, index));
        self.nodes
            .push(Node::new(&self.options, index, &self.houses));
        self.queue.push(at, Event::Arrive { node: index });
    }

    /// Runs to the end. `progress` is told of the simulated time from time to time.
    pub(crate) fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) {
        while let Some((at, event)) = self.queue.pop() {
            if at > self.end {
                break;
            }
            self.now = at;
            self.events += 1;
            if self.events.is_multiple_of(1 << 16) {
                progress(at - ORIGIN_US, self.events);
            }
            self.happen(event);
        }
        self.now = self.end;
        for node in 0..self.nodes.len() as u32 {
            self.close_accounts(node);
        }
    }

    fn note(&mut self, kind: u64, node: u32, fact: u64) {
        let word = self.now ^ kind << 56 ^ u64::from(node) << 32 ^ fact.rotate_left(17);
        self.hash = (self.hash ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { node } => self.arrive(node),
            Event::Leave { node } => self.leave(node),
            Event::Poll { node } => self.poll(node),
            Event::PlayerTick { node } => self.player_tick(node),
            Event::Ask { node } => self.ask_next(node),
            Event::Wake { node } => self.wake(node),
            Event::Switch {
                node,
                from,
                channel,
            } => self.switch(node, from, channel),
            Event::FetchStep { node, fetch } => self.fetch_step(node, fetch),
            Event::Frame {
                node,
                slot,
                link,
                frame,
            } => self.frame_arrives(node, slot, link, frame),
            Event::Record {
                node,
                slot,
                link,
                segment,
            } => self.record_arrives(node, slot, link, segment),
            Event::Piece {
                node,
                slot,
                link,
                segment,
                piece,
                bad,
                queued,
            } => {
                let piece = network::Moving {
                    segment,
                    piece,
                    bad,
                    queued,
                };
                self.piece_arrives(node, slot, link, piece);
            }
            Event::Sent {
                node,
                slot,
                link,
                len,
            } => self.sent(node, slot, link, len),
            Event::LinkUp { node, slot, link } => self.link_up(node, slot, link),
            Event::LinkDown { node, slot, link } => self.link_down(node, slot, link),
            Event::TrackerUp { node } => self.tracker_up(node),
            Event::TrackerHears { node, frame } => self.tracker_hears(node, frame),
            Event::TrackerSays { node, frame } => self.tracker_says(node, frame),
            Event::TrackerLost { node } => self.tracker_lost(node),
            Event::TrackerTick => self.tracker_tick(),
            Event::Exit => self.mass_exit(),
            Event::Sample => self.sample(),
        }
    }

    fn mass_exit(&mut self) {
        let Some(exit) = self.options.exit.clone() else {
            return;
        };
        let mut rng = Rng::new(mix(self.options.seed ^ 0xe817));
        for node in 0..self.nodes.len() as u32 {
            if self.nodes[node as usize].live.is_some() && chance(&mut rng, exit.share) {
                let at = self.now + us(between(&mut rng, 0.0, exit.over_s));
                self.queue.push(at, Event::Leave { node });
            }
        }
    }

    /// Once a second: audience, memory, caps.
    fn sample(&mut self) {
        let now = self.now;
        let is_measured = self.metrics.is_measured(now);
        let second = (now - ORIGIN_US) / SAMPLE_US;
        let mut stalled = 0;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(live) = &mut node.live else { continue };
            live.player.advance(now);
            stalled += u32::from(live.player.is_stalled());
            if !is_measured || !(index as u64 + second).is_multiple_of(10) {
                continue;
            }
            if let Some(latency_us) = live.player.latency_us(now) {
                self.metrics.on_latency(now, latency_us);
            }
            if live.joined_at + 10 * SAMPLE_US < now {
                let bytes = live.peer.memory_bytes() as u64;
                let (sum, count, max) = self.core_bytes;
                self.core_bytes = (sum + bytes, count + 1, max.max(bytes));
            }
            self.upload = (
                self.upload.0 + node.viewer.upload_bps as f64,
                self.upload.1 + 1,
            );
            let sent = live.sent_bytes;
            let sent_max = node.upload_max(now);
            if sent > sent_max {
                self.metrics.on_problem(now, || {
                    format!("viewer {index} uploaded {sent}, its cap allows {sent_max}")
                });
            }
        }
        if is_measured {
            self.groups = (
                self.groups.0 + self.directory.groups_len() as u64,
                self.groups.1 + 1,
            );
        }
        self.metrics.on_audience(now, self.audience, stalled);
        self.queue.push(now + SAMPLE_US, Event::Sample);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Mean and largest number of bytes that a viewer's machine takes.
    pub(crate) fn core_bytes(&self) -> (f64, u64) {
        (
            self.core_bytes.0 as f64 / self.core_bytes.1.max(1) as f64,
            self.core_bytes.2,
        )
    }

    /// Groups on average.
    pub(crate) fn groups_mean(&self) -> f64 {
        self.groups.0 as f64 / self.groups.1.max(1) as f64
    }

    /// Usable upload of a viewer on average, in bit/s.
    pub(crate) fn upload_bps_mean(&self) -> f64 {
        self.upload.0 / self.upload.1.max(1) as f64
    }
}
