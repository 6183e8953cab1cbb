#![no_main]
//! Requests that the origin-proxy reads, and answers that it writes, without hyper.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::brief(bytes));
