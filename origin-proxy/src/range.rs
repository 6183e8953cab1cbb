//! Byte ranges (RFC 9110 section 14).

use bytes::Bytes;
use http::HeaderValue;

/// What a `Range` header asks of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// All of it: no range, or ranges that need not be understood.
    Whole,
    /// From the first byte to the second, exclusive.
    One(u64, u64),
    /// Several such, in the order they were asked for.
    Many(Vec<(u64, u64)>),
    /// Nothing that is there.
    Unsatisfiable,
}

/// More ranges in one request are taken for an attack, and answered with the whole.
const RANGES_MAX: usize = 32;
const WORD: &[u8] = b"bytes=";

/// Reads the ranges that `value` asks of an object of `len` bytes. What makes no sense is ignored, as
/// section 14.2 allows; so are ranges that together are longer than the object (section 17.15).
pub(crate) fn plan_ranges(value: Option<&HeaderValue>, len: u64) -> Ranges {
    let spec = value.and_then(|value| value.to_str().ok()).map(str::trim);
    let Some(spec) = spec.and_then(|text| {
        let unit = text.as_bytes().get(..WORD.len())?;
        unit.eq_ignore_ascii_case(WORD).then(|| &text[WORD.len()..])
    }) else {
        return Ranges::Whole;
    };
    let mut parts = Vec::new();
    for (index, text) in spec.split(',').enumerate() {
        if index >= RANGES_MAX {
            return Ranges::Whole;
        }
        match read_one(text.trim(), len) {
            Some(Some(part)) => parts.push(part),
            Some(None) => {}
            None => return Ranges::Whole,
        }
    }
    let total = parts.iter().map(|(first, end)| end - first).sum::<u64>();
    match parts.as_slice() {
        [] => Ranges::Unsatisfiable,
        [(first, end)] => Ranges::One(*first, *end),
        _ if total > len => Ranges::Whole,
        _ => Ranges::Many(parts),
    }
}

/// One range; `Some(None)` if it lies outside, `None` if it makes no sense.
fn read_one(text: &str, len: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", last) => {
            let suffix = number(last)?;
            let is_there = suffix > 0 && len > 0;
            Some(is_there.then(|| (len.saturating_sub(suffix), len)))
        }
        (first, "") => {
            let first = number(first)?;
            Some((first < len).then_some((first, len)))
        }
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            Some((first < len).then(|| (first, last.saturating_add(1).min(len))))
        }
    }
}

/// The first byte and the end (exclusive) of the one range that `value` asks for, if it says both: such a one
/// has a meaning while nobody knows how long the object will be.
pub(crate) fn bounded(value: Option<&HeaderValue>) -> Option<(u64, u64)> {
    match plan_ranges(value, u64::MAX) {
        Ranges::One(first, end) if end < u64::MAX => Some((first, end)),
        _ => None,
    }
}

/// Ranges that end there or later stand for all that an object will have (RFC 8673 section 2.1): 2^53 - 1 is what
/// players say who count in floating point.
pub(crate) const VERY_FAR: u64 = (1 << 53) - 1;

/// The value of `Content-Range` for the bytes from `first` to `end` of an object that is still being made.
pub(crate) fn content_range_so_far(first: u64, end: u64) -> HeaderValue {
    let text = format!("bytes {first}-{}/*", end.saturating_sub(1));
    HeaderValue::try_from(text).unwrap_or(UNKNOWN)
}

/// The value of `Content-Range` for the bytes from `first` to `end` of `len`.
pub(crate) fn content_range(first: u64, end: u64, len: u64) -> HeaderValue {
    let text = format!("bytes {first}-{}/{len}", end.saturating_sub(1));
    HeaderValue::try_from(text).unwrap_or(UNKNOWN)
}

/// The value of `Content-Range` where no range is there.
pub(crate) fn unsatisfied_range(len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{len}")).unwrap_or(UNKNOWN)
}

const UNKNOWN: HeaderValue = HeaderValue::from_static("bytes */*");

/// Several ranges as `multipart/byteranges` (section 14.6).
pub(crate) struct Multipart {
    /// The value of `Content-Type`.
    pub(crate) media_type: HeaderValue,
    /// The body, whose media bytes are not copied.
    pub(crate) chunks: Vec<Bytes>,
}

impl Multipart {
    pub(crate) fn of(
        parts: &[(u64, u64)],
        body: &Bytes,
        part_type: Option<&HeaderValue>,
        boundary: &str,
    ) -> Self {
        let media_type = format!("multipart/byteranges; boundary={boundary}");
        let mut chunks = Vec::with_capacity(2 * parts.len() + 1);
        for (index, (first, end)) in parts.iter().enumerate() {
            let mut head = Vec::new();
            let lead = if index == 0 { "" } else { "\r\n" };
            head.extend_from_slice(format!("{lead}--{boundary}\r\n").as_bytes());
            if let Some(part_type) = part_type {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(part_type.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            let last = end - 1;
            let range = format!("Content-Range: bytes {first}-{last}/{}\r\n\r\n", body.len());
            head.extend_from_slice(range.as_bytes());
            chunks.push(head.into());
            chunks.push(body.slice(*first as usize..*end as usize));
        }
        chunks.push(format!("\r\n--{boundary}--\r\n").into());
        Self {
            media_type: HeaderValue::try_from(media_type)
                .unwrap_or(HeaderValue::from_static("multipart/byteranges")),
            chunks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let plan = |text: &str, len| plan_ranges(Some(&text.parse().unwrap()), len);
        for (text, expected) in [
            ("bytes=0-", Ranges::One(0, 10)),
            ("BYTES=2-3", Ranges::One(2, 4)),
            ("bytes=2-300", Ranges::One(2, 10)),
            ("bytes=-3", Ranges::One(7, 10)),
            ("bytes=-30", Ranges::One(0, 10)),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=10-12,20-30", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=0-1, 4-5", Ranges::Many(vec![(0, 2), (4, 6)])),
            ("bytes=-2,0-0", Ranges::Many(vec![(8, 10), (0, 1)])),
            ("bytes=0-1,40-50", Ranges::One(0, 2)),
            ("bytes=0-,0-,0-", Ranges::Whole),
            ("bytes=3-2", Ranges::Whole),
            ("bytes=0-1,a-b", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("items=0-1", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=1-x", Ranges::Whole),
        ] {
            assert_eq!(plan(text, 10), expected, "{text}");
        }
        assert_eq!(plan("bytes=0-", 0), Ranges::Unsatisfiable);
        let bounds = |text: &str| bounded(Some(&text.parse().unwrap()));
        assert_eq!(bounds("bytes=2-3"), Some((2, 4)));
        for unbounded in ["bytes=2-", "bytes=-2", "bytes=0-1,3-4", "items=0-1"] {
            assert_eq!(bounds(unbounded), None, "{unbounded}");
        }
        let many = format!("bytes=0-0{}", ",1-1".repeat(RANGES_MAX));
        assert_eq!(plan(&many, 1000), Ranges::Whole);
    }
}
