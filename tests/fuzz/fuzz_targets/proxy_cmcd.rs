#![no_main]
//! What players say of themselves to the origin-proxy.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::cmcd(bytes));
