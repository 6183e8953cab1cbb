//! Swarms in a cluster: each is run by one node, as a stream is. What a viewer says of a swarm of
//! another node goes there as it came; what that node says to the viewer comes back.
//!
//! The node that a viewer is connected to admits it, and bounds what it says. It remembers which
//! swarms of others its viewers are in, to enter them at the next owner when nodes come and go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
};

use swarm_core::{directory::Network, rng};

use super::{
    Facade, SHARDS,
    link::{Abroad, Link},
    messages::{self, Id20, InfoHash, Message, Spelt},
    swarms::{Guest, Membership},
};
use crate::{
    cluster::{GuestWords, Guests, NodeId},
    metrics::Counters,
    outgoing::Outgoing,
};

/// Connections of other nodes' viewers have names from here on; those of this process never.
const ABROAD_FROM: u64 = 1 << 63;

/// Viewers of this node in swarms of others.
#[derive(Debug, Default)]
pub(super) struct Away {
    links: HashMap<u64, Arc<Outgoing>>,
    members: BTreeMap<(u64, InfoHash, Id20), Member>,
}

#[derive(Debug)]
struct Member {
    owner: NodeId,
    network: Network,
    complete: bool,
}

impl Facade {
    /// Swarms are shared with other nodes from now on.
    pub(crate) fn join_cluster(&self, guests: Arc<Guests>) {
        // Set once, at the start.
        let _ = self.guests.set(guests);
    }

    /// Whether there are no other nodes.
    pub(super) fn is_alone(&self) -> bool {
        self.guests.get().is_none()
    }

    /// The node that runs a swarm, if it is not this one.
    pub(super) fn owner_of(&self, hash: InfoHash) -> Option<NodeId> {
        self.guests.get()?.owner_of(hash.0)
    }

    /// Passes an announcement of a viewer of this node on to the owner of its swarm.
    pub(super) fn announce_abroad(
        &self,
        owner: NodeId,
        guest: &Guest<Link>,
        member: Membership,
        complete: bool,
        text: &str,
    ) {
        let mut away = self.away();
        let known = away.members.entry(key(guest.conn, member));
        let known = known.or_insert_with(|| Member {
            owner,
            network: guest.network,
            complete,
        });
        known.complete |= complete;
        let before = std::mem::replace(&mut known.owner, owner);
        drop(away);
        if before != owner {
            self.say(before, guest.conn, &GuestWords::Left(parts(member)));
        }
        self.say_abroad(owner, guest, text);
    }

    /// Passes a message of a viewer of this node on to another one.
    pub(super) fn say_abroad(&self, owner: NodeId, guest: &Guest<Link>, text: &str) {
        if let Some(outgoing) = guest.link.here() {
            let mut away = self.away();
            let link = away.links.entry(guest.conn);
            link.or_insert_with(|| Arc::clone(outgoing));
        }
        let network = guest.network;
        self.say(owner, guest.conn, &GuestWords::Say { network, text });
    }

    /// Asks the owner of a swarm for its counts.
    pub(super) fn scrape_abroad(&self, owner: NodeId, guest: &Guest<Link>, hash: Spelt<'_>) {
        let text = format!(r#"{{"action":"scrape","info_hash":{}}}"#, hash.json);
        self.say_abroad(owner, guest, &text);
    }

    /// Removes a viewer of this node from a swarm, wherever that is run.
    pub(super) fn leave(&self, conn: u64, member: Membership) {
        if self.is_alone() {
            return self.swarms(member.info_hash).leave(conn, member);
        }
        // Held all the while, so that nobody moves the viewer in between.
        let mut away = self.away();
        self.swarms(member.info_hash).leave(conn, member);
        let gone = away.members.remove(&key(conn, member));
        drop(away);
        if let Some(gone) = gone {
            self.say(gone.owner, conn, &GuestWords::Left(parts(member)));
        }
    }

    /// A connection of this node has ended.
    pub(super) fn on_ended(&self, conn: u64, memberships: impl Iterator<Item = Membership>) {
        memberships.for_each(|member| self.leave(conn, member));
        if !self.is_alone() {
            self.away().links.remove(&conn);
        }
    }

    /// Connections of viewers that are in swarms of other nodes, or have asked for one.
    pub(super) fn links_away(&self) -> Vec<Arc<Outgoing>> {
        self.away().links.values().cloned().collect()
    }

    /// Takes viewers of this node to the present owners of their swarms. What is to be said to
    /// other nodes goes to `say`.
    pub(crate) fn settle(&self, mut say: impl FnMut(NodeId, u64, &GuestWords<'_>)) {
        let Some(guests) = self.guests.get() else {
            return;
        };
        let mut away = self.away();
        self.settle_own(guests, &mut away, &mut say);
        let moved = away.members.iter().filter_map(|(key, member)| {
            let owner = guests.owner_of(key.1.0);
            (owner != Some(member.owner)).then_some((*key, owner))
        });
        for (key, owner) in moved.collect::<Vec<_>>() {
            let (conn, info_hash, peer_id) = key;
            let Some(member) = away.members.get_mut(&key) else {
                continue;
            };
            say(
                member.owner,
                conn,
                &GuestWords::Left((info_hash.0, peer_id.0)),
            );
            if let Some(owner) = owner {
                member.owner = owner;
                enter(key, member, &mut say);
                continue;
            }
            let (network, complete) = (member.network, member.complete);
            away.members.remove(&key);
            if let Some(outgoing) = away.links.get(&conn) {
                let link = Link::Here(Arc::clone(outgoing));
                let guest = Guest {
                    conn,
                    link,
                    network,
                };
                self.enter(&guest, Membership { info_hash, peer_id }, complete);
            }
        }
    }

    /// Gives away what this node ran and does not run any more. Viewers of other nodes are taken on
    /// by those.
    fn settle_own(
        &self,
        guests: &Guests,
        away: &mut Away,
        say: &mut impl FnMut(NodeId, u64, &GuestWords<'_>),
    ) {
        for shard in 0..SHARDS {
            let given = self.lock(shard).give(|hash| guests.owner_of(hash.0));
            for (info_hash, owner, viewer) in given {
                let guest = viewer.guest;
                let Link::Here(outgoing) = guest.link else {
                    continue;
                };
                let member = Member {
                    owner,
                    network: guest.network,
                    complete: viewer.complete,
                };
                let key = (guest.conn, info_hash, viewer.id);
                enter(key, &member, say);
                away.members.insert(key, member);
                away.links.insert(guest.conn, outgoing);
            }
        }
    }

    /// A node is gone, and with it the viewers that are connected to it.
    pub(crate) fn on_node_lost(&self, node: NodeId) {
        for shard in 0..SHARDS {
            let mut swarms = self.lock(shard);
            swarms.remove_where(|link| link.node() == Some(node));
        }
    }

    /// What another node says: of its viewers in swarms of this node, or to viewers of this node.
    pub(crate) fn on_words(&self, from: NodeId, conn: u64, words: GuestWords<'_>) {
        match words {
            GuestWords::Say { network, text } => {
                if let Some(guest) = self.guest_of(from, conn, network) {
                    self.on_said(&guest, text);
                }
            }
            GuestWords::Enter {
                network,
                member,
                complete,
            } => {
                if let Some(guest) = self.guest_of(from, conn, network) {
                    self.enter(&guest, membership(member), complete);
                }
            }
            GuestWords::Left(member) => {
                let member = membership(member);
                let mut swarms = self.swarms(member.info_hash);
                swarms.leave(name_abroad(from, conn), member);
            }
            GuestWords::Tell { droppable, text } => self.with_link(conn, |link| {
                if !droppable {
                    link.push_text(&[text]);
                } else if !link.push_text_droppable(&[text]) {
                    Counters::add(&self.counters.offers_dropped);
                }
            }),
            GuestWords::Close { code } => self.with_link(conn, |link| link.close_with(code)),
            GuestWords::Probe => self.with_link(conn, Outgoing::probe),
        }
    }

    fn on_said(&self, guest: &Guest<Link>, text: &str) {
        match messages::parse(text) {
            Ok(Message::Announce(announce)) => {
                if let Err(why) = self.announce(guest, &announce) {
                    self.refuse(&guest.link, announce.info_hash, why);
                }
            }
            Ok(Message::Answer(answer)) => self.answer(guest.conn, &answer),
            Ok(Message::Scrape(hashes)) => self.scrape(&guest.link, &hashes),
            Err(_) => Counters::add(&self.counters.malformed),
        }
    }

    fn enter(&self, guest: &Guest<Link>, member: Membership, complete: bool) {
        let now_s = self.now_s();
        let mut swarms = self.swarms(member.info_hash);
        // One that cannot enter hears why when it announces itself.
        let _ = swarms.enter(now_s, guest, member, complete);
    }

    fn guest_of(&self, node: NodeId, conn: u64, network: Network) -> Option<Guest<Link>> {
        let guests = Arc::clone(self.guests.get()?);
        Some(Guest {
            conn: name_abroad(node, conn),
            link: Link::There(Arc::new(Abroad { node, conn, guests })),
            network,
        })
    }

    fn with_link(&self, conn: u64, act: impl FnOnce(&Arc<Outgoing>)) {
        let link = self.away().links.get(&conn).cloned();
        if let Some(link) = link {
            act(&link);
        }
    }

    pub(super) fn say(&self, to: NodeId, conn: u64, words: &GuestWords<'_>) {
        if let Some(guests) = self.guests.get() {
            guests.say(to, conn, words);
        }
    }

    /// Taken before the lock of a shard, never after it.
    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enter(
    (conn, info_hash, peer_id): (u64, InfoHash, Id20),
    member: &Member,
    say: &mut impl FnMut(NodeId, u64, &GuestWords<'_>),
) {
    let words = GuestWords::Enter {
        network: member.network,
        member: (info_hash.0, peer_id.0),
        complete: member.complete,
    };
    say(member.owner, conn, &words);
}

/// What the connection of another node's viewer is called here.
const fn name_abroad(node: NodeId, conn: u64) -> u64 {
    rng::mix(node.0 ^ rng::mix(conn)) | ABROAD_FROM
}

const fn key(conn: u64, member: Membership) -> (u64, InfoHash, Id20) {
    (conn, member.info_hash, member.peer_id)
}

const fn parts(member: Membership) -> ([u8; 20], [u8; 20]) {
    (member.info_hash.0, member.peer_id.0)
}

const fn membership((info_hash, peer_id): ([u8; 20], [u8; 20])) -> Membership {
    Membership {
        info_hash: Id20(info_hash),
        peer_id: Id20(peer_id),
    }
}
