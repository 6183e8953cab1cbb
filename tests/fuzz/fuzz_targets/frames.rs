#![no_main]
//! `tracker::fuzzing::frames`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::frames(bytes));
