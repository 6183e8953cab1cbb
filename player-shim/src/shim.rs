//! The peer machine for JavaScript: one method for each input, the actions as words.

use std::sync::Arc;

use swarm_core::{
    id::{FetchId, Name, RequestId, SegmentId, Slot, StreamId, TrackId},
    peer::{Environment, FetchOutcome, Input, Outbox, Peer, Source},
    record::Record,
    time::Instant,
    wire::tracker::{Nat, ViewerFlags},
};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::{
    abi,
    names::id_of,
    playlist::{Window, Windows},
    policy,
};

/// One viewer. Every method but the getters takes the time in milliseconds of a monotonic clock and
/// returns the actions that follow, in order; the bytes that they refer to are in
/// [`Shim::arena`] until the next call.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Shim {
    peer: Peer,
    outbox: Outbox,
    windows: Windows,
}

#[wasm_bindgen]
impl Shim {
    /// A viewer that knows nothing yet. `policy` holds lines of `name=value`, empty for the
    /// defaults; the seed decides its jitter.
    ///
    /// # Errors
    /// The caller's mistake in `policy`.
    #[wasm_bindgen(constructor)]
    pub fn new(policy: &str, seed_low: u32, seed_high: u32, now_ms: f64) -> Result<Shim, String> {
        let policy = Arc::new(policy::parse(policy)?);
        let seed = u64::from(seed_high) << 32 | u64::from(seed_low);
        Ok(Self {
            peer: Peer::new(policy, seed, instant(now_ms)),
            outbox: Outbox::new(),
            windows: Windows::default(),
        })
    }

    /// When to call [`Shim::tick`] at the latest, in milliseconds; negative for never.
    pub fn next_wakeup_ms(&self) -> f64 {
        match self.peer.next_wakeup() {
            Some(wakeup) => wakeup.at.as_micros() as f64 / 1000.0,
            None => -1.0,
        }
    }

    /// The bytes that the last actions refer to.
    pub fn arena(&self) -> Vec<u8> {
        self.outbox.arena().to_vec()
    }

    /// The time of [`Shim::next_wakeup_ms`] has come.
    pub fn tick(&mut self, now_ms: f64) -> Vec<u32> {
        self.handle(now_ms, Input::Tick)
    }

    /// The device: `flags` as in [`ViewerFlags`], and the most that may be uploaded in bit/s.
    pub fn environment(&mut self, now_ms: f64, flags: u8, upload_bps_max: f64) -> Vec<u32> {
        let environment = Environment {
            flags: ViewerFlags(flags),
            nat: Nat::Unknown,
            upload_bps_max: upload_bps_max as u64,
        };
        self.handle(now_ms, Input::Environment(environment))
    }

    /// Joins the swarm of a stream (32 hexadecimal digits).
    ///
    /// # Errors
    /// The caller's mistake: `stream` is no id.
    pub fn join(&mut self, now_ms: f64, stream: &str, token: &[u8]) -> Result<Vec<u32>, String> {
        let stream = StreamId::from_hex(stream).ok_or("caller gave a stream that is no id")?;
        Ok(self.handle(now_ms, Input::Join { stream, token }))
    }

    /// Reads a playlist and remembers its window for [`Shim::timeline`]; nothing if it is a
    /// multivariant playlist.
    ///
    /// # Errors
    /// What is wrong with it, and who is at fault.
    pub fn read_playlist(&mut self, text: &str, url: &str) -> Result<Option<Window>, String> {
        self.windows.read(text, url)
    }

    /// The player plays this track: tells the machine the window that was read last.
    pub fn timeline(&mut self, now_ms: f64, track: u32) -> Vec<u32> {
        let track = TrackId(track);
        let segments = self.windows.of(track).to_vec();
        if segments.is_empty() {
            return Vec::new();
        }
        let segments = &segments;
        self.handle(now_ms, Input::Timeline { track, segments })
    }

    /// The player no longer plays this track.
    pub fn track_ended(&mut self, now_ms: f64, track: u32) -> Vec<u32> {
        self.handle(now_ms, Input::TrackEnded(TrackId(track)))
    }

    /// The player wants the segment of this name, and takes `grain_ms` of media at a time while it
    /// arrives; 0 if it takes whole segments.
    pub fn wanted(&mut self, now_ms: f64, request: u32, name: &str, grain_ms: u32) -> Vec<u32> {
        let wanted = Input::Wanted {
            request: RequestId(request),
            name: Name(id_of(name).unwrap_or_default()),
            grain_ms,
        };
        self.handle(now_ms, wanted)
    }

    /// The player has lost interest.
    pub fn abandoned(&mut self, now_ms: f64, request: u32) -> Vec<u32> {
        self.handle(now_ms, Input::Abandoned(RequestId(request)))
    }

    /// How the player is doing; at least once a second.
    pub fn player(&mut self, now_ms: f64, buffer_ms: u32, lag_ms: u32, stalled: bool) -> Vec<u32> {
        let player = Input::Player {
            buffer_ms,
            lag_ms,
            stalled,
        };
        self.handle(now_ms, player)
    }

    /// The WebSocket to the tracker is open.
    pub fn tracker_up(&mut self, now_ms: f64) -> Vec<u32> {
        self.handle(now_ms, Input::TrackerUp)
    }

    /// The WebSocket to the tracker could not be opened, or is closed.
    pub fn tracker_down(&mut self, now_ms: f64) -> Vec<u32> {
        self.handle(now_ms, Input::TrackerDown)
    }

    /// A message of the tracker.
    pub fn tracker_frame(&mut self, now_ms: f64, frame: &[u8]) -> Vec<u32> {
        self.handle(now_ms, Input::TrackerFrame(frame))
    }

    /// Signalling for the viewer in `slot`.
    pub fn signal(&mut self, now_ms: f64, slot: u8, payload: &[u8]) -> Vec<u32> {
        let slot = Slot(slot);
        self.handle(now_ms, Input::Signal { slot, payload })
    }

    /// The data channel is open.
    pub fn link_up(&mut self, now_ms: f64, slot: u8) -> Vec<u32> {
        self.handle(now_ms, Input::LinkUp(Slot(slot)))
    }

    /// The link could not be set up, or is closed.
    pub fn link_down(&mut self, now_ms: f64, slot: u8) -> Vec<u32> {
        self.handle(now_ms, Input::LinkDown(Slot(slot)))
    }

    /// A control message of a neighbour.
    pub fn frame(&mut self, now_ms: f64, slot: u8, bytes: &[u8]) -> Vec<u32> {
        let slot = Slot(slot);
        self.handle(now_ms, Input::Frame { slot, bytes })
    }

    /// A record whose signature and stream were checked, from the fetch or the slot `source`.
    ///
    /// # Errors
    /// The caller's mistake: the bytes are not a record.
    pub fn record(
        &mut self,
        now_ms: f64,
        from_peer: bool,
        source: u32,
        bytes: &[u8],
    ) -> Result<Vec<u32>, String> {
        let record = Record::decode(bytes).map_err(|error| error.to_string())?;
        let (source, record) = (source_of(from_peer, source), &record);
        Ok(self.handle(now_ms, Input::Record { source, record }))
    }

    /// Pieces (bit `i` of both words together is piece `i`) arrived, were verified and are stored.
    pub fn pieces(
        &mut self,
        now_ms: f64,
        from_peer: bool,
        source: u32,
        segment: &str,
        bits_low: u32,
        bits_high: u32,
    ) -> Vec<u32> {
        let pieces = Input::Pieces {
            source: source_of(from_peer, source),
            segment: SegmentId(id_of(segment).unwrap_or_default()),
            bits: u64::from(bits_high) << 32 | u64::from(bits_low),
        };
        self.handle(now_ms, pieces)
    }

    /// A whole piece of `len` bytes arrived that was there already, or nobody wanted.
    pub fn surplus(&mut self, now_ms: f64, slot: u8, len: u32) -> Vec<u32> {
        let slot = Slot(slot);
        self.handle(now_ms, Input::Surplus { slot, len })
    }

    /// The neighbour sent something bad.
    pub fn misbehaved(&mut self, now_ms: f64, slot: u8) -> Vec<u32> {
        self.handle(now_ms, Input::Misbehaved(Slot(slot)))
    }

    /// A fetch has ended: 0 verified, 1 unverified, 2 failed.
    pub fn fetch_done(
        &mut self,
        now_ms: f64,
        fetch: u32,
        outcome: u8,
        bytes: u32,
        ttfb_ms: u32,
        total_ms: u32,
    ) -> Vec<u32> {
        let done = Input::FetchDone {
            fetch: FetchId(fetch),
            outcome: match outcome {
                0 => FetchOutcome::Verified,
                1 => FetchOutcome::Unverified,
                _ => FetchOutcome::Failed,
            },
            bytes,
            ttfb_ms,
            total_ms,
        };
        self.handle(now_ms, done)
    }

    /// The transport has room again; `buffered` bytes wait in it.
    pub fn sent(&mut self, now_ms: f64, slot: u8, buffered: u32) -> Vec<u32> {
        let slot = Slot(slot);
        self.handle(now_ms, Input::Sent { slot, buffered })
    }

    /// The viewer leaves.
    pub fn leave(&mut self, now_ms: f64) -> Vec<u32> {
        self.handle(now_ms, Input::Leave)
    }

    /// What it has done: the numbers of [`abi::STATS`].
    pub fn stats(&self) -> Vec<f64> {
        let stats = self.peer.stats();
        vec![
            stats.bytes_p2p as f64,
            stats.bytes_cdn as f64,
            stats.bytes_up as f64,
            stats.bytes_wasted as f64,
            stats.bad_pieces as f64,
            stats.segments as f64,
            stats.backstops as f64,
            stats.stalls.into(),
            stats.stalled_ms as f64,
            stats.links.into(),
        ]
    }

    /// The links: the numbers of [`abi::NEIGHBOUR`] for each.
    pub fn neighbours(&self) -> Vec<f64> {
        let numbers = self.peer.neighbours().map(|link| {
            [
                link.slot.0.into(),
                (link.peer.0 >> 32) as f64,
                f64::from(link.peer.0 as u32),
                u8::from(link.native).into(),
                u8::from(link.ready).into(),
                link.rtt_ms.into(),
                link.bytes_in as f64,
                link.bytes_out as f64,
            ]
        });
        numbers.flatten().collect()
    }

    /// The name that the tracker gave this viewer, 16 hexadecimal digits; empty before.
    pub fn peer_id(&self) -> String {
        self.peer
            .peer_id()
            .map_or_else(String::new, |peer| peer.to_string())
    }

    /// Whether the tracker is in reach and has taken this viewer in.
    pub fn is_joined(&self) -> bool {
        self.peer.is_joined()
    }

    fn handle(&mut self, now_ms: f64, input: Input<'_>) -> Vec<u32> {
        self.outbox.clear();
        self.peer.handle(instant(now_ms), input, &mut self.outbox);
        let mut words = Vec::new();
        for action in self.outbox.actions() {
            abi::encode(action, &mut words);
        }
        words
    }
}

/// A float cast saturates, so that no clock can harm.
fn instant(now_ms: f64) -> Instant {
    Instant::from_micros((now_ms * 1000.0) as u64)
}

fn source_of(from_peer: bool, source: u32) -> Source {
    if from_peer {
        Source::Peer(Slot(source as u8))
    } else {
        Source::Cdn(FetchId(source))
    }
}
