#![no_main]
//! Headers that decide what the origin-proxy keeps and sends.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::headers(bytes));
