//! The tracker: one directory machine, spoken to through the real wire. It is a part of the world of
//! its own, which may break down and come back empty.

use std::sync::Arc;

use swarm_core::{
    directory::{Action, ConnId, Directory, Input, Joined, Network, Outbox, Policy},
    id::PeerId,
    peer,
    time::Instant,
    wire::tracker::{Join, TrackerMsg, ViewerMsg, Welcome},
};

use super::{
    Digest, ORIGIN_US,
    catalog::Catalog,
    event::Event,
    letters::{Framed, Frames, Letters, local_of, part_of},
    links::peer_of,
    part::Part,
};
use crate::{
    measure::Metrics,
    options::{Options, us},
    queue::Queue,
};

/// From a viewer's ISP to the tracker, in microseconds.
pub(super) const TRACKER_US: u64 = 10_000;
/// Opening the WebSocket takes as many one-way delays in each direction.
const HANDSHAKE_DELAYS: u64 = 3;
const SAMPLE_US: u64 = 1_000_000;
/// One viewer in so many has its introductions compared with the quota.
const COUNTED: u32 = 4;

/// What the tracker hears from a viewer (its number).
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Opens { viewer: u32, line: Box<Line> },
    Says { viewer: u32, frame: u32 },
    HangsUp { viewer: u32 },
    Tick,
    Down,
    Up,
    Sample,
}

impl Framed for Call {
    fn with_frame(self, index: u32) -> Self {
        match self {
            Self::Says { viewer, .. } => Self::Says {
                viewer,
                frame: index,
            },
            other => other,
        }
    }
}

/// A connection as the tracker sees it.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    network: Network,
    delay_us: u64,
    channel: u32,
}

impl Part {
    fn tracker_delay_us(&self, node: u32) -> u64 {
        self.nodes[node as usize].viewer.contact.delay_us + TRACKER_US
    }

    pub(super) fn tracker_connect(&mut self, node: u32) {
        let delay_us = self.tracker_delay_us(node);
        let viewer = &self.nodes[node as usize].viewer;
        let line = Box::new(Line {
            network: viewer.contact.network,
            delay_us,
            channel: viewer.channel,
        });
        let viewer = self.number(node);
        let at = self.now + HANDSHAKE_DELAYS * delay_us;
        self.to_tracker.send(at, Call::Opens { viewer, line });
    }

    pub(super) fn tracker_up(&mut self, node: u32) {
        self.input(node, peer::Input::TrackerUp);
    }

    pub(super) fn tracker_close(&mut self, node: u32) {
        self.hang_up(node, self.tracker_delay_us(node));
    }

    /// The tracker notices after `after_us` that the connection is gone.
    pub(super) fn hang_up(&mut self, node: u32, after_us: u64) {
        let viewer = self.number(node);
        let at = self.now + after_us;
        self.to_tracker.send(at, Call::HangsUp { viewer });
    }

    pub(super) fn send_tracker(&mut self, node: u32, bytes: &[u8]) {
        self.check_tracker_frame(node, bytes);
        let viewer = self.number(node);
        let at = self.now + self.tracker_delay_us(node);
        let call = Call::Says { viewer, frame: 0 };
        self.to_tracker.send_framed(at, call, bytes);
    }

    pub(super) fn tracker_says(&mut self, node: u32, frame: u32) {
        let message = self.frames.take(frame);
        self.input(node, peer::Input::TrackerFrame(message.bytes()));
    }
}

/// The connection of one viewer, and what it has been told.
#[derive(Clone, Debug)]
struct Conn {
    /// Tells the connections of one viewer apart.
    id: ConnId,
    line: Line,
    opened_at: u64,
    /// Whom it was told of, for one connection in [`COUNTED`].
    told: Vec<PeerId>,
}

/// The directory and its connections.
pub(crate) struct Tracker {
    options: Arc<Options>,
    policy: Arc<Policy>,
    now: u64,
    queue: Queue<Call>,
    frames: Frames,
    directory: Directory,
    out: Outbox,
    bytes: Vec<u8>,
    wake: u64,
    down: bool,
    opened: u64,
    /// By part and place in it.
    conns: Vec<Vec<Option<Conn>>>,
    digest: Digest,
    events: u64,
    pub(super) metrics: Metrics,
    pub(super) inbox: Vec<Letters<Call>>,
    pub(super) outbox: Vec<Letters<Event>>,
}

impl Tracker {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        let mut policy = Policy::default();
        if options.isolated_groups {
            policy.long_links = 0;
        }
        let policy = Arc::new(policy);
        let began = Instant::from_micros(ORIGIN_US);
        let end = ORIGIN_US + options.end_us();
        let parts = options.parts() as usize;
        let mut queue = Queue::new(ORIGIN_US);
        queue.push(ORIGIN_US, Call::Sample);
        if let Some((from_s, to_s)) = options.faults.tracker_down {
            queue.push(ORIGIN_US + us(from_s), Call::Down);
            queue.push(ORIGIN_US + us(to_s), Call::Up);
        }
        Self {
            options: Arc::clone(options),
            now: ORIGIN_US,
            queue,
            frames: Frames::default(),
            directory: Directory::new(Arc::clone(&policy), options.seed, began),
            policy,
            out: Outbox::new(),
            bytes: Vec::new(),
            wake: 0,
            down: false,
            opened: 0,
            conns: vec![Vec::new(); parts],
            digest: Digest::new(),
            events: 0,
            metrics: Metrics::new(ORIGIN_US, (ORIGIN_US + options.measure_from_us(), end)),
            inbox: (0..parts).map(|_| Letters::default()).collect(),
            outbox: (0..parts).map(|_| Letters::default()).collect(),
        }
    }

    /// Takes in what viewers have sent; then everything before `until` happens.
    pub(super) fn run_until(&mut self, until: u64) {
        let (queue, frames) = (&mut self.queue, &mut self.frames);
        for letters in &mut self.inbox {
            letters.open(frames, |at, call| queue.push(at, call));
        }
        while let Some((at, call)) = self.queue.pop_before(until) {
            self.now = at;
            self.events += 1;
            self.happen(call);
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

    fn happen(&mut self, call: Call) {
        match call {
            Call::Opens { viewer, line } => self.open(viewer, *line),
            Call::Says { viewer, frame } => {
                let message = self.frames.take(frame);
                self.hear(viewer, message.bytes());
            }
            Call::HangsUp { viewer } => {
                if let Some(conn) = self.conn(viewer).take() {
                    self.direct(Input::Lost(conn.id));
                }
            }
            Call::Tick => {
                if self.wake == self.now {
                    self.wake = 0;
                    self.direct(Input::Tick);
                }
            }
            Call::Down => self.break_down(),
            Call::Up => {
                self.down = false;
                let now = Instant::from_micros(self.now);
                let seed = self.options.seed ^ self.now;
                self.directory = Directory::new(Arc::clone(&self.policy), seed, now);
            }
            Call::Sample => {
                if self.metrics.is_measured(self.now) {
                    self.metrics.groups.0 += self.directory.groups_len() as u64;
                    self.metrics.groups.1 += 1;
                }
                self.queue.push(self.now + SAMPLE_US, Call::Sample);
            }
        }
    }

    fn conn(&mut self, viewer: u32) -> &mut Option<Conn> {
        let (part, local) = (&mut self.conns[part_of(viewer)], local_of(viewer) as usize);
        if part.len() <= local {
            part.resize(local + 1, None);
        }
        &mut part[local]
    }

    fn open(&mut self, viewer: u32, line: Line) {
        let at = self.now + HANDSHAKE_DELAYS * line.delay_us;
        let node = local_of(viewer);
        let (down, now) = (self.down, self.now);
        if down {
            return self.outbox[part_of(viewer)].send(at, Event::TrackerDown { node });
        }
        self.opened += 1;
        let id = ConnId(self.opened << 32 | u64::from(viewer));
        *self.conn(viewer) = Some(Conn {
            id,
            line,
            opened_at: now,
            told: Vec::new(),
        });
        self.outbox[part_of(viewer)].send(at, Event::TrackerUp { node });
    }

    /// Every connection breaks, and everything is forgotten.
    fn break_down(&mut self) {
        self.down = true;
        for (part, conns) in self.conns.iter_mut().enumerate() {
            for (local, conn) in conns.iter_mut().enumerate() {
                if let Some(conn) = conn.take() {
                    let node = local as u32;
                    let at = self.now + conn.line.delay_us;
                    self.outbox[part].send(at, Event::TrackerDown { node });
                }
            }
        }
    }

    fn hear(&mut self, viewer: u32, bytes: &[u8]) {
        let Some(conn) = self.conn(viewer).as_ref().map(|conn| conn.id) else {
            return;
        };
        match ViewerMsg::decode(bytes) {
            Ok(ViewerMsg::Join(join)) => self.join(viewer, conn, &join),
            Ok(ViewerMsg::Status(status)) => {
                let status = &status;
                self.direct(Input::Status { conn, status });
            }
            Ok(ViewerMsg::Link {
                peer,
                outcome,
                rtt_ms,
            }) => {
                self.direct(Input::Link {
                    conn,
                    peer,
                    outcome,
                    rtt_ms,
                });
            }
            Ok(ViewerMsg::Leave) => self.direct(Input::Left(conn)),
            Ok(ViewerMsg::Signal { .. }) => {}
            Err(error) => {
                self.metrics.on_problem(self.now, || {
                    format!("viewer {viewer} tells the tracker nonsense: {error}")
                });
            }
        }
    }

    fn join(&mut self, viewer: u32, conn: ConnId, join: &Join<'_>) {
        let Some(line) = self.conn(viewer).as_ref().map(|conn| conn.line.clone()) else {
            return;
        };
        if join.stream != Catalog::stream(line.channel) {
            return;
        }
        let peer = peer_of(viewer);
        let joined = Joined {
            conn,
            peer,
            resumed: join.resume.is_some_and(|(name, _)| name == peer),
            stream: join.stream,
            track: join.track,
            flags: join.flags,
            nat: join.nat,
            upload_kbps: join.upload_kbps,
            network: line.network,
        };
        self.direct(Input::Joined(&joined));
    }

    /// One input for the directory; its answers go out over the wire.
    fn direct(&mut self, input: Input<'_>) {
        if self.down {
            return;
        }
        let now = Instant::from_micros(self.now);
        let mut out = std::mem::take(&mut self.out);
        self.directory.handle(now, input, &mut out);
        for action in out.actions() {
            self.act(action);
        }
        out.clear();
        self.out = out;
        if let Some(wakeup) = self.directory.next_wakeup() {
            let at = wakeup.at.as_micros();
            if self.wake == 0 || at < self.wake {
                self.wake = at;
                self.queue.push(at, Call::Tick);
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Welcome { conn, peer } => self.say(conn, &welcome(peer)),
            Action::Introduce { conn, introduction } => {
                self.check_introductions(conn, introduction.peer);
                self.say(conn, &TrackerMsg::Introduce(introduction));
            }
            Action::Gone { conn, peer } => self.say(conn, &TrackerMsg::Gone { peer }),
            Action::Shun { conn, peer } => self.say(conn, &TrackerMsg::Shun { peer }),
            Action::Refuse { conn, code } => {
                self.say(conn, &TrackerMsg::Refused { code, text: "" });
            }
            Action::Close { conn } => self.close(conn),
        }
    }

    /// The connection of this name, if it is still there, and whose it is.
    fn current(&mut self, id: ConnId) -> (u32, Option<&mut Conn>) {
        let viewer = id.0 as u32;
        let conn = self.conn(viewer).as_mut().filter(|conn| conn.id == id);
        (viewer, conn)
    }

    fn say(&mut self, id: ConnId, message: &TrackerMsg<'_>) {
        let (viewer, Some(conn)) = self.current(id) else {
            return;
        };
        let delay_us = conn.line.delay_us;
        self.bytes.clear();
        message.encode(&mut self.bytes);
        let says = Event::TrackerSays {
            node: local_of(viewer),
            frame: 0,
        };
        let outbox = &mut self.outbox[part_of(viewer)];
        outbox.send_framed(self.now + delay_us, says, &self.bytes);
        self.digest
            .note(self.now, 3, viewer, self.bytes.len() as u64);
    }

    fn close(&mut self, id: ConnId) {
        let (viewer, Some(conn)) = self.current(id) else {
            return;
        };
        let at = conn.line.delay_us;
        let node = local_of(viewer);
        *self.conn(viewer) = None;
        let down = Event::TrackerDown { node };
        self.outbox[part_of(viewer)].send(self.now + at, down);
    }

    /// Nobody learns of more viewers than the quota says.
    fn check_introductions(&mut self, id: ConnId, peer: PeerId) {
        let (now, policy) = (self.now, Arc::clone(&self.policy));
        let (viewer, Some(conn)) = self.current(id) else {
            return;
        };
        if !local_of(viewer).is_multiple_of(COUNTED) || conn.told.contains(&peer) {
            return;
        }
        conn.told.push(peer);
        let earned_ms = (now - conn.opened_at) / 1000 * u64::from(policy.introductions_per_hour);
        let most = u64::from(policy.introductions_burst) + earned_ms / 3_600_000 + 1;
        let told = conn.told.len() as u64;
        if told > most {
            self.metrics.on_problem(now, || {
                format!("viewer {viewer} was told of {told} others, its quota is {most}")
            });
        }
    }
}

fn welcome(peer: PeerId) -> TrackerMsg<'static> {
    let policy = Policy::default();
    TrackerMsg::Welcome(Welcome {
        peer,
        secret: 1,
        status_interval_ms: policy.status_interval_ms,
        links_target: policy.links_target,
        stun: Vec::new(),
    })
}
