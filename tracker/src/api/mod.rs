//! What operators see and do over HTTP: `docs/operating/running-a-tracker.md`.
//!
//! - `http` checks who asks, and turns paths into questions.
//! - `question` is answered by the shard of each node; `merge` makes one answer of all nodes'.
//! - `stream`, `groups` and `mesh` look at one stream: from afar, and closer.
//! - `survey` lets joins through while it looks at a large stream.
//! - `tally` counts what viewers have in common, for `stream`.
//! - `swarms` are those of WebTorrent viewers.
//!
//! An answer has a bounded size whatever the audience: lists are cut, large streams are sampled.

mod groups;
mod http;
mod mesh;
mod question;
mod stream;
mod summary;
mod survey;
mod swarms;
mod tally;
#[cfg(test)]
mod tests;

pub(crate) use http::{answer, answer_metrics};
pub(crate) use question::{Answers, Census, census, is_watched, serve_peers, told};
pub(crate) use summary::Stream;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::ViewerView,
    wire::tracker::{Distance, Nat},
};

/// Counts by name.
type Counts = BTreeMap<String, u64>;

/// What viewers that have something in common do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Share {
    key: String,
    name: String,
    viewers: u64,
    p2p_kbps: u64,
    cdn_kbps: u64,
}

/// What a viewer receives and sends, over its last report.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    p2p_kbps: u64,
    cdn_kbps: u64,
    up_kbps: u64,
}

impl Rates {
    fn of(viewer: &ViewerView<'_>) -> Self {
        let status = viewer.status();
        let gap_ms = u64::from(viewer.status_gap_ms().max(1));
        let kbps = |bytes: u32| u64::from(bytes) * 8 / gap_ms;
        Self {
            p2p_kbps: kbps(status.bytes_p2p),
            cdn_kbps: kbps(status.bytes_cdn),
            up_kbps: kbps(status.bytes_up),
        }
    }
}

fn country_name(country: [u8; 2]) -> String {
    if country == [0; 2] {
        String::new()
    } else {
        String::from_utf8_lossy(&country).into_owned()
    }
}

const fn distance_name(distance: Distance) -> &'static str {
    match distance {
        Distance::Household => "household",
        Distance::Site => "site",
        Distance::Metro => "metro",
        Distance::Isp => "isp",
        Distance::Country => "country",
        Distance::Far => "far",
    }
}

const fn nat_name(nat: Nat) -> &'static str {
    match nat {
        Nat::Unknown => "unknown",
        Nat::Open => "open",
        Nat::Cone => "cone",
        Nat::Symmetric => "symmetric",
        Nat::Blocked => "blocked",
    }
}

/// The share of bytes that came from peers.
pub(crate) fn offload(p2p: u64, cdn: u64) -> f64 {
    p2p as f64 / (p2p + cdn).max(1) as f64
}
