//! The viewers and links of a stream or a group, and one viewer with those around it.

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::{Seat, ViewerView},
    id::{PeerId, StreamId},
    wire::tracker::ViewerFlags,
};

use super::{
    Rates, country_name, distance_name, nat_name, question::Reply, summary::Stream, survey::Survey,
};
use crate::shard::Sight;

/// Viewers in one answer.
const VIEWERS_MAX: usize = 1_000;
/// Links in one answer: with as many viewers it still fits into one message between nodes.
const LINKS_MAX: usize = 4_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mesh {
    stream: String,
    totals: Stream,
    viewers: Vec<Viewer>,
    links_up: Vec<Link>,
    /// Whether there are more viewers than are listed.
    truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    nat: String,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    a: String,
    b: String,
    distance: String,
    rtt_ms: u16,
    long: bool,
}

/// A viewer, and those that it is introduced to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Neighbourhood {
    viewer: Viewer,
    neighbours: Vec<Neighbour>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Neighbour {
    viewer: Viewer,
    /// Whether the link is up; else it is being set up.
    up: bool,
    distance: String,
    rtt_ms: u16,
    long: bool,
}

/// A mesh that is being looked at.
pub(super) struct MeshSurvey {
    stream: StreamId,
    /// Of this group alone, which is small: it is looked at at once.
    group: Option<u32>,
    seat: Option<Seat>,
    mesh: Box<Mesh>,
}

impl MeshSurvey {
    /// The mesh of a stream, or of one of its groups; `None` if it has no viewers.
    pub(super) fn begin(sight: &Sight<'_>, stream: StreamId, group: Option<u32>) -> Option<Self> {
        let view = sight.directory.stream(stream)?;
        let mesh = Mesh {
            stream: stream.to_string(),
            totals: Stream::new(stream, view.viewers, &view.totals),
            viewers: Vec::new(),
            links_up: Vec::new(),
            truncated: false,
        };
        Some(Self {
            stream,
            group,
            seat: None,
            mesh: Box::new(mesh),
        })
    }
}

impl Survey for MeshSurvey {
    fn go_on(&mut self, sight: &Sight<'_>, most: usize) -> bool {
        if let Some(group) = self.group {
            let members = sight.directory.group_viewers(self.stream, group);
            members.for_each(|viewer| self.mesh.add(&viewer, sight));
            return false;
        }
        let before = self.mesh.viewers.len();
        let viewers = sight.directory.viewers_after(self.stream, self.seat, 1);
        for viewer in viewers.take(most) {
            self.mesh.add(&viewer, sight);
            self.seat = Some(viewer.seat());
        }
        let len = self.mesh.viewers.len();
        len == before + most && len <= VIEWERS_MAX
    }

    fn finish(mut self: Box<Self>, _: &Sight<'_>) -> Reply {
        self.mesh.shorten();
        Reply::Mesh(Some(self.mesh))
    }
}

impl Mesh {
    fn add(&mut self, viewer: &ViewerView<'_>, sight: &Sight<'_>) {
        let me = viewer.peer();
        let mine = viewer.pairs().filter(|pair| pair.up && me < pair.peer);
        self.links_up.extend(mine.map(|pair| Link {
            a: me.to_string(),
            b: pair.peer.to_string(),
            distance: distance_name(pair.distance).into(),
            rtt_ms: pair.rtt_ms,
            long: pair.long,
        }));
        self.viewers.push(Viewer::new(viewer, sight));
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.totals.merge(&other.totals);
        self.viewers.extend(other.viewers);
        self.links_up.extend(other.links_up);
        self.truncated |= other.truncated;
        self.shorten();
    }

    /// Keeps to the limits.
    fn shorten(&mut self) {
        self.truncated |= self.viewers.len() > VIEWERS_MAX || self.links_up.len() > LINKS_MAX;
        self.links_up.truncate(LINKS_MAX);
        self.viewers.truncate(VIEWERS_MAX);
    }
}

impl Neighbourhood {
    pub(super) fn read(sight: &Sight<'_>, peer: PeerId) -> Option<Self> {
        let viewer = sight.directory.viewer(peer)?;
        let neighbours = viewer.pairs().filter_map(|pair| {
            let other = sight.directory.viewer(pair.peer)?;
            Some(Neighbour {
                viewer: Viewer::new(&other, sight),
                up: pair.up,
                distance: distance_name(pair.distance).into(),
                rtt_ms: pair.rtt_ms,
                long: pair.long,
            })
        });
        Some(Self {
            neighbours: neighbours.collect(),
            viewer: Viewer::new(&viewer, sight),
        })
    }
}

impl Viewer {
    fn new(viewer: &ViewerView<'_>, sight: &Sight<'_>) -> Self {
        let (network, status, totals) = (viewer.network(), viewer.status(), viewer.totals());
        let rates = Rates::of(viewer);
        Self {
            id: viewer.peer().to_string(),
            track: viewer.track().to_string(),
            asn: network.asn,
            isp: sight.isps.get(&network.asn).cloned().unwrap_or_default(),
            site: sight.site_of(network),
            country: country_name(network.country),
            latitude: network.location.map(|l| f64::from(l.lat_centideg) / 100.0),
            longitude: network.location.map(|l| f64::from(l.lon_centideg) / 100.0),
            native: viewer.flags().has(ViewerFlags::NATIVE),
            leech: viewer.flags().has(ViewerFlags::LEECH),
            synthetic: viewer.flags().has(ViewerFlags::SYNTHETIC),
            connected: viewer.connected(),
            nat: nat_name(viewer.nat()).into(),
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
            p2p_kbps: rates.p2p_kbps,
            cdn_kbps: rates.cdn_kbps,
            up_kbps: rates.up_kbps,
        }
    }
}
