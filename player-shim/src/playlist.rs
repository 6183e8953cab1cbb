//! Playlists: where the segments are for JavaScript, and what they are for the machine.

use swarm_core::{
    id::TrackId,
    timeline::{
        SegmentInfo, Track,
        hls::{self, HlsPlaylist},
    },
};
use wasm_bindgen::prelude::wasm_bindgen;

/// Tracks whose last window is remembered. More than a player plays: it may try others.
const WINDOWS_MAX: usize = 32;

/// The last windows read, most recently read last.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    list: Vec<(TrackId, Vec<SegmentInfo>)>,
}

impl Windows {
    /// Reads a media playlist and remembers its window, and that of its parts; nothing for a multivariant playlist.
    pub(crate) fn read(&mut self, text: &str, url: &str) -> Result<Option<Window>, String> {
        let track = match hls::read(text, url).map_err(|error| error.to_string())? {
            HlsPlaylist::Media(track) => track,
            HlsPlaylist::Multivariant(_) => return Ok(None),
        };
        self.remember(&track);
        if let Some(parts) = track.of_parts() {
            self.remember(&parts);
        }
        Ok(Some(Window {
            track,
            numbers: None,
        }))
    }

    fn remember(&mut self, track: &Track) {
        let infos = track.segments.iter().map(|listed| listed.info).collect();
        self.list.retain(|(known, _)| *known != track.track);
        if self.list.len() >= WINDOWS_MAX {
            self.list.remove(0);
        }
        self.list.push((track.track, infos));
    }

    /// The last window of a track, empty if it is not known.
    pub(crate) fn of(&self, track: TrackId) -> &[SegmentInfo] {
        let found = self.list.iter().find(|(known, _)| *known == track);
        found.map_or(&[], |(_, infos)| infos)
    }
}

/// What a media playlist lists.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Window {
    track: Track,
    /// The segments' numbers for the page, if the machine's are others.
    numbers: Option<Vec<u64>>,
}

#[wasm_bindgen]
impl Window {
    /// The track.
    pub fn track(&self) -> u32 {
        self.track.track.0
    }

    /// The stream, 32 hexadecimal digits; empty if the playlist does not come through an
    /// origin-proxy.
    pub fn stream(&self) -> String {
        self.track
            .stream
            .map_or_else(String::new, |stream| stream.to_string())
    }

    /// Longest segment duration in milliseconds.
    pub fn target_ms(&self) -> u32 {
        self.track.target_ms
    }

    /// Whether nothing will be added.
    pub fn is_ended(&self) -> bool {
        self.track.ended
    }

    /// The parts of these segments as a window of their own; none if there are none, or none that can be shared.
    pub fn parts(&self) -> Option<Window> {
        let track = self.track.of_parts()?;
        let parts = self.track.parts.listed.iter();
        Some(Window {
            track,
            numbers: Some(parts.map(|part| part.listed.info.seq).collect()),
        })
    }

    /// One line for each segment in order: name, number (a part has that of its segment), duration in milliseconds, first byte and
    /// length (both 0 for a whole object), and URL, separated by spaces.
    pub fn segments(&self) -> String {
        let mut lines = String::new();
        for (at, listed) in self.track.segments.iter().enumerate() {
            let (first, len) = listed.range.unwrap_or((0, 0));
            let info = &listed.info;
            let own = self.numbers.as_ref().and_then(|numbers| numbers.get(at));
            let seq = own.copied().unwrap_or(info.seq);
            let (name, duration_ms) = (info.name, info.duration_ms);
            let url = &listed.url;
            lines.push_str(&format!("{name} {seq} {duration_ms} {first} {len} {url}\n"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://cdn.example/live/v/index.m3u8?token=1";

    #[test]
    fn a_media_playlist_is_listed_and_remembered() {
        let text = "#EXTM3U\n#EXT-X-SHOAL:V=1,STREAM=000102030405060708090a0b0c0d0e0f\n\
            #EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n\
            #EXTINF:4,\nseg-7.m4s\n#EXTINF:3.5,\nseg-8.m4s?x=1\n";
        let mut windows = Windows::default();
        let window = windows.read(text, URL).unwrap().unwrap();
        assert_eq!(window.stream(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(window.target_ms(), 4000);
        assert!(!window.is_ended());
        let lines = window.segments();
        let name = crate::name_of("https://cdn.example/live/v/seg-8.m4s");
        let expected = format!("{name} 8 3500 0 0 https://cdn.example/live/v/seg-8.m4s?x=1");
        assert_eq!(lines.lines().nth(1), Some(expected.as_str()));
        assert_eq!(windows.of(TrackId(window.track())).len(), 2);
    }

    #[test]
    fn parts_are_a_window_of_their_own() {
        let text = "#EXTM3U\n#EXT-X-SHOAL:V=1,STREAM=000102030405060708090a0b0c0d0e0f\n\
            #EXT-X-TARGETDURATION:1\n#EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-MEDIA-SEQUENCE:7\n\
            #EXT-X-SHOAL-PART:300,16384,0000000000000001,0\n\
            #EXT-X-PART:DURATION=0.5,URI=\"part-7.0.m4s\"\n#EXT-X-PART:DURATION=0.5,URI=\"part-7.1.m4s\"\n\
            #EXTINF:1,\nseg-7.m4s\n#EXT-X-PART:DURATION=0.5,URI=\"part-8.0.m4s\"\n";
        let mut windows = Windows::default();
        let whole = windows.read(text, URL).unwrap().unwrap();
        let parts = whole.parts().unwrap();
        assert_ne!(parts.track(), whole.track());
        assert_eq!((parts.stream(), parts.target_ms()), (whole.stream(), 500));
        let name = crate::name_of("https://cdn.example/live/v/part-8.0.m4s");
        let expected = format!("{name} 8 500 0 0 https://cdn.example/live/v/part-8.0.m4s");
        assert_eq!(parts.segments().lines().nth(2), Some(expected.as_str()));
        let seqs = windows
            .of(TrackId(parts.track()))
            .iter()
            .map(|info| info.seq);
        assert_eq!(seqs.collect::<Vec<_>>(), [14, 15, 16]);
        assert_eq!(windows.of(TrackId(whole.track())).len(), 1);
        assert!(parts.parts().is_none());
    }

    #[test]
    fn only_so_many_windows_are_remembered() {
        let mut windows = Windows::default();
        for track in 0..WINDOWS_MAX + 3 {
            let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nv{track}/1.m4s\n");
            windows.read(&text, URL).unwrap();
        }
        assert_eq!(windows.list.len(), WINDOWS_MAX);
    }

    #[test]
    fn other_texts_are_told_apart() {
        let mut windows = Windows::default();
        assert!(windows.read("<html>", URL).unwrap_err().contains("origin"));
        let multivariant = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv.m3u8\n";
        assert!(windows.read(multivariant, URL).unwrap().is_none());
        assert!(windows.of(TrackId(1)).is_empty());
    }
}
