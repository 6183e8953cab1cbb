//! Prometheus metrics.

use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::Error;

/// Every figure that the proxy counts.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    /// Requests by class of status: index 0 for 1xx.
    requests: [Counter; 5],
    /// Time to the head of the answer, in seconds.
    head_seconds: Histogram,
    pub(crate) hits: Counter,
    pub(crate) collapsed: Counter,
    pub(crate) passed: Counter,
    pub(crate) stale: Counter,
    pub(crate) origin_requests: Counter,
    pub(crate) origin_bytes: Counter,
    pub(crate) origin_failures: Counter,
    pub(crate) records_signed: Counter,
    pub(crate) sign_seconds: Histogram,
    pub(crate) hold_seconds: Histogram,
    pub(crate) tags_missing: Counter,
    pub(crate) cache_bytes: Gauge,
    pub(crate) cache_objects: Gauge,
    pub(crate) flights: Gauge,
    pub(crate) connections: Gauge,
}

const BUCKETS_S: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

impl Metrics {
    pub(crate) fn new() -> Result<Self, Error> {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_S)
            .map_err(|error| Error::Environment(error.to_string()))?;
        let recorder = builder.build_recorder();
        let new = Registry(&recorder);
        let requests = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
            let key = Key::from_parts(
                "shoal_proxy_requests_total",
                vec![::metrics::Label::new("status", class)],
            );
            recorder.register_counter(&key, &METADATA)
        });
        Ok(Self {
            requests,
            head_seconds: new.histogram("shoal_proxy_head_seconds"),
            hits: new.counter("shoal_proxy_hits_total"),
            collapsed: new.counter("shoal_proxy_collapsed_total"),
            passed: new.counter("shoal_proxy_passed_total"),
            stale: new.counter("shoal_proxy_stale_total"),
            origin_requests: new.counter("shoal_proxy_origin_requests_total"),
            origin_bytes: new.counter("shoal_proxy_origin_bytes_total"),
            origin_failures: new.counter("shoal_proxy_origin_failures_total"),
            records_signed: new.counter("shoal_proxy_records_signed_total"),
            sign_seconds: new.histogram("shoal_proxy_sign_seconds"),
            hold_seconds: new.histogram("shoal_proxy_hold_seconds"),
            tags_missing: new.counter("shoal_proxy_tags_missing_total"),
            cache_bytes: new.gauge("shoal_proxy_cache_bytes"),
            cache_objects: new.gauge("shoal_proxy_cache_objects"),
            flights: new.gauge("shoal_proxy_flights"),
            connections: new.gauge("shoal_proxy_connections"),
            handle: recorder.handle(),
        })
    }

    pub(crate) fn on_answer(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.requests[class - 1].increment(1);
        self.head_seconds.record(took);
    }

    /// All figures in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

struct Registry<'a>(&'a PrometheusRecorder);

impl Registry<'_> {
    fn counter(&self, name: &'static str) -> Counter {
        let counter = self.0.register_counter(&Key::from_name(name), &METADATA);
        counter.increment(0);
        counter
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        self.0.register_gauge(&Key::from_name(name), &METADATA)
    }

    fn histogram(&self, name: &'static str) -> Histogram {
        self.0.register_histogram(&Key::from_name(name), &METADATA)
    }
}
