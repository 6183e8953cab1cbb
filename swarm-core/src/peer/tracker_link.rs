//! The viewer's side of the tracker protocol: joining, reporting, and coming back.

use alloc::{boxed::Box, string::String, vec::Vec};

use super::{
    io::{Action, Event, Outbox},
    policy::Policy,
};
use crate::{
    id::{PeerId, StreamId, TrackId},
    limits::TOKEN_LEN_MAX,
    rng::Rng,
    time::Instant,
    wire::tracker::{Join, Nat, RefusalCode, Status, ViewerFlags, ViewerMsg, Welcome},
};

/// Reports are not sent more often than this, whatever the tracker asks for.
const STATUS_INTERVAL_MS_MIN: u32 = 500;
/// ... nor less often.
const STATUS_INTERVAL_MS_MAX: u32 = 120_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No stream to join, or refused for good.
    Idle,
    Connecting,
    /// The WebSocket is open, the join is sent.
    Joining,
    Joined,
    /// Until `due_at`.
    BackingOff,
}

#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct TrackerLink {
    /// While it backs off, the next attempt; else the next report.
    due_at: Option<Instant>,
    state: State,
    /// STUN servers that the tracker has named.
    stun_count: u8,
    stream: Option<StreamId>,
    token: Box<[u8]>,
    me: Option<(PeerId, u64)>,
    elsewhere: Option<Box<Elsewhere>>,
    backoff_ms: u32,
    status_interval_ms: u32,
}

/// Where the tracker has sent this viewer.
#[derive(Clone, Debug)]
struct Elsewhere {
    places: Vec<String>,
    /// Which of them is used; the configured address comes behind the last one.
    at: usize,
}

/// What goes into a join that the link does not know itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Introducing {
    pub(super) track: TrackId,
    pub(super) flags: ViewerFlags,
    pub(super) nat: Nat,
    pub(super) upload_kbps: u32,
}

impl TrackerLink {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            state: State::Idle,
            stun_count: 0,
            stream: None,
            token: Box::default(),
            me: None,
            elsewhere: None,
            backoff_ms: policy.tracker_backoff_ms.0,
            status_interval_ms: STATUS_INTERVAL_MS_MAX,
            due_at: None,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let elsewhere = self.elsewhere.as_deref().map_or(0, |elsewhere| {
            let texts = elsewhere.places.iter();
            size_of::<Elsewhere>()
                + texts
                    .map(|p| p.capacity() + size_of::<String>())
                    .sum::<usize>()
        });
        self.token.len() + elsewhere
    }

    pub(super) const fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// The name that the tracker gave; kept while it is out of reach.
    pub(super) fn me(&self) -> Option<PeerId> {
        self.me.map(|(peer, _)| peer)
    }

    pub(super) fn is_joined(&self) -> bool {
        self.state == State::Joined
    }

    /// Joins a stream. The same stream again refreshes the token and revives a refused link.
    pub(super) fn handle_join(&mut self, stream: StreamId, token: &[u8], out: &mut Outbox) {
        self.token = token[..token.len().min(TOKEN_LEN_MAX)].into();
        let is_new = self.stream.replace(stream) != Some(stream);
        if is_new {
            self.me = None;
            if self.state != State::Idle {
                out.push(Action::TrackerClose);
                self.stop();
            }
            self.come_home(out);
        }
        if self.state == State::Idle {
            self.connect(out);
        }
    }

    /// Does nothing any more. A report that is due stays so.
    fn stop(&mut self) {
        if self.state == State::BackingOff {
            self.due_at = None;
        }
        self.state = State::Idle;
    }

    fn connect(&mut self, out: &mut Outbox) {
        self.stop();
        self.state = State::Connecting;
        out.push(Action::TrackerConnect);
    }

    pub(super) fn handle_up(&mut self, about: Introducing, out: &mut Outbox) {
        let (State::Connecting, Some(stream)) = (self.state, self.stream) else {
            return;
        };
        self.state = State::Joining;
        let join = ViewerMsg::Join(Join {
            stream,
            track: about.track,
            flags: about.flags,
            nat: about.nat,
            upload_kbps: about.upload_kbps,
            resume: self.me,
            token: &self.token,
        });
        send(&join, out);
    }

    pub(super) const fn stun_count(&self) -> u8 {
        self.stun_count
    }

    pub(super) fn handle_down(
        &mut self,
        now: Instant,
        policy: &Policy,
        rng: &mut Rng,
        out: &mut Outbox,
    ) {
        if matches!(self.state, State::Idle | State::BackingOff) {
            return;
        }
        if self.state != State::Joined {
            self.try_next_place(out);
        }
        let wait_ms = self.backoff_ms / 2 + rng.at_most(u64::from(self.backoff_ms / 2)) as u32;
        self.backoff_ms = self
            .backoff_ms
            .saturating_mul(2)
            .min(policy.tracker_backoff_ms.1);
        self.back_off(now, wait_ms, out);
    }

    fn back_off(&mut self, now: Instant, wait_ms: u32, out: &mut Outbox) {
        self.state = State::BackingOff;
        self.due_at = Some(now.plus_ms(u64::from(wait_ms.max(1))));
        out.push(Action::Emit(Event::TrackerLost { retry_ms: wait_ms }));
    }

    /// Returns whether the viewer has another name than before.
    pub(super) fn handle_welcome(
        &mut self,
        now: Instant,
        welcome: &Welcome<'_>,
        policy: &Policy,
        out: &mut Outbox,
    ) -> bool {
        let renamed = self.me() != Some(welcome.peer);
        self.me = Some((welcome.peer, welcome.secret));
        self.state = State::Joined;
        self.backoff_ms = policy.tracker_backoff_ms.0;
        self.status_interval_ms = welcome
            .status_interval_ms
            .clamp(STATUS_INTERVAL_MS_MIN, STATUS_INTERVAL_MS_MAX);
        self.due_at = Some(now.plus_ms(u64::from(STATUS_INTERVAL_MS_MIN)));
        self.stun_count = welcome.stun.len() as u8;
        if !welcome.stun.is_empty() {
            let span =
                out.write(|bytes| bytes.extend_from_slice(welcome.stun.join(" ").as_bytes()));
            out.push(Action::UseStun(span));
        }
        out.push(Action::Emit(Event::Joined { peer: welcome.peer }));
        renamed
    }

    /// The tracker names others to go to. Without any, the viewer comes back to the same one.
    pub(super) fn handle_places(&mut self, places: &[&str], out: &mut Outbox) {
        if places.is_empty() {
            return;
        }
        let places = places.iter().map(|place| (*place).into()).collect();
        self.elsewhere = Some(Box::new(Elsewhere { places, at: 0 }));
        self.use_place(out);
    }

    /// The tracker in use cannot be had: the next attempt goes to the next one.
    fn try_next_place(&mut self, out: &mut Outbox) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.at = (elsewhere.at + 1) % (elsewhere.places.len() + 1);
            self.use_place(out);
        }
    }

    fn come_home(&mut self, out: &mut Outbox) {
        if self.elsewhere.take().is_some() {
            self.use_place(out);
        }
    }

    fn use_place(&self, out: &mut Outbox) {
        let elsewhere = self.elsewhere.as_deref();
        let place = elsewhere.and_then(|elsewhere| elsewhere.places.get(elsewhere.at));
        let place = place.map_or("", String::as_str);
        let span = out.write(|bytes| bytes.extend_from_slice(place.as_bytes()));
        out.push(Action::UseTracker(span));
    }

    /// The tracker asks to come back later: with jitter, so that not all do at once.
    pub(super) fn handle_reconnect(
        &mut self,
        now: Instant,
        after_ms: u32,
        policy: &Policy,
        rng: &mut Rng,
        out: &mut Outbox,
    ) {
        let after_ms = after_ms.min(policy.tracker_backoff_ms.1);
        let jitter_ms = rng.at_most(u64::from(after_ms / 2)) as u32;
        out.push(Action::TrackerClose);
        self.back_off(now, after_ms + jitter_ms, out);
    }

    pub(super) fn handle_refused(
        &mut self,
        now: Instant,
        code: RefusalCode,
        policy: &Policy,
        rng: &mut Rng,
        out: &mut Outbox,
    ) {
        if code.may_retry() {
            if self.state != State::Joined {
                self.try_next_place(out);
            }
            self.handle_reconnect(now, policy.tracker_backoff_ms.1 / 2, policy, rng, out);
            return;
        }
        out.push(Action::TrackerClose);
        out.push(Action::Emit(Event::Refused));
        self.state = State::Idle;
        self.due_at = None;
    }

    /// When the next report is due.
    fn status_at(&self) -> Option<Instant> {
        self.due_at.filter(|_| self.state != State::BackingOff)
    }

    /// Brings the next report forward: something changed that decides introductions.
    pub(super) fn hasten_status(&mut self, now: Instant) {
        if let Some(at) = self.status_at() {
            self.due_at = Some(at.min(now.plus_ms(u64::from(STATUS_INTERVAL_MS_MIN))));
        }
    }

    /// Whether a report is due; then the next one is put off.
    pub(super) fn take_status_due(&mut self, now: Instant) -> bool {
        let due = self.status_at().is_some_and(|at| at <= now);
        if due {
            self.due_at = Some(now.plus_ms(u64::from(self.status_interval_ms)));
        }
        due
    }

    /// Connects again if the back-off is over.
    pub(super) fn handle_tick(&mut self, now: Instant, out: &mut Outbox) {
        if self.state == State::BackingOff && self.due_at.is_none_or(|at| at <= now) {
            self.connect(out);
        }
    }

    pub(super) const fn next_wakeup(&self) -> Option<Instant> {
        self.due_at
    }

    pub(super) fn leave(&mut self, out: &mut Outbox) {
        if self.is_joined() {
            send(&ViewerMsg::Leave, out);
        }
        if !matches!(self.state, State::Idle | State::BackingOff) {
            out.push(Action::TrackerClose);
        }
        self.come_home(out);
        self.state = State::Idle;
        self.stream = None;
        self.due_at = None;
    }
}

/// Sends a message to the tracker.
pub(super) fn send(message: &ViewerMsg<'_>, out: &mut Outbox) {
    let span = out.write(|bytes| message.encode(bytes));
    out.push(Action::SendTracker(span));
}

/// Counters as of the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reported {
    pub(super) bytes_p2p: u64,
    pub(super) bytes_cdn: u64,
    pub(super) bytes_up: u64,
    pub(super) stalls: u32,
    pub(super) stalled_ms: u64,
}

impl Reported {
    /// Fills the counters of a report with what has come since the last one.
    pub(super) fn advance(&mut self, to: Self, status: &mut Status) {
        status.bytes_p2p = (to.bytes_p2p - self.bytes_p2p).min(u64::from(u32::MAX)) as u32;
        status.bytes_cdn = (to.bytes_cdn - self.bytes_cdn).min(u64::from(u32::MAX)) as u32;
        status.bytes_up = (to.bytes_up - self.bytes_up).min(u64::from(u32::MAX)) as u32;
        status.stalls = (to.stalls - self.stalls).min(u32::from(u16::MAX)) as u16;
        status.stalled_ms = (to.stalled_ms - self.stalled_ms).min(u64::from(u32::MAX)) as u32;
        *self = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Viewer {
        link: TrackerLink,
        policy: Policy,
        rng: Rng,
        now: Instant,
        /// The addresses told to the driver since the last look.
        used: Vec<String>,
    }

    impl Viewer {
        fn joined() -> Self {
            let policy = Policy::default();
            let mut viewer = Self {
                link: TrackerLink::new(&policy),
                policy,
                rng: Rng::new(1),
                now: Instant::ORIGIN,
                used: Vec::new(),
            };
            viewer.tell(|v, out| v.link.handle_join(StreamId([1; 16]), b"", out));
            viewer.join();
            viewer
        }

        fn tell(&mut self, step: impl FnOnce(&mut Self, &mut Outbox)) {
            let mut out = Outbox::new();
            step(self, &mut out);
            for action in out.actions() {
                if let Action::UseTracker(span) = action {
                    let text = core::str::from_utf8(out.bytes(span)).unwrap();
                    self.used.push(text.into());
                }
            }
        }

        fn join(&mut self) {
            let welcome = Welcome {
                peer: PeerId(1),
                secret: 2,
                status_interval_ms: 5_000,
                links_target: 14,
                stun: Vec::new(),
            };
            self.tell(|v, out| {
                _ = v.link.handle_welcome(v.now, &welcome, &v.policy, out);
            });
        }

        fn send_away(&mut self, places: &[&str]) {
            self.tell(|v, out| {
                v.link.handle_places(places, out);
                v.link
                    .handle_reconnect(v.now, 500, &v.policy, &mut v.rng, out);
            });
            self.connect();
        }

        fn lose(&mut self) {
            self.tell(|v, out| v.link.handle_down(v.now, &v.policy, &mut v.rng, out));
            self.connect();
        }

        /// Waits for the end of the pause.
        fn connect(&mut self) {
            self.now = self.link.next_wakeup().unwrap();
            self.tell(|v, out| v.link.handle_tick(v.now, out));
            assert_eq!(self.link.state, State::Connecting);
        }

        fn used(&mut self) -> Vec<String> {
            core::mem::take(&mut self.used)
        }
    }

    #[test]
    fn places_are_tried_in_turn_and_the_own_one_after_them() {
        let mut viewer = Viewer::joined();
        viewer.send_away(&["wss://a", "wss://b"]);
        assert_eq!(viewer.used(), ["wss://a"]);
        for place in ["wss://b", "", "wss://a", "wss://b"] {
            viewer.lose();
            assert_eq!(viewer.used(), [place]);
        }
        viewer.join();
        // Whoever was in comes back to where it was, at first.
        viewer.lose();
        assert!(viewer.used().is_empty());
        viewer.tell(|v, out| {
            let code = RefusalCode::Unavailable;
            v.link
                .handle_refused(v.now, code, &v.policy, &mut v.rng, out);
        });
        assert_eq!(viewer.used(), [""]);
    }

    #[test]
    fn without_a_place_the_viewer_comes_back_and_another_stream_is_sought_at_home() {
        let mut viewer = Viewer::joined();
        viewer.send_away(&[]);
        assert!(viewer.used().is_empty());
        viewer.join();
        viewer.send_away(&["wss://a"]);
        viewer.join();
        assert_eq!(viewer.used(), ["wss://a"]);
        viewer.tell(|v, out| v.link.handle_join(StreamId([1; 16]), b"new", out));
        assert!(viewer.used().is_empty());
        viewer.tell(|v, out| v.link.handle_join(StreamId([2; 16]), b"", out));
        assert_eq!(viewer.used(), [""]);
    }
}
