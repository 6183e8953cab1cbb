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
const WINDOWS_MAX: usize = 16;

/// The last windows read, most recently read last.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    list: Vec<(TrackId, Vec<SegmentInfo>)>,
}

impl Windows {
    /// Reads a media playlist and remembers its window; nothing for a multivariant playlist.
    pub(crate) fn read(&mut self, text: &str, url: &str) -> Result<Option<Window>, String> {
        let track = match hls::read(text, url).map_err(|error| error.to_string())? {
            HlsPlaylist::Media(track) => track,
            HlsPlaylist::Multivariant(_) => return Ok(None),
        };
        let infos = track.segments.iter().map(|listed| listed.info).collect();
        self.list.retain(|(known, _)| *known != track.track);
        if self.list.len() >= WINDOWS_MAX {
            self.list.remove(0);
        }
        self.list.push((track.track, infos));
        Ok(Some(Window(track)))
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
pub struct Window(Track);

#[wasm_bindgen]
impl Window {
    /// The track.
    pub fn track(&self) -> u32 {
        self.0.track.0
    }

    /// The stream, 32 hexadecimal digits; empty if the playlist does not come through an
    /// origin-proxy.
    pub fn stream(&self) -> String {
        self.0
            .stream
            .map_or_else(String::new, |stream| stream.to_string())
    }

    /// Longest segment duration in milliseconds.
    pub fn target_ms(&self) -> u32 {
        self.0.target_ms
    }

    /// Whether nothing will be added.
    pub fn is_ended(&self) -> bool {
        self.0.ended
    }

    /// One line for each segment in order: name, number, duration in milliseconds, first byte and
    /// length (both 0 for a whole object), and URL, separated by spaces.
    pub fn segments(&self) -> String {
        let mut lines = String::new();
        for listed in &self.0.segments {
            let (first, len) = listed.range.unwrap_or((0, 0));
            let info = &listed.info;
            let (name, seq, duration_ms) = (info.name, info.seq, info.duration_ms);
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
    fn only_so_many_windows_are_remembered() {
        let mut windows = Windows::default();
        for track in 0..WINDOWS_MAX + 3 {
            let letter = char::from(b'a' + track as u8);
            let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{letter}-1.m4s\n");
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
