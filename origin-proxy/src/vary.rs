//! Answers that differ with request headers (RFC 9111 section 4.1).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};

/// What tells the variants of one object apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    names: Arc<[HeaderName]>,
    /// No two rules have the same: a purge forgets the rule, and thereby all variants.
    salt: u64,
}

/// An answer that differs with more headers is not shared.
const NAMES_MAX: usize = 4;
/// Longest value of a header that is part of a key, in bytes.
const VALUE_LEN_MAX: usize = 1024;

impl Rule {
    pub(crate) fn new(names: Vec<HeaderName>, salt: u64) -> Self {
        Self {
            names: names.into(),
            salt,
        }
    }

    pub(crate) fn has(&self, names: &[HeaderName]) -> bool {
        *self.names == *names
    }

    /// The key of the variant of `key` that a request with these headers gets. The values are part of
    /// it with their lengths, so that no value can look like another key.
    pub(crate) fn key(&self, key: &str, viewer: &HeaderMap) -> String {
        let mut out = format!("{key}{SEPARATOR}{}", self.salt);
        for name in self.names.iter() {
            for value in viewer.get_all(name) {
                let bytes = value.as_bytes().trim_ascii();
                let bytes = &bytes[..bytes.len().min(VALUE_LEN_MAX)];
                let text = String::from_utf8_lossy(bytes);
                out += &format!("{SEPARATOR}{name}:{}:{text}", text.len());
            }
        }
        out
    }
}

/// In no URL, so in no other key.
const SEPARATOR: char = '\u{0}';

/// The headers that answers with this head differ with, sorted; none if that says that they must not
/// be shared. Headers that the origin does not get to see from viewers make no difference.
pub(crate) fn names(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim) {
            if name.is_empty() {
                continue;
            }
            // `*` is no name of a header, either.
            let name: HeaderName = name.parse().ok()?;
            // As many variants as viewers.
            if name == header::COOKIE || name == header::AUTHORIZATION || name == "*" {
                return None;
            }
            if !UNSEEN.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NAMES_MAX).then_some(names)
}

/// What the proxy does not pass on from viewers with requests for shared objects, or sets itself.
pub(crate) const UNSEEN: [HeaderName; 10] = [
    header::ACCEPT_ENCODING,
    header::CACHE_CONTROL,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for value in values {
            out.append(name, value.parse().unwrap());
        }
        out
    }

    #[test]
    fn names_are_read_and_senseless_ones_are_not_shared() {
        let of = |values: &[&str]| {
            let names = names(&headers("vary", values))?;
            Some(
                names
                    .iter()
                    .map(|name| name.as_str().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[]), Some(vec![]));
        assert_eq!(of(&["Origin, Accept-Encoding"]), Some(vec![]));
        assert_eq!(
            of(&["X-B, x-a", "X-A"]),
            Some(vec!["x-a".into(), "x-b".into()])
        );
        for refused in ["*", "Cookie", "authorization", "a b", "a,b,c,d,e"] {
            assert_eq!(of(&[refused]), None, "{refused}");
        }
    }

    #[test]
    fn no_value_looks_like_another_key() {
        let rule = Rule::new(vec![HeaderName::from_static("x-a")], 7);
        let key = |values: &[&str]| rule.key("/p", &headers("x-a", values));
        assert_ne!(key(&["1", "2"]), key(&["1"]));
        assert_ne!(key(&["1", "2"]), key(&["1x-a:1:2"]));
        assert_ne!(key(&[]), key(&[""]));
        assert_ne!(
            key(&["1"]),
            Rule::new(vec![HeaderName::from_static("x-a")], 8).key("/p", &headers("x-a", &["1"]))
        );
    }
}
