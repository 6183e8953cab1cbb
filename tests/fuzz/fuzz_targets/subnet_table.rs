#![no_main]
//! `tracker::fuzzing::subnet_table`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracker::fuzzing::subnet_table(bytes));
