#![no_main]
//! `tracker::fuzzing::handshake`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::handshake(bytes));
