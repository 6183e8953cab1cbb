#![no_main]
//! Key files of the origin-proxy.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::keys(bytes));
