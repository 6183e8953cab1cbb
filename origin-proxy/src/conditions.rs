//! Conditional requests of viewers (RFC 9110 section 13).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What the conditions of a request make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done.
    Proceed,
    /// 304: the viewer has it.
    NotModified,
    /// 412: the viewer wants another state of it.
    Failed,
}

/// Weighs the conditions of a GET or HEAD against the object's headers, in the order of section
/// 13.2.2.
pub(crate) fn weigh(asked: &HeaderMap, object: &HeaderMap) -> Verdict {
    let etag = object.get(header::ETAG);
    if asked.contains_key(header::IF_MATCH) {
        if !lists(asked, &header::IF_MATCH, etag, is_same_strongly) {
            return Verdict::Failed;
        }
    } else if let Some(since) = date(asked, &header::IF_UNMODIFIED_SINCE)
        && let Some(modified) = date(object, &header::LAST_MODIFIED)
        && modified > since
    {
        return Verdict::Failed;
    }
    if asked.contains_key(header::IF_NONE_MATCH) {
        if lists(asked, &header::IF_NONE_MATCH, etag, is_same_weakly) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = date(asked, &header::IF_MODIFIED_SINCE)
        && let Some(modified) = date(object, &header::LAST_MODIFIED)
        && modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether the ranges of a request count: the object is still the one that the viewer has parts of
/// (section 13.1.5). Weak validators never say so.
pub(crate) fn is_range_wanted(asked: &HeaderMap, object: &HeaderMap) -> bool {
    let Some(condition) = asked.get(header::IF_RANGE) else {
        return true;
    };
    let is_tag = condition.as_bytes().contains(&b'"');
    if is_tag {
        let etag = object.get(header::ETAG);
        return etag.is_some_and(|etag| is_same_strongly(condition.as_bytes(), etag.as_bytes()));
    }
    let Some(modified) = date(object, &header::LAST_MODIFIED) else {
        return false;
    };
    // A date is strong if the object had not changed for long when it was sent (section 8.8.2.2).
    let is_strong = date(object, &header::DATE).is_some_and(|sent| {
        sent.duration_since(modified)
            .is_ok_and(|quiet| quiet.as_secs() >= 1)
    });
    is_strong && date(asked, &header::IF_RANGE) == Some(modified)
}

/// The date in a header, if there is one that makes sense.
pub(crate) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok()
}

fn lists(
    asked: &HeaderMap,
    name: &HeaderName,
    etag: Option<&HeaderValue>,
    is_same: fn(&[u8], &[u8]) -> bool,
) -> bool {
    let tags = asked
        .get_all(name)
        .into_iter()
        .flat_map(|value| tags_of(value.as_bytes()));
    for tag in tags {
        // The object is there, whatever it is.
        if tag == b"*" || etag.is_some_and(|etag| is_same(tag, etag.as_bytes())) {
            return true;
        }
    }
    false
}

/// The tags of a list; commas within quotes do not part them.
fn tags_of(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let parts = list.split(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii)
}

fn is_same_weakly(a: &[u8], b: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    opaque(a) == opaque(b)
}

fn is_same_strongly(a: &[u8], b: &[u8]) -> bool {
    a == b && !a.starts_with(b"W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const MODIFIED: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
    const MODIFIED_OTHERWISE: &str = "Monday, 07-Nov-94 08:49:37 GMT";
    const NEW: &str = "Tue, 08 Nov 1994 08:49:37 GMT";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn conditions_are_weighed_in_their_order() {
        use Verdict::{Failed, NotModified, Proceed};
        let object = headers(&[("etag", "\"a,b\""), ("last-modified", MODIFIED)]);
        for (asked, verdict) in [
            (&[][..], Proceed),
            (&[("if-none-match", "\"x\", W/\"a,b\"")][..], NotModified),
            (&[("if-none-match", "*")][..], NotModified),
            (&[("if-none-match", "\"a\"")][..], Proceed),
            // A tag wins over a date.
            (
                &[("if-none-match", "\"x\""), ("if-modified-since", NEW)][..],
                Proceed,
            ),
            (&[("if-modified-since", NEW)][..], NotModified),
            (
                &[("if-modified-since", MODIFIED_OTHERWISE)][..],
                NotModified,
            ),
            (&[("if-modified-since", OLD)][..], Proceed),
            (&[("if-modified-since", "yesterday")][..], Proceed),
            (&[("if-match", "\"a,b\"")][..], Proceed),
            (&[("if-match", "W/\"a,b\"")][..], Failed),
            (&[("if-match", "\"x\"")][..], Failed),
            (&[("if-match", "*")][..], Proceed),
            (&[("if-unmodified-since", OLD)][..], Failed),
            (&[("if-unmodified-since", NEW)][..], Proceed),
            (
                &[("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")][..],
                NotModified,
            ),
        ] {
            assert_eq!(weigh(&headers(asked), &object), verdict, "{asked:?}");
        }
    }

    #[test]
    fn only_strong_validators_let_ranges_be_joined() {
        let object = headers(&[
            ("etag", "\"a\""),
            ("last-modified", MODIFIED),
            ("date", NEW),
        ]);
        let weak = headers(&[
            ("etag", "W/\"a\""),
            ("last-modified", MODIFIED),
            ("date", MODIFIED),
        ]);
        for (condition, is_wanted) in [
            ("\"a\"", true),
            ("\"b\"", false),
            ("W/\"a\"", false),
            (MODIFIED, true),
            (NEW, false),
            ("soon", false),
        ] {
            let asked = headers(&[("if-range", condition)]);
            assert_eq!(is_range_wanted(&asked, &object), is_wanted, "{condition}");
            assert!(!is_range_wanted(&asked, &weak), "{condition}");
        }
        assert!(is_range_wanted(&HeaderMap::new(), &weak));
    }
}
