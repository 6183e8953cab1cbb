//! The tracker: one directory machine, spoken to through the real wire.

use swarm_core::{
    directory::{Action, ConnId, Input, Joined},
    peer,
    time::Instant,
    wire::tracker::{TrackerMsg, ViewerMsg, Welcome},
};

use super::{Event, World, catalog::Catalog, network::peer_of};

/// From a viewer's ISP to the tracker, in microseconds.
const TRACKER_US: u64 = 10_000;
/// Opening the WebSocket takes as many one-way delays.
const HANDSHAKE_DELAYS: u64 = 6;

impl World {
    fn tracker_delay_us(&self, node: u32) -> u64 {
        self.nodes[node as usize].viewer.delay_us + TRACKER_US
    }

    pub(super) fn tracker_connect(&mut self, node: u32) {
        let at = self.now + HANDSHAKE_DELAYS * self.tracker_delay_us(node);
        self.queue.push(at, Event::TrackerUp { node });
    }

    pub(super) fn tracker_up(&mut self, node: u32) {
        self.input(node, peer::Input::TrackerUp);
    }

    pub(super) fn send_tracker(&mut self, node: u32, bytes: &[u8]) {
        let frame = self.frames.add(bytes, 1);
        let at = self.now + self.tracker_delay_us(node);
        self.queue.push(at, Event::TrackerHears { node, frame });
    }

    pub(super) fn tracker_hears(&mut self, node: u32, frame: u32) {
        let bytes = self.frames.take(frame);
        let conn = ConnId(u64::from(node));
        match ViewerMsg::decode(&bytes) {
            Ok(ViewerMsg::Join(join)) => {
                let viewer = &self.nodes[node as usize].viewer;
                let joined = Joined {
                    conn,
                    peer: peer_of(node),
                    resumed: false,
                    stream: join.stream,
                    track: join.track,
                    flags: join.flags,
                    nat: join.nat,
                    upload_kbps: join.upload_kbps,
                    network: viewer.network,
                };
                if joined.stream == Catalog::stream(viewer.channel) {
                    self.direct(Input::Joined(&joined));
                }
            }
            Ok(ViewerMsg::Status(status)) => self.direct(Input::Status {
                conn,
                status: &status,
            }),
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
                let now = self.now;
                self.metrics.on_problem(now, || {
                    format!("viewer {node} tells the tracker nonsense: {error}")
                });
            }
        }
        self.frames.put_back(frame, bytes);
    }

    pub(super) fn tracker_says(&mut self, node: u32, frame: u32) {
        let bytes = self.frames.take(frame);
        self.input(node, peer::Input::TrackerFrame(&bytes));
        self.frames.put_back(frame, bytes);
    }

    pub(super) fn tracker_lost(&mut self, node: u32) {
        self.direct(Input::Lost(ConnId(u64::from(node))));
    }

    pub(super) fn tracker_tick(&mut self) {
        if self.directory_wake == self.now {
            self.directory_wake = 0;
            self.direct(Input::Tick);
        }
    }

    /// One input for the directory; its answers go out over the wire.
    fn direct(&mut self, input: Input<'_>) {
        let now = Instant::from_micros(self.now);
        let mut out = std::mem::take(&mut self.directory_out);
        self.directory.handle(now, input, &mut out);
        let mut bytes = Vec::new();
        for action in out.actions() {
            let (conn, message) = match *action {
                Action::Welcome { conn, peer } => (conn, welcome(peer)),
                Action::Introduce { conn, introduction } => {
                    (conn, TrackerMsg::Introduce(introduction))
                }
                Action::Gone { conn, peer } => (conn, TrackerMsg::Gone { peer }),
                Action::Refuse { conn, code } => (conn, TrackerMsg::Refused { code, text: "" }),
                Action::Close { .. } => continue,
            };
            let node = conn.0 as u32;
            bytes.clear();
            message.encode(&mut bytes);
            let frame = self.frames.add(&bytes, 1);
            let at = self.now + self.tracker_delay_us(node);
            self.queue.push(at, Event::TrackerSays { node, frame });
            self.note(3, node, bytes.len() as u64);
        }
        out.clear();
        self.directory_out = out;
        if let Some(wakeup) = self.directory.next_wakeup() {
            let at = wakeup.at.as_micros();
            if self.directory_wake == 0 || at < self.directory_wake {
                self.directory_wake = at;
                self.queue.push(at, Event::TrackerTick);
            }
        }
    }
}

fn welcome(peer: swarm_core::id::PeerId) -> TrackerMsg<'static> {
    let policy = swarm_core::directory::Policy::default();
    TrackerMsg::Welcome(Welcome {
        peer,
        secret: 1,
        status_interval_ms: policy.status_interval_ms,
        links_target: policy.links_target,
        stun: Vec::new(),
    })
}
