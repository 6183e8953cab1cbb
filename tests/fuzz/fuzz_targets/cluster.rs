#![no_main]
//! `tracker::fuzzing::cluster`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::cluster(bytes));
