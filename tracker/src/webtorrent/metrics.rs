//! What the facade counts.

use crate::metrics::{Counters, render_rows, rows, table};

table! {
    /// What WebTorrent viewers do.
    FacadeCounters:
    Gauge connections "WebSocket connections of WebTorrent clients."
    Counter idle "Connections closed that were in no swarm."
    Counter announces "Announcements."
    Counter joins "Viewers that entered a swarm."
    Counter offers "Offers passed on."
    Counter offers_spare "Offers for which there was nobody."
    Counter offers_dropped "Offers dropped for slow readers."
    Counter answers "Answers passed on."
    Counter answers_refused "Answers to no offer, or too late."
    Counter scrapes "Scrapes."
    Counter malformed "Malformed messages."
    Counter refused "Announcements refused."
    Counter ids_taken "Announcements under another viewer's id."
    Counter expired "Viewers that left without a word."
}

impl FacadeCounters {
    pub(super) fn on_offers(&self, made: usize, passed_on: usize, dropped: usize) {
        let spare = made - passed_on - dropped;
        Counters::add_many(&self.offers, passed_on as u64);
        Counters::add_many(&self.offers_spare, spare as u64);
        Counters::add_many(&self.offers_dropped, dropped as u64);
    }

    /// The text that Prometheus scrapes.
    pub(super) fn render(&self, swarms: usize, viewers: usize, load_percent: u32) -> String {
        let gauges = rows! {
            Gauge swarms (swarms as u64) "WebTorrent swarms with viewers."
            Gauge viewers (viewers as u64) "WebTorrent viewers, once for each swarm they are in."
            Gauge load_percent (u64::from(load_percent)) "How far intervals are stretched."
        };
        render_rows("webtorrent_", gauges.into_iter().chain(self.rows()))
    }
}
