//! Blocking playlist reloads (draft-pantos-hls-rfc8216bis section 6.2.5.2): what a player asks to wait for,
//! and whether a playlist has it.

use http::StatusCode;

use crate::{
    error::Failure,
    lowlatency::{attribute, milliseconds},
};

/// Where a media playlist ends, and what it says of its pace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The number of the segment after the last whole one.
    next: u64,
    /// Parts of that one that are listed.
    open_parts: u64,
    /// Parts of the last whole one that are listed.
    last_parts: u64,
    /// `EXT-X-TARGETDURATION`, in milliseconds.
    pub(crate) target_ms: u64,
    /// `PART-TARGET`, in milliseconds.
    pub(crate) part_target_ms: u64,
    /// Nothing more will come.
    is_ended: bool,
    /// URI of the part that is announced.
    pub(crate) hint: Option<String>,
}

/// The delivery directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Directives {
    /// `_HLS_msn`, and `_HLS_part` if it is there.
    wanted: Option<(u64, Option<u64>)>,
    /// `_HLS_skip`.
    pub(crate) is_delta: bool,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Answer,
    Wait,
    /// What is asked for cannot come soon.
    TooFar,
}

/// What a request may be ahead by in parts: so many, or so many milliseconds where parts are shorter than
/// a second.
const ADVANCE_PARTS: u64 = 3;
const ADVANCE_MS: u64 = 3000;
/// And in segments, from the last whole one.
const ADVANCE_SEGMENTS: u64 = 2;

impl Edge {
    /// Reads a media playlist. What makes no sense counts as not there.
    pub(crate) fn read(text: &str) -> Self {
        let mut edge = Self::default();
        for line in text.lines() {
            if let Some(first) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                edge.next = first.trim().parse().unwrap_or(0);
            } else if let Some(target) = line.strip_prefix("#EXT-X-TARGETDURATION:") {
                edge.target_ms = milliseconds(target).unwrap_or(0);
            } else if let Some(list) = line.strip_prefix("#EXT-X-PART-INF:") {
                let target = attribute(list, "PART-TARGET");
                edge.part_target_ms = target.and_then(milliseconds).unwrap_or(0);
            } else if line.starts_with("#EXT-X-PART:") {
                edge.open_parts += 1;
            } else if let Some(list) = line.strip_prefix("#EXT-X-PRELOAD-HINT:") {
                if attribute(list, "TYPE") == Some("PART") {
                    // What has begun already comes as it grows: nobody has to be held back.
                    let begin = attribute(list, "BYTERANGE-START").unwrap_or("0");
                    let hint = attribute(list, "URI").filter(|_| begin == "0");
                    edge.hint = hint.map(Into::into);
                }
            } else if line.trim_end() == "#EXT-X-ENDLIST" {
                edge.is_ended = true;
            } else if !line.starts_with('#') && !line.trim().is_empty() {
                edge.next = edge.next.saturating_add(1);
                edge.last_parts = std::mem::take(&mut edge.open_parts);
            }
        }
        edge
    }

    fn has(&self, segment: u64, part: Option<u64>) -> bool {
        let Some(part) = part else {
            return segment < self.next;
        };
        // A part past the end of its segment stands for the first one of the next segment.
        let is_past_last = segment.saturating_add(1) == self.next && part >= self.last_parts;
        if is_past_last {
            return self.open_parts > 0;
        }
        segment < self.next || (segment == self.next && part < self.open_parts)
    }

    fn is_too_far(&self, segment: u64, part: Option<u64>) -> bool {
        let advance = match self.part_target_ms {
            ms @ 1..1000 => ADVANCE_MS.div_ceil(ms),
            _ => ADVANCE_PARTS,
        };
        let Some(ahead) = segment.checked_sub(self.next) else {
            return false;
        };
        // Who wants whole segments asks for the last part of the next one, however long it is: hls.js without
        // `lowLatencyMode`, which would take another rendition if it were refused.
        let parts_max = match ahead {
            0 => (self.open_parts + advance).max(self.last_parts),
            _ => advance,
        };
        ahead >= ADVANCE_SEGMENTS || part.is_some_and(|part| part >= parts_max)
    }
}

impl Directives {
    /// Reads a query.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, Failure> {
        let (mut segment, mut part, mut is_delta) = (None, None, false);
        for word in query.unwrap_or_default().split('&') {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "_HLS_msn" => segment = Some(number(value)?),
                "_HLS_part" => part = Some(number(value)?),
                "_HLS_skip" => is_delta = matches!(value, "YES" | "v2"),
                _ => {}
            }
        }
        if segment.is_none() && part.is_some() {
            return Err(refused("_HLS_part without _HLS_msn"));
        }
        let wanted = segment.map(|segment| (segment, part));
        Ok(Self { wanted, is_delta })
    }

    /// Whether they name something that a playlist has which ends at `edge`.
    pub(crate) fn is_met_by(&self, edge: &Edge) -> bool {
        let has = |(segment, part)| edge.has(segment, part);
        self.wanted.is_some_and(has)
    }

    /// What to do when the playlist ends at `edge`.
    pub(crate) fn plan(&self, edge: &Edge) -> Plan {
        match self.wanted {
            _ if edge.is_ended => Plan::Answer,
            None => Plan::Answer,
            Some((segment, part)) if edge.has(segment, part) => Plan::Answer,
            Some((segment, part)) if edge.is_too_far(segment, part) => Plan::TooFar,
            Some(_) => Plan::Wait,
        }
    }
}

fn number(value: &str) -> Result<u64, Failure> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| value.parse().ok()).flatten();
    number.ok_or(refused("a delivery directive that is no number"))
}

/// The answer to directives that make no sense.
pub(crate) fn refused(what: &'static str) -> Failure {
    Failure::Client(what, StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
        #EXT-X-MEDIA-SEQUENCE:8\n#EXTINF:2,\ns8.m4s\n#EXT-X-PART:DURATION=0.5,URI=\"p9.0\"\n\
        #EXT-X-PART:DURATION=0.5,URI=\"p9.1\"\n#EXT-X-PART:DURATION=0.5,URI=\"p9.2\"\n\
        #EXT-X-PART:DURATION=0.5,URI=\"p9.3\"\n#EXTINF:2,\r\ns9.m4s\r\n\
        #EXT-X-PART:DURATION=0.5,URI=\"p10.0\"\n#EXT-X-PART:DURATION=0.5,URI=\"p10.1\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p10.2\"\n";

    #[test]
    fn the_edge_is_where_the_playlist_ends() {
        let expected = Edge {
            next: 10,
            open_parts: 2,
            last_parts: 4,
            target_ms: 2000,
            part_target_ms: 500,
            is_ended: false,
            hint: Some("p10.2".into()),
        };
        assert_eq!(Edge::read(TEXT), expected);
        assert!(Edge::read(&format!("{TEXT}#EXT-X-ENDLIST\n")).is_ended);
        assert_eq!(Edge::read("").part_target_ms, 0);
    }

    #[test]
    fn a_request_waits_for_what_comes_soon() {
        let edge = Edge::read(TEXT);
        for (query, expected) in [
            ("", Plan::Answer),
            ("_HLS_skip=YES", Plan::Answer),
            ("_HLS_msn=9", Plan::Answer),
            ("_HLS_msn=10", Plan::Wait),
            ("_HLS_msn=11", Plan::Wait),
            ("_HLS_msn=12", Plan::TooFar),
            ("_HLS_msn=3&_HLS_part=99", Plan::Answer),
            ("_HLS_msn=9&_HLS_part=4", Plan::Answer),
            ("_HLS_msn=10&_HLS_part=1", Plan::Answer),
            ("_HLS_msn=10&token=x&_HLS_part=2", Plan::Wait),
            ("_HLS_msn=10&_HLS_part=7", Plan::Wait),
            ("_HLS_msn=10&_HLS_part=8", Plan::TooFar),
            ("_HLS_msn=11&_HLS_part=0", Plan::Wait),
            ("_HLS_msn=11&_HLS_part=6", Plan::TooFar),
            ("_HLS_msn=18446744073709551615&_HLS_part=0", Plan::TooFar),
        ] {
            let plan = Directives::read(Some(query)).unwrap().plan(&edge);
            assert_eq!(plan, expected, "{query}");
        }
        let ended = Edge::read(&format!("{TEXT}#EXT-X-ENDLIST\n"));
        let far = Directives::read(Some("_HLS_msn=99")).unwrap();
        assert_eq!(far.plan(&ended), Plan::Answer);
        let whole = Edge::read(&TEXT[..TEXT.find("#EXT-X-PART:DURATION=0.5,URI=\"p10").unwrap()]);
        let past = Directives::read(Some("_HLS_msn=9&_HLS_part=4")).unwrap();
        assert_eq!(past.plan(&whole), Plan::Wait, "the first part of 10");
    }

    #[test]
    fn the_last_part_of_the_next_segment_is_waited_for_however_far() {
        let edge = Edge {
            open_parts: 0,
            last_parts: 8,
            ..Edge::read(TEXT)
        };
        for (query, expected) in [
            ("_HLS_msn=10&_HLS_part=7", Plan::Wait),
            ("_HLS_msn=10&_HLS_part=8", Plan::TooFar),
            ("_HLS_msn=11&_HLS_part=7", Plan::TooFar),
        ] {
            let plan = Directives::read(Some(query)).unwrap().plan(&edge);
            assert_eq!(plan, expected, "{query}");
        }
    }

    #[test]
    fn senseless_directives_are_refused() {
        for query in [
            "_HLS_part=1",
            "_HLS_msn=",
            "_HLS_msn=-1",
            "_HLS_msn=1&_HLS_part=x",
            "_HLS_msn=99999999999999999999",
        ] {
            let failure = Directives::read(Some(query)).unwrap_err();
            assert_eq!(failure.status(), StatusCode::BAD_REQUEST, "{query}");
        }
    }
}
