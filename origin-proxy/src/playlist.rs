//! Telling playlists and manifests from other objects, and putting the stream's id into manifests.

use http::{HeaderMap, header};
use quick_xml::{Reader, events::Event};
use swarm_core::timeline::tags::{self, DASH_SCHEME, StreamTag};

/// What an object is, as far as the proxy cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// An HLS playlist of either kind.
    Hls,
    /// A DASH manifest.
    Dash,
    /// Segments, keys, pictures, pages.
    Other,
}

impl Format {
    /// By `Content-Type`, or by the path's end where that says nothing.
    pub(crate) fn of(path: &str, headers: &HeaderMap) -> Self {
        let value = headers.get(header::CONTENT_TYPE);
        let media_type = value.and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/vnd.apple.mpegurl"
            | "application/x-mpegurl"
            | "audio/mpegurl"
            | "audio/x-mpegurl"
            | "vnd.apple.mpegurl" => return Self::Hls,
            "application/dash+xml" => return Self::Dash,
            _ => {}
        }
        match path.rsplit('.').next() {
            Some("m3u8" | "m3u") => Self::Hls,
            Some("mpd") => Self::Dash,
            _ => Self::Other,
        }
    }
}

/// The manifest `text` with the stream's id as a `SupplementalProperty` of the MPD, where its schema
/// wants it: after periods and metrics, before UTC timing. All else stays as it is, byte for byte;
/// so does the whole text if it has such a property or is no manifest.
pub fn annotate_mpd(text: &str, stream: impl Into<StreamTag>) -> String {
    if text.contains(DASH_SCHEME) {
        return text.into();
    }
    let Some(place) = find_property_place(text) else {
        return text.into();
    };
    let (before, after) = text.split_at(place.offset);
    let prefix = place.prefix;
    let value = tags::write_property(&stream.into());
    format!(
        "{before}<{prefix}SupplementalProperty schemeIdUri=\"{DASH_SCHEME}\" value=\"{value}\"/>{after}"
    )
}

struct Place {
    offset: usize,
    /// Namespace prefix of the MPD element with its colon, or nothing.
    prefix: String,
}

fn find_property_place(text: &str) -> Option<Place> {
    let mut reader = Reader::from_str(text);
    let mut depth = 0_usize;
    let mut prefix = String::new();
    // The first child that comes after supplemental properties in the schema.
    let mut follower = None;
    loop {
        let offset = usize::try_from(reader.buffer_position()).ok()?;
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                if depth == 0 {
                    if tag.local_name().as_ref() != "MPD" {
                        return None;
                    }
                    prefix = tag.name().as_ref().strip_suffix("MPD")?.into();
                }
                if depth == 1 {
                    note_child(&mut follower, tag.local_name().as_ref(), offset);
                }
                depth += 1;
            }
            Event::Empty(tag) if depth == 1 => {
                note_child(&mut follower, tag.local_name().as_ref(), offset);
            }
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let offset = follower.unwrap_or(offset);
                    return text
                        .is_char_boundary(offset)
                        .then_some(Place { offset, prefix });
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn note_child(follower: &mut Option<usize>, name: &str, offset: usize) {
    match name {
        "UTCTiming" | "LeapSecondInformation" => {
            follower.get_or_insert(offset);
        }
        // Out of the schema's order: what counts is what comes after the last period.
        "Period" | "Metrics" => *follower = None,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use swarm_core::{id::StreamId, timeline::dash};

    use super::*;

    const MPD: &str = "<?xml version=\"1.0\"?>\n<!-- é -->\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\">\n  <Period id=\"0\"><AdaptationSet/></Period>\n  <UTCTiming schemeIdUri=\"urn:x\" value=\"y\"/>\n</MPD>\n";

    #[test]
    fn the_property_goes_before_utc_timing_and_is_read_back() {
        let stream = StreamId([5; 16]);
        let tagged = annotate_mpd(MPD, stream);
        let property = tagged.find("<SupplementalProperty").unwrap();
        assert!(tagged[property..].contains("<UTCTiming"));
        assert!(property > tagged.find("</Period>").unwrap());
        let manifest = dash::read(&tagged, "http://a.example/m.mpd", 0).unwrap();
        assert_eq!(manifest.stream, Some(stream));
        assert_eq!(annotate_mpd(&tagged, stream), tagged);
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in ["", "<html/>", "<MPD>", "<a><MPD/></a>"] {
            assert_eq!(annotate_mpd(text, StreamId([0; 16])), text);
        }
    }

    #[test]
    fn formats_are_told_by_type_then_by_path() {
        let mut headers = HeaderMap::new();
        assert_eq!(Format::of("/a/b.m3u8", &headers), Format::Hls);
        assert_eq!(Format::of("/a/b.m4s", &headers), Format::Other);
        headers.insert(
            header::CONTENT_TYPE,
            "application/dash+xml; charset=utf-8".parse().unwrap(),
        );
        assert_eq!(Format::of("/a/b", &headers), Format::Dash);
    }

    proptest! {
        #[test]
        fn edits_are_lossless_and_never_panic(
            insert in "[<>/a-zA-Z\"=é &;!-]{0,12}", at in 0_usize..300, remove in 0_usize..20,
        ) {
            let boundary = |mut at: usize| { while !MPD.is_char_boundary(at) { at -= 1 } at };
            let at = boundary(at.min(MPD.len()));
            let end = boundary((at + remove).min(MPD.len())).max(at);
            let text = format!("{}{insert}{}", &MPD[..at], &MPD[end..]);
            let tagged = annotate_mpd(&text, StreamId([5; 16]));
            let property = format!("SupplementalProperty schemeIdUri=\"{DASH_SCHEME}\" value=\"{}\"/>", "05".repeat(16));
            if tagged != text {
                let (before, after) = tagged.split_once(&property).unwrap();
                let before = &before[..before.rfind('<').unwrap()];
                prop_assert_eq!(before.to_owned() + after, text);
            }
        }
    }
}
