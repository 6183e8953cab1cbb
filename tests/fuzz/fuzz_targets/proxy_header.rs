#![no_main]
//! `tracker::fuzzing::proxy_header`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::proxy_header(bytes));
