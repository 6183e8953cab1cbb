//! `traceparent` (W3C Trace Context): one trace from the viewer's request to the origin's.

use http::{HeaderMap, HeaderValue};

/// The trace that a request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    id: [u8; 16],
    flags: u8,
}

/// The header's name.
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

impl Trace {
    /// The trace that a viewer's request says it is part of.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut fields = text.split('-');
        let version = hex_field::<1>(fields.next()?)?[0];
        let id = hex_field::<16>(fields.next()?)?;
        let parent = hex_field::<8>(fields.next()?)?;
        let flags = hex_field::<1>(fields.next()?)?[0];
        let is_of_future = version > 0;
        let is_whole = is_of_future || fields.next().is_none();
        let is_valid = version != 0xff && id != [0; 16] && parent != [0; 8] && is_whole;
        is_valid.then_some(Self { id, flags })
    }

    /// Its id in hexadecimal.
    pub(crate) fn id(&self) -> String {
        hex::encode(self.id)
    }
}

/// Makes the proxy's request to the origin the next span of the viewer's trace. What is no valid trace
/// is not passed on; without one there is none to make up, since nobody would look for it.
pub(crate) fn continue_trace(headers: &mut HeaderMap) {
    let Some(trace) = Trace::read(headers) else {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
        return;
    };
    let mut span = [0; 8];
    if getrandom::fill(&mut span).is_err() || span == [0; 8] {
        span[0] = 1;
    }
    let text = format!(
        "00-{}-{}-{:02x}",
        trace.id(),
        hex::encode(span),
        trace.flags & 3
    );
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Lower-case hexadecimal digits for `N` bytes, and nothing else.
fn hex_field<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, text.parse().unwrap());
        headers.insert(TRACESTATE, "a=b".parse().unwrap());
        headers
    }

    #[test]
    fn a_trace_goes_on_with_another_span() {
        let mut next = headers(VALID);
        continue_trace(&mut next);
        let text = next[TRACEPARENT].to_str().unwrap();
        assert_ne!(text, VALID);
        assert_eq!(Trace::read(&next), Trace::read(&headers(VALID)));
        assert!(next.contains_key(TRACESTATE));
    }

    #[test]
    fn senseless_ones_end_here() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            let mut next = headers(text);
            continue_trace(&mut next);
            assert!(next.is_empty(), "{text}");
        }
    }
}
