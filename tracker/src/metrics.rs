//! Counters, and their Prometheus form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use swarm_core::directory::Stats;

/// What is counted outside the directory.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) bad_messages: AtomicU64,
    pub(crate) over_quota: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) signals: AtomicU64,
    pub(crate) signals_refused: AtomicU64,
    pub(crate) signals_dropped: AtomicU64,
    pub(crate) slow_readers: AtomicU64,
    pub(crate) stun_answers: AtomicU64,
    pub(crate) stun_ignored: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sub(counter: &AtomicU64) {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the shard tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) stats: Stats,
    pub(crate) viewers: usize,
    pub(crate) groups: usize,
    pub(crate) streams: usize,
    pub(crate) bytes_p2p: u64,
    pub(crate) bytes_cdn: u64,
}

/// The text that Prometheus scrapes.
// tidy: long-fn: one entry for each metric
pub(crate) fn render(counters: &Counters, gauges: &Gauges) -> String {
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, help: &str, value: u64| {
        let name = format!("shoal_tracker_{name}");
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    let stats = &gauges.stats;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (name, help, value) in [
        (
            "connections",
            "WebSocket connections.",
            read(&counters.connections),
        ),
        (
            "viewers",
            "Viewers, those that may come back included.",
            gauges.viewers as u64,
        ),
        ("groups", "Groups of viewers.", gauges.groups as u64),
        ("streams", "Streams with viewers.", gauges.streams as u64),
        (
            "stream_bytes_p2p",
            "Bytes from peers, over the streams that have viewers.",
            gauges.bytes_p2p,
        ),
        (
            "stream_bytes_cdn",
            "Bytes from the CDN, over the streams that have viewers.",
            gauges.bytes_cdn,
        ),
    ] {
        line("gauge", name, help, value);
    }
    for (name, help, value) in [
        ("joins_total", "Viewers that joined.", stats.joins),
        (
            "resumes_total",
            "Viewers that came back under their name.",
            stats.resumes,
        ),
        (
            "introductions_total",
            "Pairs introduced.",
            stats.introductions,
        ),
        ("links_up_total", "Links that came up.", stats.links_up),
        (
            "links_failed_total",
            "Introductions that led to nothing.",
            stats.links_failed,
        ),
        ("links_lost_total", "Links that broke.", stats.links_lost),
        (
            "links_misbehaved_total",
            "Links ended for misbehaviour.",
            stats.links_misbehaved,
        ),
        ("group_splits_total", "Groups cut in two.", stats.splits),
        (
            "group_merges_total",
            "Thin groups sent elsewhere.",
            stats.merges,
        ),
        (
            "group_condensed_total",
            "Groups made of viewers of one place.",
            stats.condensed,
        ),
        (
            "connections_refused_total",
            "Connections refused.",
            read(&counters.connections_refused),
        ),
        (
            "messages_in_total",
            "Messages of viewers.",
            read(&counters.messages_in),
        ),
        (
            "bad_messages_total",
            "Malformed messages, or out of order.",
            read(&counters.bad_messages),
        ),
        (
            "over_quota_total",
            "Viewers refused for a quota.",
            read(&counters.over_quota),
        ),
        ("refused_total", "Viewers refused.", read(&counters.refused)),
        (
            "signals_total",
            "Signals passed on.",
            read(&counters.signals),
        ),
        (
            "signals_refused_total",
            "Signals to viewers not introduced.",
            read(&counters.signals_refused),
        ),
        (
            "signals_dropped_total",
            "Signals dropped for slow readers.",
            read(&counters.signals_dropped),
        ),
        (
            "slow_readers_total",
            "Connections closed for slow reading.",
            read(&counters.slow_readers),
        ),
        (
            "stun_answers_total",
            "STUN answers.",
            read(&counters.stun_answers),
        ),
        (
            "stun_ignored_total",
            "STUN datagrams without an answer.",
            read(&counters.stun_ignored),
        ),
    ] {
        line("counter", name, help, value);
    }
    text
}
