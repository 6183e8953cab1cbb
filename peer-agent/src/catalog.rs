//! Where the segments are that the core knows by name only: filled from playlists, read by whoever
//! fetches.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_core::id::{Name, TrackId};
use swarm_core::timeline::Listed;

/// Segments remembered at most, over all tracks; the oldest are forgotten first.
const SEGMENTS_MAX: usize = 16 * 1024;

/// A segment's place on the CDN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// Absolute URL, with whatever token the playlist had.
    pub(crate) url: String,
    /// First byte and length, where the segment is a range of a larger object.
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) track: TrackId,
    pub(crate) seq: u64,
    pub(crate) duration_ms: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    segments: HashMap<Name, Located>,
    /// What stands for the segments' URLs in [`Catalog::name_of`]: names leave out a viewer's token in the path.
    names: HashMap<Name, Name>,
    /// Oldest first.
    order: VecDeque<Name>,
}

impl Catalog {
    /// Remembers what a playlist lists. The newest playlist's URLs count.
    pub(crate) fn add(&self, track: TrackId, segments: &[Listed]) {
        let mut state = self.lock();
        for listed in segments {
            let name = listed.info.name;
            let located = Located {
                url: listed.url.clone(),
                range: listed.range,
                track,
                seq: listed.info.seq,
                duration_ms: listed.info.duration_ms,
            };
            state
                .names
                .insert(place_of(&listed.url, listed.range), name);
            let before = state.segments.insert(name, located);
            match before.map(|before| place_of(&before.url, before.range)) {
                None => state.order.push_back(name),
                Some(place) if place != place_of(&listed.url, listed.range) => {
                    state.names.remove(&place);
                }
                Some(_) => {}
            }
            if state.order.len() > SEGMENTS_MAX
                && let Some(oldest) = state.order.pop_front()
                && let Some(gone) = state.segments.remove(&oldest)
            {
                state.names.remove(&place_of(&gone.url, gone.range));
            }
        }
    }

    /// Where a segment is.
    pub(crate) fn find(&self, name: Name) -> Option<Located> {
        self.lock().segments.get(&name).cloned()
    }

    /// Which segment, if any, a request for `url` and these bytes of it (first, length) means.
    pub(crate) fn name_of(&self, url: &str, range: Option<(u64, u64)>) -> Option<Name> {
        let state = self.lock();
        let ranged = range.map(|range| place_of(url, Some(range)));
        let candidates = [ranged, Some(place_of(url, None))];
        let mut candidates = candidates.into_iter().flatten();
        candidates.find_map(|place| state.names.get(&place).copied())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands for `url`, or a range of it: query and host do not count.
fn place_of(url: &str, range: Option<(u64, u64)>) -> Name {
    match range {
        Some((first, len)) => Name::of_range(url, first, len),
        None => Name::of_url(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::timeline::SegmentInfo;

    fn listed(url: &str, seq: u64, range: Option<(u64, u64)>) -> Listed {
        let info = SegmentInfo {
            name: place_of(url, range),
            seq,
            duration_ms: 2000,
            content: None,
        };
        Listed {
            info,
            url: url.into(),
            range,
        }
    }

    #[test]
    fn finds_whole_objects_and_ranges_whatever_the_token() {
        let catalog = Catalog::default();
        let (whole, part) = ("http://a/seg-1.m4s?token=1", "http://a/all.mp4");
        catalog.add(
            TrackId(1),
            &[listed(whole, 1, None), listed(part, 2, Some((100, 50)))],
        );
        let name = catalog
            .name_of("http://a/seg-1.m4s?token=2", Some((0, 10)))
            .unwrap();
        assert_eq!(catalog.find(name).unwrap().url, whole);
        let part_name = catalog.name_of(part, Some((100, 50))).unwrap();
        assert_eq!(catalog.find(part_name).unwrap().range, Some((100, 50)));
        assert_eq!(catalog.name_of(part, None), None);
        catalog.add(TrackId(1), &[listed("http://a/seg-1.m4s?token=3", 1, None)]);
        assert!(catalog.find(name).unwrap().url.ends_with("token=3"));
    }

    #[test]
    fn finds_what_has_a_token_in_its_path() {
        let catalog = Catalog::default();
        let mut segment = listed("http://a/live/abc/seg-1.m4s", 1, None);
        segment.info.name = Name::of("/live/~/seg-1.m4s");
        catalog.add(TrackId(1), &[segment.clone()]);
        assert_eq!(
            catalog.name_of("http://a/live/abc/seg-1.m4s?x", None),
            Some(segment.info.name)
        );
        // With a new token the old one is of no use any more.
        segment.url = "http://a/live/def/seg-1.m4s".into();
        catalog.add(TrackId(1), &[segment.clone()]);
        assert_eq!(
            catalog.name_of("http://a/live/def/seg-1.m4s", None),
            Some(segment.info.name)
        );
        assert_eq!(catalog.name_of("http://a/live/abc/seg-1.m4s", None), None);
    }

    #[test]
    fn forgets_the_oldest() {
        let catalog = Catalog::default();
        for seq in 0..SEGMENTS_MAX as u64 + 10 {
            catalog.add(
                TrackId(1),
                &[listed(&format!("http://a/{seq}.ts"), seq, None)],
            );
        }
        assert_eq!(catalog.name_of("http://a/9.ts", None), None);
        assert!(catalog.name_of("http://a/10.ts", None).is_some());
    }
}
