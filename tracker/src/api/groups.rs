//! The groups of a stream, and how they are linked.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::{Seat, ViewerView},
    id::StreamId,
};

use super::{Rates, country_name, offload, question::Reply, survey::Survey};
use crate::shard::Sight;

/// Groups in one answer.
const GROUPS_MAX: usize = 1_000;
/// Links between groups in one answer.
const BRIDGES_MAX: usize = 4_000;
/// Viewers that are looked at.
const VIEWERS_MAX: usize = 100_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Groups {
    stream: String,
    groups: Vec<Group>,
    bridges: Vec<Bridge>,
    /// Whether there are more than are listed.
    truncated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Group {
    /// The node that runs it; groups' numbers are the node's.
    node: String,
    group: u32,
    track: String,
    viewers: u64,
    /// Where most of its viewers are.
    country: String,
    asn: u32,
    isp: String,
    links_up: u64,
    p2p_kbps: u64,
    cdn_kbps: u64,
    offload: f64,
    buffer_ms_min: u32,
    stalling: u64,
}

/// Links that are up between two groups of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bridge {
    node: String,
    a: u32,
    b: u32,
    links: u32,
}

/// What is gathered of a group.
#[derive(Default)]
struct Gathered {
    group: Group,
    places: BTreeMap<([u8; 2], u32), u32>,
}

/// A stream whose groups are being gathered.
pub(super) struct GroupsSurvey {
    stream: StreamId,
    node: String,
    seat: Option<Seat>,
    /// Viewers that were looked at.
    viewers: usize,
    groups: BTreeMap<u32, Gathered>,
    /// Links that are up between two groups, the lower number first.
    bridges: BTreeMap<(u32, u32), u32>,
    truncated: bool,
}

impl GroupsSurvey {
    /// `None` if the stream has no viewers.
    pub(super) fn begin(sight: &Sight<'_>, stream: StreamId, node: &str) -> Option<Self> {
        sight.directory.stream(stream)?;
        Some(Self {
            stream,
            node: node.to_owned(),
            seat: None,
            viewers: 0,
            groups: BTreeMap::new(),
            bridges: BTreeMap::new(),
            truncated: false,
        })
    }

    fn add(&mut self, viewer: &ViewerView<'_>) {
        let Some(mine) = viewer.group() else {
            return;
        };
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&mine) {
            self.truncated = true;
            return;
        }
        let gathered = self.groups.entry(mine).or_default();
        gathered.add(viewer);
        for theirs in viewer.linked_groups() {
            if theirs == mine {
                gathered.group.links_up += 1;
            } else if mine < theirs {
                *self.bridges.entry((mine, theirs)).or_default() += 1;
            }
        }
    }
}

impl Survey for GroupsSurvey {
    fn go_on(&mut self, sight: &Sight<'_>, most: usize) -> bool {
        if self.viewers >= VIEWERS_MAX {
            self.truncated = true;
            return false;
        }
        let before = self.viewers;
        let viewers = sight.directory.viewers_after(self.stream, self.seat, 1);
        for viewer in viewers.take(most) {
            self.add(&viewer);
            self.seat = Some(viewer.seat());
            self.viewers += 1;
        }
        self.viewers == before + most
    }

    fn finish(self: Box<Self>, sight: &Sight<'_>) -> Reply {
        let Self {
            groups,
            bridges,
            mut truncated,
            ..
        } = *self;
        // Those of groups that are not listed lead nowhere.
        let listed = |(a, b): &(u32, u32)| groups.contains_key(a) && groups.contains_key(b);
        let mut bridges: Vec<_> = bridges.into_iter().filter(|(of, _)| listed(of)).collect();
        // The heaviest stay, before they get names.
        if bridges.len() > BRIDGES_MAX {
            truncated = true;
            bridges.sort_by_key(|(_, links)| Reverse(*links));
            bridges.truncate(BRIDGES_MAX);
        }
        let bridge = |((a, b), links)| Bridge {
            node: self.node.clone(),
            a,
            b,
            links,
        };
        let finish =
            |(number, gathered): (u32, Gathered)| gathered.finish(&self.node, number, sight);
        Reply::Groups(Some(Groups {
            stream: self.stream.to_string(),
            groups: groups.into_iter().map(finish).collect(),
            bridges: bridges.into_iter().map(bridge).collect(),
            truncated,
        }))
    }
}

impl Groups {
    pub(super) fn merge(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.bridges.extend(other.bridges);
        self.truncated |= other.truncated;
        self.shorten();
    }

    /// Keeps to the limits: of links between groups, the heaviest stay.
    fn shorten(&mut self) {
        self.truncated |= self.groups.len() > GROUPS_MAX || self.bridges.len() > BRIDGES_MAX;
        self.groups.truncate(GROUPS_MAX);
        if self.bridges.len() > BRIDGES_MAX {
            self.bridges.sort_by_key(|bridge| Reverse(bridge.links));
            self.bridges.truncate(BRIDGES_MAX);
        }
    }
}

impl Gathered {
    fn add(&mut self, viewer: &ViewerView<'_>) {
        let (status, network, rates) = (viewer.status(), viewer.network(), Rates::of(viewer));
        let group = &mut self.group;
        group.track = viewer.track().to_string();
        group.buffer_ms_min = if group.viewers == 0 {
            status.buffer_ms
        } else {
            group.buffer_ms_min.min(status.buffer_ms)
        };
        group.viewers += 1;
        group.p2p_kbps += rates.p2p_kbps;
        group.cdn_kbps += rates.cdn_kbps;
        group.stalling += u64::from(status.stalls > 0);
        let place = (network.country, network.asn);
        *self.places.entry(place).or_default() += 1;
    }

    fn finish(self, node: &str, number: u32, sight: &Sight<'_>) -> Group {
        let mut group = self.group;
        let most = self.places.into_iter().max_by_key(|(_, count)| *count);
        let (country, asn) = most.map_or(([0; 2], 0), |(place, _)| place);
        group.node = node.to_owned();
        group.group = number;
        group.country = country_name(country);
        group.asn = asn;
        group.isp = sight.isps.get(&asn).cloned().unwrap_or_default();
        group.offload = offload(group.p2p_kbps, group.cdn_kbps);
        // Both ends of a link were counted.
        group.links_up /= 2;
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_links_the_heaviest_are_told() {
        let bridge = |links| Bridge {
            node: "here".to_owned(),
            a: 1,
            b: 2,
            links,
        };
        let all = BRIDGES_MAX as u32 + 10;
        let mut groups = Groups {
            bridges: (0..all / 2).map(bridge).collect(),
            ..Groups::default()
        };
        groups.merge(Groups {
            bridges: (all / 2..all).map(bridge).collect(),
            ..Groups::default()
        });
        assert!(groups.truncated);
        assert_eq!(groups.bridges.len(), BRIDGES_MAX);
        assert!(groups.bridges.iter().all(|bridge| bridge.links >= 10));
    }
}
