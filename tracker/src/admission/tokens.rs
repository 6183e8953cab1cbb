//! Short-lived signed tokens (JWT, RFC 7519) that say who may watch what.
//!
//! `docs/operating/tokens.md` is the manual: claims, keys, rotation, examples.

pub use super::keys::{KeyKind, KeyPair, new_key_pair};

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use swarm_core::{limits::TOKEN_LEN_MAX, wire::tracker::RefusalCode};

use super::{Admission, Bearer, Grant, JoinRequest, StreamName, keys};
use crate::{
    Error,
    quota::household_key,
    reload::{Live, Reloader, files_in},
};

/// Values of a claim that may be one or several.
const VALUES_MAX: usize = 64;

/// Which tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensConfig {
    /// A folder of public keys, `<kid>.pem` each; without it no token is asked for.
    pub keys: Option<PathBuf>,
    /// What the claim `aud` must contain; empty: it is not looked at.
    pub audience: String,
    /// How far clocks may be apart, in seconds.
    pub skew_s: u32,
    /// How long before its end a token may be used at most, in seconds.
    pub lifetime_max_s: u32,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            keys: None,
            audience: String::new(),
            skew_s: 30,
            lifetime_max_s: 86_400,
        }
    }
}

/// What a token says. Further claims are allowed and not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The streams that it is for (hexadecimal, as the tracker shows them), or `*` for all.
    pub stream: Values,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// When it begins, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The trackers that it is for.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub aud: Values,
    /// Addresses or networks that it may be used from; of IPv6 addresses the /64 counts.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub ip: Values,
    /// Whose it is: all tokens of one subject are counted together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// `leech`: the viewer receives from peers and gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p2p: Option<String>,
}

/// One text, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Values {
    fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn all(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => &values[..values.len().min(VALUES_MAX)],
        }
    }
}

/// Signs a token with a private key (PKCS #8 as PEM; Ed25519 or P-256). `kid` names the key.
///
/// # Errors
/// [`Error::Config`] if the key cannot be used, or the token would be too long for viewers.
pub fn mint(private_pem: &str, kid: Option<&str>, claims: &Claims) -> Result<String, Error> {
    let wrong = |what: String| Error::Config(what);
    let (algorithm, key) = keys::read_private(private_pem.as_bytes())
        .ok_or_else(|| wrong("the key is no private key of Ed25519 or P-256 (PKCS #8)".into()))?;
    let header = Header {
        kid: kid.map(ToOwned::to_owned),
        ..Header::new(algorithm)
    };
    let token = jsonwebtoken::encode(&header, claims, &key)
        .map_err(|error| wrong(format!("the token cannot be signed: {error}")))?;
    if token.len() > TOKEN_LEN_MAX {
        return Err(wrong(format!(
            "the token has {} bytes, at most {TOKEN_LEN_MAX} are allowed: name fewer streams",
            token.len()
        )));
    }
    Ok(token)
}

type Keys = BTreeMap<String, (Algorithm, DecodingKey)>;

/// Checks tokens.
pub(super) struct Tokens {
    config: TokensConfig,
    keys: Arc<Live<Keys>>,
}

impl Tokens {
    /// `None` where no token is asked for.
    pub(super) fn open(
        config: &TokensConfig,
        reloader: &mut Reloader,
    ) -> Result<Option<Self>, Error> {
        let Some(folder) = config.keys.clone() else {
            return Ok(None);
        };
        let read = folder.clone();
        let keys = Live::open("token keys", vec![folder], move || read_keys(&read))?;
        let keys = Arc::new(keys);
        reloader.add(Arc::clone(&keys) as _);
        let config = config.clone();
        Ok(Some(Self { config, keys }))
    }

    fn check(&self, request: &JoinRequest<'_>, now: SystemTime) -> Result<Grant, &'static str> {
        let token = std::str::from_utf8(request.token).map_err(|_| "no text")?;
        let claims = self.verified(token, now)?;
        let stream = request.stream.to_string();
        let names = |value: &String| value == "*" || value.eq_ignore_ascii_case(&stream);
        if !claims.stream.all().iter().any(names) {
            return Err("for another stream");
        }
        let here = |value: &String| fits_address(value, request.address);
        if !claims.ip.is_empty() && !claims.ip.all().iter().any(here) {
            return Err("for another address");
        }
        let leech = match claims.p2p.as_deref() {
            None => false,
            Some("leech") => true,
            Some(_) => return Err("with an unknown p2p claim"),
        };
        // Not the signature: of one of ECDSA anybody can make another that holds as well.
        let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
        let whose = claims.sub.as_deref().unwrap_or(signed);
        let until = UNIX_EPOCH + Duration::from_secs(claims.exp);
        let bearer = Bearer::of(whose.as_bytes(), until);
        Ok(Grant {
            leech,
            bearer: Some(bearer),
        })
    }

    /// The claims, if a key of ours has signed them and they hold now.
    fn verified(&self, token: &str, now: SystemTime) -> Result<Claims, &'static str> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| "malformed")?;
        let keys = self.keys.get();
        let key = match &header.kid {
            Some(kid) => keys.get(kid),
            None if keys.len() == 1 => keys.values().next(),
            None => None,
        };
        let (algorithm, key) = key.ok_or("signed with an unknown key")?;
        if header.alg != *algorithm {
            return Err("signed in another way than its key");
        }
        let mut validation = Validation::new(*algorithm);
        // Times are checked here: with bounds that the library does not know.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|_| "badly signed, or with malformed claims")?
            .claims;
        self.check_times(&claims, now)?;
        let audience = &self.config.audience;
        if !audience.is_empty() && !claims.aud.all().contains(audience) {
            return Err("for another audience");
        }
        Ok(claims)
    }

    fn check_times(&self, claims: &Claims, now: SystemTime) -> Result<(), &'static str> {
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let skew_s = u64::from(self.config.skew_s);
        if claims.exp.saturating_add(skew_s) <= now_s {
            return Err("expired");
        }
        if claims.nbf.is_some_and(|nbf| nbf > now_s + skew_s) {
            return Err("not valid yet");
        }
        if claims.exp > now_s + skew_s + u64::from(self.config.lifetime_max_s) {
            return Err("valid for too long");
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for Tokens {
    async fn admit(&self, request: JoinRequest<'_>) -> Result<Grant, RefusalCode> {
        self.check(&request, SystemTime::now()).map_err(|why| {
            tracing::debug!(stream = %request.stream, why, "token refused");
            RefusalCode::BadToken
        })
    }
}

/// Whether an address is the one, or in the network, that a claim names.
fn fits_address(claim: &str, address: IpAddr) -> bool {
    let address = address.to_canonical();
    if let Ok(ip) = claim.parse::<IpAddr>() {
        return household_key(ip) == household_key(address);
    }
    claim
        .parse::<IpNet>()
        .is_ok_and(|net| net.contains(&address))
}

fn read_keys(folder: &Path) -> Result<Keys, Error> {
    let wrong = |path: &Path, why: &str| {
        Err(Error::Config(format!(
            "tokens.keys: {}: {why}",
            path.display()
        )))
    };
    let files = match files_in(folder, "pem") {
        Ok(files) => files,
        Err(error) => return wrong(folder, &error.to_string()),
    };
    let mut keys = Keys::new();
    for path in files {
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(error) => return wrong(&path, &error.to_string()),
        };
        let (Some(key), Some(kid)) = (keys::read_public(&pem), path.file_stem()) else {
            return wrong(&path, "no public key of Ed25519 or P-256");
        };
        keys.insert(kid.to_string_lossy().into_owned(), key);
    }
    if keys.is_empty() {
        return wrong(folder, "no *.pem in it: nobody could join");
    }
    Ok(keys)
}

/// The claims of a token for one stream that ends after `lifetime`.
pub fn claims_for(stream: StreamName, lifetime: Duration) -> Claims {
    Claims {
        stream: Values::One(stream.to_string()),
        ..claims_lasting(lifetime)
    }
}

/// The claims of a token for no stream yet that ends after `lifetime`.
pub fn claims_lasting(lifetime: Duration) -> Claims {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Claims {
        exp: now.map_or(0, |now| now.saturating_add(lifetime).as_secs()),
        ..Claims::default()
    }
}

/// Nobody's bytes are a token; and whatever a token of ours says, it is for the stream it names.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assert_checked(bytes: &[u8]) {
    static KEYS: std::sync::LazyLock<(String, Tokens)> = std::sync::LazyLock::new(|| {
        let pair = new_key_pair(KeyKind::Ed25519).expect("a key");
        let public = keys::read_public(pair.public_pem.as_bytes()).expect("its public half");
        let read = move || Ok(Keys::from([("key".to_owned(), public.clone())]));
        let keys = Live::open("token keys", Vec::new(), read).expect("it is there");
        let config = TokensConfig::default();
        let keys = Arc::new(keys);
        (pair.private_pem, Tokens { config, keys })
    });
    let (private_pem, tokens) = &*KEYS;
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let check = |token: &[u8]| {
        let stream = StreamName::InfoHash([7; 20]);
        tokens.check(
            &JoinRequest {
                stream,
                token,
                address: IpAddr::from([192, 0, 2, 1]),
                origin: None,
            },
            now,
        )
    };
    assert!(check(bytes).is_err());
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return;
    };
    let (algorithm, key) = keys::read_private(private_pem.as_bytes()).expect("it was made here");
    let signed = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key);
    if let Ok(token) = signed
        && check(token.as_bytes()).is_ok()
    {
        let said = claims["stream"].to_string().to_ascii_lowercase();
        assert!(
            said.contains('*') || said.contains(&"07".repeat(20)),
            "{said}"
        );
    }
}

/// Reads `bytes` as a key's file: what is read as a public key must not be a private one.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assert_one_half(bytes: &[u8]) {
    let (public, private) = (keys::read_public(bytes), keys::read_private(bytes));
    assert!(public.is_none() || private.is_none());
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
