//! One viewer: the hybrid switcher and its part in the swarm.
//!
//! [`Peer`] is composition and dispatch. The decisions are in `plan` (what to do about a segment),
//! `rendezvous` (who seeds what) and `upload` (what to send next), which are pure; `act` carries
//! them out against the tables in `segment` and `neighbour`; `links`, `announce` and `tracker_link` speak the
//! two wires.

mod act;
mod allowance;
mod announce;
mod care;
mod cells;
mod demand;
mod duty;
mod estimate;
mod io;
mod links;
mod nat;
mod need;
mod neighbour;
mod neighbours;
mod plan;
mod policy;
mod promises;
mod pulls;
mod remotes;
mod rendezvous;
mod scarcity;
mod segment;
#[cfg(test)]
mod tests;
mod timeline;
mod tracker_link;
mod transfers;
mod upload;

pub use io::{
    Action, Environment, Event, FetchOutcome, Input, Outbox, Payload, Source, Span, Timer, Wakeup,
};
pub use need::Waiting;
pub use policy::{CloseReason, Policy};

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use allowance::Allowance;
use demand::Demand;
use estimate::{Downlink, Estimate};
use nat::NatProbe;
use neighbour::Told;
use neighbours::Neighbours;
use promises::Promise;
use remotes::Remotes;
use segment::Segment;
use timeline::Tracks;
use tracker_link::{Reported, TrackerLink};
use transfers::Fetch;

use crate::{
    id::{PeerId, Slot, TrackId},
    rng::Rng,
    time::Instant,
    wire::tracker::{Nat, ViewerFlags},
};

/// Wake-ups are not asked for sooner than this: no input can make the machine spin.
const WAKEUP_US_MIN: u64 = 5_000;
/// Without a request of the player for this long, the viewer is paused: it gives what it has, and
/// takes nothing.
const PAUSED_AFTER_MS: u64 = 30_000;

/// Start-up is over with this much media ahead of the playhead, or after so many segments.
const MUCH_AHEAD_MS: u32 = 8000;
const BEGUN_SEGMENTS: u64 = 6;
/// Players have begun to play with this much media ahead of the playhead.
const STARTED_BUFFER_MS: u32 = 1000;

/// What a viewer has done since it was made. All in bytes but where the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Verified bytes from neighbours that were new.
    pub bytes_p2p: u64,
    /// Bytes from the CDN.
    pub bytes_cdn: u64,
    /// Bytes sent to neighbours.
    pub bytes_up: u64,
    /// Bytes from neighbours that were there already.
    pub bytes_wasted: u64,
    /// Times that a neighbour sent something bad.
    pub bad_pieces: u64,
    /// Segments delivered to the player.
    pub segments: u64,
    /// Fetches made because a deadline came near.
    pub backstops: u64,
    /// Times that the player stalled.
    pub stalls: u32,
    /// How long it stalled, in milliseconds.
    pub stalled_ms: u64,
    /// Links that are up.
    pub links: u32,
}

/// A link as panels show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourView {
    /// Its place.
    pub slot: Slot,
    /// Who it is.
    pub peer: PeerId,
    /// A native agent, not a browser.
    pub native: bool,
    /// Whether it carries data.
    pub ready: bool,
    /// Round trip in milliseconds; 0 before it is measured.
    pub rtt_ms: u16,
    /// Verified new bytes from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
}

#[derive(Clone, Copy, Debug)]
struct Player {
    buffer_ms: u32,
    lag_ms: u32,
    /// When it said so.
    at: Instant,
    stalled_since: Option<Instant>,
    /// The downlink is thin: what others push, and what they push twice, would crowd out what is
    /// needed next. Such a viewer is pushed nothing and asks for what it wants, a little at a time.
    careful: bool,
    careful_until: Option<Instant>,
    /// It has what there was when it came: it has asked for the newest segment, or has much ahead.
    caught_up: bool,
    /// The CDN brings less than is played, and neighbours held no more.
    scarce: bool,
    /// Neighbours did not help it: until then the CDN is not scarce, and with a thin downlink it takes nothing from them.
    alone_until: Option<Instant>,
    asked_at: Option<Instant>,
    /// It has asked for segments that it plays while they arrive.
    is_progressive: bool,
}

/// The brain of one viewer. See the crate's documentation for how to drive it.
///
/// The order of its fields is theirs in memory: what every input looks at is together, in front. Where one
/// process has thousands of viewers, the caches hold none of them, and each line that is read is waited for.
#[derive(Debug)]
#[repr(C)]
pub struct Peer {
    now: Instant,
    plan_at: Option<Instant>,
    announce_at: Option<Instant>,
    bridge_at: Option<Instant>,
    link_check_at: Option<Instant>,
    upload_at: Option<Instant>,
    /// No pull is late before then.
    pulls_late_at: Option<Instant>,
    /// Enough waits in the links: `upload_at` is when to look again if none of it leaves.
    uplink_busy: bool,
    /// Something that decides what to send next has changed.
    upload_stale: bool,
    /// A segment is to be planned again, whatever `plan_at` says.
    plans_stale: bool,
    /// A segment may be complete, or asked for, since those that are were delivered.
    may_deliver: bool,
    /// Its turn among those who get nothing from anybody.
    turn: u8,
    links_target: u8,
    flags: ViewerFlags,
    nat: Nat,
    /// How long segments take from their first piece until they are whole, on average.
    pace_ms: u32,
    fetch_count: u32,
    segments: Vec<Segment>,
    remotes: Remotes,
    tracker: TrackerLink,
    demand: Demand,
    /// What neighbours were last told.
    announced: Told,
    player: Player,
    tracks: Tracks,
    /// While a link gathers candidates.
    nat_probe: Option<Box<NatProbe>>,
    neighbours: Neighbours,
    stats: Stats,
    policy: Arc<Policy>,
    allowance: Allowance,
    rng: Rng,
    fetches: Vec<Fetch>,
    /// Bytes of pieces that have come from the CDN.
    cdn_arrived: u64,
    /// About segments that this viewer has not heard of.
    promises: Vec<Promise>,
    estimate: Estimate,
    downlink: Downlink,
    /// Since when neighbours may push to this viewer.
    pushed_from: Option<Instant>,
    reported: Reported,
}

impl Peer {
    /// A viewer that knows nothing yet. `seed` decides its jitter.
    pub fn new(policy: Arc<Policy>, seed: u64, now: Instant) -> Self {
        Self {
            rng: Rng::new(seed),
            turn: crate::rng::mix(seed) as u8,
            now,
            flags: ViewerFlags::LEECH,
            nat: Nat::Unknown,
            player: Player {
                buffer_ms: 0,
                lag_ms: 0,
                at: now,
                stalled_since: None,
                careful: false,
                careful_until: None,
                caught_up: false,
                scarce: false,
                alone_until: None,
                asked_at: None,
                is_progressive: false,
            },
            nat_probe: None,
            tracks: Tracks::default(),
            segments: Vec::new(),
            neighbours: Neighbours::default(),
            remotes: Remotes::default(),
            promises: Vec::new(),
            fetches: Vec::new(),
            fetch_count: 0,
            cdn_arrived: 0,
            tracker: TrackerLink::new(&policy),
            estimate: Estimate::default(),
            downlink: Downlink::default(),
            demand: Demand::default(),
            allowance: Allowance::new(),
            links_target: policy.links_target,
            announced: Told::default(),
            pushed_from: None,
            pace_ms: 0,
            announce_at: None,
            bridge_at: None,
            link_check_at: None,
            plan_at: None,
            upload_at: None,
            pulls_late_at: None,
            uplink_busy: false,
            upload_stale: false,
            plans_stale: false,
            may_deliver: false,
            reported: Reported::default(),
            stats: Stats::default(),
            policy,
        }
    }

    /// Takes one input; what is to be done is appended to `out`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outbox) {
        self.now = self.now.max(now);
        self.touch(&input);
        self.dispatch(input, out);
        self.reconcile(out);
    }

    /// Notes what has to be planned again because of an input. Messages of neighbours and pieces
    /// are many and say themselves what they change.
    fn touch(&mut self, input: &Input<'_>) {
        match input {
            Input::Tick | Input::Frame { .. } | Input::Surplus { .. } => {}
            Input::Pieces { .. } => self.may_deliver = true,
            Input::Sent { .. } => self.upload_stale = true,
            _ => {
                self.touch_all();
                (self.upload_stale, self.may_deliver) = (true, true);
            }
        }
    }

    fn dispatch(&mut self, input: Input<'_>, out: &mut Outbox) {
        match input {
            Input::Tick => {}
            Input::Environment(environment) => self.handle_environment(environment),
            Input::Join { stream, token } => {
                if self.tracker.stream().is_some_and(|old| old != stream) {
                    self.drop_stream(out);
                }
                if self.policy.enabled {
                    self.tracker.handle_join(stream, token, out);
                }
            }
            Input::Timeline { track, segments } => self.handle_timeline(track, segments, out),
            Input::TrackEnded(track) => self.handle_track_ended(track, out),
            Input::Wanted {
                request,
                name,
                grain_ms,
            } => self.handle_wanted(request, name, grain_ms, out),
            Input::Abandoned(request) => self.handle_abandoned(request, out),
            Input::Player {
                buffer_ms,
                lag_ms,
                stalled,
            } => {
                self.handle_player(buffer_ms, lag_ms, stalled);
            }
            Input::TrackerUp => self.tracker.handle_up(self.introducing(), out),
            Input::TrackerDown => {
                self.tracker
                    .handle_down(self.now, &self.policy, &mut self.rng, out);
            }
            Input::TrackerFrame(frame) => self.handle_tracker_frame(frame, out),
            Input::Signal { slot, payload } => self.handle_signal(slot, payload, out),
            Input::LinkUp(slot) => self.handle_link_up(slot, out),
            Input::LinkDown(slot) => self.handle_link_down(slot, out),
            Input::Frame { slot, bytes } => self.handle_frame(slot, bytes, out),
            Input::Record { source, record } => self.handle_record(source, record, out),
            Input::Pieces {
                source,
                segment,
                bits,
            } => self.handle_pieces(source, segment, bits, out),
            Input::Surplus { slot, len } => self.handle_surplus(slot, len, out),
            Input::Misbehaved(slot) => self.handle_misbehaved(slot, out),
            Input::FetchDone {
                fetch,
                outcome,
                bytes,
                ttfb_ms,
                total_ms,
            } => {
                self.handle_fetch_done(fetch, outcome, (bytes, ttfb_ms, total_ms), out);
            }
            Input::Sent { slot, buffered } => {
                self.neighbours.on_sent(slot, buffered, self.now);
            }
            Input::Leave => self.handle_leave(out),
        }
    }

    /// When to call [`Peer::handle`] with [`Input::Tick`] at the latest. Always later than the last
    /// `now`.
    pub fn next_wakeup(&self) -> Option<Wakeup> {
        let timers = [
            (self.plan_at, Timer::Plan),
            (self.announce_at, Timer::Announce),
            (self.bridge_at, Timer::Announce),
            (self.upload_at, Timer::Upload),
            (self.link_check_at, Timer::Link),
            (self.tracker.next_wakeup(), Timer::Tracker),
        ];
        let mut earliest: Option<(Instant, Timer)> = None;
        for (at, why) in timers {
            if let Some(at) = at
                && earliest.is_none_or(|earliest| (at, why) < earliest)
            {
                earliest = Some((at, why));
            }
        }
        let (at, why) = earliest?;
        let at = at.max(self.now.plus_us(WAKEUP_US_MIN));
        Some(Wakeup { at, why })
    }

    /// What it has done.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The name that the tracker gave this viewer, if it has joined.
    pub fn peer_id(&self) -> Option<PeerId> {
        self.tracker.me()
    }

    /// Whether the tracker is in reach and has taken this viewer in.
    pub fn is_joined(&self) -> bool {
        self.tracker.is_joined()
    }

    /// The links, for panels.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> + '_ {
        self.neighbours.iter().map(|neighbour| NeighbourView {
            slot: neighbour.slot,
            peer: neighbour.peer,
            native: self.neighbours.is_native(neighbour.slot),
            ready: neighbour.is_ready(),
            rtt_ms: neighbour.rtt_ms,
            bytes_in: neighbour.bytes_in.get(),
            bytes_out: neighbour.bytes_out.get(),
        })
    }

    /// Bytes of memory that this machine takes, what it has set aside included.
    pub fn memory_bytes(&self) -> usize {
        let segments: usize = self.segments.iter().map(Segment::heap_bytes).sum();
        size_of::<Self>()
            + self.segments.capacity() * size_of::<Segment>()
            + segments
            + self.neighbours.heap_bytes()
            + self.remotes.heap_bytes()
            + self.promises_heap_bytes()
            + self.fetches.capacity() * size_of::<Fetch>()
            + self.allowance.heap_bytes()
            + self.announced.heap_bytes()
            + self.tracker.heap_bytes()
    }

    fn handle_environment(&mut self, environment: Environment) {
        let leech = environment.flags.has(ViewerFlags::LEECH);
        self.flags = environment.flags;
        // The driver need not know: the links' candidates tell.
        if environment.nat != Nat::Unknown {
            self.nat = environment.nat;
        }
        self.allowance
            .set_rate(if leech { 0 } else { environment.upload_bps_max });
        self.tracker.hasten_status(self.now);
        self.touch_view();
    }

    fn handle_player(&mut self, buffer_ms: u32, lag_ms: u32, stalled: bool) {
        let now = self.now;
        match (self.player.stalled_since, stalled) {
            (None, true) => {
                self.stats.stalls += 1;
                self.player.stalled_since = Some(now);
                self.doubt_line();
            }
            (Some(since), _) => {
                self.stats.stalled_ms += now.ms_since(since);
                self.player.stalled_since = stalled.then_some(now);
            }
            (None, false) => {}
        }
        self.player = Player {
            buffer_ms,
            lag_ms,
            at: now,
            ..self.player
        };
        self.player.caught_up |= buffer_ms >= MUCH_AHEAD_MS;
        // What the player asked for before it told of its buffer is not as urgent as it seemed.
        let dry_at = now.plus_ms(u64::from(buffer_ms));
        for segment in &mut self.segments {
            let released_ms = segment.released_ms();
            let Some(work) = segment.work_if_any() else {
                continue;
            };
            for request in &mut work.requests {
                if request.grain_ms == 0 {
                    request.deadline = request.deadline.max(dry_at);
                    continue;
                }
                // It may not have taken yet what it was handed last.
                let told = dry_at.minus_ms(released_ms);
                let latest = told.plus_ms(request.grain_ms.into());
                request.deadline = request.deadline.clamp(told, latest);
            }
        }
        let was_careful = self.player.careful_until.is_some_and(|until| until > now);
        if !was_careful && self.is_starved() {
            self.doubt_line();
        }
        self.player.careful = self.should_be_careful();
    }

    /// The average of a track's segments that are known: one part with a keyframe is several times the others.
    pub(super) fn bitrate_bps(&self, track: TrackId) -> u64 {
        let known = self.segments.iter().filter(|s| s.track() == Some(track));
        let (bytes, ms) = known.fold((0, 0), |(bytes, ms), segment| match segment.content() {
            Some(content) => (
                bytes + u64::from(content.len),
                ms + u64::from(segment.duration_ms),
            ),
            None => (bytes, ms),
        });
        bytes.saturating_mul(8000) / ms.max(1)
    }

    /// Whether start-up is over. Until then the downlink is for what the player asks for, and nothing is
    /// fetched for others.
    fn has_begun(&self) -> bool {
        let segments = self.stats.segments;
        // With so little of its first segment ahead, a player that takes the next one as it arrives may still wait for it.
        let is_short = self.player.is_progressive && self.player.buffer_ms < STARTED_BUFFER_MS;
        let least = 1 + u64::from(is_short);
        let has_begun = (self.player.caught_up && segments >= least) || segments >= BEGUN_SEGMENTS;
        has_begun || self.player.scarce
    }

    /// Media ahead of the playhead by now.
    fn buffer_ms(&self) -> u64 {
        let told_ms =
            u64::from(self.player.buffer_ms).saturating_sub(self.now.ms_since(self.player.at));
        told_ms.max(self.progress_ms().unwrap_or(0))
    }

    /// How long this viewer can do without a segment that is listed now, as far as it knows.
    fn window_ms(&self) -> u32 {
        let passed = self.now.ms_since(self.player.at).min(u64::from(u32::MAX)) as u32;
        let ahead = self.player.buffer_ms.max(self.player.lag_ms);
        ahead.saturating_sub(passed)
    }

    fn is_paused(&self) -> bool {
        let asked = self.player.asked_at;
        asked.is_none_or(|at| self.now.ms_since(at) > PAUSED_AFTER_MS)
    }

    fn handle_leave(&mut self, out: &mut Outbox) {
        self.drop_stream(out);
        self.tracker.leave(out);
    }

    /// Gives up all links and everything that was for others.
    fn drop_stream(&mut self, out: &mut Outbox) {
        let slots: Vec<Slot> = self
            .neighbours
            .iter()
            .map(|neighbour| neighbour.slot)
            .collect();
        for slot in slots {
            self.send(slot, &crate::wire::peer::PeerMsg::Bye, out);
            self.close(slot, CloseReason::Leaving, out);
        }
    }
}
