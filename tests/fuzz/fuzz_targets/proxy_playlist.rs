#![no_main]
//! The origin-proxy edits HLS playlists.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::playlist_edit(bytes));
