//! What people read on the terminal.

use std::{
    fmt::Write,
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{COMMIT, SimulateArgs};
use crate::{Options, Progress, Report, SCENARIOS};

/// How often a progress line is written, on a terminal and elsewhere.
const PROGRESS_EVERY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// The names of the scenarios and what each is.
pub(super) fn scenarios() -> String {
    let mut list = String::new();
    for (name, text) in SCENARIOS {
        let first = text.lines().next().unwrap_or_default();
        let _ = writeln!(list, "{name:<18} {}", first.trim_start_matches("# "));
    }
    list
}

/// What a replay needs: commit, seed, options.
pub(super) fn announcement(args: &SimulateArgs, options: &Options) -> Result<String> {
    let more = if args.seeds > 1 {
        format!(" to {}", options.seed + u64::from(args.seeds) - 1)
    } else {
        String::new()
    };
    let mut text = format!(
        "simulating {}: seed {}{more}, commit {COMMIT}\n  replay: {}\n  options: {}\n",
        options.scenario,
        options.seed,
        args.replay(options),
        serde_json::to_string(options)?
    );
    for (name, at_s) in options.never_begins() {
        let _ = writeln!(text, "  the run ends before `{name}` begins, at {at_s} s");
    }
    Ok(text)
}

/// A few lines on how a run went.
pub(super) fn summary(report: &Report) -> String {
    let mut text = format!("seed {}\n", report.options.seed);
    let mut line = |words: String| {
        let _ = writeln!(text, "  {words}");
    };
    line(format!(
        "offload {:.3} (bound {:.3}, groups {:.3}, NATs {:.3}), {:.1} CDN copies a segment ({:.2} a group), wasted {:.3}",
        report.offload,
        report.offload_bound,
        report.offload_bound_groups,
        report.offload_bound_reach,
        report.cdn_copies_per_segment,
        report.cdn_copies_per_group,
        report.bytes_wasted_ratio
    ));
    line(format!(
        "stalls {:.5} (twin {:.5}), start-up {}/{} ms (twin {}/{}), latency {:.2} s (twin {:.2})",
        report.stall_ratio,
        report.stall_ratio_cdn_only,
        report.startup_ms_p50,
        report.startup_ms_p95,
        report.startup_ms_p50_cdn_only,
        report.startup_ms_p95_cdn_only,
        report.latency_s_p50,
        report.latency_s_p50_cdn_only
    ));
    let shares = report.lost.iter();
    let lost: Vec<String> = shares
        .map(|(name, share)| format!("{name} {share:.4}"))
        .collect();
    line(format!(
        "CDN bytes by reason: {}; whole after {:?} ms; {:.0} groups of {:.1}",
        lost.join(", "),
        report.ready_ms,
        report.groups.0,
        report.groups.1
    ));
    line(format!(
        "core {:.0} bytes; {} events in {:.1} s; hash {}",
        report.core_bytes_per_viewer, report.events, report.wall_s, report.event_hash
    ));
    for problem in &report.problems_first {
        line(format!("broken: {problem}"));
    }
    if report.problems > 0 {
        line(format!("{} broken invariants", report.problems));
    }
    text
}

/// The progress line, over all seeds.
pub(super) struct Meter {
    began: Instant,
    is_terminal: bool,
    state: Mutex<(Instant, Vec<Progress>)>,
}

impl Meter {
    pub(super) fn new(seeds: u32) -> Self {
        let now = Instant::now();
        let nothing = Progress {
            done: 0.0,
            simulated_s: 0.0,
            events: 0,
        };
        Self {
            began: now,
            is_terminal: std::io::stderr().is_terminal(),
            state: Mutex::new((now, vec![nothing; seeds as usize])),
        }
    }

    pub(super) fn show(&self, seed: u32, progress: Progress) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state.1[seed as usize] = progress;
        if state.0.elapsed() < PROGRESS_EVERY[usize::from(!self.is_terminal)] {
            return;
        }
        state.0 = Instant::now();
        let done = state.1.iter().map(|p| p.done).sum::<f64>() / state.1.len() as f64;
        let spent = self.began.elapsed().as_secs_f64();
        let left = spent / done.max(1e-6) * (1.0 - done);
        let end = if self.is_terminal { '\r' } else { '\n' };
        eprint!(
            "  {:3.0} %  at {:.0} s  {} events  {left:.0} s left {end}",
            done * 100.0,
            progress.simulated_s,
            state.1.iter().map(|p| p.events).sum::<u64>(),
        );
    }

    pub(super) fn clear(&self) {
        if self.is_terminal {
            eprint!("\r{:70}\r", "");
        }
    }
}
