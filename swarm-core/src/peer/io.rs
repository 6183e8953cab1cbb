//! The boundary of the peer machine: what it is told, and what it wants done.

use alloc::vec::Vec;
use core::ops::Range;

use super::policy::CloseReason;
use crate::{
    id::{FetchId, Name, PeerId, RequestId, SegmentId, Slot, StreamId, TrackId},
    record::Record,
    time::Instant,
    timeline::SegmentInfo,
    wire::tracker::{Nat, ViewerFlags},
};

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A fetch from the CDN.
    Cdn(FetchId),
    /// A neighbour.
    Peer(Slot),
}

/// How a fetch from the CDN ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// All bytes asked for were there and are stored as verified pieces.
    Verified,
    /// The answer is complete, but no record vouches for its bytes (none came with it, its
    /// signature is wrong, or the bytes differ). The driver keeps the bytes under the fetch's id
    /// if the whole object was asked for: they may be played, as without P2P, and are never
    /// passed on.
    Unverified,
    /// No complete answer: an error status, a broken connection, a stall.
    Failed,
}

/// What the driver knows of the device and its network. Sent at the start and on every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Native or browser; leech on cellular, metered or data-saving links.
    pub flags: ViewerFlags,
    /// The network's way with ports, if the driver knows it: else what it signals of its links tells.
    pub nat: Nat,
    /// Most that may be uploaded, in bit/s; 0 for nothing.
    pub upload_bps_max: u64,
}

/// One thing that happened. Borrowed for the call only.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The time of [`super::Peer::next_wakeup`] has come (or any other time).
    Tick,
    /// The device, at the start and when it changes.
    Environment(Environment),
    /// The stream is known: join its swarm. Again with a fresh token, or for another stream.
    Join {
        /// Which stream.
        stream: StreamId,
        /// What entitles this viewer; may be empty.
        token: &'a [u8],
    },
    /// A playlist of a track that the player plays was read: the segments now listed, in order.
    Timeline {
        /// Which track.
        track: TrackId,
        /// Its whole window.
        segments: &'a [SegmentInfo],
    },
    /// The player no longer plays this track.
    TrackEnded(TrackId),
    /// The player wants a segment. Answered by exactly one [`Action::Deliver`],
    /// [`Action::Bypass`] or [`Action::Fail`], unless abandoned before.
    Wanted {
        /// The driver's name for the request.
        request: RequestId,
        /// Which segment.
        name: Name,
        /// Media that the player takes at a time while the segment arrives, in milliseconds: it is
        /// handed pieces in order ([`Action::Release`]) before the delivery. 0 if it takes whole
        /// segments.
        grain_ms: u32,
    },
    /// The player has lost interest.
    Abandoned(RequestId),
    /// How the player is doing; at least once a second while it plays, and before it asks for a
    /// segment: deadlines follow from it.
    Player {
        /// Media ahead of the playhead, in milliseconds.
        buffer_ms: u32,
        /// How far the playhead is behind the end of the playlist, in milliseconds.
        lag_ms: u32,
        /// Whether it waits for media that it should have.
        stalled: bool,
    },
    /// The WebSocket to the tracker is open.
    TrackerUp,
    /// It could not be opened, or is closed.
    TrackerDown,
    /// A message of the tracker.
    TrackerFrame(&'a [u8]),
    /// Compact signalling for the viewer in `slot`, from this driver's WebRTC stack.
    Signal {
        /// Whom to send it to.
        slot: Slot,
        /// What to send.
        payload: &'a [u8],
    },
    /// The data channel is open.
    LinkUp(Slot),
    /// The link could not be set up, or is closed.
    LinkDown(Slot),
    /// A control message ([`crate::wire::peer::is_control`]).
    Frame {
        /// From whom.
        slot: Slot,
        /// The whole message.
        bytes: &'a [u8],
    },
    /// A record whose signature, stream and form the driver has checked. Before its pieces.
    Record {
        /// Where it came from.
        source: Source,
        /// The record.
        record: &'a Record,
    },
    /// Pieces arrived, were verified against the record and are stored.
    Pieces {
        /// Where they came from.
        source: Source,
        /// Whose they are.
        segment: SegmentId,
        /// Bit `i` stands for piece `i`; those that were not stored before.
        bits: u64,
    },
    /// A whole piece arrived that was there already, or nobody wanted.
    Surplus {
        /// From whom.
        slot: Slot,
        /// Its length in bytes.
        len: u32,
    },
    /// The neighbour sent bytes that fail verification, a bad record or a malformed message. The
    /// bytes are discarded already.
    Misbehaved(Slot),
    /// A fetch has ended. After the [`Input::Pieces`] that it brought.
    FetchDone {
        /// Which.
        fetch: FetchId,
        /// How.
        outcome: FetchOutcome,
        /// Body bytes received.
        bytes: u32,
        /// Milliseconds from the request to the first byte of the body.
        ttfb_ms: u32,
        /// Milliseconds from the request to the end.
        total_ms: u32,
    },
    /// The transport has taken what was sent to `slot` so far; `buffered` bytes wait in it.
    Sent {
        /// To whom.
        slot: Slot,
        /// Bytes not yet on the network.
        buffered: u32,
    },
    /// The viewer leaves: says goodbye to all.
    Leave,
}

/// A span of [`Outbox::bytes`].
pub type Span = Range<u32>;

/// What a delivery consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The verified pieces of this segment, all stored.
    Segment(SegmentId),
    /// The unverified whole body of this fetch.
    Fetch(FetchId),
}

/// Something to be done by the driver, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get an object, or a range of it, from the CDN. Read the record in the answer's header;
    /// verify, store and report pieces as they complete; end with [`Input::FetchDone`].
    FetchCdn {
        /// The core's name for it.
        fetch: FetchId,
        /// Which object.
        name: Name,
        /// First byte and length; the whole object without.
        range: Option<(u32, u32)>,
    },
    /// Stop a fetch and forget its body. What it has brought so far may be reported, and its bytes
    /// should be, by [`Input::FetchDone`] as failed, so that they are counted.
    CancelFetch(FetchId),
    /// Hand the first pieces of a segment to the player, which plays while it arrives; more of them
    /// follow, and in the end [`Action::Deliver`]. Should something else follow instead
    /// ([`Action::Bypass`], [`Action::Fail`], or a release or delivery of other bytes), the content has
    /// changed on the way: the driver ends the player's load with an error, and never joins the two.
    Release {
        /// Which request.
        request: RequestId,
        /// Whose.
        segment: SegmentId,
        /// How many, from the first one on: verified and stored.
        pieces: u8,
    },
    /// Hand a segment to the player.
    Deliver {
        /// Which request.
        request: RequestId,
        /// Which bytes.
        payload: Payload,
        /// The bandwidth that the player's ABR logic should believe, in bit/s.
        reported_bps: u64,
    },
    /// This segment is not the swarm's business: the driver gets it from the CDN as if P2P were
    /// not there.
    Bypass(RequestId),
    /// The CDN failed as well: tell the player what the CDN said to this fetch.
    Fail {
        /// Which request.
        request: RequestId,
        /// Which fetch.
        fetch: FetchId,
    },
    /// Set up a link. End with [`Input::LinkUp`] or [`Input::LinkDown`].
    Connect {
        /// The link's place.
        slot: Slot,
        /// The other viewer.
        peer: PeerId,
        /// Whether to make the offer.
        offer: bool,
        /// Whether the other is a native agent.
        native: bool,
    },
    /// Close a link; [`Input::LinkDown`] is not expected. The slot may be given out again.
    Close {
        /// Which.
        slot: Slot,
        /// Why, for logs.
        reason: CloseReason,
    },
    /// Compact signalling from the viewer in `slot`, for this driver's WebRTC stack.
    Signal {
        /// From whom.
        slot: Slot,
        /// The payload.
        payload: Span,
    },
    /// Send a control message.
    SendFrame {
        /// To whom.
        slot: Slot,
        /// The whole message.
        frame: Span,
    },
    /// Send the record of a segment ([`crate::wire::peer::DataFrame::Record`]).
    SendRecord {
        /// To whom.
        slot: Slot,
        /// Whose.
        segment: SegmentId,
    },
    /// Send a stored piece in chunks ([`crate::wire::peer::chunk_len_for`]); then, when the
    /// transport has room again, [`Input::Sent`].
    SendPiece {
        /// To whom.
        slot: Slot,
        /// Whose.
        segment: SegmentId,
        /// Which.
        piece: u8,
    },
    /// Open the WebSocket to the tracker. End with [`Input::TrackerUp`] or [`Input::TrackerDown`].
    TrackerConnect,
    /// Close it; [`Input::TrackerDown`] is not expected.
    TrackerClose,
    /// Send a message to the tracker.
    SendTracker(Span),
    /// Forget a segment's record and bytes.
    Evict(SegmentId),
    /// Use these STUN servers (`host:port`, separated by spaces) for links set up from now on.
    UseStun(Span),
    /// Use these TURN servers for links set up from now on, instead of those before: user name,
    /// credential and addresses, a line each.
    UseRelays {
        /// The lines.
        servers: Span,
        /// Whether links are to use relays alone; then no other address may be signalled.
        only: bool,
    },
    /// Connect to the tracker at this address (`ws://` or `wss://`) from now on; to the one that was
    /// configured if empty, or if the address is worse: `ws://` instead of `wss://`.
    UseTracker(Span),
    /// For logs, panels and metrics.
    Emit(Event),
}

/// A fact for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A segment went to the player.
    Delivered {
        /// Which.
        name: Name,
        /// Its track.
        track: TrackId,
        /// Its number.
        seq: u64,
        /// Verified bytes that neighbours sent.
        bytes_p2p: u32,
        /// Bytes that this viewer took from the CDN.
        bytes_cdn: u32,
        /// From the player's request to the delivery, in milliseconds.
        waited_ms: u32,
    },
    /// The tracker took this viewer in.
    Joined {
        /// Under this name.
        peer: PeerId,
    },
    /// The tracker is out of reach; the next attempt is in this many milliseconds.
    TrackerLost {
        /// The back-off.
        retry_ms: u32,
    },
    /// The tracker refused this viewer for good.
    Refused,
    /// A link is up.
    PeerUp {
        /// Its place.
        slot: Slot,
        /// Who.
        peer: PeerId,
    },
    /// A link is gone.
    PeerDown {
        /// Its place.
        slot: Slot,
        /// Who.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// The deadline of a segment came near: missing bytes are fetched from the CDN.
    Backstop {
        /// Which segment.
        name: Name,
        /// How many bytes were missing.
        missing: u32,
    },
}

/// Where a machine puts what is to be done. Owned by the driver and used again for every call.
#[derive(Debug, Default)]
pub struct Outbox {
    actions: Vec<Action>,
    bytes: Vec<u8>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done, in order.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The bytes of a span.
    pub fn bytes(&self, span: &Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// Everything that spans refer to.
    pub fn arena(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties it; call after the actions were carried out.
    pub fn clear(&mut self) {
        self.actions.clear();
        self.bytes.clear();
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len() as u32;
        encode(&mut self.bytes);
        start..self.bytes.len() as u32
    }
}

/// When a machine wants to be called again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// When.
    pub at: Instant,
    /// Why, for logs.
    pub why: Timer,
}

/// The peer machine's reasons to wake up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Plan again: deadlines, claims, repairs and backstops that come due.
    Plan,
    /// Send have-maps and status to neighbours.
    Announce,
    /// Tokens for the next upload are there.
    Upload,
    /// A link has taken too long, or is silent.
    Link,
    /// Try the tracker again, or report to it.
    Tracker,
}
