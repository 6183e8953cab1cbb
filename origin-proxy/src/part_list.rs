//! The parts that low-latency playlists list, and their tags.
//!
//! A part with a URL of its own is signed like a segment. Before its `EXT-X-PART` goes
//!
//! ```text
//! #EXT-X-SHOAL-PART:<len>,<piece_len>,<id, 16 hexadecimal digits>,<epoch>
//! ```
//!
//! Parts that are ranges of their segment come while it grows, before there is anything to sign.

use swarm_core::{
    id::Name,
    timeline::{Content, Listed, SegmentInfo, tags::SEGMENT_TAG, tags::write_segment},
};
use url::Url;

use crate::lowlatency::{PARTS_PER_PLAYLIST_MAX, attribute, milliseconds};

/// What the line of a part's tag begins with.
pub(crate) const PART_TAG: &str = "#EXT-X-SHOAL-PART:";
const PART: &str = "#EXT-X-PART:";

/// The parts of a playlist.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PartList {
    /// In order. Their numbers are those of the segments that they make up.
    pub(crate) listed: Vec<Listed>,
    /// The one that comes next, if the playlist announces it.
    pub(crate) hinted: Option<Listed>,
}

impl PartList {
    /// Reads the media playlist `text` that came from the absolute `url`. What makes no sense is left
    /// out: it is the CDN's alone.
    pub(crate) fn read(text: &str, url: &str) -> Self {
        let mut list = Self::default();
        let Ok(base) = Url::parse(url) else {
            return list;
        };
        let mut seq = 0_u64;
        let mut target_ms = 0;
        for line in text.lines() {
            if let Some(first) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                seq = first.trim().parse().unwrap_or(0);
            } else if let Some(skip) = line.strip_prefix("#EXT-X-SKIP:") {
                let skipped =
                    attribute(skip, "SKIPPED-SEGMENTS").and_then(|text| text.parse().ok());
                seq = seq.saturating_add(skipped.unwrap_or(0));
            } else if let Some(info) = line.strip_prefix("#EXT-X-PART-INF:") {
                target_ms = attribute(info, "PART-TARGET")
                    .and_then(milliseconds)
                    .unwrap_or(0);
            } else if let Some(part) = line.strip_prefix(PART) {
                let duration_ms = attribute(part, "DURATION").and_then(milliseconds);
                let part = place(part, &base, seq, duration_ms.unwrap_or(target_ms));
                if list.listed.len() < PARTS_PER_PLAYLIST_MAX {
                    list.listed.extend(part);
                }
            } else if let Some(hint) = line.strip_prefix("#EXT-X-PRELOAD-HINT:") {
                if attribute(hint, "TYPE") == Some("PART") {
                    list.hinted = place(hint, &base, seq, target_ms);
                }
            } else if !line.starts_with('#') && !line.trim().is_empty() {
                seq = seq.saturating_add(1);
            }
        }
        list
    }
}

/// The part with these attributes, if it has a URL of its own.
fn place(list: &str, base: &Url, seq: u64, duration_ms: u64) -> Option<Listed> {
    let is_other = |name: &str| attribute(list, name).is_some();
    let uri = attribute(list, "URI").filter(|uri| !uri.contains("{$"))?;
    if is_other("BYTERANGE") || is_other("BYTERANGE-START") || attribute(list, "GAP") == Some("YES")
    {
        return None;
    }
    let url = String::from(base.join(uri).ok()?);
    let info = SegmentInfo {
        name: Name::of_url(&url),
        seq,
        duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX),
        content: None,
    };
    Some(Listed {
        info,
        url,
        range: None,
    })
}

/// `text` with the tag of every part for which `content_of` knows the content. Such tags that are in
/// there already are replaced; all else stays as it is, byte for byte.
pub(crate) fn annotate(
    text: &str,
    url: &str,
    mut content_of: impl FnMut(&Listed) -> Option<Content>,
) -> String {
    let Ok(base) = Url::parse(url) else {
        return text.into();
    };
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    for line in text.split_inclusive('\n') {
        if line.starts_with(PART_TAG) {
            continue;
        }
        let part = line.strip_prefix(PART);
        let listed = part.and_then(|part| place(part.trim_end_matches(['\r', '\n']), &base, 0, 0));
        if let Some(content) = listed.and_then(|listed| content_of(&listed)) {
            let tag = write_segment(&content);
            out.push_str(PART_TAG);
            out.push_str(tag.strip_prefix(SEGMENT_TAG).unwrap_or_default());
            out.push_str(if line.ends_with("\r\n") { "\r\n" } else { "\n" });
        }
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use swarm_core::id::SegmentId;

    use super::*;

    const URL: &str = "https://a.example/live/v/i.m3u8";
    const TEXT: &str = "#EXTM3U\r\n#EXT-X-PART-INF:PART-TARGET=0.5\r\n#EXT-X-MEDIA-SEQUENCE:7\r\n\
        #EXT-X-SKIP:SKIPPED-SEGMENTS=3\r\n#EXT-X-PART:DURATION=0.5,URI=\"p10.0.m4s?token=a\"\r\n\
        #EXT-X-PART:DURATION=0.25,URI=\"/p,10.1.m4s\"\r\n#EXTINF:0.75,\r\nseg-10.m4s\r\n\
        #EXT-X-PART:DURATION=0.5,URI=\"seg-11.m4s\",BYTERANGE=\"100@0\"\r\n\
        #EXT-X-PART:DURATION=0.5,URI=\"gone.m4s\",GAP=YES\r\n\
        #EXT-X-PART:DURATION=0.5,URI=\"{$base}p.m4s\"\r\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p11.0.m4s\"\r\n";

    #[test]
    fn parts_have_the_numbers_of_their_segments() {
        let list = PartList::read(TEXT, URL);
        let facts = |listed: &Listed| {
            let SegmentInfo {
                name,
                seq,
                duration_ms,
                ..
            } = listed.info;
            (name, seq, duration_ms)
        };
        let expected = [
            (Name::of("/live/v/p10.0.m4s"), 10, 500),
            (Name::of("/p,10.1.m4s"), 10, 250),
        ];
        assert_eq!(list.listed.iter().map(facts).collect::<Vec<_>>(), expected);
        let hinted = list.hinted.as_ref().map(facts);
        assert_eq!(hinted, Some((Name::of("/live/v/p11.0.m4s"), 11, 500)));
        assert_eq!(PartList::read(TEXT, "no url"), PartList::default());
    }

    fn content(listed: &Listed) -> Option<Content> {
        let is_first = listed.url.contains("p10.0");
        is_first.then_some(Content {
            id: SegmentId(0xab),
            len: 20_000,
            piece_len: 16_384,
            epoch: 3,
        })
    }

    #[test]
    fn a_tag_goes_before_its_part_and_takes_the_place_of_another() {
        let tag = "#EXT-X-SHOAL-PART:20000,16384,00000000000000ab,3\r\n";
        let tagged = annotate(TEXT, URL, content);
        let part = TEXT.find("#EXT-X-PART:").unwrap();
        assert_eq!(tagged, format!("{}{tag}{}", &TEXT[..part], &TEXT[part..]));
        assert_eq!(annotate(&tagged, URL, content), tagged);
        assert_eq!(annotate(&tagged, URL, |_| None), TEXT);
    }

    proptest! {
        #[test]
        fn edits_are_lossless(text in "(#EXT-X-PART:|URI=\"p10.0|\"|,|=|[a-z#:.0-9é]{1,4}|\r?\n){0,30}") {
            let tagged = annotate(&text, URL, content);
            let bare: String = tagged
                .split_inclusive('\n')
                .filter(|line| !line.starts_with(PART_TAG))
                .collect();
            prop_assert_eq!(bare, text);
            PartList::read(&tagged, URL);
        }
    }
}
