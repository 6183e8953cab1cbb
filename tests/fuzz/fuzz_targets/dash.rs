#![no_main]
//! DASH manifests.

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = swarm_core::timeline::dash::read(text, "https://cdn.example/live.mpd", 1_700_000_000_000);
});
