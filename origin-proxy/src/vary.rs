//! Answers that differ with request headers (RFC 9111 section 4.1).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};

use crate::{
    object::HOP_BY_HOP,
    trace::{TRACEPARENT, TRACESTATE},
};

/// What tells the variants of one object apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    names: Arc<[HeaderName]>,
    /// No two rules have the same: a purge forgets the rule, and thereby all variants.
    salt: u64,
}

/// An answer that differs with more headers is not shared.
const NAMES_MAX: usize = 4;

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

    /// The key of the variant of `key` that a request gets of which the origin sees these headers (those
    /// that the viewer sent would tell apart what is the same, and take for the same what is not). A digest of
    /// the values, each with its length, is part of it: no two values have the same key, however long.
    pub(crate) fn key(&self, key: &str, seen: &HeaderMap) -> String {
        let mut digest = Sha256::new();
        for name in self.names.iter() {
            for value in seen.get_all(name) {
                digest.update(format!("{name}:{}:", value.len()));
                digest.update(value);
            }
        }
        let values = hex::encode(digest.finalize());
        format!("{key}{SEPARATOR}{}{SEPARATOR}{values}", self.salt)
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
            // As many variants as viewers, or as requests.
            if FOR_ONE.contains(&name.as_str()) {
                return None;
            }
            if !UNSEEN.contains(&name) && !HOP_BY_HOP.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NAMES_MAX).then_some(names)
}

/// What no two viewers, or no two requests, have in common. `*` stands for anything.
const FOR_ONE: [&str; 5] = ["*", "authorization", "cookie", TRACEPARENT, TRACESTATE];

/// What the proxy does not pass on from viewers with requests for shared objects, or sets itself.
pub(crate) const UNSEEN: [HeaderName; 12] = [
    header::ACCEPT_ENCODING,
    header::CACHE_CONTROL,
    header::EXPECT,
    header::HOST,
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

    #[test]
    fn values_that_differ_late_or_in_no_letter_differ() {
        let rule = Rule::new(vec![HeaderName::from_static("x-a")], 7);
        let key = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-a", http::HeaderValue::from_bytes(value).unwrap());
            rule.key("/p", &headers)
        };
        let long = "x".repeat(5000);
        assert_ne!(
            key(format!("{long}a").as_bytes()),
            key(format!("{long}b").as_bytes())
        );
        assert_ne!(key(&[0xe4]), key(&[0xf6]));
        assert_eq!(key(&[0xe4]), key(&[0xe4]));
    }

    #[test]
    fn what_the_origin_does_not_see_makes_no_difference() {
        let of = |value: &str| names(&headers("vary", &[value]));
        assert_eq!(of("Host, TE, Connection, Expect"), Some(vec![]));
        assert_eq!(of("traceparent"), None);
    }
}
