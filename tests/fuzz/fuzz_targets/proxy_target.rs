#![no_main]
//! What viewers ask the origin-proxy for.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::target(bytes));
