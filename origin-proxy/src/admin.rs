//! The proxy's own pages, and the operator's requests.

use std::sync::{Arc, atomic::Ordering};

use http::{HeaderMap, Method, Response, StatusCode, header, request};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::{
    body::Body,
    error::Failure,
    key::public_text,
    proxy::Proxy,
    respond, steering,
    target::{Site, Target, site_of},
};

/// Below it are the operator's requests.
pub(crate) const PREFIX: &str = "/.shoal/admin/";
/// Longest body of such a request, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// URLs and prefixes in one purge.
const PURGES_MAX: usize = 1000;
const JSON: &str = "application/json";

/// What to forget.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Purge {
    /// Paths with queries, or absolute URLs of this proxy or its origin.
    urls: Vec<String>,
    /// Paths; all below goes. Keys are paths and queries, so these need not end with `/`.
    prefixes: Vec<String>,
}

/// Whom to send here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    share_percent: f64,
}

/// The pages that anyone may see.
pub(crate) fn page(
    proxy: &Arc<Proxy>,
    site: &Site,
    head: &request::Parts,
) -> Option<Response<Body>> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return None;
    }
    Some(match head.uri.path() {
        "/healthz" => respond::text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" => readiness(proxy),
        "/metrics"
            if proxy.config.admin.metrics_for_operators && !is_operator(proxy, &head.headers) =>
        {
            refusal()
        }
        "/metrics" => {
            measure(proxy);
            let text = proxy.metrics.render() + &proxy.playlist_figures.render();
            respond::text(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        steering::PATH => {
            let is_leaving = proxy.is_leaving.load(Ordering::Relaxed);
            site.manners.steering.answer(&head.uri, is_leaving)
        }
        "/.shoal/streams" => respond::text(StatusCode::OK, JSON, streams(proxy).to_string()),
        _ => return None,
    })
}

/// Whether what is at `path` is for those who look after the proxy.
pub(crate) fn is_check(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// The answer to a request below [`PREFIX`] that is not to be read any further, if it is none of an operator.
pub(crate) fn refuse(proxy: &Proxy, head: &request::Parts) -> Option<Response<Body>> {
    if !is_operator(proxy, &head.headers) {
        return Some(refusal());
    }
    let request = (&head.method, &head.uri.path()[PREFIX.len()..]);
    (!is_known(request)).then(not_known)
}

fn is_known(request: (&Method, &str)) -> bool {
    let (method, name) = request;
    match name {
        "status" => method == Method::GET,
        "purge" | "steering" => method == Method::POST,
        _ => false,
    }
}

fn refusal() -> Response<Body> {
    let failure = Failure::Client("no operator's token", StatusCode::UNAUTHORIZED);
    let mut response = respond::failure(&failure);
    let scheme = http::HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn not_known() -> Response<Body> {
    respond::failure(&Failure::Client(
        "an operator's request that is not known",
        StatusCode::NOT_FOUND,
    ))
}

/// Answers a request below [`PREFIX`] that is not to be refused.
pub(crate) fn answer(
    proxy: &Proxy,
    site: &Site,
    head: &request::Parts,
    body: &[u8],
) -> Response<Body> {
    match (&head.method, &head.uri.path()[PREFIX.len()..]) {
        (&Method::GET, "status") => {
            respond::text(StatusCode::OK, JSON, status(proxy, site).to_string())
        }
        (&Method::POST, "purge") => match purge(proxy, site, body) {
            Ok(purged) => {
                proxy.metrics.purged.increment(purged as u64);
                respond::text(
                    StatusCode::OK,
                    JSON,
                    json!({ "purged": purged }).to_string(),
                )
            }
            Err(failure) => respond::failure(&failure),
        },
        (&Method::POST, "steering") => match steer(site, body) {
            Ok(now) => respond::text(StatusCode::OK, JSON, now.to_string()),
            Err(failure) => respond::failure(&failure),
        },
        _ => not_known(),
    }
}

/// Compares digests: how long it takes says nothing of the token.
fn is_operator(proxy: &Proxy, headers: &HeaderMap) -> bool {
    let Some(token) = &proxy.admin_token else {
        return false;
    };
    let value = headers.get(header::AUTHORIZATION);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    let Some((scheme, given)) = text.split_once(' ') else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer")
        && Sha256::digest(given.trim()) == Sha256::digest(token.as_bytes())
}

fn readiness(proxy: &Proxy) -> Response<Body> {
    let is_leaving = proxy.is_leaving.load(Ordering::Relaxed);
    // Only viewers find out that an origin is up again: they must come, then.
    let is_served = |site: &Site| site.bases.iter().any(|base| base.health.may_be_up());
    // One broadcaster's origin must not take the edge from the others.
    let reason = if is_leaving {
        Some("proxy is stopping\n")
    } else if !proxy.sites.iter().any(is_served) {
        Some("origin is down\n")
    } else {
        None
    };
    let status = match reason {
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::OK,
    };
    respond::text(status, "text/plain", reason.unwrap_or("ready\n").into())
}

fn measure(proxy: &Proxy) {
    let metrics = &proxy.metrics;
    proxy.cache.run_pending_tasks();
    metrics.cache_bytes.set(proxy.cache.weighted_size() as f64);
    metrics.cache_objects.set(proxy.cache.entry_count() as f64);
    let (bytes, objects) = proxy.disk.as_ref().map_or((0, 0), |disk| disk.size());
    metrics.disk_bytes.set(bytes as f64);
    metrics.disk_objects.set(objects as f64);
    metrics.flights.set(proxy.flights() as f64);
    for base in proxy.sites.iter().flat_map(|site| &site.bases) {
        let is_up = f64::from(u8::from(base.health.is_up()));
        base.count(|figures| figures.up.set(is_up));
    }
}

fn streams(proxy: &Proxy) -> Value {
    let streams = proxy.streams.iter().map(|stream| {
        let keyring = stream.keys().load();
        json!({
            "name": stream.name,
            "prefix": stream.prefix,
            "stream": stream.id.to_string(),
            "stream_key": public_text(&keyring.names),
            "public_key": public_text(&keyring.public()),
            "public_keys": keyring.trusted(),
        })
    });
    streams.collect()
}

fn status(proxy: &Proxy, site: &Site) -> Value {
    proxy.cache.run_pending_tasks();
    let origins = |site: &Site| -> Value {
        let bases = site.bases.iter();
        bases
            .map(|base| json!({ "origin": base.name(), "up": base.health.is_up() }))
            .collect()
    };
    let (disk_bytes, disk_objects) = proxy.disk.as_ref().map_or((0, 0), |disk| disk.size());
    json!({
        "draining": proxy.is_leaving.load(Ordering::Relaxed),
        "sites": proxy.sites.iter().map(origins).collect::<Value>(),
        "streams": streams(proxy),
        "cache": {
            "bytes": proxy.cache.weighted_size(),
            "objects": proxy.cache.entry_count(),
        },
        "disk": { "bytes": disk_bytes, "objects": disk_objects },
        "flights": proxy.flights(),
        "share_percent": site.manners.steering.share_percent(),
    })
}

fn purge(proxy: &Proxy, site: &Site, body: &[u8]) -> Result<usize, Failure> {
    let wrong = |what| Failure::Client(what, StatusCode::BAD_REQUEST);
    let order: Purge = serde_json::from_slice(body)
        .map_err(|_| wrong("no JSON object of `urls` and `prefixes`"))?;
    if order.urls.len() + order.prefixes.len() > PURGES_MAX {
        return Err(wrong("too many URLs"));
    }
    let urls = order.urls.iter();
    let targets: Option<Vec<Target>> = urls.map(|url| target(proxy, site, url)).collect();
    let targets = targets.ok_or_else(|| wrong("a URL that is none of this host"))?;
    if order.prefixes.iter().any(|prefix| !prefix.starts_with('/')) {
        return Err(wrong("a prefix that does not begin with /"));
    }
    let by_url: usize = targets.iter().map(|target| proxy.purge(target)).sum();
    let prefixes = order.prefixes.iter();
    let by_prefix: usize = prefixes
        .map(|prefix| proxy.purge_below(&site.key_prefix(prefix)))
        .sum();
    Ok(by_url + by_prefix)
}

fn steer(site: &Site, body: &[u8]) -> Result<Value, Failure> {
    let share = serde_json::from_slice(body).ok();
    let share = share.filter(|Share { share_percent }| (0.0..=100.0).contains(share_percent));
    let Some(Share { share_percent }) = share else {
        let what = "no JSON object with a `share_percent` from 0 to 100";
        return Err(Failure::Client(what, StatusCode::BAD_REQUEST));
    };
    let steering = &site.manners.steering;
    steering.set_share(share_percent);
    tracing::info!(share_percent, "share of viewers is changed");
    Ok(json!({ "share_percent": steering.share_percent() }))
}

/// What `url` stands for at `site`: a path with a query, or an absolute URL there or at its origin.
fn target(proxy: &Proxy, site: &Site, url: &str) -> Option<Target> {
    if url.starts_with('/') {
        return site.target(&url.parse().ok()?).ok();
    }
    site.local(url).or_else(|| {
        let url = Url::parse(url).ok()?;
        if !std::ptr::eq(site_of(&proxy.sites, url.host_str()), site) {
            return None;
        }
        let query = url
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        site.target(&format!("{}{query}", url.path()).parse().ok()?)
            .ok()
    })
}
