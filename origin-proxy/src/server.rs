//! Connections and requests of viewers.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use serde_json::json;
use swarm_core::record::RECORD_HEADER;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};

use crate::{
    Config, Error,
    error::Failure,
    object::{Landing, end_to_end},
    proxy::{Answer, Passed, Proxy},
    respond::{self, Asked, Body},
};

/// Serves viewers until `shutdown` is ready, then lets open requests end.
///
/// # Errors
/// [`Error`], before anything is served, if `config` is wrong or the key cannot be used.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let proxy = Proxy::new(config)?;
    let drain = Duration::from_millis(proxy.config.timeouts.drain_ms);
    let connections = Arc::new(Semaphore::new(proxy.config.limits.connections_max));
    let builder = builder(&proxy.config);
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            let permit = connections.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accept => accepted,
            () = &mut shutdown => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Too many open files, most likely: some will close.
                tracing::warn!(%error, "environment refuses a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = graceful.watch(connect(&builder, socket, proxy.clone()).into_owned());
        let gauge = proxy.metrics.connections.clone();
        tokio::spawn(async move {
            gauge.increment(1.0);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            gauge.decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    Ok(())
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HEADERS_MAX: usize = 100;
const HTTP2_STREAMS_MAX: u32 = 256;

fn builder(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.timeouts.request_head_ms))
        .max_buf_size(config.limits.header_bytes_max)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    builder
}

fn connect<'a>(
    builder: &'a auto::Builder<TokioExecutor>,
    socket: TcpStream,
    proxy: Arc<Proxy>,
) -> auto::Connection<'a, TokioIo<TcpStream>, impl Service, TokioExecutor> {
    // Small answers, playlists above all, must not wait for acknowledgements.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let proxy = proxy.clone();
        async move { Ok::<_, std::convert::Infallible>(handle(&proxy, request).await) }
    });
    builder.serve_connection(TokioIo::new(socket), service)
}

async fn handle(proxy: &Arc<Proxy>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let asked = Asked {
        method: &head.method,
        headers: &head.headers,
    };
    let mut response = match refuse(&head.method, &head.headers, &body) {
        Some(failure) => respond::failure(&failure),
        None => route(proxy, &head.uri, &asked).await,
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = http::HeaderValue::from_static("GET, HEAD, OPTIONS");
        response.headers_mut().insert(header::ALLOW, allow);
    }
    respond::finish(&mut response, &asked, &proxy.config.cors.origins);
    proxy
        .metrics
        .on_answer(response.status(), started.elapsed());
    response
}

/// Requests that are never answered: other methods, and such with a body, which has no meaning here
/// and could only serve to smuggle another request.
fn refuse(method: &Method, headers: &HeaderMap, body: &Incoming) -> Option<Failure> {
    if !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Some(Failure::Client("a method that is not supported", status));
    }
    let has_body =
        headers.contains_key(header::TRANSFER_ENCODING) || !hyper::body::Body::is_end_stream(body);
    has_body.then_some(Failure::Client("a body", StatusCode::BAD_REQUEST))
}

async fn route(proxy: &Arc<Proxy>, uri: &http::Uri, asked: &Asked<'_>) -> Response<Body> {
    if *asked.method == Method::OPTIONS {
        return respond::preflight(asked);
    }
    match uri.path() {
        "/healthz" => respond::text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/metrics" => {
            proxy.measure();
            let text = proxy.metrics.render();
            respond::text(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        "/.shoal/streams" => respond::text(StatusCode::OK, "application/json", streams(proxy)),
        _ => match answer(proxy, uri, asked).await {
            Ok(response) => response,
            Err(failure) => respond::failure(&failure),
        },
    }
}

fn streams(proxy: &Proxy) -> String {
    let streams = proxy.streams.iter().map(|stream| {
        json!({
            "name": stream.name,
            "prefix": stream.prefix,
            "stream": stream.id.to_string(),
            "public_key": stream.public_key(),
        })
    });
    let list: Vec<_> = streams.collect();
    json!(list).to_string()
}

async fn answer(
    proxy: &Arc<Proxy>,
    uri: &http::Uri,
    asked: &Asked<'_>,
) -> Result<Response<Body>, Failure> {
    let target = proxy.origin.target(uri)?;
    match proxy.answer(&target, asked.headers).await? {
        Answer::Whole(object) => Ok(respond::whole(&object, asked)),
        Answer::Growing(flight, head) => {
            if let Some(response) = respond::growing(flight.clone(), &head, asked) {
                return Ok(response);
            }
            match flight.landing().await {
                Landing::Whole(object) => Ok(respond::whole(&object, asked)),
                Landing::Failed(failure) => Err(failure),
                Landing::NotShared => Err(Failure::Internal("a shared answer is not shared")),
            }
        }
        Answer::Passed(passed) => Ok(pass_on(proxy.clone(), passed, asked)),
    }
}

fn pass_on(proxy: Arc<Proxy>, passed: Passed, asked: &Asked<'_>) -> Response<Body> {
    let Passed { response, permit } = passed;
    let status = response.status();
    let mut headers = end_to_end(response.headers());
    headers.remove(RECORD_HEADER);
    let len = response.content_length();
    let state = (proxy, response, permit);
    let body = stream::try_unfold(state, |(proxy, mut response, permit)| async move {
        let chunk = proxy.next_passed(&mut response).await?;
        Ok(chunk.map(|chunk| (chunk, (proxy, response, permit))))
    });
    respond::passed(status, headers, len, body, asked)
}

/// What hyper calls for each request; named so that the connection's type can be written.
trait Service:
    hyper::service::Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Send
    + 'static
{
}

impl<S> Service for S where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + Send
        + 'static
{
}
