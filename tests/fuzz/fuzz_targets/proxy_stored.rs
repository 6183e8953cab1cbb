#![no_main]
//! Files of the origin-proxy's second tier.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::stored(bytes));
