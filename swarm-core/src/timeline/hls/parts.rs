//! Reading what low-latency playlists list of segments that are not whole yet.

use std::collections::VecDeque;

use quick_m3u8::tag::hls::{
    EnumeratedString, Part as PartTag, PartInf, PreloadHint, PreloadHintType,
};
use url::Url;

use super::{
    super::{Content, Listed, PARTS_MAX, Part, Parts, SegmentInfo, names::Namer, resolve, tags},
    has_variable,
};

/// Where in the playlist a part is listed.
pub(super) struct Place<'a> {
    pub(super) base: &'a Url,
    pub(super) namer: &'a Namer,
    /// The segment that it is a part of.
    pub(super) seq: u64,
}

/// Reads parts in the order of the playlist. What makes no sense is left out: it is the CDN's alone.
#[derive(Default)]
pub(super) struct PartsReader {
    target_ms: u32,
    /// Parts since the last whole segment.
    count: u32,
    /// What our tag says of the next part.
    content: Option<Content>,
    /// And where their tags are in the text.
    pub(super) listed: VecDeque<(usize, Part)>,
    hinted: Option<Part>,
}

impl PartsReader {
    pub(super) fn handle_tag(&mut self, line: &str) {
        self.content = tags::read_part(line);
    }

    pub(super) fn handle_inf(&mut self, tag: &PartInf<'_>) {
        self.target_ms = milliseconds(tag.part_target());
    }

    /// A part, whose tag is at `offset`.
    pub(super) fn handle_part(&mut self, tag: &PartTag<'_>, at: &Place<'_>, offset: usize) {
        let index = self.count;
        self.count = index.saturating_add(1);
        let content = self.content.take();
        if tag.byterange().is_some() || tag.gap() {
            return;
        }
        let duration_ms = milliseconds(tag.duration());
        let Some(mut listed) = at.listed(tag.uri(), duration_ms) else {
            return;
        };
        listed.info.content = content;
        if self.listed.len() == PARTS_MAX {
            self.listed.pop_front();
        }
        self.listed.push_back((offset, Part { listed, index }));
    }

    pub(super) fn handle_hint(&mut self, tag: &PreloadHint<'_>, at: &Place<'_>, line: &str) {
        let is_part = tag.hint_type() == EnumeratedString::Known(PreloadHintType::Part);
        // A range may begin at 0, which is also what the tag has without one.
        if is_part && !line.contains("BYTERANGE-") {
            let index = self.count;
            let listed = at.listed(tag.uri(), self.target_ms);
            self.hinted = listed.map(|listed| Part { listed, index });
        }
    }

    /// A whole segment is listed.
    pub(super) fn on_segment(&mut self) {
        self.count = 0;
        self.content = None;
    }

    pub(super) fn finish(self) -> Parts {
        Parts {
            target_ms: self.target_ms,
            listed: self.listed.into_iter().map(|(_, part)| part).collect(),
            hinted: self.hinted,
        }
    }
}

/// A float cast saturates, and turns what is not a number into 0.
fn milliseconds(seconds: f64) -> u32 {
    (seconds * 1000.0 + 0.5) as u32
}

impl Place<'_> {
    fn listed(&self, uri: &str, duration_ms: u32) -> Option<Listed> {
        if has_variable(uri) {
            return None;
        }
        let url = String::from(resolve(self.base, uri).ok()?);
        let info = SegmentInfo {
            name: self.namer.name_of(&url, None),
            seq: self.seq,
            duration_ms,
            content: None,
        };
        Some(Listed {
            info,
            url,
            range: None,
        })
    }
}
