//! The API's paths.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{
    question::{Question, Reply, ask_all, look},
    summary::STREAMS_MAX,
};
use crate::{
    admission::same,
    config::Config,
    metrics::{self, Counters, Gauges},
    server::{Answer, Context, text},
};

/// Longest body of a request, in bytes.
const BODY_LEN_MAX: usize = 4096;

/// The body of a drain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Drain {
    over_ms: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { over_ms: 30_000 }
    }
}

pub(crate) async fn answer_metrics(request: &Request<Incoming>, context: &Context) -> Answer {
    if context.config.admin_token.is_some() && !is_admin(request.headers(), &context.config) {
        return not_admin(context);
    }
    let (asked_at, shard) = (Instant::now(), &context.shard);
    let queue = shard.max_capacity() - shard.capacity();
    let Some(mut gauges) = look(context, move |sight| Gauges::read(sight, asked_at)).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    };
    gauges.queue = queue as u64;
    gauges.uptime_s = context.node.started.elapsed().as_secs();
    if let Some(end_s) = context.entrance.certificate_end_s() {
        Counters::set(&context.counters.tls_certificate_end_s, end_s);
    }
    let body = metrics::render(&context.counters, &gauges) + &context.webtorrent.render();
    let mut answer = text(StatusCode::OK, &body);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// Somebody has no admin token, or guesses.
fn not_admin(context: &Context) -> Answer {
    Counters::add(&context.counters.admin_refused);
    if let Some(times) = context.strangers.times(Instant::now()) {
        tracing::warn!(times, "requests without the admin token were refused");
    }
    text(StatusCode::UNAUTHORIZED, "the admin token is needed\n")
}

/// Answers under `/api/`. A public API is one to look at: whatever changes something needs the
/// token all the same.
pub(crate) async fn answer(request: Request<Incoming>, context: &Arc<Context>) -> Answer {
    let public = context.config.public_api;
    let method = request.method().clone();
    let reads = matches!(method, Method::GET | Method::OPTIONS);
    let may = (public && reads) || is_admin(request.headers(), &context.config);
    if !may {
        return not_admin(context);
    }
    let mut answer = if method == Method::OPTIONS {
        text(StatusCode::NO_CONTENT, "")
    } else {
        match question_of(request, context).await {
            Ok(question) => answer_question(context, &question).await,
            Err((status, why)) => text(status, why),
        }
    };
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if public {
        let all = HeaderValue::from_static("*");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, all.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, all);
    }
    answer
}

async fn question_of(
    request: Request<Incoming>,
    context: &Context,
) -> Result<Question, (StatusCode, &'static str)> {
    let unknown = Err((StatusCode::NOT_FOUND, "not found\n"));
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.trim_start_matches("/api/").split('/').collect();
    let mine = || context.node.id.clone();
    let owned = |part: &&str| (*part).to_owned();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["nodes"]) => Ok(Question::Nodes),
        (&Method::GET, ["streams"]) => Ok(Question::Streams),
        (&Method::GET, ["streams", stream]) => Ok(Question::Stream(owned(stream))),
        (&Method::GET, ["streams", stream, "groups"]) => Ok(Question::Groups(owned(stream))),
        (&Method::GET, ["streams", stream, "mesh"]) => {
            let group = match argument(&query, "group").map(str::parse) {
                None => None,
                Some(Ok(group)) => Some(group),
                Some(Err(_)) => return Err((StatusCode::BAD_REQUEST, "group is no number\n")),
            };
            Ok(Question::Mesh {
                stream: owned(stream),
                group,
                node: argument(&query, "node").map(str::to_owned),
            })
        }
        (&Method::GET, ["swarms"]) => Ok(Question::Swarms),
        (&Method::GET, ["swarms", swarm]) => Ok(Question::Swarm(owned(swarm))),
        (&Method::POST, ["swarms", swarm, "viewers", viewer, "kick"]) => Ok(Question::KickFrom {
            swarm: owned(swarm),
            viewer: owned(viewer),
        }),
        (&Method::DELETE, ["swarms", swarm, "viewers", viewer, "kick"]) => Ok(Question::LiftFrom {
            swarm: owned(swarm),
            viewer: owned(viewer),
        }),
        (&Method::GET, ["viewers", viewer]) => Ok(Question::Viewer(owned(viewer))),
        (&Method::POST, ["viewers", viewer, "kick"]) => Ok(Question::Kick(owned(viewer))),
        (&Method::DELETE, ["viewers", viewer, "kick"]) => Ok(Question::Lift(owned(viewer))),
        (&Method::POST, ["drain"]) => drain(request, mine()).await,
        (&Method::POST, ["nodes", node, "drain"]) => {
            let node = owned(node);
            drain(request, node).await
        }
        (&Method::DELETE, ["drain"]) => Ok(end_drain(mine())),
        (&Method::DELETE, ["nodes", node, "drain"]) => Ok(end_drain(owned(node))),
        (&Method::GET | &Method::POST | &Method::DELETE, _) => unknown,
        _ => Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, POST and DELETE\n",
        )),
    }
}

async fn drain(
    request: Request<Incoming>,
    node: String,
) -> Result<Question, (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    let Ok(body) = Limited::new(request.into_body(), BODY_LEN_MAX)
        .collect()
        .await
    else {
        return bad("the body is too long or broken\n");
    };
    let body = body.to_bytes();
    let drain = if body.is_empty() {
        Ok(Drain::default())
    } else {
        serde_json::from_slice(&body)
    };
    let Ok(Drain { over_ms }) = drain else {
        return bad("the body must be like {\"over_ms\": 30000}\n");
    };
    let over_ms = Some(over_ms);
    Ok(Question::Drain { node, over_ms })
}

const fn end_drain(node: String) -> Question {
    let over_ms = None;
    Question::Drain { node, over_ms }
}

/// Asks this node and all others, and makes one answer of it.
async fn answer_question(context: &Arc<Context>, question: &Question) -> Answer {
    let Some(reply) = ask_all(context, question).await else {
        return stopping();
    };
    let no_viewers = || text(StatusCode::NOT_FOUND, "no viewers of this stream\n");
    match reply {
        Reply::Nodes(nodes) => json(&nodes),
        Reply::Streams(streams) => json(&streams.cut(STREAMS_MAX).named(&context.streams)),
        Reply::Stream(found) => found.map_or_else(no_viewers, |mut found| {
            found.name(&context.streams);
            json(&found)
        }),
        Reply::Groups(found) => found.map_or_else(no_viewers, |found| json(&found)),
        Reply::Mesh(found) => found.map_or_else(no_viewers, |found| json(&found)),
        Reply::Viewer(Some(found)) => json(&found),
        Reply::Swarms(swarms) => json(&swarms.shown()),
        Reply::Swarm(found) => found.map_or_else(no_viewers, |found| json(&found)),
        Reply::Kicked(Some(who)) => bar(context, &Question::Bar(who)).await,
        Reply::Viewer(None) | Reply::Kicked(None) | Reply::Done(false) => {
            text(StatusCode::NOT_FOUND, "no such viewer or node\n")
        }
        // Nodes alone ask what was told.
        Reply::Told(_) | Reply::Done(true) => match question.clone() {
            Question::KickFrom { swarm, viewer } => {
                bar(context, &Question::BarFrom { swarm, viewer }).await
            }
            _ => text(StatusCode::OK, "done\n"),
        },
    }
}

/// Who was sent away is not to come back: the next node that runs its stream, or lets it in, is to know, too.
async fn bar(context: &Arc<Context>, who: &Question) -> Answer {
    match ask_all(context, who).await {
        Some(_) => text(StatusCode::OK, "done\n"),
        None => stopping(),
    }
}

fn stopping() -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
}

fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn is_admin(headers: &HeaderMap, config: &Config) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
    match (given, &config.admin_token) {
        (Some(given), Some(token)) => same(given, token.as_bytes()),
        _ => false,
    }
}

fn json(value: &impl Serialize) -> Answer {
    let Ok(body) = serde_json::to_vec(value) else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer cannot be written\n",
        );
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
