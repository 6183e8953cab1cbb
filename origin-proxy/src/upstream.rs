//! Asking origins: time-outs, retries, fail-over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use swarm_core::timeline::PLAYLIST_LEN_MAX;

use crate::{
    Config, Error,
    client::{Client, Response, Trouble},
    error::Failure,
    health::Aspect,
    metrics::Metrics,
    object::end_to_end,
    proxy::Proxy,
    redirects::{Hops, Step},
    target::{Base, Site, Target},
    trace::continue_trace,
    vary::UNSEEN,
};

/// How long a body is read to find out whether an origin is up.
const READ_OUT_MAX: Duration = Duration::from_secs(30);

/// Who asks origins.
pub(crate) struct Upstream {
    client: Client,
    first_byte: Duration,
    blocking: Duration,
    stall: Duration,
    retries_max: usize,
    follows_redirects: bool,
    /// What of viewers' headers stays here.
    dropped: Vec<HeaderName>,
    /// What the operator has origins told.
    added: HeaderMap,
}

/// One request.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the origin is expected to hold its answer back.
    pub(crate) is_blocking: bool,
}

impl Upstream {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            client: Client::new(config)?,
            first_byte: Duration::from_millis(config.timeouts.first_byte_ms),
            blocking: Duration::from_millis(config.timeouts.blocking_ms),
            stall: Duration::from_millis(config.timeouts.stall_ms),
            retries_max: config.upstream.retries_max,
            follows_redirects: config.follow_redirects,
            dropped: config.upstream.dropped()?,
            added: config.upstream.added()?,
        })
    }

    /// Sends a request to the origins of `site` and waits for the head of an answer. Requests that are
    /// not idempotent are sent once; others go to the next origin when one fails.
    pub(crate) async fn ask(
        &self,
        site: &Site,
        ask: Ask<'_>,
        metrics: &Metrics,
    ) -> Result<Response, Failure> {
        let bases = plan_order(&site.bases, |base| base.health.is_up());
        self.try_others(&bases, &ask, metrics);
        let is_idempotent = ask.method.is_idempotent();
        let head = Aspect::head_of(&ask.target.path);
        let mut last = Failure::Internal("a host without origins");
        for (index, base) in bases.iter().enumerate() {
            let is_last = index + 1 == bases.len();
            if index > 0 {
                metrics.failovers.increment(1);
            }
            match self.ask_one(base, &ask, metrics).await {
                Ok(response) if response.status().is_server_error() => {
                    note_failure(base, head, response.status().as_str());
                    if is_last || !is_idempotent {
                        return Ok(response);
                    }
                }
                Ok(mut response) => {
                    base.health.on_success(head);
                    response.base = Some((Arc::clone(base), head.body()));
                    return Ok(response);
                }
                Err(trouble) => {
                    metrics.origin_failures.increment(1);
                    note_failure(base, head, &trouble.failure.to_string());
                    if !is_idempotent && !trouble.is_unsent {
                        return Err(trouble.failure);
                    }
                    last = trouble.failure;
                }
            }
        }
        Err(last)
    }

    /// Finds out whether origins that are down do better by now: by a request of their own, next to the one that
    /// a viewer waits for.
    fn try_others(&self, bases: &[&Arc<Base>], ask: &Ask<'_>, metrics: &Metrics) {
        let is_first_up = bases.first().is_some_and(|base| base.health.is_up());
        // What is held back on purpose says nothing of how an origin does.
        if !is_first_up || ask.method != Method::GET || ask.is_blocking {
            return;
        }
        let head = Aspect::head_of(&ask.target.path);
        for base in bases.iter().filter(|base| base.health.is_try_due(head)) {
            metrics.origin_requests.increment(1);
            base.count(|figures| figures.requests.increment(1));
            let (client, patience) = (self.client.clone(), self.first_byte);
            let stall = self.stall;
            let (base, failures) = (Arc::clone(base), metrics.origin_failures.clone());
            let (url, mut headers) = (base.url(ask.target), ask.headers.clone());
            headers.extend(self.added.clone());
            // That nothing has changed says nothing of bodies.
            headers.remove(header::IF_NONE_MATCH);
            headers.remove(header::IF_MODIFIED_SINCE);
            tokio::spawn(async move {
                let answer = client.send(Method::GET, &url, headers, Bytes::new());
                let answer = tokio::time::timeout(patience, answer).await;
                match answer.unwrap_or(Err(Trouble::LATE)) {
                    Ok(response) if response.status().is_server_error() => {
                        note_failure(&base, head, response.status().as_str());
                    }
                    Ok(mut response) => {
                        base.health.on_success(head);
                        response.base = Some((Arc::clone(&base), head.body()));
                        read_out(response, stall).await;
                        if base.health.is_up() {
                            tracing::info!(origin = base.name(), "origin is up again");
                        }
                    }
                    Err(trouble) => {
                        failures.increment(1);
                        note_failure(&base, head, &trouble.failure.to_string());
                    }
                }
            });
        }
    }

    /// Asks one origin, again if the connection failed: a kept one may have been closed meanwhile.
    async fn ask_one(
        &self,
        base: &Base,
        ask: &Ask<'_>,
        metrics: &Metrics,
    ) -> Result<Response, Trouble> {
        let mut tries = 0;
        loop {
            metrics.origin_requests.increment(1);
            base.count(|figures| figures.requests.increment(1));
            let asked = Instant::now();
            let trouble = match self.send(base, ask).await {
                Ok(response) => {
                    // One that is held back on purpose says nothing of the origin.
                    if !ask.is_blocking {
                        base.count(|figures| figures.first_byte_seconds.record(asked.elapsed()));
                    }
                    return Ok(response);
                }
                Err(trouble) => trouble,
            };
            let is_harmless = trouble.is_unsent || ask.method.is_idempotent();
            let is_over = matches!(trouble.failure, Failure::OriginTimeout);
            if tries >= self.retries_max || is_over || !is_harmless {
                return Err(trouble);
            }
            tries += 1;
            metrics.retries.increment(1);
        }
    }

    async fn send(&self, base: &Base, ask: &Ask<'_>) -> Result<Response, Trouble> {
        let patience = if ask.is_blocking {
            self.blocking.max(self.first_byte)
        } else {
            self.first_byte
        };
        let mut headers = ask.headers.clone();
        headers.extend(self.added.clone());
        let step = Step {
            method: ask.method.clone(),
            url: base.url(ask.target),
            headers,
            body: ask.body.clone(),
        };
        let answer = tokio::time::timeout(patience, self.follow(step)).await;
        answer.unwrap_or(Err(Trouble::LATE))
    }

    /// Asks, and goes where redirects lead. The answer has them with it.
    async fn follow(&self, mut step: Step) -> Result<Response, Trouble> {
        let mut hops = Hops::default();
        loop {
            let body = match step.method.is_safe() {
                true => Bytes::new(),
                false => step.body.clone(),
            };
            let headers = step.headers.clone();
            let sent = self
                .client
                .send(step.method.clone(), &step.url, headers, body);
            let mut response = sent.await.map_err(|trouble| Trouble {
                is_unsent: trouble.is_unsent && hops.is_empty(),
                ..trouble
            })?;
            let next = step.next(response.status(), response.headers());
            let Some(mut next) = next.filter(|_| self.follows_redirects) else {
                response.hops = hops;
                return Ok(response);
            };
            if !hops.on_redirect(response.headers()) {
                return Err(Trouble {
                    failure: Failure::Origin("its redirects have no end".into()),
                    is_unsent: false,
                });
            }
            if next.url.origin() != step.url.origin() {
                self.added
                    .keys()
                    .for_each(|name| drop(next.headers.remove(name)));
            }
            step = next;
        }
    }

    /// A viewer's headers as the origin may see them, for a whole object that others get, too.
    pub(crate) fn headers_for_whole(&self, viewer: &HeaderMap) -> HeaderMap {
        let mut headers = headers_for_pass(viewer);
        let unseen = UNSEEN
            .iter()
            .filter(|name| *name != header::ACCEPT_ENCODING);
        for name in unseen.chain(&self.dropped) {
            headers.remove(name);
        }
        headers
    }

    /// Asks one origin for `path`, to know whether it is up.
    pub(crate) async fn check(&self, base: &Base, path: &str) {
        let url = base.url_of(path, None);
        let headers = self.added.clone();
        let request = self.client.send(Method::GET, &url, headers, Bytes::new());
        let reason = match tokio::time::timeout(self.first_byte, request).await {
            Ok(Ok(response)) if !response.status().is_server_error() => None,
            Ok(Ok(response)) => Some(response.status().to_string()),
            Ok(Err(trouble)) => Some(trouble.failure.to_string()),
            Err(_) => Some(Failure::OriginTimeout.to_string()),
        };
        if base.health.on_check(reason.is_none()) {
            tracing::warn!(origin = base.name(), reason, "origin fails its checks");
        }
    }

    /// The next bytes of an answer; `None` at its end. How it ends says how the origin does.
    pub(crate) async fn next(&self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        next(response, self.stall).await
    }

    /// The same of an answer that a viewer may take slowly: then the origin may be the one who gives up.
    pub(crate) async fn next_for_one(
        &self,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Failure> {
        response.base = None;
        next(response, self.stall).await
    }

    /// A whole body of at most `len_max` bytes.
    pub(crate) async fn collect(
        &self,
        response: &mut Response,
        len_max: usize,
    ) -> Result<Bytes, Failure> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.next(response).await? {
            if whole.len() + chunk.len() > len_max {
                return Err(Failure::Origin("its answer is too long".into()));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }
}

impl Proxy {
    pub(crate) async fn ask(
        &self,
        target: &Target,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let ask = Ask {
            method,
            target,
            headers,
            body,
            is_blocking: target.is_blocking() || self.parts.is_awaited(&target.key),
        };
        let answer = self.upstream.ask(self.site_of(target), ask, &self.metrics);
        answer.await.inspect_err(|failure| {
            tracing::warn!(path = target.path, %failure, "origin request failed");
        })
    }

    pub(crate) fn on_origin_bytes(&self, target: &Target, len: usize) {
        self.metrics.origin_bytes.increment(len as u64);
        self.scope_of(target).origin_bytes.increment(len as u64);
    }
}

/// All origins, those that are up before those that are not. Each is looked at once: one that comes back
/// meanwhile must not be missing.
fn plan_order<T>(bases: &[T], is_up: impl FnMut(&&T) -> bool) -> Vec<&T> {
    let (mut order, down): (Vec<&T>, Vec<&T>) = bases.iter().partition(is_up);
    order.extend(down);
    order
}

/// Whether the origin tells a length that no playlist may have to be read: taking it in for one viewer alone
/// would be of no use.
pub(crate) fn is_beyond_reading(response: &Response) -> bool {
    let len = response.content_length();
    len.is_some_and(|len| len > PLAYLIST_LEN_MAX as u64)
}

fn note_failure(base: &Base, aspect: Aspect, reason: &str) {
    base.count(|figures| figures.failures.increment(1));
    if base.health.on_failure(aspect) {
        tracing::warn!(origin = base.name(), failed_at = ?aspect, reason, "origin counts as down");
    }
}

/// The next bytes of `response`, which come within `stall`.
async fn next(response: &mut Response, stall: Duration) -> Result<Option<Bytes>, Failure> {
    let chunk = tokio::time::timeout(stall, response.chunk()).await;
    let chunk = chunk.unwrap_or(Err(Failure::OriginTimeout));
    match (&chunk, &response.base) {
        (Ok(None), Some((base, body))) => base.health.on_success(*body),
        (Err(failure), Some((base, body))) => note_failure(base, *body, &failure.to_string()),
        _ => {}
    }
    chunk
}

/// Takes in what nobody wants, to know whether bodies come to an end.
async fn read_out(mut response: Response, stall: Duration) {
    let all = async { while let Ok(Some(_)) = next(&mut response, stall).await {} };
    // One that takes longer says nothing.
    let _ = tokio::time::timeout(READ_OUT_MAX, all).await;
}

/// The end of an answer without length, chunks or frames is no different from a broken connection:
/// nobody can tell whether such an answer is whole.
pub(crate) fn has_certain_end(response: &Response) -> bool {
    response.content_length().is_some()
        || response.version() >= Version::HTTP_2
        || ends_with_chunks(response.headers())
}

/// Whether the last coding is `chunked`: after any other one the body goes on until the connection ends (RFC 9112
/// section 6.3).
fn ends_with_chunks(headers: &HeaderMap) -> bool {
    let last = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .next_back();
    let text = last.and_then(|value| value.to_str().ok()).unwrap_or("");
    let coding = text.rsplit(',').next().unwrap_or_default();
    coding.trim().eq_ignore_ascii_case("chunked")
}

/// A viewer's headers as the origin may see them, for this viewer alone.
pub(crate) fn headers_for_pass(viewer: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(viewer);
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.append(header::VIA, VIA);
    continue_trace(&mut headers);
    headers
}

/// How the proxy names itself (RFC 9110 section 7.6.3).
pub(crate) const VIA: HeaderValue = HeaderValue::from_static("1.1 shoal");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_origin_is_missing_that_comes_back_while_it_is_looked_at() {
        let mut looks = 0;
        let order = plan_order(&["a"], |_| {
            looks += 1;
            looks > 1
        });
        assert_eq!((order, looks), (vec![&"a"], 1));
        let order = plan_order(&["a", "b", "c"], |base| **base != "a");
        assert_eq!(order, [&"b", &"c", &"a"]);
    }

    #[test]
    fn only_chunks_at_the_end_tell_the_end() {
        for (lines, is_certain) in [
            (&["chunked"][..], true),
            (&["gzip, Chunked"][..], true),
            (&["gzip", "chunked"][..], true),
            (&["gzip"][..], false),
            (&["identity"][..], false),
            (&["chunked, gzip"][..], false),
            (&[][..], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(ends_with_chunks(&headers), is_certain, "{lines:?}");
        }
    }
}
