//! HLS playlists whose URLs lead back to the endpoint. Line by line; whatever is not a URL stays as
//! it is, byte for byte.

use std::borrow::Cow;
use std::ops::Range;

use super::urls::Place;

/// Tags whose `URI` is media or a playlist.
const INWARD: [&str; 6] = [
    "#EXT-X-MAP:",
    "#EXT-X-MEDIA:",
    "#EXT-X-I-FRAME-STREAM-INF:",
    "#EXT-X-PART:",
    "#EXT-X-PRELOAD-HINT:",
    "#EXT-X-RENDITION-REPORT:",
];
/// Tags with URLs that never go through the endpoint, and the attributes that hold them.
const OUTWARD: [(&str, &[&str]); 5] = [
    ("#EXT-X-KEY:", &["URI"]),
    ("#EXT-X-SESSION-KEY:", &["URI"]),
    ("#EXT-X-SESSION-DATA:", &["URI"]),
    ("#EXT-X-CONTENT-STEERING:", &["SERVER-URI"]),
    ("#EXT-X-DATERANGE:", &["X-ASSET-URI", "X-ASSET-LIST"]),
];

/// The playlist with its URLs changed.
pub(crate) fn rewrite(text: &str, place: &Place<'_>) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\r', '\n']);
        out.push_str(&rewrite_line(content, place));
        out.push_str(&line[content.len()..]);
    }
    out
}

fn rewrite_line<'t>(line: &'t str, place: &Place<'_>) -> Cow<'t, str> {
    if !line.starts_with('#') {
        return if line.trim().is_empty() {
            line.into()
        } else {
            place.inward(line)
        };
    }
    if INWARD.iter().any(|tag| line.starts_with(tag)) {
        return replace(line, "URI", |uri| place.inward(uri));
    }
    let Some((_, attributes)) = OUTWARD.iter().find(|(tag, _)| line.starts_with(tag)) else {
        return line.into();
    };
    let mut line = Cow::Borrowed(line);
    for name in *attributes {
        line = replace(&line, name, |uri| place.outward(uri))
            .into_owned()
            .into();
    }
    line
}

/// The line with the value of a quoted attribute changed.
fn replace<'t>(
    line: &'t str,
    name: &str,
    change: impl for<'v> FnOnce(&'v str) -> Cow<'v, str>,
) -> Cow<'t, str> {
    let Some(value) = quoted(line, name) else {
        return line.into();
    };
    let changed = change(&line[value.clone()]).into_owned();
    format!("{}{changed}{}", &line[..value.start], &line[value.end..]).into()
}

/// Where the value of the quoted attribute `name` is.
fn quoted(line: &str, name: &str) -> Option<Range<usize>> {
    let mut at = line.find(':')? + 1;
    while at < line.len() {
        let rest = &line[at..];
        let equals = rest.find('=')?;
        let value = &rest[equals + 1..];
        let start = at + equals + 1;
        let (span, next) = if let Some(inner) = value.strip_prefix('"') {
            let end = inner.find('"')?;
            (start + 1..start + 1 + end, start + end + 2)
        } else {
            let end = value.find(',').unwrap_or(value.len());
            (start..start + end, start + end)
        };
        if rest[..equals].trim() == name && value.starts_with('"') {
            return Some(span);
        }
        at = next + 1;
        // Attributes are separated by commas; anything else is not for us to mend.
        if next < line.len() && !line[next..].starts_with(',') {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::tests::gateway;
    use proptest::prelude::*;
    use url::Url;

    fn rewritten(text: &str, url: &str) -> String {
        let gateway = gateway();
        let cdn = "https://cdn.example";
        rewrite(
            text,
            &Place {
                gateway: &gateway,
                cdn,
                url: Url::parse(url).unwrap(),
            },
        )
    }

    #[tokio::test]
    async fn media_leads_to_the_endpoint_and_keys_to_the_origin() {
        let text = "#EXTM3U\r\n#EXT-X-SHOAL:V=1,STREAM=00\r\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\",IV=0x1\r\n\
            #EXT-X-MAP:URI=\"https://cdn.example/v/init.mp4\",BYTERANGE=\"10@0\"\r\n\
            #EXTINF:2.0,a, \"title\"\r\nseg-1.m4s?token=x\r\n\
            #EXTINF:2.0,\r\nhttps://other.example:8443/v/seg-2.m4s\r\n\
            #EXTINF:2.0,\r\n//cdn.example/v/seg-3.m4s\r\n";
        let expected = "#EXTM3U\r\n#EXT-X-SHOAL:V=1,STREAM=00\r\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"https://cdn.example/v/key.bin\",IV=0x1\r\n\
            #EXT-X-MAP:URI=\"/v/init.mp4\",BYTERANGE=\"10@0\"\r\n\
            #EXTINF:2.0,a, \"title\"\r\nseg-1.m4s?token=x\r\n\
            #EXTINF:2.0,\r\n/.shoal/via/https/other.example:8443/v/seg-2.m4s\r\n\
            #EXTINF:2.0,\r\n/v/seg-3.m4s\r\n";
        assert_eq!(
            rewritten(text, "https://cdn.example/v/index.m3u8"),
            expected
        );
    }

    #[tokio::test]
    async fn root_relative_references_stay_on_their_host() {
        let text =
            "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"/audio.m3u8\"\n/v.m3u8\nw.m3u8";
        let expected = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",\
            URI=\"/.shoal/via/http/b.example/audio.m3u8\"\n/.shoal/via/http/b.example/v.m3u8\nw.m3u8";
        assert_eq!(rewritten(text, "http://b.example/x/main.m3u8"), expected);
        assert_eq!(rewritten(text, "https://cdn.example/main.m3u8"), text);
    }

    #[tokio::test]
    async fn attributes_are_found_by_their_whole_name_outside_quotes() {
        let url = "https://cdn.example/v/index.m3u8";
        let text = "#EXT-X-DATERANGE:ID=\"URI=\\,X-ASSET-URI=\",X-ASSET-LIST=\"/ads?a=1,b\",X-NOTE=\"URI\"";
        let expected = "#EXT-X-DATERANGE:ID=\"URI=\\,X-ASSET-URI=\",\
            X-ASSET-LIST=\"https://cdn.example/ads?a=1,b\",X-NOTE=\"URI\"";
        assert_eq!(rewritten(text, url), expected);
        for broken in [
            "#EXT-X-MAP:URI=\"x",
            "#EXT-X-MAP:",
            "#EXT-X-MAP:URI",
            "#EXT-X-KEY:URI=\"a\"b",
        ] {
            let _ = rewritten(broken, url);
        }
        assert_eq!(
            rewritten("#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://k\"", url),
            "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://k\""
        );
    }

    proptest! {
        #[test]
        fn whatever_the_playlist_says_only_its_urls_change_and_only_once(
            lines in prop::collection::vec(
                "(#EXT-X-(KEY|MAP|PART|DATERANGE):|#EXTINF:)?(URI=|X-ASSET-LIST=|METHOD=|,|\"|=|https://|//|[a-c]\\.example|:8|/|\\?|é|[a-z]){0,9}\r?",
                0..8,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let _entered = runtime.enter();
            let text = lines.join("\n");
            let url = "https://cdn.example/v/index.m3u8";
            let changed = rewritten(&text, url);
            prop_assert_eq!(changed.matches('\n').count(), text.matches('\n').count());
            for (before, after) in text.lines().zip(changed.lines()) {
                let is_comment = before.starts_with('#') && !before.starts_with("#EXT-X-");
                prop_assert!(!is_comment || before == after);
            }
            prop_assert_eq!(rewritten(&changed, url), changed);
        }
    }
}
