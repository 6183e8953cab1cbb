//! Prometheus metrics.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{Error, access::Outcome, cmcd::Cmcd};

/// Every figure that the proxy counts.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    /// Requests by class of status: index 0 for 1xx.
    requests: [Counter; CLASSES.len()],
    pub(crate) hits: Counter,
    pub(crate) disk_hits: Counter,
    pub(crate) disk_failures: Counter,
    pub(crate) collapsed: Counter,
    pub(crate) passed: Counter,
    pub(crate) stale: Counter,
    pub(crate) refused: Counter,
    pub(crate) address_unnamed: Counter,
    pub(crate) address_header_ignored: Counter,
    pub(crate) announcements_failed: Counter,
    pub(crate) purged: Counter,
    pub(crate) log_lost: Counter,
    pub(crate) origin_requests: Counter,
    pub(crate) origin_bytes: Counter,
    pub(crate) origin_failures: Counter,
    pub(crate) retries: Counter,
    pub(crate) failovers: Counter,
    pub(crate) records_signed: Counter,
    pub(crate) records_resigned: Counter,
    pub(crate) keys_rolled: Counter,
    pub(crate) tag_bytes: Counter,
    pub(crate) sign_cpu_us: Counter,
    pub(crate) sign_seconds: Histogram,
    pub(crate) hold_seconds: Histogram,
    pub(crate) tags_missing: Counter,
    pub(crate) certificates_obtained: Counter,
    pub(crate) certificate_failures: Counter,
    /// When the certificate ends that does so first, in seconds of Unix time.
    pub(crate) certificate_expiry: Gauge,
    pub(crate) cache_bytes: Gauge,
    pub(crate) cache_objects: Gauge,
    pub(crate) disk_bytes: Gauge,
    pub(crate) disk_objects: Gauge,
    pub(crate) flights: Gauge,
    pub(crate) connections: Gauge,
    /// Those of TCP that wait for a request, without buffers.
    pub(crate) connections_idle: Gauge,
}

/// The figures of one stream, or of all that belongs to none.
pub(crate) struct Scope {
    /// The stream's name, or nothing.
    pub(crate) name: String,
    outcomes: [Counter; Outcome::ALL.len()],
    /// Answers by class of status: index 0 for 1xx.
    statuses: [Counter; CLASSES.len()],
    /// Time to the head of the answer, in seconds.
    head_seconds: Histogram,
    /// The same of blocking playlist reloads, which wait on purpose.
    blocking_seconds: Histogram,
    /// URLs in released playlists that lead past the proxy.
    elsewhere: Counter,
    is_elsewhere_told: AtomicBool,
    pub(crate) sent_bytes: Counter,
    pub(crate) origin_bytes: Counter,
    /// Of the heads of answers.
    pub(crate) record_bytes: Counter,
    cmcd_requests: Counter,
    cmcd_starved: Counter,
    cmcd_startup: Counter,
    cmcd_buffer_seconds: Histogram,
    cmcd_throughput_bps: Histogram,
}

/// The figures of one origin.
pub(crate) struct OriginFigures {
    pub(crate) requests: Counter,
    pub(crate) failures: Counter,
    /// Time to the head of the answer, in seconds.
    pub(crate) first_byte_seconds: Histogram,
    pub(crate) up: Gauge,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const BUCKETS_S: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
const BUCKETS_LONG_S: [f64; 12] = [
    0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0,
];
const BUCKETS_BUFFER_S: [f64; 8] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const BUCKETS_BPS: [f64; 8] = [0.5e6, 1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 100e6];

impl Metrics {
    pub(crate) fn new() -> Result<Self, Error> {
        let recorder = build_recorder()?;
        let new = Registry(&recorder);
        let requests =
            CLASSES.map(|class| new.labelled("shoal_proxy_requests_total", &[("status", class)]));
        Ok(Self {
            requests,
            hits: new.counter("shoal_proxy_hits_total"),
            disk_hits: new.counter("shoal_proxy_disk_hits_total"),
            disk_failures: new.counter("shoal_proxy_disk_failures_total"),
            collapsed: new.counter("shoal_proxy_collapsed_total"),
            passed: new.counter("shoal_proxy_passed_total"),
            stale: new.counter("shoal_proxy_stale_total"),
            refused: new.counter("shoal_proxy_refused_total"),
            address_unnamed: new.counter("shoal_proxy_address_unnamed_total"),
            address_header_ignored: new.counter("shoal_proxy_address_header_ignored_total"),
            announcements_failed: new.counter("shoal_proxy_announcements_failed_total"),
            purged: new.counter("shoal_proxy_purged_total"),
            log_lost: new.counter("shoal_proxy_log_lost_total"),
            origin_requests: new.counter("shoal_proxy_origin_requests_total"),
            origin_bytes: new.counter("shoal_proxy_origin_bytes_total"),
            origin_failures: new.counter("shoal_proxy_origin_failures_total"),
            retries: new.counter("shoal_proxy_origin_retries_total"),
            failovers: new.counter("shoal_proxy_origin_failovers_total"),
            records_signed: new.counter("shoal_proxy_records_signed_total"),
            records_resigned: new.counter("shoal_proxy_records_resigned_total"),
            keys_rolled: new.counter("shoal_proxy_keys_rolled_total"),
            tag_bytes: new.counter("shoal_proxy_tag_bytes_total"),
            sign_cpu_us: new.counter("shoal_proxy_sign_cpu_microseconds_total"),
            sign_seconds: new.histogram("shoal_proxy_sign_seconds"),
            hold_seconds: new.histogram("shoal_proxy_hold_seconds"),
            tags_missing: new.counter("shoal_proxy_tags_missing_total"),
            certificates_obtained: new.counter("shoal_proxy_certificates_obtained_total"),
            certificate_failures: new.counter("shoal_proxy_certificate_failures_total"),
            certificate_expiry: new.gauge("shoal_proxy_certificate_expiry_timestamp_seconds"),
            cache_bytes: new.gauge("shoal_proxy_cache_bytes"),
            cache_objects: new.gauge("shoal_proxy_cache_objects"),
            disk_bytes: new.gauge("shoal_proxy_disk_bytes"),
            disk_objects: new.gauge("shoal_proxy_disk_objects"),
            flights: new.gauge("shoal_proxy_flights"),
            connections: new.gauge("shoal_proxy_connections"),
            connections_idle: new.gauge("shoal_proxy_connections_idle"),
            handle: recorder.handle(),
            recorder,
        })
    }

    /// The figures of the stream `name`.
    pub(crate) fn scope(&self, name: &str) -> Scope {
        let new = Registry(&self.recorder);
        let label = [("stream", name)];
        let outcomes = Outcome::ALL.map(|outcome| {
            let labels = [("stream", name), ("cache", outcome.name())];
            new.labelled("shoal_proxy_stream_requests_total", &labels)
        });
        Scope {
            name: name.into(),
            outcomes,
            statuses: CLASSES.map(|class| {
                let labels = [("stream", name), ("status", class)];
                new.labelled("shoal_proxy_stream_status_total", &labels)
            }),
            head_seconds: new.spread("shoal_proxy_head_seconds", name),
            blocking_seconds: new.spread("shoal_proxy_blocking_seconds", name),
            elsewhere: new.labelled("shoal_proxy_elsewhere_total", &label),
            is_elsewhere_told: AtomicBool::new(false),
            sent_bytes: new.labelled("shoal_proxy_stream_sent_bytes_total", &label),
            origin_bytes: new.labelled("shoal_proxy_stream_origin_bytes_total", &label),
            record_bytes: new.labelled("shoal_proxy_stream_record_bytes_total", &label),
            cmcd_requests: new.labelled("shoal_proxy_cmcd_requests_total", &label),
            cmcd_starved: new.labelled("shoal_proxy_cmcd_starved_total", &label),
            cmcd_startup: new.labelled("shoal_proxy_cmcd_startup_total", &label),
            cmcd_buffer_seconds: new.spread("shoal_proxy_cmcd_buffer_seconds", name),
            cmcd_throughput_bps: new.spread("shoal_proxy_cmcd_throughput_bps", name),
        }
    }

    /// The figures of the origin `name`.
    pub(crate) fn origin(&self, name: &str) -> OriginFigures {
        let new = Registry(&self.recorder);
        let label = [("origin", name)];
        let key = |metric| Key::from_parts(metric, vec![Label::new("origin", name.to_owned())]);
        let first_byte = key("shoal_proxy_origin_first_byte_seconds");
        let up = key("shoal_proxy_origin_up");
        OriginFigures {
            requests: new.labelled("shoal_proxy_requests_by_origin_total", &label),
            failures: new.labelled("shoal_proxy_failures_by_origin_total", &label),
            first_byte_seconds: self.recorder.register_histogram(&first_byte, &METADATA),
            up: self.recorder.register_gauge(&up, &METADATA),
        }
    }

    pub(crate) fn on_answer(&self, status: http::StatusCode) {
        self.requests[class_of(status)].increment(1);
    }

    /// Must be called now and then: until then the observations of histograms are kept one by one.
    pub(crate) fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// All figures in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        self.tidy();
        self.handle.render()
    }
}

impl Scope {
    /// Counts an answer whose head was there after `took`; `is_blocking` if that was for the origin to say.
    pub(crate) fn on_answer(
        &self,
        outcome: Outcome,
        status: http::StatusCode,
        took: Duration,
        is_blocking: bool,
    ) {
        self.outcomes[outcome as usize].increment(1);
        self.statuses[class_of(status)].increment(1);
        match is_blocking {
            true => self.blocking_seconds.record(took),
            false => self.head_seconds.record(took),
        }
    }

    /// Counts URLs of a playlist at `path` that lead viewers past the proxy.
    pub(crate) fn on_elsewhere(&self, count: usize, path: &str, url: &str) {
        self.elsewhere.increment(count as u64);
        if !self.is_elsewhere_told.swap(true, Ordering::Relaxed) {
            let stream = &self.name;
            tracing::warn!(stream, path, url, "playlist leads viewers past the proxy");
        }
    }

    pub(crate) fn on_cmcd(&self, cmcd: &Cmcd) {
        self.cmcd_requests.increment(1);
        self.cmcd_starved.increment(u64::from(cmcd.is_starved));
        self.cmcd_startup.increment(u64::from(cmcd.is_startup));
        if let Some(ms) = cmcd.buffer_ms {
            self.cmcd_buffer_seconds.record(ms as f64 / 1000.0);
        }
        if let Some(kbps) = cmcd.throughput_kbps {
            self.cmcd_throughput_bps.record(kbps as f64 * 1000.0);
        }
    }
}

fn class_of(status: http::StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

fn build_recorder() -> Result<PrometheusRecorder, Error> {
    let wrong =
        |error: metrics_exporter_prometheus::BuildError| Error::Environment(error.to_string());
    let buffer = Matcher::Full("shoal_proxy_cmcd_buffer_seconds".into());
    let throughput = Matcher::Full("shoal_proxy_cmcd_throughput_bps".into());
    let blocking = Matcher::Full("shoal_proxy_blocking_seconds".into());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_S)
        .and_then(|builder| builder.set_buckets_for_metric(blocking, &BUCKETS_LONG_S))
        .and_then(|builder| builder.set_buckets_for_metric(buffer, &BUCKETS_BUFFER_S))
        .and_then(|builder| builder.set_buckets_for_metric(throughput, &BUCKETS_BPS))
        .map_err(wrong)?;
    Ok(builder.build_recorder())
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

struct Registry<'a>(&'a PrometheusRecorder);

impl Registry<'_> {
    fn counter(&self, name: &'static str) -> Counter {
        self.labelled(name, &[])
    }

    fn labelled(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        let labels: Vec<Label> = labels
            .iter()
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect();
        let key = Key::from_parts(name, labels);
        let counter = self.0.register_counter(&key, &METADATA);
        counter.increment(0);
        counter
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        self.0.register_gauge(&Key::from_name(name), &METADATA)
    }

    fn histogram(&self, name: &'static str) -> Histogram {
        self.0.register_histogram(&Key::from_name(name), &METADATA)
    }

    fn spread(&self, name: &'static str, stream: &str) -> Histogram {
        let key = Key::from_parts(name, vec![Label::new("stream", stream.to_owned())]);
        self.0.register_histogram(&key, &METADATA)
    }
}
