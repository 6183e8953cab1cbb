//! One viewer's connection: limits, decoding, admission; then messages both ways.

use std::{
    net::IpAddr,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use swarm_core::{
    directory::{ConnId, Joined, P2pMode},
    limits::{TEXT_LEN_MAX, TRACKER_FRAME_LEN_MAX},
    wire::tracker::{self, RefusalCode, Status, TrackerMsg, ViewerMsg},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::error::TrySendError},
    time,
};

use crate::{
    admission::{self, JoinRequest, Pass, StreamName},
    fake,
    metrics::Counters,
    outgoing::Outgoing,
    privacy,
    quota::{Bucket, Held, Traffic},
    relay::Lease,
    server::Context,
    shard::{Command, Join, refusal_text},
    sink::Sink,
    socket::{Ended, Incoming, Limits, Socket},
};

/// Close code of a connection that ends as it should (RFC 6455 section 7.4.1).
const CLOSED_NORMALLY: u16 = 1000;

/// Bytes that a viewer moves in a second at most, up and down together: two gigabits; and what it may
/// report at once, of the time before it had a tracker.
const REPORTED_PER_S: u32 = 250_000_000;
const REPORTED_BURST: u32 = 4_000_000_000;

/// Why a connection ends.
enum End {
    /// The viewer broke the protocol, or may not join.
    Refused(RefusalCode),
    /// The socket is closed or broken, or silent for too long.
    Gone,
    /// The viewer said goodbye.
    Left,
    /// Everything is said.
    Closed,
}

/// A viewer that has connected.
pub(crate) struct Visit {
    pub(crate) context: Arc<Context>,
    pub(crate) conn: ConnId,
    pub(crate) held: Held,
    /// Its share of all connections.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What is known of a viewer from its handshake, and needed until it has joined.
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    /// The host at which it reached the tracker.
    pub(crate) host: Option<String>,
    /// The origin of its page.
    pub(crate) origin: Option<Box<str>>,
    /// The token in the address that it connected to.
    pub(crate) token: Option<Box<str>>,
}

/// What a viewer that was let in has. In a box: whatever a task hands on while it waits it keeps once
/// more each time.
struct Entered {
    /// What came right behind the join.
    early: Box<[Bytes]>,
    lease: Option<Box<Lease>>,
    /// Its right to be here.
    pass: Pass,
}

impl Visit {
    /// Speaks with the viewer until one of the two ends it, or the tracker stops. Not an `async fn`:
    /// those keep their arguments twice.
    pub(crate) fn serve(
        self,
        caller: Box<Caller>,
        upgraded: Upgraded,
    ) -> impl Future<Output = ()> + Send + 'static {
        let limits = &self.context.config.limits;
        let limits = Limits {
            ping_ms: limits.ping_ms,
            message_len_max: TRACKER_FRAME_LEN_MAX as u32,
            queue_bytes_max: limits.queue_bytes_max,
        };
        let (sockets, backlog) = (&self.context.sockets, self.held.backlog());
        let mut socket = Socket::new(upgraded, limits, sockets, self.conn.0, backlog);
        async move { self.stay(&mut socket, caller).await }
    }

    // What takes much room is boxed, and let go before the viewer settles down.
    async fn stay(&self, socket: &mut Socket, caller: Box<Caller>) {
        Counters::add(&self.context.counters.connections);
        let joined = match Box::pin(self.first_messages(socket)).await {
            Ok(messages) => Box::pin(self.join(socket, caller, messages)).await,
            Err(end) => Err(end),
        };
        let end = match joined {
            Ok(mut entered) => {
                let end = self.exchange(socket, &mut entered).await;
                Box::pin(self.tell_end(&end)).await;
                end
            }
            Err(end) => end,
        };
        Counters::sub(&self.context.counters.connections);
        Box::pin(self.finish(socket, end)).await;
    }

    /// Admits a viewer by the first of its messages.
    async fn join(
        &self,
        socket: &Socket,
        caller: Box<Caller>,
        mut messages: Vec<Bytes>,
    ) -> Result<Box<Entered>, End> {
        let bytes = messages.remove(0);
        if !self.held.may_join() {
            return Err(End::Refused(RefusalCode::Quota));
        }
        let ViewerMsg::Join(join) = decode(&bytes)? else {
            return Err(End::Refused(RefusalCode::BadMessage));
        };
        if !self.context.streams.contains(&join.stream) {
            return Err(End::Refused(RefusalCode::NotServed));
        }
        let in_address = caller.token.as_deref().unwrap_or_default();
        let request = JoinRequest {
            stream: StreamName::Shoal(join.stream),
            token: if join.token.is_empty() {
                in_address.as_bytes()
            } else {
                join.token
            },
            address: caller.address,
            origin: caller.origin.as_deref(),
        };
        let context = &self.context;
        let checked = admission::check(&*context.admission, &context.bearers, request).await;
        let pass = checked.map_err(End::Refused)?;
        let (join, may_relay) =
            self.admitted(&caller, &join, &pass, Arc::clone(socket.outgoing()))?;
        let only = context.config.privacy.relay_only;
        let lease = may_relay.then(|| {
            let (config, peer) = (&context.config.relay, join.joined.peer);
            Box::new(Lease::give(config, peer, only, socket.outgoing()))
        });
        self.tell(Command::Join(Box::new(join))).await?;
        let early = messages.into();
        Ok(Box::new(Entered { early, lease, pass }))
    }

    /// What comes first, soon: at least one message.
    async fn first_messages(&self, socket: &mut Socket) -> Result<Vec<Bytes>, End> {
        let (mut messages, mut others) = (Vec::new(), 0_u32);
        let burst = self.context.config.limits.messages_burst;
        let first = async {
            while messages.is_empty() {
                let read = socket.read(|incoming| {
                    others += 1;
                    match incoming {
                        Incoming::Binary(bytes) => {
                            messages.push(Bytes::copy_from_slice(bytes));
                            ControlFlow::Continue(())
                        }
                        Incoming::Other(_) if others <= burst => ControlFlow::Continue(()),
                        Incoming::Other(_) | Incoming::Text(_) => ControlFlow::Break(()),
                    }
                });
                match read.await {
                    Err(Ended::Enough) if others > burst => {
                        return Err(End::Refused(RefusalCode::Quota));
                    }
                    read => read.map_err(end_of)?,
                }
            }
            Ok(())
        };
        let limit = Duration::from_millis(u64::from(self.context.config.limits.join_ms));
        let came = time::timeout(limit, first).await;
        came.map_err(|_| End::Refused(RefusalCode::BadMessage))??;
        Ok(messages)
    }

    /// What the shard is told, and whether the viewer is told of relays.
    fn admitted(
        &self,
        caller: &Caller,
        join: &tracker::Join<'_>,
        pass: &Pass,
        outgoing: Arc<Outgoing>,
    ) -> Result<(Join, bool), End> {
        let context = &self.context;
        let proven = join
            .resume
            .filter(|(peer, secret)| context.names.proves(*peer, *secret));
        let peer = match proven {
            Some((peer, _)) => peer,
            None => context.names.fresh().map_err(|error| {
                tracing::error!(%error, "no new names");
                End::Refused(RefusalCode::Unavailable)
            })?,
        };
        let mut found = context.networks.find(caller.address);
        if context.config.fake_networks && found.network.asn == 0 {
            let mode = found.network.mode;
            found = fake::network_of(peer);
            found.network.mode = mode;
        }
        let mode = context.config.privacy.mode(&found.network, join.flags);
        found.network.mode = if pass.leech && mode == P2pMode::On {
            P2pMode::Leech
        } else {
            mode
        };
        let joined = Joined {
            conn: self.conn,
            peer,
            resumed: proven.is_some(),
            stream: join.stream,
            track: join.track,
            flags: join.flags,
            nat: join.nat,
            upload_kbps: join.upload_kbps,
            network: found.network,
        };
        let relay_only = context.config.privacy.relay_only;
        let has_relays = found.relay && !context.config.relay.urls.is_empty();
        let may_relay = found.network.mode != P2pMode::Off && (relay_only || has_relays);
        let join = Join {
            joined,
            isp: found.isp,
            site: found.network.site.zip(found.label),
            bearer: pass.mark(),
            stun: self.stun_servers(caller),
            apart: Vec::new(),
            outgoing: Sink::Here(outgoing),
        };
        Ok((join, may_relay))
    }

    fn stun_servers(&self, caller: &Caller) -> Vec<String> {
        let context = &self.context;
        let configured = &context.config.stun.advertise;
        if !configured.is_empty() {
            return configured.clone();
        }
        let Some(host) = &caller.host else {
            return Vec::new();
        };
        let own = context.stun_ports.iter();
        own.map(|port| format!("{host}:{port}"))
            .filter(|address| address.len() <= TEXT_LEN_MAX)
            .collect()
    }

    /// Tells the shard that the viewer is gone, and how.
    async fn tell_end(&self, end: &End) {
        let command = match end {
            End::Left | End::Refused(_) => Command::Left(self.conn),
            End::Gone | End::Closed => Command::Lost(self.conn),
        };
        // Fails only when the tracker stops: then there is nobody to tell.
        let _ = self.tell(command).await;
    }

    /// Passes messages both ways until the end.
    async fn exchange(&self, socket: &mut Socket, entered: &mut Entered) -> End {
        let mut quota = Quota::new(self, &entered.pass);
        let mut waiting = Vec::new();
        let mut result = {
            let early = std::mem::take(&mut entered.early);
            let mut early = early.iter();
            early.try_for_each(|bytes| self.on_message(bytes, &mut quota, &mut waiting))
        };
        loop {
            if !waiting.is_empty() {
                let sent = Box::pin(self.tell_all(std::mem::take(&mut waiting)));
                result = sent.await.and(result);
            }
            if let Err(end) = result {
                return end;
            }
            let read = socket.read(|incoming| {
                let traffic = quota.take_bytes(incoming.len());
                let taken = traffic.and_then(|()| match incoming {
                    Incoming::Binary(bytes) => self.on_message(bytes, &mut quota, &mut waiting),
                    Incoming::Text(_) => Err(End::Refused(RefusalCode::BadMessage)),
                    // Seen to already, but not free.
                    Incoming::Other(_) => quota.take_message(),
                });
                match taken {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(end) => {
                        result = Err(end);
                        ControlFlow::Break(())
                    }
                }
            });
            match read.await {
                Ok(()) | Err(Ended::Enough) => {
                    if let Some(lease) = &mut entered.lease {
                        lease.renew(&self.context.config.relay, socket.outgoing());
                    }
                }
                Err(ended) => result = Err(self.on_ended(ended)),
            }
        }
    }

    /// Waits until the shard has room for what it had none for.
    async fn tell_all(&self, commands: Vec<Command>) -> Result<(), End> {
        for command in commands {
            self.tell(command).await?;
        }
        Ok(())
    }

    fn on_ended(&self, ended: Ended) -> End {
        if ended == Ended::Slow {
            Counters::add(&self.context.counters.slow_readers);
        }
        end_of(ended)
    }

    /// Takes a message; what the shard has no room for now is left in `waiting`.
    fn on_message(
        &self,
        bytes: &[u8],
        quota: &mut Quota<'_>,
        waiting: &mut Vec<Command>,
    ) -> Result<(), End> {
        Counters::add(&self.context.counters.messages_in);
        let conn = self.conn;
        let command = match decode(bytes)? {
            ViewerMsg::Signal { to, payload } => {
                quota.take_signal()?;
                let payload = if self.context.config.privacy.relay_only {
                    match privacy::relayed(payload) {
                        Some(payload) => payload.into(),
                        None => return Ok(()),
                    }
                } else {
                    Bytes::copy_from_slice(payload)
                };
                let from = conn;
                Command::Signal { from, to, payload }
            }
            ViewerMsg::Status(mut status) => {
                quota.take_message()?;
                quota.bound_report(&mut status);
                Command::Status(conn, Box::new(status))
            }
            ViewerMsg::Link {
                peer,
                outcome,
                rtt_ms,
            } => {
                quota.take_message()?;
                Command::Link {
                    conn,
                    peer,
                    outcome,
                    rtt_ms,
                }
            }
            ViewerMsg::Leave => return Err(End::Left),
            ViewerMsg::Join(_) => return Err(End::Refused(RefusalCode::BadMessage)),
        };
        if !waiting.is_empty() {
            waiting.push(command);
            return Ok(());
        }
        match self.context.shard.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(command)) => {
                waiting.push(command);
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(End::Refused(RefusalCode::Unavailable)),
        }
    }

    async fn tell(&self, command: Command) -> Result<(), End> {
        let sent = self.context.shard.send(command).await;
        sent.map_err(|_| End::Refused(RefusalCode::Unavailable))
    }

    /// Says why, and closes.
    async fn finish(&self, socket: &mut Socket, end: End) {
        match end {
            End::Gone => return,
            End::Refused(code) => {
                let counters = &self.context.counters;
                Counters::add(match code {
                    RefusalCode::BadMessage => &counters.bad_messages,
                    RefusalCode::Quota => &counters.over_quota,
                    _ => &counters.refused,
                });
                Counters::add(counters.refusals.of(code));
                let mut message = Vec::new();
                let text = refusal_text(code);
                TrackerMsg::Refused { code, text }.encode(&mut message);
                socket.outgoing().push(&message);
            }
            End::Left | End::Closed => {}
        }
        socket.finish(CLOSED_NORMALLY).await;
    }
}

fn end_of(ended: Ended) -> End {
    match ended {
        Ended::Gone | Ended::Slow => End::Gone,
        Ended::Said => End::Closed,
        Ended::Broke(_) | Ended::Enough => End::Refused(RefusalCode::BadMessage),
    }
}

/// What one connection may still send.
struct Quota<'a> {
    visit: &'a Visit,
    pass: &'a Pass,
    messages: Bucket,
    signals: Bucket,
    traffic: Traffic,
    /// Bytes that it may still say to have moved.
    reported: Bucket,
}

impl<'a> Quota<'a> {
    fn new(visit: &'a Visit, pass: &'a Pass) -> Self {
        let (limits, now) = (&visit.context.config.limits, Instant::now());
        Self {
            visit,
            pass,
            messages: Bucket::full(limits.messages_burst, now),
            signals: Bucket::full(limits.signals_burst, now),
            traffic: Traffic::new(limits, now),
            reported: Bucket::full(REPORTED_BURST, now),
        }
    }

    fn take_message(&mut self) -> Result<(), End> {
        let limits = &self.visit.context.config.limits;
        let (burst, per_s) = (limits.messages_burst, limits.messages_per_s);
        let now = Instant::now();
        allowed(self.messages.take(burst, per_s, now) && self.pass.take_message(now))
    }

    /// Cuts what the viewer says to have received and sent to what a viewer can: sums over all of them
    /// are told to broadcasters, and one that makes figures up is not to spoil them.
    fn bound_report(&mut self, status: &mut Status) {
        let mut figures = [
            &mut status.bytes_p2p,
            &mut status.bytes_cdn,
            &mut status.bytes_up,
        ];
        let now = Instant::now();
        for bytes in &mut figures {
            **bytes = self
                .reported
                .take_up_to(**bytes, REPORTED_BURST, REPORTED_PER_S, now);
        }
    }

    fn take_bytes(&mut self, len: usize) -> Result<(), End> {
        let held = &self.visit.held;
        allowed(self.traffic.take(len, held, Instant::now()))
    }

    fn take_signal(&mut self) -> Result<(), End> {
        let limits = &self.visit.context.config.limits;
        let (burst, per_s) = (limits.signals_burst, limits.signals_per_s);
        let now = Instant::now();
        allowed(self.signals.take(burst, per_s, now) && self.pass.take_message(now))
    }
}

const fn allowed(taken: bool) -> Result<(), End> {
    if taken {
        Ok(())
    } else {
        Err(End::Refused(RefusalCode::Quota))
    }
}

fn decode(bytes: &[u8]) -> Result<ViewerMsg<'_>, End> {
    ViewerMsg::decode(bytes).map_err(|error| {
        tracing::debug!(%error, "bad message of a viewer");
        End::Refused(RefusalCode::BadMessage)
    })
}
