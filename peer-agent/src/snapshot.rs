//! What an agent tells people and panels of itself.

use serde::Serialize;
use swarm_core::peer::{CloseReason, Event};

use crate::catalog::Catalog;

/// How an agent is doing, since its start. Published a few times a second when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The stream that is shared, in hexadecimal, once known.
    pub stream: Option<String>,
    /// This viewer's name at the tracker, in hexadecimal.
    pub peer: Option<String>,
    /// Whether the tracker is connected.
    pub tracker_up: bool,
    /// Verified bytes from neighbours that were new.
    pub bytes_p2p: u64,
    /// Bytes from the CDN: those that the core fetched and [`Self::bytes_bypassed`].
    pub bytes_cdn: u64,
    /// Media bytes passed through from the CDN as if there were no peers (no record, no tracker,
    /// initialisation segments).
    pub bytes_bypassed: u64,
    /// Bytes sent to neighbours.
    pub bytes_up: u64,
    /// Bytes from neighbours that were there already, or bad.
    pub bytes_wasted: u64,
    /// Pieces from neighbours that failed verification.
    pub bad_pieces: u64,
    /// Segments delivered to the player through the swarm.
    pub segments: u64,
    /// Fetches made because a deadline came near.
    pub backstops: u64,
    /// Links that are up.
    pub links: u32,
    /// Bytes of segments in memory.
    pub store_bytes: u64,
    /// Media ahead of the playhead, in milliseconds; estimated where the player is not ours.
    pub buffer_ms: u32,
    /// How far the playhead is behind the end of the playlist, in milliseconds.
    pub lag_ms: u32,
    /// Whether the player waits for media.
    pub stalled: bool,
    /// The neighbours, links being set up included.
    pub neighbours: Vec<Neighbour>,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Its place in the core's table.
    pub slot: u8,
    /// Its name at the tracker, in hexadecimal.
    pub peer: String,
    /// Whether it is a native agent; else a browser.
    pub native: bool,
    /// Whether the link is up.
    pub up: bool,
    /// How long the link took to open, in milliseconds.
    pub setup_ms: u32,
    /// Bytes received from it, of all kinds.
    pub bytes_in: u64,
    /// Bytes sent to it, of all kinds.
    pub bytes_out: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum AgentEvent {
    /// A segment went to the player through the swarm.
    Delivered {
        /// Its URL on the CDN.
        url: String,
        /// Its track, in hexadecimal.
        track: String,
        /// Its number.
        seq: u64,
        /// Verified bytes that neighbours sent.
        bytes_p2p: u32,
        /// Bytes from the CDN.
        bytes_cdn: u32,
        /// From the player's request to the delivery, in milliseconds.
        waited_ms: u32,
    },
    /// The tracker took this viewer in.
    Joined {
        /// Under this name, in hexadecimal.
        peer: String,
    },
    /// The tracker is out of reach.
    TrackerLost {
        /// When it is tried again, in milliseconds.
        retry_ms: u32,
    },
    /// The tracker refused this viewer for good.
    Refused,
    /// A link is up.
    PeerUp {
        /// To whom, in hexadecimal.
        peer: String,
    },
    /// A link is gone.
    PeerDown {
        /// To whom, in hexadecimal.
        peer: String,
        /// Why.
        reason: &'static str,
    },
    /// The deadline of a segment came near: missing bytes are fetched from the CDN.
    Backstop {
        /// Its URL on the CDN.
        url: String,
        /// How many bytes were missing.
        missing: u32,
    },
}

impl AgentEvent {
    pub(crate) fn of(event: &Event, catalog: &Catalog) -> Self {
        let url = |name| {
            catalog
                .find(name)
                .map(|located| located.url)
                .unwrap_or_default()
        };
        match *event {
            Event::Delivered {
                name,
                track,
                seq,
                bytes_p2p,
                bytes_cdn,
                waited_ms,
            } => {
                let (url, track) = (url(name), track.to_string());
                Self::Delivered {
                    url,
                    track,
                    seq,
                    bytes_p2p,
                    bytes_cdn,
                    waited_ms,
                }
            }
            Event::Joined { peer } => Self::Joined {
                peer: peer.to_string(),
            },
            Event::TrackerLost { retry_ms } => Self::TrackerLost { retry_ms },
            Event::Refused => Self::Refused,
            Event::PeerUp { peer, .. } => Self::PeerUp {
                peer: peer.to_string(),
            },
            Event::PeerDown { peer, reason, .. } => Self::PeerDown {
                peer: peer.to_string(),
                reason: reason_text(reason),
            },
            Event::Backstop { name, missing } => Self::Backstop {
                url: url(name),
                missing,
            },
        }
    }
}

fn reason_text(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Lost => "lost",
        CloseReason::SetupTimeout => "setup-timeout",
        CloseReason::Silent => "silent",
        CloseReason::Misbehaved => "misbehaved",
        CloseReason::Left => "left",
        CloseReason::Leaving => "leaving",
        CloseReason::Replaced => "replaced",
    }
}
