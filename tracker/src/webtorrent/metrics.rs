//! What the facade counts.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

#[derive(Debug, Default)]
pub(super) struct FacadeCounters {
    pub(super) announces: AtomicU64,
    pub(super) joins: AtomicU64,
    pub(super) offers: AtomicU64,
    pub(super) offers_spare: AtomicU64,
    pub(super) offers_dropped: AtomicU64,
    pub(super) answers: AtomicU64,
    pub(super) answers_refused: AtomicU64,
    pub(super) scrapes: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) taken: AtomicU64,
    expired: AtomicU64,
}

impl FacadeCounters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn announces(&self) -> u64 {
        self.announces.load(Ordering::Relaxed)
    }

    pub(super) fn on_offers(&self, made: usize, passed_on: usize, dropped: usize) {
        let spare = made - passed_on - dropped;
        self.offers.fetch_add(passed_on as u64, Ordering::Relaxed);
        self.offers_spare.fetch_add(spare as u64, Ordering::Relaxed);
        self.offers_dropped
            .fetch_add(dropped as u64, Ordering::Relaxed);
    }

    pub(super) fn on_expired(&self, viewers: usize) {
        self.expired.fetch_add(viewers as u64, Ordering::Relaxed);
    }

    // tidy: long-fn: one entry for each metric
    pub(super) fn render(&self, swarms: usize, viewers: usize, load_percent: u32) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::new();
        for (kind, name, help, value) in [
            (
                "gauge",
                "swarms",
                "WebTorrent swarms with viewers.",
                swarms as u64,
            ),
            (
                "gauge",
                "viewers",
                "WebTorrent viewers, once for each swarm they are in.",
                viewers as u64,
            ),
            (
                "gauge",
                "load_percent",
                "How far intervals are stretched.",
                u64::from(load_percent),
            ),
            (
                "counter",
                "announces_total",
                "Announcements.",
                read(&self.announces),
            ),
            (
                "counter",
                "joins_total",
                "Viewers that entered a swarm.",
                read(&self.joins),
            ),
            (
                "counter",
                "offers_total",
                "Offers passed on.",
                read(&self.offers),
            ),
            (
                "counter",
                "offers_spare_total",
                "Offers for which there was nobody.",
                read(&self.offers_spare),
            ),
            (
                "counter",
                "offers_dropped_total",
                "Offers dropped for slow readers.",
                read(&self.offers_dropped),
            ),
            (
                "counter",
                "answers_total",
                "Answers passed on.",
                read(&self.answers),
            ),
            (
                "counter",
                "answers_refused_total",
                "Answers to no offer, or too late.",
                read(&self.answers_refused),
            ),
            ("counter", "scrapes_total", "Scrapes.", read(&self.scrapes)),
            (
                "counter",
                "malformed_total",
                "Malformed messages.",
                read(&self.malformed),
            ),
            (
                "counter",
                "refused_total",
                "Announcements refused.",
                read(&self.refused),
            ),
            (
                "counter",
                "ids_taken_total",
                "Announcements under another viewer's id.",
                read(&self.taken),
            ),
            (
                "counter",
                "expired_total",
                "Viewers that left without a word.",
                read(&self.expired),
            ),
        ] {
            let name = format!("shoal_tracker_webtorrent_{name}");
            // Writing into memory does not fail.
            let _ = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            );
        }
        text
    }
}
