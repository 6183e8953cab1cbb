//! One connection of a viewer over TCP, from its first byte to its end.
//!
//! Viewers of a live stream are silent most of the time. A silent connection keeps little more than its
//! socket: it waits outside of hyper. What is plain and at hand is answered from there ([`brief`]); for the
//! rest hyper's buffers are made when the request comes, and freed a moment after its answer.

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use callers::Peer;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Semaphore,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::{
    Config,
    body::Body,
    brief,
    eager::EagerExecutor,
    gather::Gather,
    handle::{Client, handle},
    proxy::Proxy,
    signs::{Heard, Signs, Wait},
    streams::Streams,
};

/// What connections of HTTP/2 begin with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// For how long a connection keeps its buffers after an answer: the next request of a viewer who loads one
/// segment after the other comes at once.
const LINGER: Duration = Duration::from_millis(10);
/// Connections that do so at the same time. It takes some 20 KB each.
const LINGERING_MAX: usize = 64;
/// Read at once from a silent connection, in bytes. On the stack.
const FIRST_READ: usize = 4096;
const HTTP2_STREAMS_MAX: u32 = 256;
/// What a connection of HTTP/2 may be sent while it asks for nothing, in bytes: settings, pings and the like.
const SILENCE_BYTES_MAX: usize = 4096;
const HTTP2_PING: Duration = Duration::from_secs(30);

/// How connections are served.
pub(crate) struct Host {
    proxy: Arc<Proxy>,
    /// Connections end when they may, from here on.
    stop: CancellationToken,
    /// What to say of HTTP/3.
    alt_svc: Option<HeaderValue>,
    /// For the head of a request, and for the wait for one.
    head: Duration,
    /// For a viewer to take something; none for no bound of ours.
    send: Option<Duration>,
    /// For connections that keep their buffers after an answer.
    lingering: Semaphore,
    http1: http1::Builder,
    http2: http2::Builder<EagerExecutor>,
}

impl Host {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        stop: CancellationToken,
        alt_svc: Option<HeaderValue>,
    ) -> Arc<Self> {
        let config = &proxy.config;
        Arc::new(Self {
            http1: http1(config),
            http2: http2(config),
            head: Duration::from_millis(config.timeouts.request_head_ms),
            send: Some(Duration::from_millis(config.timeouts.send_ms))
                .filter(|send| !send.is_zero()),
            lingering: Semaphore::new(LINGERING_MAX),
            stop,
            alt_svc,
            proxy,
        })
    }

    /// Serves the viewer behind `socket` until one of them leaves, or nothing comes for too long. Drops
    /// `place` at the end.
    #[allow(
        clippy::manual_async_fn,
        reason = "arguments of an async fn take their room twice, and there are many viewers"
    )]
    pub(crate) fn serve<S>(
        self: Arc<Self>,
        mut socket: S,
        peer: Peer,
        place: impl Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        async move {
            let (alarm, stopped) = (pin!(sleep(self.head)), pin!(self.stop.cancelled()));
            let mut watch = Watch { alarm, stopped };
            let mut bytes = Bytes::new();
            let is_http2 = loop {
                let more = poll_fn(|context| watch.poll_next(&mut socket, context)).await;
                if more.is_empty() {
                    return;
                }
                bytes = [bytes, more].concat().into();
                if let Some(is_http2) = begins_http2(&bytes) {
                    break is_http2;
                }
            };
            if is_http2 {
                let signs = Arc::new(Signs::default());
                let heard = Heard::new(socket, bytes, signs.clone());
                return Box::pin(self.serve_http2(heard, &signs, self.client(peer))).await;
            }
            loop {
                let turn = self.answer(socket, bytes, peer, &mut watch);
                (socket, bytes) = match Box::pin(turn).await {
                    Some(rest) => rest,
                    None => break,
                };
                // What is there may be a part of the next request.
                if bytes.is_empty() {
                    watch.set(self.head);
                    self.proxy.metrics.connections_idle.increment(1.0);
                    bytes = poll_fn(|context| watch.poll_next(&mut socket, context)).await;
                    self.proxy.metrics.connections_idle.decrement(1.0);
                }
                if bytes.is_empty() {
                    // Tells viewers of TLS that this is the end, if there is room to.
                    let _ = socket.shutdown().now_or_never();
                    break;
                }
            }
            drop(place);
        }
    }

    fn client(&self, peer: Peer) -> Client {
        Client {
            peer,
            alt_svc: self.alt_svc.clone(),
        }
    }

    /// Answers what begins with `bytes`: one plain request, or whatever comes until there is a rest. Returns
    /// the socket, and what is read of the next request; none when the connection is over.
    async fn answer<S>(
        &self,
        mut socket: S,
        bytes: Bytes,
        peer: Peer,
        watch: &mut Watch<'_, '_>,
    ) -> Option<(S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let plain =
            poll_fn(|context| Poll::Ready(self.answer_plain(&mut socket, &bytes, peer, context)));
        match plain.await {
            Plain::Sent => Some((socket, Bytes::new())),
            Plain::Over => None,
            Plain::Rest(rest) => {
                rest.send(&mut socket).await.ok()?;
                Some((socket, Bytes::new()))
            }
            Plain::Left(begun) => {
                let client = self.client(peer);
                let served = self.serve_http1(socket, bytes, begun, client, watch);
                Box::pin(served).await
            }
        }
    }

    /// Answers the request that `bytes` are, if it is plain and its answer at hand.
    fn answer_plain<S>(
        &self,
        socket: &mut S,
        bytes: &Bytes,
        peer: Peer,
        context: &mut Context<'_>,
    ) -> Plain
    where
        S: AsyncWrite + Unpin,
    {
        let Some(mut begun) = self.begin(bytes, peer) else {
            return Plain::Left(None);
        };
        let Poll::Ready(mut response) = begun.as_mut().poll(context) else {
            return Plain::Left(Some(begun));
        };
        let Some((head, body)) = brief::write(&mut response) else {
            return Plain::Left(Some(Box::pin(ready(response))));
        };
        let mut bytes = head.chain(body);
        match pin!(send(socket, &mut bytes)).poll(context) {
            Poll::Ready(Ok(())) => return Plain::Sent,
            Poll::Ready(Err(_)) => return Plain::Over,
            Poll::Pending => {}
        }
        Plain::Rest(Box::new(Rest { bytes, response }))
    }

    /// The answer to the request that `bytes` are, if it is plain. Connections that are to end end by hyper.
    fn begin(&self, bytes: &Bytes, peer: Peer) -> Option<Begun> {
        if self.proxy.is_draining.load(Ordering::Relaxed) {
            return None;
        }
        let head = brief::read(bytes)?;
        let (proxy, client) = (self.proxy.clone(), self.client(peer));
        let answer = async move { handle(&proxy, &client, &head, Empty::<Bytes>::new()).await };
        Some(Box::pin(answer))
    }

    /// Answers requests until none follows for a moment, the first one with what is `begun`. Returns the
    /// socket, and what is read of the next request; none when the connection is over.
    async fn serve_http1<S>(
        &self,
        socket: S,
        before: Bytes,
        begun: Option<Begun>,
        client: Client,
        watch: &mut Watch<'_, '_>,
    ) -> Option<(S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let signs = Arc::new(Signs::default());
        let heard = TokioIo::new(Heard::new(socket, before, signs.clone()));
        let service = service(self.proxy.clone(), client, signs.clone(), begun);
        let mut connection = self.http1.serve_connection(heard, service);
        let mut is_stopping = false;
        let mut is_told = false;
        let mut wait = Wait::Answer;
        let mut place = None;
        let is_at_rest = poll_fn(|context| {
            loop {
                if let Poll::Ready(end) = Pin::new(&mut connection).poll(context) {
                    if let Err(error) = end {
                        tracing::debug!(%error, "connection ended early");
                    }
                    return Poll::Ready(false);
                }
                // The token is asked once, to be woken by it: it is locked whenever it is asked.
                let stops = self.proxy.is_draining.load(Ordering::Relaxed)
                    || (!is_told && watch.poll_stopped(context).is_ready());
                is_told = true;
                if !stops || is_stopping {
                    break;
                }
                // Not before it has read what there is: it would leave a request unanswered.
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            let waited = std::mem::replace(&mut wait, signs.wait());
            let patience = match wait {
                Wait::Answer => return Poll::Pending,
                Wait::Request(_) => self.head,
                Wait::Nothing(_) => LINGER,
            };
            let is_at_rest = matches!(wait, Wait::Nothing(_));
            if is_at_rest && place.is_none() {
                place = self.lingering.try_acquire().ok();
                if place.is_none() {
                    return Poll::Ready(true);
                }
            }
            if wait != waited {
                watch.set(patience);
            }
            watch.poll_alarm(context).map(|()| is_at_rest)
        });
        if !is_at_rest.await {
            return None;
        }
        let parts = connection.into_parts();
        // A copy, for it would hold the whole buffer, even with nothing in it.
        let left = Bytes::copy_from_slice(&parts.read_buf);
        Some((parts.io.into_inner().socket, left))
    }

    async fn serve_http2<S>(&self, socket: Heard<S>, signs: &Signs, client: Client)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = Arc::new(Streams::default());
        let visit = Arc::new((self.proxy.clone(), client, streams.clone()));
        let service = service_fn(move |request: Request<Incoming>| {
            let visit = visit.clone();
            let stream = visit.2.on_request();
            async move {
                let (proxy, client, _) = &*visit;
                let (head, body) = request.into_parts();
                let mut response = handle(proxy, client, &head, body).await;
                response.body_mut().sent_by(stream);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = Gather::new(socket).drive(|socket| {
            let connection = self.http2.serve_connection(TokioIo::new(socket), service);
            Box::pin(async move {
                let mut connection = pin!(connection);
                tokio::select! {
                    end = connection.as_mut() => return end,
                    () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
                    () = self.patience(&streams, signs) => {
                        connection.as_mut().graceful_shutdown();
                        let last = tokio::time::timeout(self.send.unwrap_or(self.head), connection);
                        return last.await.unwrap_or(Ok(()));
                    }
                }
                connection.await
            })
        });
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended early");
        }
    }

    /// Ends when the viewer of `streams` has asked for nothing for too long, or has not taken what one of them
    /// has.
    async fn patience(&self, streams: &Streams, signs: &Signs) {
        let stalled = async {
            let Some(send) = self.send else {
                return pending().await;
            };
            loop {
                sleep(send / 2).await;
                if streams.on_round() {
                    return;
                }
            }
        };
        let idle = async {
            let (mut events, mut written) = (0, 0);
            loop {
                sleep(self.head).await;
                // The protocol may have a good part of the last answers yet.
                let is_silent = signs.written_since(&mut written) <= SILENCE_BYTES_MAX;
                if streams.is_idle_since(&mut events) && is_silent {
                    return;
                }
            }
        };
        tokio::select! {
            () = stalled => tracing::debug!("client takes nothing of what it is sent"),
            () = idle => {}
        }
    }
}

/// An answer that is being made.
type Begun = BoxFuture<'static, Response<Body>>;

/// What became of a request outside of hyper.
enum Plain {
    Sent,
    /// The viewer has left.
    Over,
    Rest(Box<Rest>),
    /// It is hyper's, and perhaps its answer is begun already.
    Left(Option<Begun>),
}

/// An answer of which only the beginning fitted into the socket.
struct Rest {
    bytes: bytes::buf::Chain<Bytes, Bytes>,
    /// For the access log, it is over when all of it is sent.
    response: Response<Body>,
}

impl Rest {
    async fn send<S: AsyncWrite + Unpin>(mut self: Box<Self>, socket: &mut S) -> io::Result<()> {
        let sent = send(socket, &mut self.bytes).await;
        drop(self.response);
        sent
    }
}

/// Sends all of `rest`, and takes from it what is sent.
async fn send<S: AsyncWrite + Unpin>(
    socket: &mut S,
    rest: &mut (impl Buf + Send),
) -> io::Result<()> {
    socket.write_all_buf(rest).await?;
    socket.flush().await
}

/// Answers the requests of one connection of HTTP/1.1, the first one with what is `begun`, and notes them in
/// `signs`.
fn service(
    proxy: Arc<Proxy>,
    client: Client,
    signs: Arc<Signs>,
    begun: Option<Begun>,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> {
    let visit = Arc::new((proxy, client, signs));
    let begun = Mutex::new(begun);
    service_fn(move |request: Request<Incoming>| {
        let visit = visit.clone();
        let exchange = visit.2.on_request(!request.body().is_end_stream());
        let begun = begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let (proxy, client, _) = &*visit;
            let (head, body) = request.into_parts();
            let mut response = match begun {
                Some(begun) => begun.await,
                None => handle(proxy, client, &head, body).await,
            };
            response.body_mut().end_with(exchange);
            Ok(response)
        }
    })
}

/// What ends the waits of one connection.
struct Watch<'w, 's> {
    alarm: Pin<&'w mut Sleep>,
    stopped: Pin<&'w mut WaitForCancellationFuture<'s>>,
}

impl Watch<'_, '_> {
    fn set(&mut self, patience: Duration) {
        self.alarm.as_mut().reset(Instant::now() + patience);
    }

    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.as_mut().poll(context)
    }

    fn poll_stopped(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.stopped.as_mut().poll(context)
    }

    /// The next bytes of `socket`; none if there are no more, they do not come in time, or nobody waits for
    /// them any more.
    fn poll_next<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<Bytes> {
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(socket).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Bytes::copy_from_slice(buffer.filled())),
            Poll::Ready(Err(_)) => Poll::Ready(Bytes::new()),
            Poll::Pending if self.poll_stopped(context).is_ready() => Poll::Ready(Bytes::new()),
            Poll::Pending => self.poll_alarm(context).map(|()| Bytes::new()),
        }
    }
}

/// Whether a connection that begins with `bytes` speaks HTTP/2; none while they do not tell.
fn begins_http2(bytes: &[u8]) -> Option<bool> {
    let len = bytes.len().min(PREFACE.len());
    if bytes[..len] != PREFACE[..len] {
        return Some(false);
    }
    (len == PREFACE.len()).then_some(true)
}

fn http1(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Time is kept here: a timer for each request costs more. Heads have 100 lines at most, as is hyper's
    // default, which needs no memory for them.
    builder
        .header_read_timeout(None)
        .max_buf_size(config.limits.header_bytes_max);
    builder
}

fn http2(config: &Config) -> http2::Builder<EagerExecutor> {
    let mut builder = http2::Builder::new(EagerExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .max_header_list_size(u32::try_from(config.limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What a viewer costs who waits for the next segment, beside the socket's own part in the runtime.
    const IDLE_BYTES_MAX: usize = 320;

    #[tokio::test]
    async fn a_silent_connection_is_small() {
        let config = Config {
            origin: "http://127.0.0.1:1/".into(),
            ..Config::default()
        };
        let host = Host::new(Proxy::new(config).unwrap(), CancellationToken::new(), None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let bytes = size_of_val(&host.serve(socket, Peer::at(address.ip()), ()));
        assert!(bytes <= IDLE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn the_preface_tells_http2_however_it_is_cut() {
        for len in 0..PREFACE.len() {
            assert_eq!(begins_http2(&PREFACE[..len]), None);
        }
        let whole = [PREFACE, b"\0\0\x12"].concat();
        assert_eq!(begins_http2(PREFACE), Some(true));
        assert_eq!(begins_http2(&whole), Some(true));
        assert_eq!(begins_http2(b"PRI /a HTTP/1.1"), Some(false));
        assert_eq!(begins_http2(b"GET / HTTP/1.1\r\n"), Some(false));
    }
}
