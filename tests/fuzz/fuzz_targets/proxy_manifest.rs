#![no_main]
//! The origin-proxy edits MPDs.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origin_proxy::fuzzing::manifest_edit(bytes));
