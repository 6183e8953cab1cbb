//! Blocking playlist reloads (draft-pantos-hls-rfc8216bis section 6.2.5): what a player asks to wait
//! for, and what there is to say now.

/// Where a media playlist ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The number of the segment after the last whole one.
    pub(crate) next: u64,
    /// Parts of that one that are there.
    pub(crate) open_parts: u64,
    /// Parts of the last whole one.
    pub(crate) last_parts: u64,
}

/// The delivery directives of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// `_HLS_msn` and `_HLS_part`.
    pub(crate) wanted: Option<Wanted>,
    /// `_HLS_skip`.
    pub(crate) skip: bool,
}

/// What a playlist must have before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    segment: u64,
    /// None for all of the segment.
    part: Option<u64>,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    Answer,
    Wait,
    TooFar,
}

/// A request may be ahead by so much, in seconds, where parts are shorter than one.
const ADVANCE_S: f64 = 3.0;
/// And by so many parts where they are not.
const ADVANCE_PARTS: u64 = 3;
/// And by so many segments.
const ADVANCE_SEGMENTS: u64 = 2;

impl Edge {
    /// The last part there is: its segment, and its number in it.
    pub(crate) fn last_part(&self) -> Option<(u64, u64)> {
        match self.open_parts {
            0 => Some((self.next.checked_sub(1)?, self.last_parts.checked_sub(1)?)),
            parts => Some((self.next, parts - 1)),
        }
    }

    fn has(&self, wanted: Wanted) -> bool {
        let Some(part) = wanted.part else {
            return wanted.segment < self.next;
        };
        // A part past the end of its segment stands for the first of the next one.
        let is_past_last = wanted.segment + 1 == self.next && part >= self.last_parts;
        if is_past_last {
            return self.open_parts > 0;
        }
        wanted.segment < self.next || (wanted.segment == self.next && part < self.open_parts)
    }

    fn is_too_far(&self, wanted: Wanted, part_target_s: f64) -> bool {
        let advance = if part_target_s < 1.0 {
            (ADVANCE_S / part_target_s).ceil() as u64
        } else {
            ADVANCE_PARTS
        };
        let parts_max = match wanted.segment.checked_sub(self.next) {
            // Who wants whole segments asks for the last part of the next one, however long it is: hls.js
            // without `lowLatencyMode`, which would take another rendition if it were refused.
            Some(0) => (self.open_parts + advance).max(self.last_parts),
            Some(_) => advance,
            None => return false,
        };
        let last = self.next.saturating_sub(1);
        wanted.segment > last + ADVANCE_SEGMENTS
            || wanted.part.is_some_and(|part| part >= parts_max)
    }
}

impl Directives {
    /// Reads a query; the error says what is wrong with it.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, &'static str> {
        let (mut segment, mut part, mut skip) = (None, None, false);
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| value.parse::<u64>().ok()).flatten()
            };
            match name {
                "_HLS_msn" => segment = Some(number().ok_or("request: _HLS_msn is no number\n")?),
                "_HLS_part" => part = Some(number().ok_or("request: _HLS_part is no number\n")?),
                "_HLS_skip" => skip = matches!(value, "YES" | "v2"),
                _ => {}
            }
        }
        let wanted = match (segment, part) {
            (None, Some(_)) => return Err("request: _HLS_part without _HLS_msn\n"),
            (segment, part) => segment.map(|segment| Wanted { segment, part }),
        };
        Ok(Self { wanted, skip })
    }

    /// What to do at `edge`.
    pub(crate) fn plan(&self, edge: Edge, part_target_s: f64) -> Plan {
        match self.wanted {
            None => Plan::Answer,
            Some(wanted) if edge.has(wanted) => Plan::Answer,
            Some(wanted) if edge.is_too_far(wanted, part_target_s) => Plan::TooFar,
            Some(_) => Plan::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten whole segments of four parts, and two parts of the next.
    const EDGE: Edge = Edge {
        next: 10,
        open_parts: 2,
        last_parts: 4,
    };

    fn plan(query: &str, edge: Edge) -> Plan {
        Directives::read(Some(query)).unwrap().plan(edge, 0.5)
    }

    #[test]
    fn waits_for_the_part_that_is_asked_for() {
        for (query, planned) in [
            ("", Plan::Answer),
            ("_HLS_msn=9", Plan::Answer),
            ("_HLS_msn=10", Plan::Wait),
            ("_HLS_msn=11", Plan::Wait),
            ("_HLS_msn=12", Plan::TooFar),
            ("_HLS_msn=3&_HLS_part=99", Plan::Answer),
            ("_HLS_msn=10&_HLS_part=1", Plan::Answer),
            ("token=x&_HLS_part=2&_HLS_msn=10", Plan::Wait),
            ("_HLS_msn=10&_HLS_part=7", Plan::Wait),
            ("_HLS_msn=10&_HLS_part=8", Plan::TooFar),
            ("_HLS_msn=11&_HLS_part=0", Plan::Wait),
            ("_HLS_msn=18446744073709551615", Plan::TooFar),
        ] {
            assert_eq!(plan(query, EDGE), planned, "{query}");
        }
    }

    #[test]
    fn a_part_past_the_end_of_its_segment_is_the_first_of_the_next() {
        assert_eq!(plan("_HLS_msn=9&_HLS_part=4", EDGE), Plan::Answer);
        let closed = Edge {
            open_parts: 0,
            ..EDGE
        };
        assert_eq!(plan("_HLS_msn=9&_HLS_part=4", closed), Plan::Wait);
        assert_eq!(plan("_HLS_msn=9&_HLS_part=3", closed), Plan::Answer);
        assert_eq!(closed.last_part(), Some((9, 3)));
        assert_eq!(EDGE.last_part(), Some((10, 1)));
    }

    #[test]
    fn the_last_part_of_the_next_segment_is_waited_for_however_far() {
        let long = Edge {
            open_parts: 0,
            last_parts: 8,
            ..EDGE
        };
        assert_eq!(plan("_HLS_msn=10&_HLS_part=7", long), Plan::Wait);
        assert_eq!(plan("_HLS_msn=10&_HLS_part=8", long), Plan::TooFar);
        assert_eq!(plan("_HLS_msn=11&_HLS_part=7", long), Plan::TooFar);
    }

    #[test]
    fn reads_directives() {
        let read = |query| Directives::read(Some(query));
        assert!(read("_HLS_skip=YES").unwrap().skip && read("_HLS_skip=v2").unwrap().skip);
        assert!(!read("_HLS_skip=NO").unwrap().skip);
        for wrong in [
            "_HLS_part=1",
            "_HLS_msn=",
            "_HLS_msn=-1",
            "_HLS_msn=1&_HLS_part=x",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
