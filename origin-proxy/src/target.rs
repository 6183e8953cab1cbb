//! What a request asks for: path, stream, cache key and the URL at the origin.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use http::{StatusCode, Uri};
use url::{Url, form_urlencoded};

use crate::{
    Config, Error,
    error::Failure,
    health::Health,
    manners::Manners,
    metrics::{Metrics, OriginFigures},
    path_tokens::{PathTokens, Token},
};

/// Path segments that would climb, in every spelling.
const DOTS: [&str; 6] = [".", "..", "%2e", "%2e%2e", ".%2e", "%2e."];

/// What the names of delivery directives begin with (LL-HLS).
const DIRECTIVES: &str = "_HLS_";

/// The host whose objects a viewer asks for: its origins and the rules for keys.
pub(crate) struct Site {
    /// Which one: 0 is that of all hosts that have none of their own.
    index: usize,
    /// Its names, in lower case.
    names: Vec<String>,
    /// Its origins, the first one first.
    pub(crate) bases: Vec<Arc<Base>>,
    query_ignore: Vec<String>,
    query_keep: Vec<String>,
    target_bytes_max: usize,
    pub(crate) tokens: Arc<PathTokens>,
    pub(crate) manners: Manners,
}

/// One origin, and how it does.
pub(crate) struct Base {
    url: Url,
    pub(crate) health: Health,
    /// None before the proxy is made.
    pub(crate) figures: OnceLock<OriginFigures>,
}

/// One object of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Which [`Site`] it belongs to.
    pub(crate) site: usize,
    /// Path as the viewer sent it, but for a token in it.
    pub(crate) path: String,
    /// That token.
    pub(crate) token: Option<Token>,
    /// Query as the viewer sent it, without `?`.
    pub(crate) query: Option<String>,
    /// Site, path, what of the query tells objects apart, and what of the headers does.
    pub(crate) key: String,
}

impl Target {
    /// Path as the viewer sent it.
    pub(crate) fn sent_path(&self) -> Cow<'_, str> {
        match &self.token {
            Some(token) => Cow::Owned(token.put_back(&self.path)),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// The same for the viewer of `other`, whose playlist lists it.
    pub(crate) fn listed_for(mut self, other: &Self) -> Self {
        self.token = self.token.map(|token| token.or(other.token.as_ref()));
        self
    }

    /// Whether the origin is asked to hold its answer back until a playlist has a certain part (LL-HLS).
    pub(crate) fn is_blocking(&self) -> bool {
        let query = self.query.as_deref().unwrap_or_default();
        query.split('&').any(|word| name_of(word) == "_HLS_msn")
    }

    /// Whether a player says which state of a playlist it wants (LL-HLS).
    pub(crate) fn has_directives(&self) -> bool {
        let query = self.query.as_deref().unwrap_or_default();
        query.split('&').any(is_directive)
    }

    /// Whether `key` is that of the same playlist in some state that a player asked for (LL-HLS).
    pub(crate) fn has_state(&self, key: &str) -> bool {
        // What comes after it is what of the headers is in the key.
        let key = key.split('\u{0}').next().unwrap_or_default();
        let Some((path, query)) = key.split_once('?') else {
            return false;
        };
        let Some(rest) = self.key.strip_prefix(path) else {
            return false;
        };
        let mut words = query.split('&');
        let mut has_directives = false;
        let mut kept = words.by_ref().filter(|word| {
            has_directives |= is_directive(word);
            !is_directive(word)
        });
        let is_same = match rest.strip_prefix('?') {
            Some(rest) => kept.by_ref().eq(rest.split('&')),
            None => rest.is_empty() && kept.next().is_none(),
        };
        is_same && has_directives
    }
}

fn is_directive(argument: &str) -> bool {
    name_of(argument).starts_with(DIRECTIVES)
}

/// The name of an argument, as the origin will read it.
fn name_of(argument: &str) -> Cow<'_, str> {
    let name = argument.split('=').next().unwrap_or_default();
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name);
    }
    let mut pairs = form_urlencoded::parse(name.as_bytes());
    pairs.next().map_or(Cow::Borrowed(""), |(name, _)| name)
}

/// Every site that `config` names; the one without names first.
pub(crate) fn sites(config: &Config) -> Result<Vec<Site>, Error> {
    let tokens = PathTokens::read(&config.path_tokens, config.cache.stale_if_error_s)?;
    let tokens = Arc::new(tokens);
    let new = |index, names: &[String], origin: &str, backups: &[String], manners| {
        Site::new(config, index, names, (origin, backups), &tokens, manners)
    };
    let manners = Manners::of_rest(config);
    let first = new(0, &[], &config.origin, &config.origin_backups, manners)?;
    let mut sites = vec![first];
    for host in &config.hosts {
        let site = new(
            sites.len(),
            &host.names,
            &host.origin,
            &host.origin_backups,
            sites[0].manners.of(host),
        )?;
        sites.push(site);
    }
    Ok(sites)
}

impl Config {
    /// Scheme, host and port of the first origin, for people: its address may have a password in it.
    pub fn origin_name(&self) -> String {
        let url = Url::parse(&self.origin);
        url.map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
    }
}

/// `sites`, with figures for each origin.
pub(crate) fn measured(sites: Vec<Site>, metrics: &Metrics) -> Vec<Site> {
    for base in sites.iter().flat_map(|site| &site.bases) {
        let _ = base.figures.set(metrics.origin(&base.name()));
    }
    sites
}

/// The site that a request's host belongs to.
pub(crate) fn site_of<'a>(sites: &'a [Site], host: Option<&str>) -> &'a Site {
    let named = host.filter(|_| sites.len() > 1).and_then(|host| {
        let host = host.rsplit_once(':').map_or(host, |(name, port)| {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            if is_port { name } else { host }
        });
        let is_it = |name: &String| name.eq_ignore_ascii_case(host);
        sites.iter().find(|site| site.names.iter().any(is_it))
    });
    named.unwrap_or(&sites[0])
}

impl Site {
    fn new(
        config: &Config,
        index: usize,
        names: &[String],
        (origin, backups): (&str, &[String]),
        tokens: &Arc<PathTokens>,
        manners: Manners,
    ) -> Result<Self, Error> {
        let table = if index == 0 { "" } else { "hosts." };
        let backups = backups.iter().map(|backup| ("origin_backups", &**backup));
        let mut bases = Vec::new();
        for (setting, text) in std::iter::once(("origin", origin)).chain(backups) {
            let form = "an origin is a URL with http:// or https://, without a query";
            let what = format!("{table}{setting}: {form}");
            let url = Url::parse(text).map_err(|_| Error::Config(what.clone()))?;
            if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
                return Err(Error::Config(what));
            }
            let health = Health::new(&config.upstream);
            let figures = OnceLock::new();
            bases.push(Arc::new(Base {
                url,
                health,
                figures,
            }));
        }
        Ok(Self {
            index,
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            bases,
            query_ignore: config.query_ignore.clone(),
            query_keep: config.query_keep.clone(),
            target_bytes_max: config.limits.target_bytes_max,
            tokens: tokens.clone(),
            manners,
        })
    }

    /// What `uri` asks for.
    pub(crate) fn target(&self, uri: &Uri) -> Result<Target, Failure> {
        self.target_of(uri.path(), uri.query())
    }

    fn target_of(&self, path: &str, query: Option<&str>) -> Result<Target, Failure> {
        let len = path.len() + query.map_or(0, str::len);
        if len > self.target_bytes_max {
            let status = StatusCode::URI_TOO_LONG;
            return Err(Failure::Client("a target that is too long", status));
        }
        let has_dots = path
            .split(['/', '\\'])
            .any(|part| DOTS.iter().any(|dots| dots.eq_ignore_ascii_case(part)));
        if !path.starts_with('/') || has_dots || path.contains('\\') {
            let status = StatusCode::BAD_REQUEST;
            return Err(Failure::Client("a path with dots in it", status));
        }
        let (path, token) = match self.tokens.split(path) {
            Some((path, token)) => (path, Some(token)),
            None => (path.into(), None),
        };
        Ok(Target {
            site: self.index,
            key: self.key(&path, query),
            path,
            token,
            query: query.map(Into::into),
        })
    }

    /// The playlist that `target` is, in whatever state.
    pub(crate) fn without_directives(&self, target: &Target) -> Target {
        if !target.has_directives() {
            return target.clone();
        }
        let words = target.query.as_deref().unwrap_or_default().split('&');
        let kept: Vec<&str> = words.filter(|word| !is_directive(word)).collect();
        let query = (!kept.is_empty()).then(|| kept.join("&"));
        Target {
            key: self.key(&target.path, query.as_deref()),
            query,
            ..target.clone()
        }
    }

    fn key(&self, path: &str, query: Option<&str>) -> String {
        let arguments = query.unwrap_or_default().split('&');
        let mut kept: Vec<&str> = arguments
            .filter(|argument| !argument.is_empty())
            .filter(|argument| self.tells_apart(&name_of(argument)))
            .collect();
        if kept.is_empty() && self.index == 0 {
            return path.into();
        }
        // Those with one name stay in their order, which may mean something.
        kept.sort_by_cached_key(|&argument| name_of(argument));
        // No path begins with a digit.
        let site = match self.index {
            0 => String::new(),
            index => index.to_string(),
        };
        if kept.is_empty() {
            return format!("{site}{path}");
        }
        format!("{site}{path}?{}", kept.join("&"))
    }

    fn tells_apart(&self, name: &str) -> bool {
        let matches = |rule: &String| match rule.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == rule,
        };
        // Each has another answer, whatever the rules of the operator (LL-HLS).
        if name.starts_with(DIRECTIVES) {
            return true;
        }
        if self.query_keep.is_empty() {
            !self.query_ignore.iter().any(matches)
        } else {
            self.query_keep.iter().any(matches)
        }
    }

    /// The URL that playlists of `target` are resolved against. Its host stands for this proxy.
    pub(crate) fn viewer_url(target: &Target) -> String {
        format!("{VIEWER_BASE}{}", target.path)
    }

    /// Whether a URL of a playlist leads viewers past this proxy: it is absolute.
    pub(crate) fn is_elsewhere(url: &str) -> bool {
        !url.starts_with(VIEWER_BASE)
    }

    /// What a URL of a playlist asks of this proxy or its origin; none if it leads elsewhere.
    pub(crate) fn local(&self, url: &str) -> Option<Target> {
        if let Some(rest) = url.strip_prefix(VIEWER_BASE) {
            let rest = rest.split('#').next().unwrap_or_default();
            let (path, query) = match rest.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (rest, None),
            };
            return self.target_of(path, query).ok();
        }
        let url = Url::parse(url).ok()?;
        self.bases.iter().find_map(|base| {
            if url.origin() != base.url.origin() {
                return None;
            }
            let below = base.url.path().trim_end_matches('/');
            let path = url.path().strip_prefix(below)?;
            self.target_of(path, url.query()).ok()
        })
    }

    /// The path of the object under `key`, if it is one of this site's.
    pub(crate) fn path_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let path = key.strip_prefix(&self.key_prefix(""))?;
        // What of the query and of headers is in the key comes after it.
        path.split(['?', '\u{0}'])
            .next()
            .filter(|path| path.starts_with('/'))
    }

    /// The beginning of the keys of all objects below `path`.
    pub(crate) fn key_prefix(&self, path: &str) -> String {
        match self.index {
            0 => path.into(),
            index => format!("{index}{path}"),
        }
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Base {
    /// Where this origin has `target`.
    pub(crate) fn url(&self, target: &Target) -> Url {
        self.url_of(&target.sent_path(), target.query.as_deref())
    }

    /// Where this origin has `path`.
    pub(crate) fn url_of(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.url.clone();
        let below = self.url.path().trim_end_matches('/');
        url.set_path(&format!("{below}{path}"));
        url.set_query(query);
        url
    }

    pub(crate) fn count(&self, count: impl FnOnce(&OriginFigures)) {
        if let Some(figures) = self.figures.get() {
            count(figures);
        }
    }

    /// Scheme, host and port, for people.
    pub(crate) fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

/// Never looked up: `.invalid` names no host (RFC 2606).
const VIEWER_BASE: &str = "http://viewer.invalid";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostConfig;

    fn origin(base: &str) -> Site {
        let config = Config {
            origin: base.into(),
            ..Config::default()
        };
        sites(&config).unwrap().remove(0)
    }

    #[test]
    fn tokens_are_no_part_of_keys_but_are_forwarded() {
        let origin = origin("http://o.example:9/base/");
        let uri = "/v/s.m4s?b=2&token=x&CMCD=bl%3D3&X-Amz-Date=1&a=1";
        let target = origin.target(&uri.parse().unwrap()).unwrap();
        assert_eq!(target.key, "/v/s.m4s?a=1&b=2");
        assert_eq!(
            origin.bases[0].url(&target).as_str(),
            format!("http://o.example:9/base{uri}")
        );
    }

    #[test]
    fn an_origin_is_named_without_its_password() {
        let config = Config {
            origin: "https://me:secret@o.example/base".into(),
            ..Config::default()
        };
        assert_eq!(config.origin_name(), "https://o.example");
        assert_eq!(
            sites(&config).unwrap()[0].bases[0].name(),
            "https://o.example"
        );
    }

    #[test]
    fn directives_of_blocking_reloads_are_part_of_keys() {
        let config = Config {
            query_keep: vec!["v".into()],
            ..Config::default()
        };
        let site = sites(&config).unwrap().remove(0);
        let uri = "/i.m3u8?_HLS_part=2&token=x&_HLS_msn=7".parse().unwrap();
        let target = site.target(&uri).unwrap();
        assert_eq!(target.key, "/i.m3u8?_HLS_msn=7&_HLS_part=2");
        assert!(target.is_blocking());
        let whole = site.without_directives(&target);
        assert_eq!(
            (whole.key.as_str(), whole.query.as_deref()),
            ("/i.m3u8", Some("token=x"))
        );
        assert!(!whole.has_directives() && site.without_directives(&whole) == whole);
    }

    #[test]
    fn names_count_as_the_origin_reads_them() {
        let keeping = Config {
            query_keep: vec!["v".into()],
            ..Config::default()
        };
        let keeping = sites(&keeping).unwrap().remove(0);
        let of = |site: &Site, uri: &str| site.target(&uri.parse().unwrap()).unwrap();
        let hidden = of(&keeping, "/i.m3u8?%5FHLS_%6dsn=7&x=1");
        assert_eq!(hidden.key, "/i.m3u8?%5FHLS_%6dsn=7");
        assert!(hidden.is_blocking() && hidden.has_directives());
        assert_eq!(keeping.without_directives(&hidden).key, "/i.m3u8");
        let ignoring = origin("http://o.example/");
        assert_eq!(of(&ignoring, "/s?%74oken=x&b=2&%61=1").key, "/s?%61=1&b=2");
    }

    #[test]
    fn the_order_of_one_name_counts_and_that_of_names_does_not() {
        let origin = origin("http://o.example/");
        let key = |uri: &str| origin.target(&uri.parse().unwrap()).unwrap().key;
        assert_ne!(key("/s?a=1&a=2"), key("/s?a=2&a=1"));
        assert_eq!(key("/s?a=2&b=1&a=1"), key("/s?b=1&a=2&a=1"));
    }

    #[test]
    fn the_states_of_a_playlist_are_known_by_their_keys() {
        let origin = origin("http://o.example/");
        let of = |uri: &str| origin.target(&uri.parse().unwrap()).unwrap();
        for (uri, key, is_state) in [
            ("/i.m3u8", "/i.m3u8?_HLS_msn=7&_HLS_part=2", true),
            ("/i.m3u8", "/i.m3u8?_HLS_skip=YES\u{0}7\u{0}ab", true),
            ("/i.m3u8", "/i.m3u8", false),
            ("/i.m3u8", "/i.m3u8?_HLS_msn=7&v=1", false),
            ("/i.m3u8?v=1", "/i.m3u8?_HLS_msn=7&v=1", true),
            ("/i.m3u8?v=1", "/i.m3u8?_HLS_msn=7&v=2", false),
            ("/i.m3u8?v=1", "/i.m3u8?_HLS_msn=7", false),
            ("/i.m3u8?v=1", "/i.m3u8?v=1", false),
            ("/i.m3u8", "/j.m3u8?_HLS_msn=7", false),
            ("/i.m3u8", "/i?_HLS_msn=7", false),
        ] {
            assert_eq!(of(uri).has_state(key), is_state, "{uri} {key:?}");
        }
    }

    #[test]
    fn hosts_have_keys_of_their_own() {
        let host = HostConfig {
            names: vec!["B.example".into()],
            origin: "http://o.example/".into(),
            origin_backups: Vec::new(),
            streams: Vec::new(),
            cors: None,
            steering: None,
        };
        let config = Config {
            hosts: vec![host],
            ..Config::default()
        };
        let sites = sites(&config).unwrap();
        let key = |host| {
            let site = site_of(&sites, host);
            site.target(&"/a?b".parse().unwrap()).unwrap().key
        };
        for (host, expected) in [
            (None, "/a?b"),
            (Some("a.example"), "/a?b"),
            (Some("b.EXAMPLE"), "1/a?b"),
            (Some("b.example:8443"), "1/a?b"),
            (Some("[::1]:80"), "/a?b"),
        ] {
            assert_eq!(key(host), expected, "{host:?}");
        }
    }

    #[test]
    fn paths_cannot_leave_the_base_or_the_host() {
        let origin = origin("http://o.example/base/");
        for path in ["/../x", "/a/%2e%2E/x", "/.%2e/x", "/a/./b"] {
            assert!(origin.target(&path.parse().unwrap()).is_err(), "{path}");
        }
        let target = origin.target_of("//evil.example/x", None).unwrap();
        assert_eq!(origin.bases[0].url(&target).host_str(), Some("o.example"));
    }

    #[test]
    fn urls_of_playlists_are_mapped_back() {
        let origin = origin("http://o.example/base/");
        let path = |url| origin.local(url).map(|target| target.path);
        assert_eq!(
            path("http://viewer.invalid/a/b?x=1").as_deref(),
            Some("/a/b")
        );
        assert_eq!(path("http://o.example/base/a/b").as_deref(), Some("/a/b"));
        assert_eq!(path("http://other.example/base/a/b"), None);
    }
}
