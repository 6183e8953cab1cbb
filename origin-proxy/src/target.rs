//! What a request asks for: path, stream, cache key and the URL at the origin.

use http::{StatusCode, Uri};
use url::Url;

use crate::{Config, Error, error::Failure};

/// Path segments that would climb, in every spelling.
const DOTS: [&str; 6] = [".", "..", "%2e", "%2e%2e", ".%2e", "%2e."];

/// The broadcaster's origin and the rules for keys.
pub(crate) struct Origin {
    base: Url,
    query_ignore: Vec<String>,
    query_keep: Vec<String>,
    target_bytes_max: usize,
}

/// One object of the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Path as the viewer sent it.
    pub(crate) path: String,
    /// Query as the viewer sent it, without `?`.
    pub(crate) query: Option<String>,
    /// Path and what of the query tells objects apart.
    pub(crate) key: String,
}

impl Origin {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let wrong = || Error::Config("origin must be an http or https URL".into());
        let base = Url::parse(&config.origin).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() {
            return Err(wrong());
        }
        Ok(Self {
            base,
            query_ignore: config.query_ignore.clone(),
            query_keep: config.query_keep.clone(),
            target_bytes_max: config.limits.target_bytes_max,
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
            .any(|part| DOTS.contains(&part.to_ascii_lowercase().as_str()));
        if !path.starts_with('/') || has_dots || path.contains('\\') {
            let status = StatusCode::BAD_REQUEST;
            return Err(Failure::Client("a path with dots in it", status));
        }
        Ok(Target {
            path: path.into(),
            query: query.map(Into::into),
            key: self.key(path, query),
        })
    }

    fn key(&self, path: &str, query: Option<&str>) -> String {
        let arguments = query.unwrap_or_default().split('&');
        let mut kept: Vec<&str> = arguments
            .filter(|argument| !argument.is_empty())
            .filter(|argument| self.tells_apart(argument.split('=').next().unwrap_or_default()))
            .collect();
        kept.sort_unstable();
        if kept.is_empty() {
            return path.into();
        }
        format!("{path}?{}", kept.join("&"))
    }

    fn tells_apart(&self, name: &str) -> bool {
        let matches = |rule: &String| match rule.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == rule,
        };
        if self.query_keep.is_empty() {
            !self.query_ignore.iter().any(matches)
        } else {
            self.query_keep.iter().any(matches)
        }
    }

    /// Where the origin has `target`.
    pub(crate) fn url(&self, target: &Target) -> Url {
        let mut url = self.base.clone();
        let below = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{below}{}", target.path));
        url.set_query(target.query.as_deref());
        url
    }

    /// The URL that playlists of `target` are resolved against. Its host stands for this proxy.
    pub(crate) fn viewer_url(target: &Target) -> String {
        format!("{VIEWER_BASE}{}", target.path)
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
        if url.origin() != self.base.origin() {
            return None;
        }
        let below = self.base.path().trim_end_matches('/');
        let path = url.path().strip_prefix(below)?;
        self.target_of(path, url.query()).ok()
    }
}

/// Never looked up: `.invalid` names no host (RFC 2606).
const VIEWER_BASE: &str = "http://viewer.invalid";

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(base: &str) -> Origin {
        Origin::new(&Config {
            origin: base.into(),
            ..Config::default()
        })
        .unwrap()
    }

    #[test]
    fn tokens_are_no_part_of_keys_but_are_forwarded() {
        let origin = origin("http://o.example:9/base/");
        let uri = "/v/s.m4s?b=2&token=x&CMCD=bl%3D3&X-Amz-Date=1&a=1";
        let target = origin.target(&uri.parse().unwrap()).unwrap();
        assert_eq!(target.key, "/v/s.m4s?a=1&b=2");
        assert_eq!(
            origin.url(&target).as_str(),
            format!("http://o.example:9/base{uri}")
        );
    }

    #[test]
    fn paths_cannot_leave_the_base_or_the_host() {
        let origin = origin("http://o.example/base/");
        for path in ["/../x", "/a/%2e%2E/x", "/.%2e/x", "/a/./b"] {
            assert!(origin.target(&path.parse().unwrap()).is_err(), "{path}");
        }
        let target = origin.target_of("//evil.example/x", None).unwrap();
        assert_eq!(origin.url(&target).host_str(), Some("o.example"));
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
