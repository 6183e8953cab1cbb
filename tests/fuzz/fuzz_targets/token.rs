#![no_main]
//! `tracker::fuzzing::token`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::token(bytes));
