//! What three viewers of a simulated swarm were told, played to the native machine: this test
//! compares every answer with `golden/swarm.digests`, and `js/test/swarm.test.ts` does the same with
//! the WebAssembly module, so that both answer alike to the last byte.
//!
//! `SHOAL_UPDATE=1` writes the digests anew. The trace itself stays good when the machine decides
//! otherwise, since any input is accepted in any state; it was recorded by
//!
//! ```text
//! shoal simulate --scenario heal --viewers 12 --minutes 2 --seed 3 --latency-s 6 --grain-s 0.5 \
//!     --set 'heal_at_s=70.0' --set 'access.mix=[0.6, 0.2, 0.1, 0.1, 0.0]' \
//!     --trace player-shim/golden/swarm.jsonl
//! ```

use std::{collections::BTreeMap, fmt::Write};

use player_shim::Shim;
use serde_json::Value;

#[test]
fn every_answer_is_as_recorded() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let inputs = std::fs::read_to_string(format!("{folder}/swarm.jsonl")).unwrap();
    let (found, actions) = play(&inputs);
    let path = format!("{folder}/swarm.digests");
    if std::env::var_os("SHOAL_UPDATE").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(inputs.lines().count(), found.lines().count());
    assert!(actions > 500, "{actions} words of actions");
    for (line, (input, (found, expected))) in inputs
        .lines()
        .zip(found.lines().zip(golden.lines()))
        .enumerate()
    {
        assert_eq!(found, expected, "line {}: {input}", line + 1);
    }
    assert_eq!(found.lines().count(), golden.lines().count());
}

/// A digest for each input, over everything that its viewer has answered so far; and how many words
/// of actions there were.
fn play(inputs: &str) -> (String, usize) {
    let mut viewers: BTreeMap<u64, (Shim, Digest)> = BTreeMap::new();
    let (mut digests, mut actions) = (String::new(), 0);
    for line in inputs.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let viewer = line["viewer"].as_u64().unwrap();
        let now_ms = line["us"].as_u64().unwrap() as f64 / 1000.0;
        let (shim, digest) = viewers.entry(viewer).or_insert_with(|| {
            let shim = Shim::new("", viewer as u32, 1, now_ms).unwrap();
            (shim, Digest::new())
        });
        let words = call(shim, now_ms, line["call"].as_str().unwrap(), &line["args"]);
        actions += words.len();
        for word in &words {
            digest.add(&word.to_le_bytes());
        }
        digest.add(&shim.arena());
        digest.add(&shim.next_wakeup_ms().to_le_bytes());
        for number in shim.stats() {
            digest.add(&number.to_le_bytes());
        }
        let _ = writeln!(digests, "{:016x}", digest.0);
    }
    (digests, actions)
}

fn call(shim: &mut Shim, now: f64, method: &str, args: &Value) -> Vec<u32> {
    let number = |at: usize| args[at].as_u64().unwrap() as u32;
    let text = |at: usize| args[at].as_str().unwrap();
    let flag = |at: usize| args[at].as_bool().unwrap();
    let blob = |at: usize| hex::decode(args[at]["hex"].as_str().unwrap()).unwrap();
    match method {
        "tick" => shim.tick(now),
        "environment" => shim.environment(now, number(0) as u8, args[1].as_f64().unwrap()),
        "join" => shim.join(now, text(0), &blob(1)).unwrap(),
        "read_playlist" => {
            let window = shim.read_playlist(text(0), text(1)).unwrap().unwrap();
            vec![window.track(), window.target_ms()]
        }
        "timeline" => shim.timeline(now, number(0)),
        "track_ended" => shim.track_ended(now, number(0)),
        "wanted" => shim.wanted(now, number(0), text(1), number(2)),
        "abandoned" => shim.abandoned(now, number(0)),
        "player" => shim.player(now, number(0), number(1), flag(2)),
        "tracker_up" => shim.tracker_up(now),
        "tracker_down" => shim.tracker_down(now),
        "tracker_frame" => shim.tracker_frame(now, &blob(0)),
        "signal" => shim.signal(now, number(0) as u8, &blob(1)),
        "link_up" => shim.link_up(now, number(0) as u8),
        "link_down" => shim.link_down(now, number(0) as u8),
        "frame" => shim.frame(now, number(0) as u8, &blob(1)),
        "record" => shim.record(now, flag(0), number(1), &blob(2)).unwrap(),
        "pieces" => shim.pieces(now, flag(0), number(1), text(2), number(3), number(4)),
        "surplus" => shim.surplus(now, number(0) as u8, number(1)),
        "misbehaved" => shim.misbehaved(now, number(0) as u8),
        "fetch_done" => {
            let outcome = number(1) as u8;
            shim.fetch_done(now, number(0), outcome, number(2), number(3), number(4))
        }
        "sent" => shim.sent(now, number(0) as u8, number(1)),
        "leave" => shim.leave(now),
        other => panic!("the trace calls {other}, which nobody knows"),
    }
}

/// FNV-1a of 64 bits, which takes a few lines in any language.
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
