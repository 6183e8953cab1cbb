#![no_main]
//! `tracker::fuzzing::token_keys`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::token_keys(bytes));
