#![no_main]
//! `tracker::fuzzing::stun`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::stun(bytes));
