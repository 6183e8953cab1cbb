//! Who may join: tokens, an operator's back end, or a shared secret.
//!
//! [`check`] is what a connection asks. One of WebTorrent's, which may be in many swarms, asks for each
//! and holds its token once ([`hold`]).

mod keys;
mod permission;
pub mod tokens;

pub use permission::{OnFailure, PermissionConfig};
pub use tokens::TokensConfig;

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use swarm_core::{id::StreamId, wire::tracker::RefusalCode};

use crate::{
    Config, Error,
    bearers::{Bearers, HeldBearer},
    kicked::BearerMark,
    metrics::Counters,
    reload::Reloader,
};

/// What a viewer wants to watch, as tokens and permission providers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamName {
    /// A stream of the Shoal protocol; 32 hexadecimal digits.
    Shoal(StreamId),
    /// A swarm of a WebTorrent client; 40 hexadecimal digits.
    InfoHash([u8; 20]),
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shoal(stream) => stream.fmt(f),
            Self::InfoHash(hash) => hash.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A viewer that wants to join.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// Which stream.
    pub stream: StreamName,
    /// The token that it brings; may be empty.
    pub token: &'a [u8],
    /// Its address.
    pub address: IpAddr,
    /// The origin of its page; browsers alone send one.
    pub origin: Option<&'a str>,
}

/// What a viewer that may join is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// It receives from peers and gives nothing.
    pub leech: bool,
    /// Whose token it was, to count what is done with it; `None` where that is not counted.
    pub bearer: Option<Bearer>,
}

/// The holder of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The same for every use of the token, or of tokens of the same subject.
    pub key: u128,
    /// When the token ends: until then its uses are counted.
    pub until: SystemTime,
}

impl Bearer {
    /// The holder of what is told apart by `whose`.
    fn of(whose: &[u8], until: SystemTime) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&Sha256::digest(whose)[..16]);
        Self {
            key: u128::from_be_bytes(key),
            until,
        }
    }
}

/// Decides who may join. Asked once for each join, before anything is kept of the viewer.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Whether the viewer may join, and how.
    ///
    /// # Errors
    /// The code that the viewer is refused with.
    async fn admit(&self, request: JoinRequest<'_>) -> Result<Grant, RefusalCode>;
}

/// Everybody may join.
#[derive(Clone, Copy, Debug)]
pub struct Open;

#[async_trait]
impl Admission for Open {
    async fn admit(&self, _: JoinRequest<'_>) -> Result<Grant, RefusalCode> {
        Ok(Grant::default())
    }
}

/// Whoever knows the token may join. It is the same for all viewers, so nobody's in particular: what is
/// done with it is not counted.
#[derive(Clone, Debug)]
pub struct SharedToken(pub String);

#[async_trait]
impl Admission for SharedToken {
    async fn admit(&self, request: JoinRequest<'_>) -> Result<Grant, RefusalCode> {
        if same(request.token, self.0.as_bytes()) {
            Ok(Grant::default())
        } else {
            Err(RefusalCode::BadToken)
        }
    }
}

/// All of them must agree, and are asked in order; the strictest answer counts.
struct All(Vec<Arc<dyn Admission>>);

#[async_trait]
impl Admission for All {
    async fn admit(&self, request: JoinRequest<'_>) -> Result<Grant, RefusalCode> {
        let mut all = Grant::default();
        for admission in &self.0 {
            let grant = admission.admit(request).await?;
            all.leech |= grant.leech;
            all.bearer = all.bearer.or(grant.bearer);
        }
        Ok(all)
    }
}

/// What the settings ask of viewers: the shared token or a signed one, the permission provider's
/// word; all that are set. `None` where nothing is asked.
pub(crate) fn from_config(
    config: &Config,
    reloader: &mut Reloader,
    counters: &Arc<Counters>,
) -> Result<Option<Arc<dyn Admission>>, Error> {
    let mut all: Vec<Arc<dyn Admission>> = Vec::new();
    if let Some(token) = &config.join_token {
        all.push(Arc::new(SharedToken(token.clone())));
    }
    if let Some(tokens) = tokens::Tokens::open(&config.tokens, reloader)? {
        all.push(Arc::new(tokens));
    }
    if let Some(permission) = permission::Permission::open(&config.permission, counters)? {
        all.push(Arc::new(permission));
    }
    Ok((!all.is_empty()).then(|| Arc::new(All(all)) as _))
}

/// A viewer's right to be there; what it holds is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) leech: bool,
    bearer: Option<HeldBearer>,
}

impl Pass {
    /// What tells its token from others, if there is one.
    pub(crate) fn mark(&self) -> Option<BearerMark> {
        self.bearer.as_ref()?.mark()
    }

    /// Whether its token may be used to say one thing more.
    pub(crate) fn take_message(&self, now: Instant) -> bool {
        let bearer = self.bearer.as_ref();
        bearer.is_none_or(|bearer| bearer.take_message(now))
    }
}

/// Whether a viewer may join: asks `admission`, then counts what its token is used for. The join
/// itself is to be counted before (`Held::may_join`), best before the message is decoded.
pub(crate) async fn check(
    admission: &dyn Admission,
    bearers: &Arc<Bearers>,
    request: JoinRequest<'_>,
) -> Result<Pass, RefusalCode> {
    let grant = admission.admit(request).await?;
    let bearer = grant.bearer.map(|bearer| hold(bearers, bearer));
    let bearer = bearer.transpose()?;
    Ok(Pass {
        leech: grant.leech,
        bearer,
    })
}

/// Counts one use of a token, for as long as what it returns is kept.
///
/// # Errors
/// [`RefusalCode::Quota`] if the token is used too much.
pub(crate) fn hold(bearers: &Arc<Bearers>, bearer: Bearer) -> Result<HeldBearer, RefusalCode> {
    bearers.hold(bearer).ok_or(RefusalCode::Quota)
}

/// Whether a page of this origin may connect; `None` stands for a viewer that sent none.
///
/// A pattern is an origin, or one whose host begins with `*.` for every host below it. Without
/// patterns all may. The word `null` must be listed as it is.
pub(crate) fn origin_allowed(origin: Option<&str>, config: &Config) -> bool {
    let Some(origin) = origin else {
        return !config.origin_needed;
    };
    let below = |pattern: &str| {
        let (scheme, host) = pattern.split_once("://*")?;
        let name = origin.strip_prefix(scheme)?.strip_prefix("://")?;
        let label = name.strip_suffix(host)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        Some(!label.is_empty() && !label.starts_with('.') && label.bytes().all(plain))
    };
    let patterns = &config.origins;
    let fits = |p: &String| p.eq_ignore_ascii_case(origin) || below(p) == Some(true);
    patterns.is_empty() || patterns.iter().any(fits)
}

/// Whether two secrets are the same, in a time that tells nothing about where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_a_whole() {
        let config = |origins: &[&str], origin_needed| Config {
            origins: origins.iter().map(ToString::to_string).collect(),
            origin_needed,
            ..Config::default()
        };
        let list = config(
            &["https://a.example", "https://*.b.example:8443", "null"],
            false,
        );
        for (origin, allowed) in [
            ("https://a.example", true),
            ("HTTPS://A.example", true),
            ("http://a.example", false),
            ("https://a.example:444", false),
            ("https://a.example.evil.example", false),
            ("https://x.a.example", false),
            ("https://x.b.example:8443", true),
            ("https://x.y.b.example:8443", true),
            ("https://b.example:8443", false),
            ("https://.b.example:8443", false),
            ("https://evilb.example:8443", false),
            ("https://evil.example/.b.example:8443", false),
            ("https://evil.example@x.b.example:8443", false),
            ("https://x.b.example", false),
            ("null", true),
            ("", false),
        ] {
            assert_eq!(origin_allowed(Some(origin), &list), allowed, "{origin}");
        }
        assert!(origin_allowed(None, &list));
        assert!(!origin_allowed(None, &config(&[], true)));
        assert!(origin_allowed(
            Some("https://any.example"),
            &config(&[], true)
        ));
    }
}
