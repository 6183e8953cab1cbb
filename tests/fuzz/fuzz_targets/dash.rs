#![no_main]
//! DASH manifests.

#[path = "../timelines.rs"]
mod timelines;

use swarm_core::timeline::{RENDITIONS_MAX, dash};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let read = dash::read(text, "https://cdn.example/live.mpd", 1_700_000_000_000);
    if let Ok(manifest) = read {
        assert!(manifest.representations.len() <= RENDITIONS_MAX);
        for representation in &manifest.representations {
            timelines::check(&representation.track);
        }
    }
});
