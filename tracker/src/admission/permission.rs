//! The operator's own back end says who may join, over HTTP.
//!
//! `docs/operating/tokens.md` specifies the request and the answer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use moka::{Expiry, future::Cache};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use swarm_core::wire::tracker::RefusalCode;
use tokio::{sync::Semaphore, time::timeout};

use super::{Admission, Bearer, Grant, JoinRequest};
use crate::{Error, metrics::Counters, quota::household_key, seldom::Seldom};

/// A day, in seconds.
const DAY_S: u64 = 86_400;
/// Largest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 4096;
/// How often its failures are logged.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Whom to ask who may join, and what to do without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PermissionConfig {
    /// Where to ask, `http://` or `https://`; without it nobody is asked.
    pub url: Option<String>,
    /// The bearer token that the tracker proves itself with there.
    pub bearer: Option<String>,
    /// For one answer, in milliseconds; a join waits as long for its turn to ask.
    pub timeout_ms: u32,
    /// What happens without an answer.
    pub on_failure: OnFailure,
    /// How long a failure is remembered before the back end is asked again, in milliseconds.
    pub failure_ttl_ms: u32,
    /// How long an answer holds that does not say, in seconds.
    pub ttl_s: u32,
    /// How long any answer holds at most, in seconds.
    pub ttl_s_max: u32,
    /// Answers that are remembered.
    pub answers_max: u32,
    /// Requests at the same time; further joins wait, within `timeout_ms`, and are refused for the
    /// time being then: that the tracker is busy is no failure of the back end.
    pub requests_max: u32,
    /// Requests at the same time for joins of one address (IPv6: of one /64).
    pub requests_per_address_max: u32,
}

/// What happens to viewers while the back end does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They may join.
    Open,
    /// They may not; they play from the CDN and come back later.
    #[default]
    Closed,
}

impl Default for PermissionConfig {
    fn default() -> Self {
        Self {
            url: None,
            bearer: None,
            timeout_ms: 1_000,
            on_failure: OnFailure::Closed,
            failure_ttl_ms: 2_000,
            ttl_s: 60,
            ttl_s_max: 3_600,
            answers_max: 100_000,
            requests_max: 64,
            requests_per_address_max: 16,
        }
    }
}

/// What is asked.
#[derive(Serialize)]
struct Question<'a> {
    stream: String,
    address: String,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
}

/// What is answered.
#[derive(Debug, Deserialize)]
struct Answer {
    decision: Decision,
    ttl_s: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Allow,
    Deny,
    Leech,
}

/// What is remembered of an answer, or of its absence.
#[derive(Clone, Copy, Debug)]
struct Known {
    decision: Option<Decision>,
    ttl: Duration,
}

type Key = [u8; 32];

struct KnownExpiry;

impl Expiry<Key, Known> for KnownExpiry {
    fn expire_after_create(&self, _: &Key, known: &Known, _: Instant) -> Option<Duration> {
        Some(known.ttl)
    }
}

/// By address: how many joins have to do with them, and the turns.
type Turns = HashMap<u128, (u32, Arc<Semaphore>)>;

/// The turns of one join's address; forgotten with its last join, also where that is given up.
struct OwnTurns<'a> {
    turns: Arc<Semaphore>,
    address: u128,
    all: &'a Mutex<Turns>,
}

impl Drop for OwnTurns<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((joins, _)) = all.get_mut(&self.address) {
            *joins -= 1;
            if *joins == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// Asks, and remembers. Joins that ask the same at the same time share one request.
pub(super) struct Permission {
    config: PermissionConfig,
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    known: Cache<Key, Known>,
    slots: Semaphore,
    /// The turns of each address that asks now.
    turns: Mutex<Turns>,
    counters: Arc<Counters>,
    warnings: Seldom,
}

impl Permission {
    /// `None` where nobody is to be asked.
    pub(super) fn open(
        config: &PermissionConfig,
        counters: &Arc<Counters>,
    ) -> Result<Option<Self>, Error> {
        let Some(url) = &config.url else {
            return Ok(None);
        };
        let wrong = |what: &str| Error::Config(format!("permission.{what}"));
        let url: Uri = url.parse().map_err(|_| wrong("url is no URL"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err(wrong("url must begin with http:// or https://"));
        }
        let limits = [
            config.timeout_ms,
            config.answers_max,
            config.requests_max,
            config.requests_per_address_max,
        ];
        if limits.contains(&0) {
            return Err(wrong(
                "timeout_ms, answers_max, requests_max and requests_per_address_max must not be 0",
            ));
        }
        let provider = rustls::crypto::ring::default_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|source| Error::Environment {
                what: "reading the system's certificates",
                source,
            })?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Some(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            known: Cache::builder()
                .max_capacity(u64::from(config.answers_max))
                .expire_after(KnownExpiry)
                .build(),
            slots: Semaphore::new(config.requests_max as usize),
            turns: Mutex::default(),
            counters: Arc::clone(counters),
            warnings: Seldom::new(WARN_EVERY),
            config: config.clone(),
            url,
        }))
    }

    /// Asks when it is the address's turn. [`RefusalCode::Unavailable`] where that does not come.
    async fn ask_in_turn(&self, request: &JoinRequest<'_>) -> Result<Known, RefusalCode> {
        let limit = Duration::from_millis(u64::from(self.config.timeout_ms));
        let own = self.own_turns(request.address);
        // First the address's, so that no address fills the queue of all.
        let turn = async {
            let first = own.turns.acquire().await.ok()?;
            Some((first, self.slots.acquire().await.ok()?))
        };
        if let Ok(Some(_turn)) = timeout(limit, turn).await {
            return Ok(self.ask(request).await);
        }
        Counters::add(&self.counters.permission_busy);
        Err(RefusalCode::Unavailable)
    }

    fn own_turns(&self, address: IpAddr) -> OwnTurns<'_> {
        let address = household_key(address);
        let most = self.config.requests_per_address_max as usize;
        let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let (joins, turns) = all
            .entry(address)
            .or_insert_with(|| (0, Arc::new(Semaphore::new(most))));
        *joins += 1;
        OwnTurns {
            turns: Arc::clone(turns),
            address,
            all: &self.turns,
        }
    }

    async fn ask(&self, request: &JoinRequest<'_>) -> Known {
        let limit = Duration::from_millis(u64::from(self.config.timeout_ms));
        let (counters, began) = (&self.counters, Instant::now());
        let answer = timeout(limit, self.request(request)).await;
        let took_ms = began.elapsed().as_millis() as u64;
        Counters::add(&counters.permission_asked);
        Counters::add_many(&counters.permission_ms, took_ms);
        let failure = match answer {
            Ok(Ok(answer)) => {
                let ttl_s = answer.ttl_s.unwrap_or(self.config.ttl_s);
                let ttl = Duration::from_secs(u64::from(ttl_s.min(self.config.ttl_s_max)));
                let decision = Some(answer.decision);
                return Known { decision, ttl };
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                Counters::add(&counters.permission_late);
                "no answer in time".into()
            }
        };
        Counters::add(&counters.permission_failed);
        if let Some(times) = self.warnings.times(Instant::now()) {
            // Without its path and query, which may hold a secret.
            let host = self.url.host().unwrap_or_default();
            tracing::warn!(host, failure, times, policy = ?self.config.on_failure,
                "the permission provider failed");
        }
        Known {
            decision: None,
            ttl: Duration::from_millis(u64::from(self.config.failure_ttl_ms)),
        }
    }

    async fn request(&self, request: &JoinRequest<'_>) -> Result<Answer, String> {
        let question = Question {
            stream: request.stream.to_string(),
            address: request.address.to_canonical().to_string(),
            token: std::str::from_utf8(request.token).unwrap_or_default(),
            origin: request.origin,
        };
        let body = serde_json::to_vec(&question).map_err(|e| e.to_string())?;
        let mut post = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(bearer) = &self.config.bearer {
            post = post.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let post = post
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let answer = self.client.request(post).await.map_err(|e| e.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect();
        let body = body.await.map_err(|e| e.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| format!("its answer is malformed: {e}"))
    }
}

#[async_trait]
impl Admission for Permission {
    async fn admit(&self, request: JoinRequest<'_>) -> Result<Grant, RefusalCode> {
        let known = self
            .known
            .try_get_with(key_of(&request), self.ask_in_turn(&request))
            .await
            .map_err(|code| *code)?;
        let leech = match (known.decision, self.config.on_failure) {
            (Some(Decision::Allow), _) | (None, OnFailure::Open) => false,
            (Some(Decision::Leech), _) => true,
            (Some(Decision::Deny), _) => return Err(RefusalCode::BadToken),
            (None, OnFailure::Closed) => return Err(RefusalCode::Unavailable),
        };
        Ok(Grant {
            leech,
            bearer: bearer_of(request.token, SystemTime::now()),
        })
    }
}

/// Whose token it is; `None` where viewers bring none. Only the back end knows when it ends, so its uses
/// are counted by the day.
fn bearer_of(token: &[u8], now: SystemTime) -> Option<Bearer> {
    let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let until_s = (now_s / DAY_S + 1) * DAY_S;
    let until = UNIX_EPOCH + Duration::from_secs(until_s);
    (!token.is_empty()).then(|| Bearer::of(token, until))
}

/// All that an answer depends on.
fn key_of(request: &JoinRequest<'_>) -> Key {
    let (stream, address) = (
        request.stream.to_string(),
        request.address.to_canonical().to_string(),
    );
    let mut hash = Sha256::new();
    let origin = request.origin.unwrap_or_default();
    for part in [
        stream.as_bytes(),
        address.as_bytes(),
        origin.as_bytes(),
        request.token,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
