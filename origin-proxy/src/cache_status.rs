//! How the cache has dealt with a request, as answers say it (RFC 9211).

use http::{HeaderMap, HeaderValue, header};

use crate::access::Outcome;

/// What every answer from the cache says.
pub(crate) const HIT: HeaderValue = HeaderValue::from_static("shoal; hit");

/// Puts what became of a request into the head of an answer that says [`HIT`]; `reason` is looked for if that is
/// something else.
pub(crate) fn correct(
    headers: &mut HeaderMap,
    outcome: Outcome,
    reason: impl FnOnce() -> Option<&'static str>,
) {
    if outcome == Outcome::Hit {
        return;
    }
    // Caches before this one come first, and stay.
    let lines = headers.get_all(header::CACHE_STATUS).into_iter();
    let mut before: Vec<HeaderValue> = lines.cloned().collect();
    before.pop();
    headers.remove(header::CACHE_STATUS);
    for line in before {
        headers.append(header::CACHE_STATUS, line);
    }
    note(headers, outcome, reason());
}

/// Adds what became of a request, and why its answer is for one viewer alone.
pub(crate) fn note(headers: &mut HeaderMap, outcome: Outcome, reason: Option<&'static str>) {
    let word = match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale => "hit; detail=stale",
        Outcome::Collapsed => "fwd=miss; collapsed",
        Outcome::Miss => "fwd=miss",
        Outcome::Passed => "fwd=bypass",
        Outcome::Own => return,
    };
    let text = match reason {
        Some(reason) => format!("shoal; {word}; detail={reason}"),
        None => format!("shoal; {word}"),
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.append(header::CACHE_STATUS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_caches_say_stays_before_it() {
        let mut headers = HeaderMap::new();
        headers.append(header::CACHE_STATUS, HeaderValue::from_static("other; hit"));
        headers.append(header::CACHE_STATUS, HIT);
        let lines = |headers: &HeaderMap| -> Vec<String> {
            let lines = headers.get_all(header::CACHE_STATUS).into_iter();
            lines.map(|line| line.to_str().unwrap().into()).collect()
        };
        correct(&mut headers, Outcome::Hit, || Some("never"));
        assert_eq!(lines(&headers), ["other; hit", "shoal; hit"]);
        correct(&mut headers, Outcome::Collapsed, || None);
        assert_eq!(
            lines(&headers),
            ["other; hit", "shoal; fwd=miss; collapsed"]
        );
        note(&mut headers, Outcome::Passed, Some("set-cookie"));
        assert_eq!(lines(&headers)[2], "shoal; fwd=bypass; detail=set-cookie");
    }
}
