//! HTTP/3 viewers.

use std::{future::poll_fn, net::UdpSocket, pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use http::{Method, Request, header};
use http_body_util::Full;
use hyper::body::Body as _;
use quinn::crypto::rustls::QuicServerConfig;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error,
    admin::BODY_BYTES_MAX,
    handle::{Client, handle},
    proxy::Proxy,
    tls::Certificates,
};

/// Requests of one connection at the same time.
const STREAMS_MAX: u32 = 256;
const IDLE: Duration = Duration::from_secs(30);
type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// Opens the endpoint on `socket`.
pub(crate) fn open(
    socket: UdpSocket,
    certificates: &Arc<Certificates>,
) -> Result<quinn::Endpoint, Error> {
    let blame = |error: String| Error::Environment(format!("HTTP/3: {error}"));
    let tls = certificates.server_config(&[b"h3"]);
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| blame(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_idle_timeout(IDLE.try_into().ok());
    config.transport_config(Arc::new(transport));
    quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        Some(config),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .map_err(|error| blame(error.to_string()))
}

/// Serves viewers until `stop`, then lets open requests end, for `drain` at most.
pub(crate) async fn serve(
    endpoint: quinn::Endpoint,
    proxy: Arc<Proxy>,
    connections: Arc<tokio::sync::Semaphore>,
    stop: CancellationToken,
    drain: Duration,
) {
    let open = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else {
            break;
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let address = incoming.remote_address().ip();
        let Some(place) = proxy.rates.connect(address) else {
            incoming.refuse();
            continue;
        };
        let (proxy, stop) = (proxy.clone(), stop.clone());
        open.spawn(async move {
            let gauge = proxy.metrics.connections.clone();
            gauge.increment(1.0);
            if let Ok(connection) = incoming.await {
                let client = Client {
                    address,
                    alt_svc: None,
                };
                if let Err(error) = converse(connection, proxy, client, stop).await {
                    tracing::debug!(%error, "connection ended early");
                }
            }
            gauge.decrement(1.0);
            drop((permit, place));
        });
    }
    open.close();
    let _ = tokio::time::timeout(drain, open.wait()).await;
    endpoint.close(0_u32.into(), b"");
}

async fn converse(
    connection: quinn::Connection,
    proxy: Arc<Proxy>,
    client: Client,
    stop: CancellationToken,
) -> Result<(), h3::error::ConnectionError> {
    let header_bytes_max = proxy.config.limits.header_bytes_max as u64;
    let mut connection: h3::server::Connection<_, Bytes> = h3::server::builder()
        .max_field_section_size(header_bytes_max)
        .build(h3_quinn::Connection::new(connection))
        .await?;
    let requests = TaskTracker::new();
    let mut is_stopping = false;
    loop {
        let next = tokio::select! {
            next = connection.accept() => next?,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.shutdown(0).await?;
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
        if is_stopping {
            requests.close();
        }
    }
    requests.close();
    requests.wait().await;
    Ok(())
}

async fn request(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    proxy: &Arc<Proxy>,
    client: &Client,
) -> Result<(), h3::error::StreamError> {
    let (request, mut stream) = resolver.resolve_request().await?;
    let (head, ()) = request.into_parts();
    let len_max = proxy.config.limits.body_bytes_max.max(BODY_BYTES_MAX);
    let body = match head.method {
        Method::GET | Method::HEAD | Method::OPTIONS => read_none(&mut stream).await?,
        _ => read(&mut stream, len_max).await?,
    };
    let request = Request::from_parts(head, ());
    let (head, ()) = request.into_parts();
    let response = handle(proxy, client, &head, Full::new(body)).await;
    let (mut head, mut body) = response.into_parts();
    // Fields of connections have no meaning here.
    head.headers.remove(header::CONNECTION);
    stream
        .send_response(http::Response::from_parts(head, ()))
        .await?;
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        match frame {
            None => break,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    stream.send_data(data).await?;
                }
            }
            // Nobody must take a part for the whole.
            Some(Err(_)) => {
                stream.stop_stream(Code::H3_INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
    stream.finish().await
}

/// Whether there is a body, as its first bytes: one is enough to refuse the request.
async fn read_none(stream: &mut Stream) -> Result<Bytes, h3::error::StreamError> {
    let chunk = stream.recv_data().await?;
    Ok(chunk.map_or_else(Bytes::new, |mut chunk| {
        let len = chunk.remaining().min(1);
        chunk.copy_to_bytes(len)
    }))
}

/// A body of at most one byte more than `len_max`: who is handed it sees that it is too long.
async fn read(stream: &mut Stream, len_max: usize) -> Result<Bytes, h3::error::StreamError> {
    let mut whole = BytesMut::new();
    while let Some(mut chunk) = stream.recv_data().await? {
        let room = (len_max + 1).saturating_sub(whole.len());
        let len = chunk.remaining().min(room);
        whole.extend_from_slice(&chunk.copy_to_bytes(len));
        if whole.len() > len_max {
            break;
        }
    }
    Ok(whole.freeze())
}
