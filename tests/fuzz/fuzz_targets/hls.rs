#![no_main]
//! HLS playlists.

#[path = "../timelines.rs"]
mod timelines;

use swarm_core::timeline::hls::{self, HlsPlaylist};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(HlsPlaylist::Media(track)) = hls::read(text, "https://cdn.example/live/video.m3u8") {
        timelines::check(&track);
    }
});
