//! One WebTorrent client's connection.

use std::{
    net::IpAddr,
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use hyper::upgrade::Upgraded;
use swarm_core::{directory::P2pMode, wire::tracker::ViewerFlags};
use tokio::{sync::OwnedSemaphorePermit, time};

use super::{
    Facade,
    link::Link,
    messages::{self, Announce, Answer, InfoHash, Message, Spelt, failure_parts},
    swarm::INTERVALS_MAX,
    swarms::{Guest, Membership},
};
use crate::{
    admission::{self, JoinRequest, StreamName},
    bearers::HeldBearer,
    cluster::GUEST_TEXT_LEN_MAX,
    fake,
    metrics::Counters,
    quota::{Bucket, Held, Traffic},
    server::Context,
    shard::refusal_text,
    socket::{Ended, Incoming, Limits, Socket},
};

/// Malformed messages after which a connection is closed.
const MALFORMED_MAX: u8 = 10;
/// Refusals after which a connection that is in no swarm is closed: its client comes back by itself, after
/// pauses that grow.
const REFUSED_MAX: u8 = 3;
/// Times `limits.join_ms`, for the way into a first swarm: clients make their offers before they announce,
/// and wait for servers of STUN meanwhile.
const JOIN_TIMES: u64 = 3;
/// Close codes (RFC 6455 section 7.4.1).
const CLOSED_NORMALLY: u16 = 1000;
const POLICY_VIOLATION: u16 = 1008;

/// Why nobody is in a swarm that the operator does not list.
const NOT_SERVED: &str = "this swarm is not served here";

/// A client that has connected.
pub(crate) struct Visit {
    pub(crate) context: Arc<Context>,
    pub(crate) conn: u64,
    pub(crate) address: IpAddr,
    /// The origin of its page.
    pub(crate) origin: Option<Box<str>>,
    /// The token in the address that it connected to.
    pub(crate) token: Option<Box<str>>,
    pub(crate) held: Held,
    /// Its share of all connections.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What is known of the connection.
struct Known {
    guest: Guest<Link>,
    stays: Vec<Stay>,
    /// The tokens that it was admitted with. Nearly all have one at most: it is in the address that
    /// they connected to, and counts once however many swarms they visit.
    bearers: Vec<HeldBearer>,
    messages: Bucket,
    traffic: Traffic,
    malformed: u8,
    /// Refusals since it was let into a swarm.
    refused: u8,
}

/// A swarm that the connection is in, under one name.
#[derive(Clone, Copy)]
struct Stay {
    member: Membership,
    /// Without another announcement until then it has left: p2p-media-loader says nothing when it
    /// changes the quality.
    until_s: u32,
}

/// What comes of a message.
enum Taken {
    Done,
    /// It is for a swarm that the viewer has to be admitted to.
    Unadmitted(InfoHash),
    /// The connection is to be closed.
    Over,
}

impl Visit {
    /// Speaks with the client until one of the two ends it, or the tracker stops. Not an `async fn`:
    /// those keep their arguments twice.
    pub(crate) fn serve(self, upgraded: Upgraded) -> impl Future<Output = ()> + Send + 'static {
        let config = &self.context.config;
        let limits = Limits {
            ping_ms: config.webtorrent.ping_ms,
            message_len_max: config.webtorrent.message_bytes_max,
            queue_bytes_max: config.limits.queue_bytes_max,
        };
        let (sockets, backlog) = (&self.context.sockets, self.held.backlog());
        let mut socket = Socket::new(upgraded, limits, sockets, self.conn, backlog);
        let mut known = self.get_to_know(&socket);
        async move { self.stay(&mut socket, &mut known).await }
    }

    async fn stay(&self, socket: &mut Socket, known: &mut Known) {
        self.count(Counters::add);
        let code = match Box::pin(self.settle(socket, known)).await {
            ControlFlow::Continue(()) => self.converse(socket, known, false).await,
            ended @ ControlFlow::Break(_) => ended,
        };
        self.facade()
            .on_ended(self.conn, known.stays.drain(..).map(|stay| stay.member));
        self.count(Counters::sub);
        let code = code.break_value().flatten();
        if let Some(code) = code {
            Box::pin(socket.finish(code)).await;
        }
    }

    fn count(&self, how: fn(&AtomicU64)) {
        how(&self.context.counters.connections);
        how(&self.facade().counters.connections);
    }

    fn facade(&self) -> &Facade {
        &self.context.webtorrent
    }

    fn get_to_know(&self, socket: &Socket) -> Known {
        let mut network = self.context.networks.find(self.address).network;
        if self.facade().fake_networks && network.asn == 0 {
            let mode = network.mode;
            network = fake::network_of(swarm_core::id::PeerId(self.conn)).network;
            network.mode = mode;
        }
        let limits = &self.context.config.limits;
        Known {
            guest: Guest {
                conn: self.conn,
                link: Link::Here(Arc::clone(socket.outgoing())),
                network,
            },
            stays: Vec::new(),
            bearers: Vec::new(),
            messages: Bucket::full(limits.messages_burst, Instant::now()),
            traffic: Traffic::new(limits, Instant::now()),
            malformed: 0,
            refused: 0,
        }
    }

    /// Speaks with the client until it is in a swarm, which is to be soon: strangers' pages would stay
    /// and ask again for ever.
    async fn settle(&self, socket: &mut Socket, known: &mut Known) -> ControlFlow<Option<u16>> {
        let join_ms = u64::from(self.context.config.limits.join_ms);
        let limit = Duration::from_millis(join_ms.saturating_mul(JOIN_TIMES));
        let settled = time::timeout(limit, self.converse(socket, known, true)).await;
        settled.unwrap_or_else(|_| {
            Counters::add(&self.facade().counters.idle);
            ControlFlow::Break(Some(POLICY_VIOLATION))
        })
    }

    /// Speaks with the client; where it `is_new` until it is in a swarm. The code to close with; `None`
    /// if the other side is gone.
    async fn converse(
        &self,
        socket: &mut Socket,
        known: &mut Known,
        is_new: bool,
    ) -> ControlFlow<Option<u16>> {
        while !is_new || known.stays.is_empty() {
            // Messages behind one that has to wait.
            let mut later: Vec<String> = Vec::new();
            let read = socket.read(|incoming| self.on_incoming(incoming, known, &mut later));
            match read.await {
                Ok(()) => {}
                Err(Ended::Gone) => return ControlFlow::Break(None),
                Err(Ended::Slow) => {
                    Counters::add(&self.context.counters.slow_readers);
                    return ControlFlow::Break(None);
                }
                Err(Ended::Broke(violation)) => {
                    Counters::add(&self.context.counters.bad_messages);
                    return ControlFlow::Break(Some(violation.code()));
                }
                Err(Ended::Said) => return ControlFlow::Break(Some(CLOSED_NORMALLY)),
                Err(Ended::Enough) => return ControlFlow::Break(Some(POLICY_VIOLATION)),
            }
            if !later.is_empty() && Box::pin(self.take_all(later, known)).await.is_break() {
                return ControlFlow::Break(Some(POLICY_VIOLATION));
            }
        }
        ControlFlow::Continue(())
    }

    fn on_incoming(
        &self,
        incoming: Incoming<'_>,
        known: &mut Known,
        later: &mut Vec<String>,
    ) -> ControlFlow<()> {
        let limits = &self.context.config.limits;
        let (burst, per_s) = (limits.messages_burst, limits.messages_per_s);
        let now = Instant::now();
        let bearers = || known.bearers.iter().all(|bearer| bearer.take_message(now));
        let traffic = known.traffic.take(incoming.len(), &self.held, now);
        if !(traffic && known.messages.take(burst, per_s, now) && bearers()) {
            Counters::add(&self.context.counters.over_quota);
            return ControlFlow::Break(());
        }
        // Old clients send binary frames. What is not UTF-8 is no JSON either.
        let text = match incoming {
            Incoming::Text(text) => text,
            Incoming::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Incoming::Other(_) => return ControlFlow::Continue(()),
        };
        Counters::add(&self.context.counters.messages_in);
        if !later.is_empty() {
            later.push(text.to_owned());
            return ControlFlow::Continue(());
        }
        match self.take(text, known, None) {
            Taken::Done => ControlFlow::Continue(()),
            Taken::Unadmitted(_) => {
                later.push(text.to_owned());
                ControlFlow::Continue(())
            }
            Taken::Over => ControlFlow::Break(()),
        }
    }

    async fn take_all(&self, messages: Vec<String>, known: &mut Known) -> ControlFlow<()> {
        for text in messages {
            self.take_later(&text, known).await?;
        }
        ControlFlow::Continue(())
    }

    /// Takes a message after the viewer was admitted to its swarm.
    async fn take_later(&self, text: &str, known: &mut Known) -> ControlFlow<()> {
        let hash = match self.take(text, known, None) {
            Taken::Done => return ControlFlow::Continue(()),
            Taken::Over => return ControlFlow::Break(()),
            Taken::Unadmitted(hash) => hash,
        };
        if let Err(why) = self.admit(hash, known).await {
            Counters::add(&self.facade().counters.refused);
            let spelt = match messages::parse(text) {
                Ok(Message::Announce(announce)) => Some(announce.info_hash),
                _ => None,
            };
            known.guest.link.push_text(&failure_parts(spelt, why));
            return self.on_refused(known);
        }
        known.refused = 0;
        match self.take(text, known, Some(hash)) {
            Taken::Over => ControlFlow::Break(()),
            Taken::Done | Taken::Unadmitted(_) => ControlFlow::Continue(()),
        }
    }

    /// One refusal more. Whether the connection may stay: not where it is in no swarm and is told so again
    /// and again.
    fn on_refused(&self, known: &mut Known) -> ControlFlow<()> {
        known.refused = known.refused.saturating_add(1);
        if known.refused < REFUSED_MAX || !known.stays.is_empty() {
            return ControlFlow::Continue(());
        }
        Counters::add(&self.facade().counters.idle);
        ControlFlow::Break(())
    }

    async fn admit(&self, hash: InfoHash, known: &mut Known) -> Result<(), &'static str> {
        let refusals = &self.context.counters.refusals;
        let no = |reason, why| {
            Counters::add(reason);
            Err(why)
        };
        if self.context.is_draining() {
            return no(&refusals.draining, "the tracker is about to stop");
        }
        if !self.facade().allowed.contains(&hash) {
            return no(&refusals.not_served, NOT_SERVED);
        }
        if !self.may_meet(known) {
            let why = "peers are switched off for this network";
            return no(&refusals.not_served, why);
        }
        if !self.has_room(known) {
            return no(&refusals.quota, "this connection is in too many swarms");
        }
        if !self.held.may_join() {
            return no(&refusals.quota, "too many joins of this address");
        }
        let request = JoinRequest {
            stream: StreamName::InfoHash(hash.0),
            token: self.token.as_deref().unwrap_or_default().as_bytes(),
            address: self.address,
            origin: self.origin.as_deref(),
        };
        let admission = &*self.context.admission;
        let told = |code| {
            Counters::add(refusals.of(code));
            refusal_text(code)
        };
        let grant = admission.admit(request).await.map_err(told)?;
        // A drain that began meanwhile has not seen this viewer.
        if self.context.is_draining() {
            return no(&refusals.draining, "the tracker is about to stop");
        }
        if grant.leech {
            let why = "this token is for viewers that only receive";
            return no(&refusals.not_served, why);
        }
        let new = grant
            .bearer
            .filter(|bearer| !known.bearers.iter().any(|held| held.is_of(bearer)));
        if let Some(bearer) = new {
            let held = admission::hold(&self.context.bearers, bearer).map_err(told)?;
            if known.bearers.len() >= self.swarms_max() {
                known.bearers.remove(0);
            }
            known.bearers.reserve_exact(1);
            known.bearers.push(held);
        }
        Ok(())
    }

    fn swarms_max(&self) -> usize {
        usize::from(self.facade().config.swarms_per_connection_max)
    }

    /// Whether the connection may be in one swarm more. Where it is in too many, those that it has
    /// left without a word are forgotten.
    fn has_room(&self, known: &mut Known) -> bool {
        if known.stays.len() >= self.swarms_max() {
            let now_s = self.facade().now_s();
            for gone in known.stays.extract_if(.., |stay| stay.until_s < now_s) {
                self.facade().leave(self.conn, gone.member);
            }
        }
        known.stays.len() < self.swarms_max()
    }

    /// Whether the viewer may use peers both ways, and see their addresses: what it may not, these
    /// clients cannot be asked to leave.
    fn may_meet(&self, known: &Known) -> bool {
        let privacy = &self.context.config.privacy;
        let mode = privacy.mode(&known.guest.network, ViewerFlags(0));
        mode == P2pMode::On && !privacy.relay_only
    }

    /// Handles a message. `admitted` is the swarm that the viewer has just been admitted to.
    fn take(&self, text: &str, known: &mut Known, admitted: Option<InfoHash>) -> Taken {
        let counters = &self.facade().counters;
        match messages::parse(text) {
            Ok(Message::Announce(announce)) => {
                let hash = announce.info_hash.id;
                let is_member = known.stays.iter().any(|s| s.member.info_hash == hash);
                if !is_member && !announce.stopped && admitted != Some(hash) {
                    return Taken::Unadmitted(hash);
                }
                if is_member && !self.facade().allowed.contains(&hash) {
                    self.put_out(announce.info_hash, known);
                    return match self.on_refused(known) {
                        ControlFlow::Continue(()) => Taken::Done,
                        ControlFlow::Break(()) => Taken::Over,
                    };
                }
                Counters::add(&counters.announces);
                self.on_announce(&announce, text, known);
            }
            Ok(Message::Answer(answer)) => self.on_answer(&answer, text, known),
            Ok(Message::Scrape(hashes)) => {
                Counters::add(&counters.scrapes);
                self.on_scrape(&hashes, known);
            }
            Err(malformed) => {
                Counters::add(&counters.malformed);
                known.malformed += 1;
                if known.malformed >= MALFORMED_MAX {
                    return Taken::Over;
                }
                let why = malformed.to_string();
                known.guest.link.push_text(&failure_parts(None, &why));
            }
        }
        Taken::Done
    }

    /// Takes a viewer out of a swarm that the operator serves no more.
    fn put_out(&self, info_hash: Spelt<'_>, known: &mut Known) {
        let facade = self.facade();
        let is_there = |stay: &mut Stay| stay.member.info_hash == info_hash.id;
        for gone in known.stays.extract_if(.., is_there) {
            facade.leave(self.conn, gone.member);
        }
        Counters::add(&self.context.counters.refusals.not_served);
        facade.refuse(&known.guest.link, info_hash, NOT_SERVED);
    }

    fn on_announce(&self, announce: &Announce<'_>, text: &str, known: &mut Known) {
        let facade = self.facade();
        let member = Membership {
            info_hash: announce.info_hash.id,
            peer_id: announce.peer_id.id,
        };
        if announce.stopped {
            facade.leave(self.conn, member);
            known.stays.retain(|stay| stay.member != member);
            return;
        }
        let stay = known.stays.iter().position(|stay| stay.member == member);
        let said = if stay.is_none() && !self.has_room(known) {
            Err("this connection is in too many swarms")
        } else {
            self.pass_on(announce, member, text, &known.guest)
        };
        let until_s = match said {
            Ok(interval_s) => facade
                .now_s()
                .saturating_add(interval_s.saturating_mul(INTERVALS_MAX)),
            Err(why) => return facade.refuse(&known.guest.link, announce.info_hash, why),
        };
        if let Some(stay) = stay {
            known.stays[stay].until_s = until_s;
        } else {
            // Nearly all are in one swarm.
            known.stays.reserve_exact(1);
            known.stays.push(Stay { member, until_s });
        }
    }

    /// Brings an announcement to whoever runs its swarm. In how many seconds the next one is due, at
    /// most.
    fn pass_on(
        &self,
        announce: &Announce<'_>,
        member: Membership,
        text: &str,
        guest: &Guest<Link>,
    ) -> Result<u32, &'static str> {
        let facade = self.facade();
        match facade.owner_of(member.info_hash) {
            None => facade.announce(guest, announce),
            Some(_) if text.len() > GUEST_TEXT_LEN_MAX => Err("this message is too long"),
            Some(owner) => {
                facade.announce_abroad(owner, guest, member, announce.complete, text);
                // What the owner answers passes by here unread: the longest that it may say.
                Ok(facade.interval_s_longest())
            }
        }
    }

    /// Passes an answer on.
    fn on_answer(&self, answer: &Answer<'_>, text: &str, known: &Known) {
        let facade = self.facade();
        let Some(owner) = facade.owner_of(answer.info_hash.id) else {
            return facade.answer(self.conn, answer);
        };
        let member = Membership {
            info_hash: answer.info_hash.id,
            peer_id: answer.peer_id.id,
        };
        if known.stays.iter().any(|stay| stay.member == member) && text.len() <= GUEST_TEXT_LEN_MAX
        {
            facade.say_abroad(owner, &known.guest, text);
        } else {
            Counters::add(&facade.counters.answers_refused);
        }
    }

    /// Counts swarms: where not everybody may join, those alone that the viewer is in.
    fn on_scrape(&self, hashes: &[Spelt<'_>], known: &Known) {
        let facade = self.facade();
        let is_in = |hash| known.stays.iter().any(|stay| stay.member.info_hash == hash);
        let may_know = |hash| facade.allowed.contains(&hash) && (self.context.open || is_in(hash));
        let (mut here, mut passed_on) = (Vec::new(), false);
        for hash in hashes.iter().filter(|hash| may_know(hash.id)) {
            match facade.owner_of(hash.id) {
                None => here.push(*hash),
                Some(owner) => {
                    facade.scrape_abroad(owner, &known.guest, *hash);
                    passed_on = true;
                }
            }
        }
        // Those of other nodes are answered by them.
        if !here.is_empty() || !passed_on {
            facade.scrape(&known.guest.link, &here);
        }
    }
}
