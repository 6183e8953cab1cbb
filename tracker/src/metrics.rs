//! Counters, and their Prometheus form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use swarm_core::directory::Stats;

use crate::shard::Sight;

/// A table of metrics: kind, name, value, and the help that Prometheus shows.
macro_rules! rows {
    ($($kind:ident $name:ident ($value:expr) $help:literal)*) => {
        vec![$($crate::metrics::Row {
            kind: $crate::metrics::Kind::$kind,
            name: stringify!($name),
            help: $help,
            value: $value,
        },)*]
    };
}

/// Declares a set of counters as one table: kind, name, help. Counters get `_total` at the end of
/// their name.
macro_rules! table {
    ($(#[$doc:meta])* $set:ident: $($kind:ident $name:ident $help:literal)*) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $set {
            $(#[doc = $help] pub(crate) $name: std::sync::atomic::AtomicU64,)*
        }

        impl $set {
            fn rows(&self) -> Vec<$crate::metrics::Row> {
                let read = |counter: &std::sync::atomic::AtomicU64| {
                    counter.load(std::sync::atomic::Ordering::Relaxed)
                };
                $crate::metrics::rows! { $($kind $name (read(&self.$name)) $help)* }
            }
        }
    };
}

pub(crate) use {rows, table};

table! {
    /// What is counted outside the directory.
    Counters:
    Gauge connections "WebSocket connections."
    Counter connections_refused "Connections refused."
    Counter accept_errors "Errors in accepting connections."
    Counter messages_in "Messages of viewers."
    Counter bad_messages "Malformed messages, or out of order."
    Counter over_quota "Viewers refused for a quota."
    Counter refused "Viewers refused."
    Counter signals "Signals passed on."
    Counter signals_refused "Signals to viewers not introduced."
    Counter signals_dropped "Signals dropped for slow readers."
    Counter slow_readers "Connections closed for slow reading."
    Counter stun_answers "STUN answers."
    Counter stun_ignored "STUN datagrams without an answer."
    Gauge draining "1 while the tracker sends its viewers away."
    Gauge cluster_connected "1 while NATS is there."
    Gauge cluster_nodes "Nodes that live, this one included."
    Gauge cluster_visitors "Viewers of other nodes whose stream this node owns."
    Counter cluster_messages_in "Messages of other nodes."
    Counter cluster_messages_out "Messages to other nodes."
    Counter cluster_bad_messages "Messages of other nodes that could not be read."
    Counter cluster_dropped "Messages to or of other nodes that were dropped."
    Counter cluster_moves "Viewers of this node that got another owner."
    Counter cluster_rejoins "Viewers of this node that their owner did not know."
    Counter webhooks_sent "Webhooks that were taken."
    Counter webhooks_failed "Attempts to send a webhook that failed."
    Counter webhooks_dropped "Webhooks given up."
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    Counter,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: u64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_many(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sub(counter: &AtomicU64) {
        counter.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Ordering::Relaxed);
    }
}

/// What the shard tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    stats: Stats,
    viewers: u64,
    groups: u64,
    streams: u64,
    bytes_p2p: u64,
    bytes_cdn: u64,
}

impl Gauges {
    pub(crate) fn read(sight: &Sight<'_>) -> Self {
        let directory = sight.directory;
        let mut gauges = Self {
            stats: *directory.stats(),
            viewers: directory.viewers_len() as u64,
            groups: directory.groups_len() as u64,
            ..Self::default()
        };
        for stream in directory.streams() {
            gauges.streams += 1;
            gauges.bytes_p2p += stream.totals.bytes_p2p;
            gauges.bytes_cdn += stream.totals.bytes_cdn;
        }
        gauges
    }

    fn rows(&self) -> Vec<Row> {
        let stats = &self.stats;
        rows! {
            Gauge viewers (self.viewers) "Viewers of the streams that this node runs, those that may come back included."
            Gauge groups (self.groups) "Groups of viewers."
            Gauge streams (self.streams) "Streams with viewers."
            Gauge stream_bytes_p2p (self.bytes_p2p) "Bytes from peers, over the streams that have viewers."
            Gauge stream_bytes_cdn (self.bytes_cdn) "Bytes from the CDN, over the streams that have viewers."
            Counter joins (stats.joins) "Viewers that joined."
            Counter resumes (stats.resumes) "Viewers that came back under their name."
            Counter introductions (stats.introductions) "Pairs introduced."
            Counter links_up (stats.links_up) "Links that came up."
            Counter links_failed (stats.links_failed) "Introductions that led to nothing."
            Counter links_lost (stats.links_lost) "Links that broke."
            Counter links_misbehaved (stats.links_misbehaved) "Links ended for misbehaviour."
            Counter false_accusers (stats.false_accusers) "Viewers that accused others without reason: with the wrong key."
            Counter group_splits (stats.splits) "Groups cut in two."
            Counter group_merges (stats.merges) "Thin groups sent elsewhere."
            Counter group_condensed (stats.condensed) "Groups made of viewers of one place."
        }
    }
}

/// The text that Prometheus scrapes.
pub(crate) fn render(counters: &Counters, gauges: &Gauges) -> String {
    render_rows("", gauges.rows().into_iter().chain(counters.rows()))
}

/// The text of some metrics; `family` stands before their names.
pub(crate) fn render_rows(family: &str, rows: impl IntoIterator<Item = Row>) -> String {
    let mut text = String::new();
    for row in rows {
        let (kind, end) = match row.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        let name = format!("shoal_tracker_{family}{}{end}", row.name);
        let _ = writeln!(
            text,
            "# HELP {name} {}\n# TYPE {name} {kind}\n{name} {}",
            row.help, row.value
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_help_type_and_value_and_its_own_name() {
        let counters = Counters::default();
        Counters::add_many(&counters.signals, 7);
        Counters::set(&counters.cluster_nodes, 3);
        let text = render(&counters, &Gauges::default());
        assert!(text.contains("\nshoal_tracker_signals_total 7\n"));
        assert!(
            text.contains(
                "# TYPE shoal_tracker_cluster_nodes gauge\nshoal_tracker_cluster_nodes 3\n"
            )
        );
        let mut names: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let all = names.len();
        assert_eq!(text.lines().count(), 3 * all);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
