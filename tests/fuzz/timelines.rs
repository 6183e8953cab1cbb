//! What holds for a track, whatever the playlist or manifest says.

use swarm_core::{
    id::Name,
    timeline::{Content, RANGE_END_MAX, SEGMENTS_ENDED_MAX, SEGMENTS_LIVE_MAX, Track, URL_LEN_MAX},
};

/// Panics where the track breaks a promise of `swarm_core::timeline`.
pub(crate) fn check(track: &Track) {
    let segments_max = if track.ended { SEGMENTS_ENDED_MAX } else { SEGMENTS_LIVE_MAX };
    assert!(track.segments.len() <= segments_max);
    assert!(track.inits.len() <= SEGMENTS_LIVE_MAX);
    for listed in &track.segments {
        let (first, len) = listed.range.unwrap_or_default();
        assert!(first.checked_add(len).is_some_and(|end| end <= RANGE_END_MAX));
        assert!(listed.url.len() <= 2 * URL_LEN_MAX && listed.url.contains(':'));
        assert!(listed.info.content.as_ref().is_none_or(Content::is_valid));
        let name = match listed.range {
            Some((first, len)) => Name::of_range(&listed.url, first, len),
            None => Name::of_url(&listed.url),
        };
        assert_eq!(listed.info.name, name);
    }
    let numbers = track.segments.iter().map(|listed| listed.info.seq);
    assert!(numbers.clone().zip(numbers.skip(1)).all(|(seq, next)| seq < next));
}
