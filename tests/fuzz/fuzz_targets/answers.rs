#![no_main]
//! `entry_points::answers`.

#[path = "../entry_points.rs"]
#[allow(dead_code, reason = "one of several")]
mod entry_points;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry_points::answers(bytes));
