//! What `/api` answers: streams, and the mesh of one.

use std::collections::BTreeMap;

use serde::Serialize;
use swarm_core::{
    directory::{Directory, Totals, ViewerView},
    id::StreamId,
    wire::tracker::{Distance, Nat, ViewerFlags},
};

#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
}

/// A stream and sums over its viewers, those that have left included.
#[derive(Debug, Serialize)]
struct Stream {
    stream: String,
    viewers: usize,
    bytes_p2p: u64,
    bytes_cdn: u64,
    bytes_up: u64,
    /// The share of bytes that came from peers.
    offload: f64,
    stalls: u64,
    stalled_ms: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Mesh {
    stream: String,
    totals: Stream,
    viewers: Vec<Viewer>,
    links_up: Vec<Link>,
}

#[derive(Debug, Serialize)]
struct Viewer {
    id: String,
    track: String,
    asn: u32,
    isp: String,
    site: String,
    country: String,
    latitude: Option<f64>,
    longitude: Option<f64>,
    native: bool,
    leech: bool,
    synthetic: bool,
    connected: bool,
    nat: &'static str,
    group: Option<u32>,
    age_ms: u64,
    buffer_ms: u32,
    lag_ms: u32,
    upload_kbps: u32,
    links: u8,
    bytes_p2p: u64,
    bytes_cdn: u64,
    bytes_up: u64,
    stalls: u64,
    stalled_ms: u64,
    /// Over the last report.
    p2p_kbps: u64,
    cdn_kbps: u64,
    up_kbps: u64,
}

/// A link that is up; each pair once.
#[derive(Debug, Serialize)]
struct Link {
    a: String,
    b: String,
    distance: &'static str,
    rtt_ms: u16,
    long: bool,
}

pub(crate) fn streams(directory: &Directory) -> Streams {
    let streams = directory.streams();
    Streams {
        streams: streams
            .map(|s| Stream::new(s.stream, s.viewers, &s.totals))
            .collect(),
    }
}

/// The mesh of a stream; `None` if it has no viewers. `isps` names autonomous systems,
/// `sites` the operator's.
pub(crate) fn mesh(
    directory: &Directory,
    stream: StreamId,
    isps: &BTreeMap<u32, String>,
    sites: &BTreeMap<u32, String>,
) -> Option<Mesh> {
    let view = directory.stream(stream)?;
    let mut links_up = Vec::new();
    let mut viewers = Vec::with_capacity(view.viewers);
    for viewer in directory.viewers(stream) {
        let me = viewer.peer();
        let mut shown = Viewer::new(&viewer, isps);
        let site = viewer.network().site.and_then(|site| sites.get(&site));
        shown.site = site.cloned().unwrap_or_default();
        viewers.push(shown);
        let mine = viewer.pairs().filter(|pair| pair.up && me < pair.peer);
        links_up.extend(mine.map(|pair| Link {
            a: me.to_string(),
            b: pair.peer.to_string(),
            distance: distance_name(pair.distance),
            rtt_ms: pair.rtt_ms,
            long: pair.long,
        }));
    }
    Some(Mesh {
        stream: stream.to_string(),
        totals: Stream::new(stream, view.viewers, &view.totals),
        viewers,
        links_up,
    })
}

impl Stream {
    fn new(stream: StreamId, viewers: usize, totals: &Totals) -> Self {
        let all = totals.bytes_p2p + totals.bytes_cdn;
        Self {
            stream: stream.to_string(),
            viewers,
            bytes_p2p: totals.bytes_p2p,
            bytes_cdn: totals.bytes_cdn,
            bytes_up: totals.bytes_up,
            offload: totals.bytes_p2p as f64 / all.max(1) as f64,
            stalls: totals.stalls,
            stalled_ms: totals.stalled_ms,
        }
    }
}

impl Viewer {
    fn new(viewer: &ViewerView<'_>, isps: &BTreeMap<u32, String>) -> Self {
        let (network, status, totals) = (viewer.network(), viewer.status(), viewer.totals());
        let gap_ms = u64::from(viewer.status_gap_ms().max(1));
        let kbps = |bytes: u32| u64::from(bytes) * 8 / gap_ms;
        let known = network.country != [0; 2];
        Self {
            id: viewer.peer().to_string(),
            track: viewer.track().to_string(),
            asn: network.asn,
            isp: isps.get(&network.asn).cloned().unwrap_or_default(),
            site: String::new(),
            country: if known {
                String::from_utf8_lossy(&network.country).into_owned()
            } else {
                String::new()
            },
            latitude: network.location.map(|l| f64::from(l.lat_centideg) / 100.0),
            longitude: network.location.map(|l| f64::from(l.lon_centideg) / 100.0),
            native: viewer.flags().has(ViewerFlags::NATIVE),
            leech: viewer.flags().has(ViewerFlags::LEECH),
            synthetic: viewer.flags().has(ViewerFlags::SYNTHETIC),
            connected: viewer.connected(),
            nat: nat_name(viewer.nat()),
            group: viewer.group(),
            age_ms: viewer.age_ms(),
            buffer_ms: status.buffer_ms,
            lag_ms: status.lag_ms,
            upload_kbps: status.upload_kbps,
            links: status.links,
            bytes_p2p: totals.bytes_p2p,
            bytes_cdn: totals.bytes_cdn,
            bytes_up: totals.bytes_up,
            stalls: totals.stalls,
            stalled_ms: totals.stalled_ms,
            p2p_kbps: kbps(status.bytes_p2p),
            cdn_kbps: kbps(status.bytes_cdn),
            up_kbps: kbps(status.bytes_up),
        }
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
