//! What must not be repeated unless its origin says for how long: keys, the time, and patches of manifests.
//!
//! Of an answer that says nothing of its freshness a cache may guess (RFC 9111 section 4.2.2). A guess is harmless
//! for media. It is not for a key, which may be for viewers with a token alone (RFC 8216 section 5); for the time,
//! which is right once; and for a patch, which is another one after every change of its manifest (ISO/IEC 23009-1
//! section 5.15). Each viewer has the origin's own answer to these, unless that is fresh for some time.

use http::{HeaderMap, header};
use moka::sync::Cache;
use url::Url;

use crate::{
    freshness,
    lowlatency::attribute,
    playlist::Format,
    proxy::Proxy,
    recent,
    target::{Site, Target},
};

/// Keys of such objects, as playlists and manifests name them.
pub(crate) struct Delicate {
    keys: Cache<String, ()>,
}

const KEYS_MAX: u64 = 50_000;
/// More of one playlist are not noted; the last ones are the newest.
const NOTED_MAX: usize = 4096;
const KEY_TAGS: [&str; 2] = ["#EXT-X-KEY:", "#EXT-X-SESSION-KEY:"];

impl Default for Delicate {
    fn default() -> Self {
        Self {
            keys: recent::cache(KEYS_MAX),
        }
    }
}

impl Delicate {
    fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }
}

impl Proxy {
    /// Notes what of the playlist or manifest `text` is delicate. What is kept of it by a guess is forgotten.
    pub(crate) fn note_delicate(&self, target: &Target, text: &str, format: Format) {
        let uris = match format {
            Format::Hls => uris_of_keys(text),
            Format::Dash => uris_of_manifest(text),
            Format::Other => return,
        };
        for place in self.places_of(target, uris) {
            if self.delicate.has(&place.key) {
                continue;
            }
            self.delicate.keys.insert(place.key.clone(), ());
            let kept = self.cached(&place);
            if kept.is_none_or(|object| freshness::told(&object.headers).is_none()) {
                // What is on its way is not kept, either.
                self.lock_flights().remove(&place.key);
                self.varies.invalidate(&place.key);
                self.evict(&place);
            }
        }
    }

    /// The keys of the HLS playlist `text` that this proxy or its origin has, the newest first.
    pub(crate) fn keys_of(&self, target: &Target, text: &str) -> impl Iterator<Item = Target> {
        self.places_of(target, uris_of_keys(text))
    }

    /// What of this proxy or its origin the `uris` of a playlist or manifest stand for.
    fn places_of(&self, target: &Target, uris: Vec<String>) -> impl Iterator<Item = Target> {
        let site = self.site_of(target);
        let base = Url::parse(&Site::viewer_url(target)).ok();
        uris.into_iter()
            .filter_map(move |uri| site.local(base.as_ref()?.join(&uri).ok()?.as_str()))
    }

    /// Whether an answer with `head` for the object `path` under `key` must not be given to others because
    /// nobody says for how long it holds.
    pub(crate) fn is_for_one(&self, path: &str, key: &str, head: &HeaderMap) -> bool {
        let is_delicate = || self.delicate.has(key) || path.ends_with(".key") || is_patch(head);
        is_delicate() && freshness::told(head).is_none()
    }
}

fn is_patch(head: &HeaderMap) -> bool {
    let media_type = head.get(header::CONTENT_TYPE);
    media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/dash-patch+xml"))
}

/// The keys of an HLS playlist, the newest first.
fn uris_of_keys(text: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for line in text.lines().rev() {
        let list = KEY_TAGS.iter().find_map(|tag| line.strip_prefix(tag));
        let uri = list.and_then(|list| attribute(list, "URI"));
        // Most are said again and again.
        if let Some(uri) = uri.filter(|uri| uris.last().is_none_or(|last| last != uri)) {
            uris.push(uri.to_owned());
        }
        if uris.len() >= NOTED_MAX {
            break;
        }
    }
    uris
}

/// Where a manifest has the time, and its patches.
fn uris_of_manifest(text: &str) -> Vec<String> {
    let times = text.split("UTCTiming").skip(1);
    let times = times.filter_map(|rest| {
        let attributes = rest.split('>').next()?;
        let scheme = xml_attribute(attributes, "schemeIdUri")?;
        // Those of other schemes have a time or the name of a server in it.
        let value = xml_attribute(attributes, "value")?;
        scheme.contains(":http-").then_some(value)
    });
    let patches = text.split("PatchLocation").skip(1);
    let patches = patches.filter_map(|rest| rest.split('>').nth(1)?.split('<').next());
    let uris = times.chain(patches).flat_map(str::split_whitespace);
    let uris = uris.map(|uri| uri.replace("&amp;", "&"));
    uris.take(NOTED_MAX).collect()
}

/// The value of `name` among the attributes of an element.
fn xml_attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = attributes.split_once(name)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest
        .chars()
        .next()
        .filter(|char| matches!(char, '"' | '\''))?;
    rest[1..].split(quote).next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_found_in_both_kinds_of_playlists() {
        let text = "#EXTM3U\n#EXT-X-SESSION-KEY:METHOD=AES-128,URI=\"s?a=1,2\"\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"a.bin\",IV=0x1\n#EXTINF:2,\nseg\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"a.bin\",IV=0x2\n#EXT-X-KEY:METHOD=NONE\n\
            #EXT-X-MAP:URI=\"init.mp4\"\n";
        assert_eq!(uris_of_keys(text), ["a.bin", "s?a=1,2"]);
    }

    #[test]
    fn the_time_and_patches_are_found_in_manifests() {
        let text = "<m:MPD><m:PatchLocation ttl='60'>p.mpp?a=1&amp;b=2</m:PatchLocation>\n<Period/>\
            <UTCTiming value = 'time  http://b.example/t' schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\"/>\
            <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:direct:2014\" value=\"2026-01-01T00:00:00Z\"></UTCTiming></MPD>";
        let expected = ["time", "http://b.example/t", "p.mpp?a=1&b=2"];
        assert_eq!(uris_of_manifest(text), expected);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(UTCTiming|PatchLocation|value|schemeIdUri|:http-|[<>/='\" é]|#EXT-X-KEY:URI=){0,30}") {
            uris_of_keys(&text);
            uris_of_manifest(&text);
        }
    }
}
