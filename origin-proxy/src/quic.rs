//! HTTP/3 viewers.

use std::{
    future::poll_fn,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use callers::Peer;
use h3::{
    error::{Code, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{Method, header};
use hyper::body::{Body as _, Frame};
use quinn::{Incoming, crypto::rustls::QuicServerConfig};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error,
    body::Body,
    handle::{Client, handle},
    proxy::Proxy,
    streams::PIECE_LEN_MAX,
    tls::Certificates,
};

/// Requests of one connection at the same time.
const STREAMS_MAX: u32 = 256;
const IDLE: Duration = Duration::from_secs(30);
/// What one connection may have on its way, unacknowledged: 80 Mbit/s at a round trip of 100 ms.
const SEND_WINDOW: u64 = 1024 * 1024;
/// Handshakes at the same time of viewers who have not shown that they are at their address. Beyond them
/// newcomers are asked to (RFC 9000 section 8.1.2), which takes a round trip.
const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Handshakes at the same time of those who have.
const HANDSHAKES_PROVEN_MAX: usize = 1024;
/// How long a connection that is to end must have sent nothing, at least, to have sent all.
const SETTLED: Duration = Duration::from_millis(500);
type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;
type Sending = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;
type Receiving = RequestStream<h3_quinn::RecvStream, Bytes>;

/// Opens the endpoint on `socket`.
pub(crate) fn open(
    socket: UdpSocket,
    certificates: &Arc<Certificates>,
) -> Result<quinn::Endpoint, Error> {
    let blame = |error: String| Error::Environment(format!("HTTP/3: {error}"));
    let tls = certificates.server_config(&[b"h3"])?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| blame(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_idle_timeout(IDLE.try_into().ok())
        .send_window(SEND_WINDOW);
    config.transport_config(Arc::new(transport));
    quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        Some(config),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .map_err(|error| blame(error.to_string()))
}

/// Places of handshakes.
struct Handshakes {
    unproven: Arc<Semaphore>,
    proven: Arc<Semaphore>,
}

impl Handshakes {
    fn new() -> Self {
        Self {
            unproven: Arc::new(Semaphore::new(HANDSHAKES_UNPROVEN_MAX)),
            proven: Arc::new(Semaphore::new(HANDSHAKES_PROVEN_MAX)),
        }
    }

    /// A place for a newcomer, or none after telling it so.
    fn admit(&self, incoming: Incoming) -> Option<(Incoming, OwnedSemaphorePermit)> {
        let is_proven = incoming.remote_address_validated();
        let places = if is_proven {
            &self.proven
        } else {
            &self.unproven
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => return Some((incoming, place)),
            Err(_) if is_proven => incoming.refuse(),
            Err(_) => drop(incoming.retry()),
        }
        None
    }
}

/// Serves viewers until `stop`, then lets open requests end, for `drain` at most.
pub(crate) async fn serve(
    endpoint: quinn::Endpoint,
    proxy: Arc<Proxy>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    drain: Duration,
) {
    let open = TaskTracker::new();
    let handshakes = Handshakes::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else {
            break;
        };
        let Some((incoming, handshake)) = handshakes.admit(incoming) else {
            continue;
        };
        let (proxy, connections, stop) = (proxy.clone(), connections.clone(), stop.clone());
        open.spawn(async move {
            let patience = Duration::from_millis(proxy.config.timeouts.request_head_ms);
            let connection = tokio::select! {
                connection = timeout(patience, incoming) => connection,
                () = stop.cancelled() => return,
            };
            drop(handshake);
            if let Ok(Ok(connection)) = connection {
                receive(connection, proxy, connections, stop).await;
            }
        });
    }
    open.close();
    let _ = timeout(drain, open.wait()).await;
    endpoint.close(0_u32.into(), b"");
}

/// Serves a viewer, if there is a place for it: before the handshake anybody could have had it, under any
/// address.
async fn receive(
    connection: quinn::Connection,
    proxy: Arc<Proxy>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let peer = Peer::at(connection.remote_address().ip());
    let place = connections.try_acquire_owned().ok();
    let place = place.and_then(|place| Some((place, proxy.place_of(peer)?)));
    let Some(_place) = place else {
        proxy.metrics.refused.increment(1);
        connection.close(H3_EXCESSIVE_LOAD, b"");
        return;
    };
    let gauge = proxy.metrics.connections.clone();
    gauge.increment(1.0);
    let client = Client {
        peer,
        alt_svc: None,
    };
    if let Err(error) = converse(connection, proxy, client, stop).await {
        tracing::debug!(%error, "connection ended early");
    }
    gauge.decrement(1.0);
}

/// RFC 9114 section 8.1.
const H3_EXCESSIVE_LOAD: quinn::VarInt = quinn::VarInt::from_u32(0x0107);

async fn converse(
    connection: quinn::Connection,
    proxy: Arc<Proxy>,
    client: Client,
    stop: CancellationToken,
) -> Result<(), h3::error::ConnectionError> {
    let header_bytes_max = proxy.config.limits.header_bytes_max as u64;
    let idle = Duration::from_millis(proxy.config.timeouts.request_head_ms);
    let mut builder = h3::server::builder();
    builder.max_field_section_size(header_bytes_max);
    // Its own streams need a window, too.
    let built = builder.build(h3_quinn::Connection::new(connection.clone()));
    let Ok(built) = timeout(idle, Box::pin(built)).await else {
        return Ok(());
    };
    let quic = connection;
    let mut sent = 0;
    let mut connection: h3::server::Connection<_, Bytes> = built?;
    let requests = TaskTracker::new();
    let mut is_stopping = false;
    loop {
        let next = tokio::select! {
            next = connection.accept() => next?,
            // Keeping a connection alive is no request.
            () = sleep(idle), if !is_stopping => {
                // QUIC may have a good part of the last answers yet.
                let now = quic.stats().frame_tx.stream;
                let is_silent = std::mem::replace(&mut sent, now) == now;
                if requests.is_empty() && is_silent {
                    let _ = timeout(idle, connection.shutdown(0)).await;
                    break;
                }
                continue;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.shutdown(0).await?;
                // From here on, to have no requests is to be done.
                requests.close();
                continue;
            }
            // All requests are answered, and there are no more to come.
            () = requests.wait(), if is_stopping => break,
        };
        let Some(resolver) = next else {
            break;
        };
        let (proxy, client) = (proxy.clone(), client.clone());
        requests.spawn(async move {
            if let Err(error) = request(resolver, &proxy, &client).await {
                tracing::debug!(%error, "request ended early");
            }
        });
    }
    requests.close();
    requests.wait().await;
    if is_stopping {
        settle(&quic).await;
    }
    Ok(())
}

/// Waits until all that is to be sent has been, as far as can be told: the connection ends with its last handle,
/// whatever it has yet to send.
async fn settle(connection: &quinn::Connection) {
    let pause = SETTLED.max(connection.rtt() * 4);
    let mut sent = None;
    while connection.close_reason().is_none() {
        let now = connection.stats().frame_tx.stream;
        if sent.replace(now) == Some(now) {
            break;
        }
        let _ = timeout(pause, connection.closed()).await;
    }
}

async fn request(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    proxy: &Arc<Proxy>,
    client: &Client,
) -> Result<(), StreamError> {
    let patience = Duration::from_millis(proxy.config.timeouts.request_head_ms);
    let asked = async {
        let (request, mut stream) = resolver.resolve_request().await?;
        let first = match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => read_none(&mut stream).await?,
            _ => Bytes::new(),
        };
        Ok::<_, StreamError>((request, stream, first))
    };
    let Ok(asked) = timeout(patience, Box::pin(asked)).await else {
        tracing::debug!("client did not finish its request");
        return Ok(());
    };
    let (request, stream, first) = asked?;
    let (head, ()) = request.into_parts();
    let (mut sending, receiving) = stream.split();
    let rest = match head.method {
        Method::GET | Method::HEAD | Method::OPTIONS => None,
        _ => Some(receiving),
    };
    let response = handle(proxy, client, &head, Upload { first, rest }).await;
    let patience = match proxy.config.timeouts.send_ms {
        0 => Duration::MAX,
        ms => Duration::from_millis(ms),
    };
    let is_sent = send(&mut sending, response, patience).await?;
    if !is_sent {
        // Nobody must take a part for the whole.
        sending.stop_stream(Code::H3_INTERNAL_ERROR);
    }
    Ok(())
}

/// Sends all of `response`, to a viewer who takes something of it every `patience`. Returns whether all is sent.
async fn send(
    stream: &mut Sending,
    response: http::Response<Body>,
    patience: Duration,
) -> Result<bool, StreamError> {
    let (mut head, mut body) = response.into_parts();
    // Fields of connections have no meaning here.
    head.headers.remove(header::CONNECTION);
    let head = stream.send_response(http::Response::from_parts(head, ()));
    let Ok(sent) = timeout(patience, head).await else {
        return Ok(false);
    };
    sent?;
    loop {
        let mut data = match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            None => break,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => return Ok(false),
        };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_LEN_MAX));
            let Ok(sent) = timeout(patience, stream.send_data(piece)).await else {
                return Ok(false);
            };
            sent?;
        }
    }
    stream.finish().await?;
    Ok(true)
}

/// Whether there is a body, as its first bytes: one is enough to refuse the request.
async fn read_none(stream: &mut Stream) -> Result<Bytes, StreamError> {
    let chunk = stream.recv_data().await?;
    Ok(chunk.map_or_else(Bytes::new, |mut chunk| {
        let len = chunk.remaining().min(1);
        chunk.copy_to_bytes(len)
    }))
}

/// A body of a viewer, which is read as far as somebody wants it.
struct Upload {
    first: Bytes,
    rest: Option<Receiving>,
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(stream) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let next = match ready!(stream.poll_recv_data(context)) {
            Ok(Some(mut chunk)) => {
                let len = chunk.remaining();
                Some(Ok(Frame::data(chunk.copy_to_bytes(len))))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        };
        if !matches!(next, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_none()
    }
}
