#![no_main]
//! `tracker::fuzzing::webtorrent`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::webtorrent(bytes));
