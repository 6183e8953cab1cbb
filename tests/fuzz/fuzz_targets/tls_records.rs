#![no_main]
//! `tracker::fuzzing::tls_records`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::tls_records(bytes));
