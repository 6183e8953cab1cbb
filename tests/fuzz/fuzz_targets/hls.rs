#![no_main]
//! HLS playlists.

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = swarm_core::timeline::hls::read(text, "https://cdn.example/live/video.m3u8");
});
