#![no_main]
//! `tracker::fuzzing::forwarded`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::forwarded(bytes));
