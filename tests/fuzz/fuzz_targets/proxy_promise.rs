#![no_main]
//! The origin-proxy announces low latency in HLS playlists and shortens them.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::playlist_promise(bytes));
