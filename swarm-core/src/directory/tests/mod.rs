//! Scenarios in virtual time.

mod churn;
mod groups;
mod links;
mod rules;
mod trust;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};

use super::{grouping::displaced_places, *};
use crate::{
    id::TrackId,
    wire::tracker::{Distance, LinkOutcome, ViewerFlags},
};

pub(super) const STREAM: StreamId = StreamId([1; 16]);
pub(super) const TRACK: TrackId = TrackId(7);

/// A directory, its clock, and what it told the viewers.
pub(super) struct World {
    pub(super) directory: Directory,
    pub(super) now: Instant,
    /// All actions, in order.
    pub(super) told: Vec<Action>,
    conns: BTreeMap<PeerId, ConnId>,
    /// Where everybody was who ever joined, and the connections from there.
    pub(super) addresses: BTreeMap<PeerId, u128>,
    pub(super) of_address: BTreeMap<u128, BTreeSet<ConnId>>,
    next: u64,
}

impl World {
    pub(super) fn new(policy: Policy) -> Self {
        let now = Instant::from_millis(1_000);
        Self {
            directory: Directory::new(Arc::new(policy), 42, now),
            now,
            told: Vec::new(),
            conns: BTreeMap::new(),
            addresses: BTreeMap::new(),
            of_address: BTreeMap::new(),
            next: 1,
        }
    }

    pub(super) fn handle(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut out = Outbox::new();
        self.directory.handle(self.now, input, &mut out);
        let wakeup = self.directory.next_wakeup();
        assert!(wakeup.is_none_or(|w| w.at > self.now), "progress");
        self.told.extend_from_slice(out.actions());
        out.actions().to_vec()
    }

    pub(super) fn joined(&mut self, network: Network) -> Joined {
        self.next += 1;
        Joined {
            conn: ConnId(self.next),
            peer: PeerId(self.next * 1000),
            resumed: false,
            stream: STREAM,
            track: TRACK,
            flags: ViewerFlags::default(),
            nat: Nat::Cone,
            upload_kbps: 5_000,
            network,
        }
    }

    pub(super) fn admit(&mut self, joined: &Joined) -> PeerId {
        self.conns.insert(joined.peer, joined.conn);
        let address = joined.network.address;
        self.addresses.insert(joined.peer, address);
        let conns = self.of_address.entry(address).or_default();
        conns.insert(joined.conn);
        self.handle(Input::Joined(joined));
        joined.peer
    }

    pub(super) fn join(&mut self, network: Network) -> PeerId {
        let joined = self.joined(network);
        self.admit(&joined)
    }

    pub(super) fn join_many(&mut self, count: usize, network: Network) -> Vec<PeerId> {
        (0..count).map(|_| self.join(network)).collect()
    }

    pub(super) fn conn(&self, peer: PeerId) -> ConnId {
        self.conns[&peer]
    }

    pub(super) fn link(&mut self, me: PeerId, other: PeerId, outcome: LinkOutcome) {
        let (conn, peer, rtt_ms) = (self.conn(me), other, 20);
        self.handle(Input::Link {
            conn,
            peer,
            outcome,
            rtt_ms,
        });
    }

    pub(super) fn status(&mut self, me: PeerId, status: Status) {
        let conn = self.conn(me);
        self.handle(Input::Status {
            conn,
            status: &status,
        });
    }

    /// Brings up every pair that is being set up.
    pub(super) fn link_all(&mut self) {
        let pending: Vec<(PeerId, PeerId)> = self
            .directory
            .viewers(STREAM)
            .flat_map(|v| v.pairs().filter(|p| !p.up).map(move |p| (v.peer(), p.peer)))
            .collect();
        for (me, other) in pending {
            self.link(me, other, LinkOutcome::Up);
        }
    }

    /// Lets time pass; everybody connected reports every five seconds.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        let mut report_at = self.now.plus_ms(5_000);
        loop {
            let tick_at = self.directory.next_wakeup().map_or(end, |w| w.at);
            let at = tick_at.min(report_at).min(end);
            self.now = at;
            self.handle(Input::Tick);
            if at == report_at {
                report_at = self.now.plus_ms(5_000);
                self.report_all();
            }
            if at == end {
                self.directory.check_copies();
                return;
            }
        }
    }

    fn report_all(&mut self) {
        let reports: Vec<(PeerId, Status)> = self
            .directory
            .viewers(STREAM)
            .filter(ViewerView::connected)
            .map(|v| {
                let status = Status {
                    track: v.track(),
                    links: v.pairs().filter(|p| p.up).count() as u8,
                    upload_kbps: 5_000,
                    lag_ms: v.status().lag_ms,
                    ..Status::default()
                };
                (v.peer(), status)
            })
            .collect();
        for (peer, status) in reports {
            self.status(peer, status);
        }
    }

    pub(super) fn pairs(&self, peer: PeerId) -> Vec<PairView> {
        let viewer = self.directory.viewer(peer);
        viewer.map(|v| v.pairs().collect()).unwrap_or_default()
    }

    /// Members by group.
    pub(super) fn groups(&self) -> BTreeMap<u32, Vec<PeerId>> {
        let mut groups: BTreeMap<u32, Vec<PeerId>> = BTreeMap::new();
        for viewer in self.directory.viewers(STREAM) {
            if let Some(group) = viewer.group() {
                groups.entry(group).or_default().push(viewer.peer());
            }
        }
        groups
    }

    /// Whether introductions were told pairwise, with exactly one side offering.
    pub(super) fn check_introductions(&self) {
        let names: BTreeMap<ConnId, PeerId> = self
            .conns
            .iter()
            .map(|(peer, conn)| (*conn, *peer))
            .collect();
        let mut open: BTreeSet<(PeerId, PeerId, bool)> = BTreeSet::new();
        for action in &self.told {
            let Action::Introduce {
                conn,
                introduction: i,
            } = action
            else {
                continue;
            };
            let me = names[conn];
            assert_ne!(me, i.peer, "introduced to itself");
            if !open.remove(&(i.peer, me, !i.offer)) {
                open.insert((me, i.peer, i.offer));
            }
        }
        assert!(open.is_empty(), "told to one side only: {open:?}");
    }
}

/// A viewer's network in one of many German ISPs and towns, each at its own address.
pub(super) fn network(asn: u32, town: i16, address: u128) -> Network {
    Network {
        address,
        asn,
        country: *b"DE",
        location: Some(Location {
            lat_centideg: 4_850 + town * 150,
            lon_centideg: 1_000,
        }),
        ..Network::default()
    }
}

impl Directory {
    /// Whether what is kept twice agrees: what groups know of their members, and the counts of pairs
    /// within groups.
    pub(super) fn check_copies(&self) {
        for (_, key) in self.names.iter() {
            let v = self.viewers.get(*key).unwrap();
            let same_group = |other: Key| self.viewers.get(other).unwrap().group == v.group;
            let local = v.meetings.iter().filter(|m| same_group(m.with)).count();
            let expected = if v.group.is_some() { local } else { 0 };
            assert_eq!(usize::from(v.local), expected);
            let Some(group) = v.group else {
                continue;
            };
            let members = &self.groups.get(group).unwrap().members;
            let own: Vec<_> = members.iter().filter(|member| member.key == *key).collect();
            assert_eq!(own.len(), 1);
            let (kept, now) = (own[0].traits(), v.traits());
            assert_eq!(kept.network, now.network);
            assert_eq!((kept.nat, kept.gives), (now.nat, now.gives));
            assert_eq!(kept.reach, now.reach);
        }
        for (id, swarm) in &self.swarms {
            self.check_swarm(*id, swarm);
        }
        self.check_households();
    }

    /// Whether viewers find the others of their address in groups of their swarm, where not too many are to
    /// be looked at.
    fn check_households(&self) {
        for key in self.names.values() {
            let v = self.viewers.get(*key).unwrap();
            let address = v.network.address;
            let of_address = |other: &&Key| {
                let other = self.viewers.get(**other).unwrap();
                other.network.address == address
            };
            let all = self.names.values().filter(of_address);
            let is_mine = |other: &&Key| {
                let w = self.viewers.get(**other).unwrap();
                *other != key && w.group.is_some() && w.swarm() == v.swarm()
            };
            if address == 0 {
                assert_eq!(self.household(*key, v.swarm()).count(), 0);
            } else if all.clone().count() <= 16 {
                let found: BTreeSet<Key> = self.household(*key, v.swarm()).collect();
                assert_eq!(found, all.filter(is_mine).copied().collect());
            }
        }
    }

    /// Whether a swarm's indexes and sums are what its groups' members make of them.
    fn check_swarm(&self, id: SwarmId, swarm: &Swarm) {
        let mut expected = Swarm::default();
        for (index, key) in swarm.groups.iter().enumerate() {
            let group = self.groups.get(*key).unwrap();
            assert_eq!((group.swarm, group.index as usize), (id, index));
            assert!(!group.members.is_empty());
            expected.groups.push(*key);
            expected.index_group(group.home, group.members.len(), *key);
            let mut upload_kbps = 0;
            let mut counted = Group::new(id, group.home, 0, group.born_at);
            for member in &group.members {
                counted.add_member(*member);
                let v = self.viewers.get(member.key).unwrap();
                assert_eq!(v.group, Some(*key));
                for place in displaced_places(v.network.ladder(), group.home) {
                    expected.add_displaced(place, member.key);
                }
                upload_kbps += u64::from(v.upload_kbps);
            }
            assert_eq!(group.upload_kbps, upload_kbps);
            assert_eq!(group.census, counted.census);
            expected.upload_kbps += upload_kbps;
            expected.viewers += group.members.len() as u32;
        }
        assert_eq!(*swarm, expected);
    }
}
