//! One request of a viewer, whatever version of HTTP it came by.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use callers::Peer;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request};
use http_body_util::{BodyExt, Limited};
use swarm_core::record::RECORD_HEADER;

use crate::{
    access::{Entry, EntryHead, Meter, Outcome},
    admin,
    body::Body,
    cache_status, client,
    cmcd::Cmcd,
    error::Failure,
    freshness, gzip,
    metrics::Scope,
    object::{Landing, end_to_end, is_whole},
    playlist::Format,
    proxy::{Answer, Passed, Proxy},
    respond::{self, Asked},
    target::{Site, Target, site_of},
};

/// Where a request came from.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// What to say of HTTP/3 to viewers who came by this listener.
    pub(crate) alt_svc: Option<HeaderValue>,
}

/// An answer, and what is to be counted of it.
struct Answered {
    response: Response<Body>,
    outcome: Outcome,
    scope: Arc<Scope>,
    /// Whether it was for the origin to say when it comes.
    is_blocking: bool,
    /// Whether it has what every answer has.
    is_finished: bool,
}

/// The same of an object of the origin.
struct Found {
    response: Response<Body>,
    outcome: Outcome,
    is_finished: bool,
}

impl Answered {
    fn own(proxy: &Proxy, response: Response<Body>) -> Self {
        Self {
            response,
            outcome: Outcome::Own,
            scope: proxy.scope_of_rest().clone(),
            is_blocking: false,
            is_finished: false,
        }
    }
}

/// Bytes of a header line besides name and value: `: ` and the line end.
const HEADER_LINE_EXTRA: usize = 4;

/// Answers one request.
pub(crate) async fn handle<B>(
    proxy: &Arc<Proxy>,
    client: &Client,
    head: &request::Parts,
    body: B,
) -> Response<Body>
where
    B: hyper::body::Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let started = Instant::now();
    let host = host_of(head);
    let site = site_of(&proxy.sites, host.as_ref().ok().copied().flatten());
    let asked = Asked {
        method: &head.method,
        headers: &head.headers,
        added: site.manners.added.as_ref(),
        cors: &site.manners.cors,
    };
    let host = match host {
        Ok(host) => host,
        Err(failure) => return finish(proxy, client, &asked, respond::failure(&failure), false),
    };
    let viewer = proxy.viewer_of(client.peer, head);
    let answered = match refuse(proxy, viewer, head, &body) {
        Some(failure) => {
            proxy.metrics.refused.increment(1);
            Answered::own(proxy, respond::failure(&failure))
        }
        None => route(proxy, site, head, &asked, body).await,
    };
    let Answered {
        response,
        outcome,
        scope,
        is_blocking,
        is_finished,
    } = answered;
    let mut response = finish(proxy, client, &asked, response, is_finished);
    scope.on_answer(outcome, response.status(), started.elapsed(), is_blocking);
    let cmcd = Cmcd::read(head.uri.query(), &head.headers);
    if let Some(cmcd) = &cmcd {
        scope.on_cmcd(cmcd);
    }
    let status = response.status();
    let entry = proxy.access.as_ref().map(|log| Entry {
        client: viewer,
        head: EntryHead::of(head, host, &proxy.path_to_log(site, head)),
        started,
        status,
        outcome,
        log: log.clone(),
        cmcd,
    });
    response.body_mut().measured(Meter::new(scope, entry));
    response
}

fn finish(
    proxy: &Proxy,
    client: &Client,
    asked: &Asked<'_>,
    mut response: Response<Body>,
    is_finished: bool,
) -> Response<Body> {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = respond::methods(proxy.config.limits.body_bytes_max);
        response.headers_mut().insert(header::ALLOW, allow);
    }
    if let Some(alt_svc) = &client.alt_svc {
        response
            .headers_mut()
            .insert(header::ALT_SVC, alt_svc.clone());
    }
    if !is_finished {
        respond::finish(&mut response, asked);
    }
    proxy.metrics.on_answer(response.status());
    response
}

/// The host that a request is for (RFC 9112 section 3.2): one, and the same wherever it is said.
fn host_of(head: &request::Parts) -> Result<Option<&str>, Failure> {
    let wrong = |what| Err(Failure::Client(what, StatusCode::BAD_REQUEST));
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return wrong("several hosts");
    }
    if host.is_none() && head.version == Version::HTTP_11 && head.uri.authority().is_none() {
        return wrong("no host");
    }
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match host.map(HeaderValue::to_str) {
        Some(Err(_)) => wrong("a host that is no text"),
        Some(Ok(host)) => Ok(Some(host)),
        None => Ok(None),
    }
}

fn is_change(method: &Method) -> bool {
    matches!(
        *method,
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE
    )
}

/// Requests that are never answered: too many, methods that are not served, and bodies where they have
/// no meaning and could only serve to smuggle another request.
fn refuse<B: hyper::body::Body>(
    proxy: &Proxy,
    viewer: IpAddr,
    head: &request::Parts,
    body: &B,
) -> Option<Failure> {
    if !proxy.rates.allows_request(viewer) {
        return Some(Failure::TooOften);
    }
    let is_admin = head.uri.path().starts_with(admin::PREFIX);
    if is_change(&head.method) && (is_admin || proxy.config.limits.body_bytes_max > 0) {
        return None;
    }
    if !matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Some(Failure::Client("a method that is not supported", status));
    }
    let has_body = head.headers.contains_key(header::TRANSFER_ENCODING) || !body.is_end_stream();
    has_body.then_some(Failure::Client("a body", StatusCode::BAD_REQUEST))
}

async fn route<B>(
    proxy: &Arc<Proxy>,
    site: &Site,
    head: &request::Parts,
    asked: &Asked<'_>,
    body: B,
) -> Answered
where
    B: hyper::body::Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if head.method == Method::OPTIONS {
        let methods = respond::methods(proxy.config.limits.body_bytes_max);
        return Answered::own(proxy, respond::preflight(asked, methods));
    }
    if let Some(response) = admin::page(proxy, site, head) {
        return Answered::own(proxy, response);
    }
    if let Some(proof) = proxy.challenges.answer(&head.uri) {
        let response = respond::text(StatusCode::OK, "application/octet-stream", proof);
        return Answered::own(proxy, response);
    }
    if head.uri.path().starts_with(admin::PREFIX) {
        // Nothing is read of what no operator sends.
        if let Some(refusal) = admin::refuse(proxy, head) {
            return Answered::own(proxy, refusal);
        }
        let patience = body_patience(proxy);
        let body = Box::pin(read_body(body, admin::BODY_BYTES_MAX, patience)).await;
        let response = match body {
            Ok(body) => admin::answer(proxy, site, head, &body),
            Err(failure) => respond::failure(&failure),
        };
        return Answered::own(proxy, response);
    }
    let target = match site.target(&head.uri) {
        Ok(target) => target,
        Err(failure) => return Answered::own(proxy, respond::failure(&failure)),
    };
    let scope = proxy.scope_of(&target).clone();
    let found = if is_change(&head.method) {
        Box::pin(change(proxy, &target, asked, body)).await
    } else {
        answer(proxy, &target, asked).await
    };
    let Found {
        response,
        outcome,
        is_finished,
    } = found.unwrap_or_else(|failure| Found {
        response: respond::failure(&failure),
        outcome: Outcome::Own,
        is_finished: false,
    });
    Answered {
        response,
        outcome,
        scope,
        is_blocking: target.is_blocking(),
        is_finished,
    }
}

async fn answer(proxy: &Arc<Proxy>, target: &Target, asked: &Asked<'_>) -> Result<Found, Failure> {
    proxy.admit(target, asked.headers).await?;
    let (answer, outcome) = proxy.answer(target, asked.headers, asked.method).await?;
    let object = match answer {
        Answer::Whole(object) => object,
        Answer::Growing(flight, head) => {
            let is_over = match respond::end_to_wait_for(&head, asked) {
                Some(end) => !Box::pin(flight.reaches(end)).await,
                None => false,
            };
            let growing = || respond::growing(flight.clone(), &head, asked);
            if let Some(mut response) = (!is_over).then(growing).flatten() {
                cache_status::note(response.headers_mut(), outcome, None);
                return Ok(Found {
                    response,
                    outcome,
                    is_finished: false,
                });
            }
            match Box::pin(flight.landing()).await {
                Landing::Whole(object) => object,
                Landing::Failed(failure) => return Err(failure),
                Landing::NotShared => {
                    return Err(Failure::Internal("a shared answer is not shared"));
                }
            }
        }
        Answer::Passed(passed) => {
            return Ok(Found {
                response: pass_on(proxy, target, *passed, asked)?,
                outcome,
                is_finished: false,
            });
        }
    };
    let is_coded = object.gzipped.is_possible() && gzip::is_wanted(asked.headers);
    let coded = match is_coded {
        true => Box::pin(object.gzipped()).await,
        false => None,
    };
    let mut response = respond::whole(coded.as_ref().unwrap_or(&object), asked);
    let is_authorized = asked.headers.contains_key(header::AUTHORIZATION);
    let reason = || freshness::why_not_shared(object.status, &object.headers, is_authorized);
    cache_status::correct(response.headers_mut(), outcome, reason);
    if let Some(record) = response.headers().get(RECORD_HEADER) {
        let len = RECORD_HEADER.len() + record.len() + HEADER_LINE_EXTRA;
        proxy.scope_of(target).record_bytes.increment(len as u64);
    }
    Ok(Found {
        response,
        outcome,
        is_finished: asked.added.is_some(),
    })
}

async fn change<B>(
    proxy: &Arc<Proxy>,
    target: &Target,
    asked: &Asked<'_>,
    body: B,
) -> Result<Found, Failure>
where
    B: hyper::body::Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let len_max = proxy.config.limits.body_bytes_max;
    let body = read_body(body, len_max, body_patience(proxy)).await?;
    // HTTP/3 leaves it to us (RFC 9114 section 4.1.2): the origin must not be told another length than ours.
    if told_len(asked.headers).is_some_and(|len| len != body.len() as u64) {
        return Err(Failure::Client(
            "a body of another length than it says",
            StatusCode::BAD_REQUEST,
        ));
    }
    let method = asked.method.clone();
    let passed = proxy.change(target, method, asked.headers, body).await?;
    Ok(Found {
        response: pass_on(proxy, target, passed, asked)?,
        outcome: Outcome::Passed,
        is_finished: false,
    })
}

fn body_patience(proxy: &Proxy) -> Duration {
    Duration::from_millis(proxy.config.timeouts.request_body_ms)
}

/// The whole of a viewer's body, of at most `len_max` bytes, if it comes within `patience`.
async fn read_body<B>(body: B, len_max: usize, patience: Duration) -> Result<Bytes, Failure>
where
    B: hyper::body::Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = std::pin::pin!(body);
    let collected = Limited::new(body, len_max).collect();
    let collected = tokio::time::timeout(patience, collected).await;
    let late = Failure::Client("no end of its body in time", StatusCode::REQUEST_TIMEOUT);
    collected
        .map_err(|_| late)?
        .map(|body| body.to_bytes())
        .map_err(|error| {
            let is_too_long = error.is::<http_body_util::LengthLimitError>();
            if is_too_long {
                Failure::Client("a body that is too long", StatusCode::PAYLOAD_TOO_LARGE)
            } else {
                Failure::Client("a body that broke off", StatusCode::BAD_REQUEST)
            }
        })
}

fn pass_on(
    proxy: &Arc<Proxy>,
    target: &Target,
    passed: Passed,
    asked: &Asked<'_>,
) -> Result<Response<Body>, Failure> {
    let Passed { response, permit } = passed;
    // A viewer may take its time: its place must not be one of those that all others need.
    let place = proxy.passing_place()?;
    drop(permit);
    let status = response.status();
    let mut headers: HeaderMap = end_to_end(response.headers());
    headers.remove(RECORD_HEADER);
    let reason = why_for_one(proxy, target, &response, asked);
    cache_status::note(&mut headers, Outcome::Passed, reason);
    let is_playlist = Format::of(&target.path, &headers) != Format::Other;
    let len = match *asked.method {
        // A playlist will be longer by our tags.
        Method::HEAD if is_playlist => None,
        // The body is empty, whatever length is told.
        Method::HEAD => told_len(response.headers()),
        _ => response.content_length(),
    };
    let scope = proxy.scope_of(target).clone();
    let state = (proxy.clone(), response, place, scope);
    let body = stream::try_unfold(state, |(proxy, mut response, place, scope)| async move {
        let chunk = proxy.upstream.next_for_one(&mut response).await?;
        let len = chunk.as_ref().map_or(0, Bytes::len) as u64;
        proxy.metrics.origin_bytes.increment(len);
        scope.origin_bytes.increment(len);
        Ok(chunk.map(|chunk| (chunk, (proxy, response, place, scope))))
    });
    Ok(respond::passed(status, headers, len, body, asked))
}

/// Why an answer is for one viewer alone, in a word.
fn why_for_one(
    proxy: &Proxy,
    target: &Target,
    response: &client::Response,
    asked: &Asked<'_>,
) -> Option<&'static str> {
    if is_change(asked.method) {
        return Some("method");
    }
    let (status, headers) = (response.status(), response.headers());
    let is_authorized = asked.headers.contains_key(header::AUTHORIZATION);
    let is_too_long = |len| is_whole(status) && len > proxy.config.cache.object_bytes_max;
    match freshness::why_not_shared(status, headers, is_authorized) {
        Some(reason) => Some(reason),
        None if proxy.is_for_one(&target.path, &target.key, headers) => Some("no-freshness"),
        None => (response.content_length().is_some_and(is_too_long)).then_some("too-long"),
    }
}

fn told_len(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}
