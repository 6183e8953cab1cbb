#![no_main]
//! `tracker::fuzzing::databases`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::databases(bytes));
