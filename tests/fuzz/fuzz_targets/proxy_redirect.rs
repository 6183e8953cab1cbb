#![no_main]
//! Redirects of the origin that the origin-proxy follows.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::redirect(bytes));
