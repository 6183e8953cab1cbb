//! One viewer's WebSocket: limits, decoding, admission; then messages both ways.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use swarm_core::{
    directory::{ConnId, Joined, P2pMode},
    limits::{TEXT_LEN_MAX, TRACKER_FRAME_LEN_MAX},
    wire::tracker::{self, RefusalCode, TrackerMsg, ViewerMsg},
};
use tokio::{io::AsyncReadExt, time};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message, protocol::Role, protocol::WebSocketConfig},
};

use crate::{
    admission::{self, JoinRequest, Pass, StreamName},
    fake,
    metrics::Counters,
    outgoing::{Batch, Outgoing},
    privacy,
    quota::{Bucket, Held},
    server::Context,
    shard::{Command, Join, refusal_text},
};

/// Small buffers: they stay with each connection for its life. What arrives is a few hundred bytes.
const READ_BUFFER_LEN: usize = 1024;
/// Frames are gathered up to this many bytes before they are written.
const WRITE_BUFFER_LEN: usize = 4096;
/// For one batch to be taken by the network.
const WRITE_TIME_MAX: Duration = Duration::from_secs(15);
/// What a viewer that was refused may still send, so that it reads why: time, and bytes.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;

type Socket = Box<WebSocketStream<TokioIo<Upgraded>>>;

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
    pub(crate) address: IpAddr,
    /// The host at which it reached the tracker.
    pub(crate) host: Option<String>,
    /// The origin of its page.
    pub(crate) origin: Option<Box<str>>,
    /// The token in the address that it connected to.
    pub(crate) token: Option<Box<str>>,
    pub(crate) held: Held,
}

impl Visit {
    /// Speaks with the viewer until one of the two ends it.
    pub(crate) async fn serve(self, upgraded: Upgraded) {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_LEN)
            .write_buffer_size(WRITE_BUFFER_LEN)
            .max_message_size(Some(TRACKER_FRAME_LEN_MAX))
            .max_frame_size(Some(TRACKER_FRAME_LEN_MAX));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let mut socket: Socket = Box::new(socket);
        Counters::add(&self.context.counters.connections);
        let end = match Box::pin(self.join(&mut socket)).await {
            Ok((outgoing, _pass)) => self.converse(&mut socket, &outgoing).await,
            Err(end) => end,
        };
        Counters::sub(&self.context.counters.connections);
        self.finish(socket, end).await;
    }

    /// Waits for the join message and admits the viewer.
    async fn join(&self, socket: &mut Socket) -> Result<(Arc<Outgoing>, Pass), End> {
        let context = &self.context;
        let limit = Duration::from_millis(u64::from(context.config.limits.join_ms));
        let first = time::timeout(limit, next_message(socket));
        let bytes = first
            .await
            .map_err(|_| End::Refused(RefusalCode::BadMessage))??;
        if !self.held.may_join() {
            return Err(End::Refused(RefusalCode::Quota));
        }
        let ViewerMsg::Join(join) = decode(&bytes)? else {
            return Err(End::Refused(RefusalCode::BadMessage));
        };
        let in_address = self.token.as_deref().unwrap_or_default().as_bytes();
        let request = JoinRequest {
            stream: StreamName::Shoal(join.stream),
            token: if join.token.is_empty() {
                in_address
            } else {
                join.token
            },
            address: self.address,
            origin: self.origin.as_deref(),
        };
        let checked = admission::check(&*context.admission, &context.bearers, request).await;
        let pass = checked.map_err(End::Refused)?;
        let outgoing = Arc::new(Outgoing::new(context.config.limits.queue_bytes_max));
        let join = self.admitted(&join, &pass, Arc::clone(&outgoing))?;
        self.tell(Command::Join(Box::new(join))).await?;
        Ok((outgoing, pass))
    }

    fn admitted(
        &self,
        join: &tracker::Join<'_>,
        pass: &Pass,
        outgoing: Arc<Outgoing>,
    ) -> Result<Join, End> {
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
        let mut found = context.networks.find(self.address);
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
        Ok(Join {
            joined,
            isp: found.isp,
            site: found.network.site.zip(found.label),
            stun: self.stun_servers(),
            outgoing,
        })
    }

    fn stun_servers(&self) -> Vec<String> {
        let context = &self.context;
        let configured = &context.config.stun.advertise;
        if !configured.is_empty() {
            return configured.clone();
        }
        let own = context.stun_port.zip(self.host.as_ref());
        own.map(|(port, host)| format!("{host}:{port}"))
            .filter(|address| address.len() <= TEXT_LEN_MAX)
            .into_iter()
            .collect()
    }

    /// Passes messages both ways until the end; the shard is told of it.
    async fn converse(&self, socket: &mut Socket, outgoing: &Outgoing) -> End {
        let end = self.exchange(socket, outgoing).await;
        let command = match end {
            End::Left | End::Refused(_) => Command::Left(self.conn),
            End::Gone | End::Closed => Command::Lost(self.conn),
        };
        // Fails only when the tracker stops: then there is nobody to tell.
        let _ = self.tell(command).await;
        end
    }

    async fn exchange(&self, socket: &mut Socket, outgoing: &Outgoing) -> End {
        let limits = &self.context.config.limits;
        let mut quota = Quota::new(self);
        let ping = Duration::from_millis(u64::from(limits.ping_ms));
        let mut heard_at = time::Instant::now();
        let mut ping_at = heard_at + ping;
        loop {
            let step = tokio::select! {
                batch = outgoing.take() => self.send(socket, outgoing, &batch).await,
                message = socket.next() => {
                    heard_at = time::Instant::now();
                    self.on_frame(message, &mut quota).await
                }
                () = time::sleep_until(ping_at) => {
                    ping_at = time::Instant::now() + ping;
                    if heard_at.elapsed() > ping * 3 {
                        return End::Gone;
                    }
                    let sent = time::timeout(WRITE_TIME_MAX, socket.send(Message::Ping(Bytes::new())));
                    sent.await.map_or(Err(End::Gone), |sent| sent.map_err(|_| End::Gone))
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn on_frame(
        &self,
        frame: Option<Result<Message, WsError>>,
        quota: &mut Quota<'_>,
    ) -> Result<(), End> {
        match read(frame)? {
            Some(bytes) => self.on_message(&bytes, quota).await,
            // Pings and the like are answered by the library, but are not free.
            None => quota.take_message(),
        }
    }

    async fn on_message(&self, bytes: &Bytes, quota: &mut Quota<'_>) -> Result<(), End> {
        Counters::add(&self.context.counters.messages_in);
        let conn = self.conn;
        let message = decode(bytes)?;
        let command = match message {
            ViewerMsg::Signal { to, payload } => {
                quota.take_signal()?;
                let payload = if self.context.config.privacy.relay_only {
                    match privacy::relayed(payload) {
                        Some(payload) => payload.into(),
                        None => return Ok(()),
                    }
                } else {
                    bytes.slice_ref(payload)
                };
                let from = conn;
                Command::Signal { from, to, payload }
            }
            ViewerMsg::Status(status) => {
                quota.take_message()?;
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
        self.tell(command).await
    }

    async fn send(
        &self,
        socket: &mut Socket,
        outgoing: &Outgoing,
        batch: &Batch,
    ) -> Result<(), End> {
        if batch.overflowed {
            Counters::add(&self.context.counters.slow_readers);
            return Err(End::Gone);
        }
        let write = async {
            for frame in batch.frames() {
                socket
                    .feed(Message::Binary(Bytes::copy_from_slice(frame)))
                    .await?;
            }
            socket.flush().await
        };
        let written = tokio::select! {
            written = time::timeout(WRITE_TIME_MAX, write) => written.ok(),
            () = outgoing.overflowed() => None,
        };
        match written {
            Some(Ok(())) if batch.close => Err(End::Closed),
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(End::Gone),
            None => {
                Counters::add(&self.context.counters.slow_readers);
                Err(End::Gone)
            }
        }
    }

    async fn tell(&self, command: Command) -> Result<(), End> {
        let sent = self.context.shard.send(command).await;
        sent.map_err(|_| End::Refused(RefusalCode::Unavailable))
    }

    /// Says why, closes, and reads on for a moment: a socket that is closed with unread bytes takes
    /// back what was sent.
    async fn finish(&self, mut socket: Socket, end: End) {
        let mut frame = Vec::new();
        match end {
            End::Gone => return,
            End::Refused(code) => {
                let counters = &self.context.counters;
                Counters::add(match code {
                    RefusalCode::BadMessage => &counters.bad_messages,
                    RefusalCode::Quota => &counters.over_quota,
                    _ => &counters.refused,
                });
                let text = refusal_text(code);
                TrackerMsg::Refused { code, text }.encode(&mut frame);
            }
            End::Left | End::Closed => {}
        }
        let linger = async {
            if !frame.is_empty() {
                socket.send(Message::Binary(frame.into())).await.ok()?;
            }
            socket.send(Message::Close(None)).await.ok()?;
            let mut io = (*socket).into_inner();
            let mut rest = [0; 1024];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                let len = io.read(&mut rest).await.ok()?;
                if len == 0 {
                    return None;
                }
                left = left.saturating_sub(len);
            }
            Some(())
        };
        // Whether the viewer takes it in time is its own business.
        let _ = time::timeout(LINGER_TIME_MAX, Box::pin(linger)).await;
    }
}

/// What one connection may still send.
struct Quota<'a> {
    visit: &'a Visit,
    messages: Bucket,
    signals: Bucket,
}

impl<'a> Quota<'a> {
    fn new(visit: &'a Visit) -> Self {
        let (limits, now) = (&visit.context.config.limits, Instant::now());
        Self {
            visit,
            messages: Bucket::full(limits.messages_burst, now),
            signals: Bucket::full(limits.signals_burst, now),
        }
    }

    fn take_message(&mut self) -> Result<(), End> {
        let limits = &self.visit.context.config.limits;
        let (burst, per_s) = (limits.messages_burst, limits.messages_per_s);
        allowed(self.messages.take(burst, per_s, Instant::now()))
    }

    fn take_signal(&mut self) -> Result<(), End> {
        let limits = &self.visit.context.config.limits;
        let (burst, per_s) = (limits.signals_burst, limits.signals_per_s);
        allowed(self.signals.take(burst, per_s, Instant::now()))
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

/// The next binary message.
async fn next_message(socket: &mut Socket) -> Result<Bytes, End> {
    loop {
        if let Some(bytes) = read(socket.next().await)? {
            return Ok(bytes);
        }
    }
}

/// The content of a binary message; `None` for control frames.
fn read(frame: Option<Result<Message, WsError>>) -> Result<Option<Bytes>, End> {
    match frame {
        Some(Ok(Message::Binary(bytes))) => Ok(Some(bytes)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Text(_) | Message::Frame(_)))
        | Some(Err(WsError::Capacity(_) | WsError::Utf8(_))) => {
            Err(End::Refused(RefusalCode::BadMessage))
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
    }
}
