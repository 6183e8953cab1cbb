//! Counters, and their Prometheus form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use swarm_core::{directory::Stats, wire::tracker::RefusalCode};

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
    ($(#[$doc:meta])* $set:ident $(with $part:ident: $kind_of_part:ty)?: $($kind:ident $name:ident $help:literal)*) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $set {
            $(pub(crate) $part: $kind_of_part,)?
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
    Counters with refusals: Refusals:
    Gauge connections "WebSocket connections."
    Counter connections_refused "Connections refused."
    Counter accept_errors "Errors in accepting connections."
    Counter address_unnamed "Viewers of a trusted proxy that does not say whose connections it passes on."
    Counter address_header_ignored "Viewers with a proxy's header that came from no trusted proxy."
    Counter admin_refused "Requests with a wrong admin token, or without one."
    Gauge files_outdated "Lists, keys, certificates and tables whose new files are bad: the older ones hold."
    Gauge tls_certificate_end_s "When the certificate ends, in seconds since 1970; 0 without one."
    Counter permission_asked "Questions to the permission provider; other joins took a remembered answer."
    Counter permission_failed "Of these, those without a usable answer."
    Counter permission_late "Of these, those without one in time."
    Counter permission_ms "Time that it took to answer, in milliseconds, over all questions."
    Counter permission_busy "Joins refused because it was not their turn to ask in time."
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

table! {
    /// Why connections and viewers are refused: one metric, told apart by the label `why`.
    Refusals:
    Counter draining "The tracker sends its viewers away."
    Counter full "There are as many viewers as it takes."
    Counter address "The address has too many connections."
    Counter origin "The page's origin is not listed."
    Counter handshake "It is no WebSocket handshake of ours."
    Counter entrance "TLS or the header of the PROXY protocol failed."
    Counter token "The token is missing, wrong or at its end."
    Counter not_served "The stream or swarm is not listed, or peers are switched off for the viewer."
    Counter quota "A quota of the viewer, its token or its address is used up."
    Counter bad_message "A message was malformed or out of order."
    Counter unavailable "The tracker cannot take the viewer now, or cannot ask who may join."
}

impl Refusals {
    /// The counter of viewers that are told this.
    pub(crate) const fn of(&self, code: RefusalCode) -> &AtomicU64 {
        match code {
            RefusalCode::BadMessage => &self.bad_message,
            RefusalCode::BadToken => &self.token,
            RefusalCode::Quota => &self.quota,
            RefusalCode::NotServed => &self.not_served,
            RefusalCode::Unavailable => &self.unavailable,
        }
    }
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
    /// How long the question waited, in microseconds.
    lag_us: u64,
    pub(crate) queue: u64,
    pub(crate) uptime_s: u64,
}

impl Gauges {
    /// `asked_at` is when the shard was asked to look.
    pub(crate) fn read(sight: &Sight<'_>, asked_at: Instant) -> Self {
        let directory = sight.directory;
        let mut gauges = Self {
            stats: *directory.stats(),
            viewers: directory.viewers_len() as u64,
            groups: directory.groups_len() as u64,
            lag_us: asked_at.elapsed().as_micros() as u64,
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
            Gauge shard_lag_us (self.lag_us) "How long a question waited for the task that looks after viewers, in microseconds."
            Gauge shard_queue (self.queue) "What waits for that task."
            Gauge uptime_s (self.uptime_s) "Time since the start, in seconds."
            Gauge resident_bytes (resident_bytes()) "Memory of the process (Linux)."
            Counter bytes_p2p (stats.reported.bytes_p2p) "Bytes from peers that viewers reported."
            Counter bytes_cdn (stats.reported.bytes_cdn) "Bytes from the CDN that viewers reported."
            Counter bytes_up (stats.reported.bytes_up) "Bytes to peers that viewers reported."
            Counter stalls (stats.reported.stalls) "Stalls that viewers reported."
            Counter stalled_ms (stats.reported.stalled_ms) "Time that viewers were stalled, in milliseconds."
            Counter viewers_shunned (stats.shunned) "Viewers whom several others accused: everybody was told to give them up."
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
    let rows = gauges.rows().into_iter().chain(counters.rows());
    render_rows("", rows) + &render_reasons(&counters.refusals) + &render_build()
}

fn render_reasons(refusals: &Refusals) -> String {
    const NAME: &str = "shoal_tracker_refusals_total";
    let help = "Connections and viewers refused, by reason.";
    let mut text = format!("# HELP {NAME} {help}\n# TYPE {NAME} counter\n");
    for row in refusals.rows() {
        let _ = writeln!(text, "{NAME}{{why=\"{}\"}} {}", row.name, row.value);
    }
    text
}

fn render_build() -> String {
    const NAME: &str = "shoal_tracker_build_info";
    let version = env!("CARGO_PKG_VERSION");
    format!("# HELP {NAME} The version.\n# TYPE {NAME} gauge\n{NAME}{{version=\"{version}\"}} 1\n")
}

/// What the process holds of memory (proc(5)); 0 where that is not known.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
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
        Counters::add(counters.refusals.of(RefusalCode::BadToken));
        Counters::set(&counters.cluster_nodes, 3);
        let text = render(&counters, &Gauges::default());
        assert!(text.contains("\nshoal_tracker_signals_total 7\n"));
        assert!(text.contains("\nshoal_tracker_refusals_total{why=\"token\"} 1\n"));
        assert!(!text.contains("resident_bytes 0\n") || !cfg!(target_os = "linux"));
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
        let reasons = counters.refusals.rows().len();
        assert_eq!(text.lines().count(), 3 * (all - reasons) + 2 + reasons);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
