//! What the proxy does with playlists: learn what is listed, sign it, tell viewers.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::future::join_all;
use swarm_core::{
    id::Name,
    timeline::{Listed, Track, dash, hls},
};

use crate::{
    freshness::Kind,
    lowlatency::LowLatency,
    object::Object,
    playlist::{Format, annotate_mpd},
    proxy::Proxy,
    records::{Listing, Stream},
    target::{Site, Target},
    vary,
};

/// A live manifest that does not say when to read it again is read as often as this, in ms.
const MANIFEST_TARGET_MS: u64 = 4000;

impl Proxy {
    /// A playlist or manifest as viewers get it. Waits for records at most as long as configured.
    /// What cannot be read is passed on as it is: without records viewers play from the CDN.
    pub(crate) async fn release_playlist(
        self: &Arc<Self>,
        target: &Target,
        raw: &Bytes,
        format: Format,
    ) -> (Bytes, Kind) {
        let Ok(text) = std::str::from_utf8(raw) else {
            tracing::warn!(
                path = target.path,
                "origin sent a playlist that is not UTF-8"
            );
            return (raw.clone(), Kind::Playlist);
        };
        let stream = self.stream_of(target).cloned();
        match format {
            Format::Hls => self.release_hls(target, raw, text, stream).await,
            Format::Dash => self.release_dash(target, raw, text, stream),
            Format::Other => (raw.clone(), Kind::Playlist),
        }
    }

    async fn release_hls(
        self: &Arc<Self>,
        target: &Target,
        raw: &Bytes,
        text: &str,
        stream: Option<Arc<Stream>>,
    ) -> (Bytes, Kind) {
        let url = Site::viewer_url(target);
        let track = match hls::read(text, &url) {
            Ok(hls::HlsPlaylist::Media(track)) => track,
            Ok(hls::HlsPlaylist::Multivariant(_)) => return (raw.clone(), Kind::Playlist),
            Err(error) => {
                tracing::warn!(path = target.path, %error, "playlist is passed on as it is");
                return (raw.clone(), Kind::Playlist);
            }
        };
        let site = self.site_of(target);
        let low_latency = self.parts.note(text, target, site);
        let kind = hls_kind(target, &track, low_latency);
        let Some(stream) = stream else {
            return (raw.clone(), kind);
        };
        let clock = match low_latency {
            Some(_) => Clock::Overlapping,
            None => Clock::Now,
        };
        let due = self.note_track(&stream, target, &track, clock);
        let mut hold = Duration::from_millis(self.config.records.record_hold_ms_max);
        if let Some(LowLatency { part_target_ms }) = low_latency {
            hold = hold.min(Duration::from_millis(part_target_ms / PART_HOLD_SHARE));
        }
        self.hold_for(&stream, due, hold).await;
        let content_of = |listed: &Listed| {
            let is_ours = listed.range.is_none() && site.local(&listed.url).is_some();
            is_ours.then(|| stream.content_of(listed)).flatten()
        };
        let tagged = hls::annotate(text, &url, stream.id, content_of);
        (Bytes::from(tagged), kind)
    }

    fn release_dash(
        self: &Arc<Self>,
        target: &Target,
        raw: &Bytes,
        text: &str,
        stream: Option<Arc<Stream>>,
    ) -> (Bytes, Kind) {
        let manifest = match dash::read(text, &Site::viewer_url(target), now_unix_ms()) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(path = target.path, %error, "manifest is passed on as it is");
                return (raw.clone(), Kind::Playlist);
            }
        };
        let refresh_ms = manifest.refresh_ms.map_or(MANIFEST_TARGET_MS, u64::from);
        let kind = if manifest.is_live {
            Kind::Live {
                target_ms: refresh_ms,
                fresh_ms_max: refresh_ms / 2,
            }
        } else {
            Kind::Playlist
        };
        let Some(stream) = stream else {
            return (raw.clone(), kind);
        };
        if manifest.is_live {
            stream.on_manifest(&target.path, text);
        }
        // Nothing of a manifest depends on records, so it does not wait for them.
        for representation in &manifest.representations {
            let due = self.note_track(&stream, target, &representation.track, Clock::Now);
            tokio::spawn(prepare_all(self.clone(), stream.clone(), due));
        }
        (Bytes::from(annotate_mpd(text, stream.id)), kind)
    }

    /// Notes what a track lists. Returns the newest segments of a live one that have no record.
    fn note_track(
        &self,
        stream: &Stream,
        target: &Target,
        track: &Track,
        clock: Clock,
    ) -> Vec<(Name, Target)> {
        if !track.ended {
            stream.on_target(u64::from(track.target_ms));
        }
        let source = Name::of(&format!("{}#{}", target.path, track.track));
        let last_seq = track.segments.last().map_or(0, |last| last.info.seq);
        // Ahead of its time, the last number is not what the next manifest has to be measured by.
        let era = match clock {
            Clock::Now => stream.on_window(source, last_seq, 0),
            Clock::Overlapping => stream.on_window(source, last_seq, OVERLAP_SEGMENTS),
            Clock::Ahead => stream.era(source),
        };
        let mut listed = Vec::with_capacity(track.segments.len());
        for segment in track
            .segments
            .iter()
            .filter(|segment| segment.range.is_none())
        {
            let Some(place) = self.site_of(target).local(&segment.url) else {
                continue;
            };
            if stream.on_listed(source, era, segment) {
                tracing::info!(path = place.path, "name is used again");
                self.distrust(&place);
            }
            listed.push((segment.info.name, place));
        }
        let ahead = if track.ended {
            0
        } else {
            self.config.records.prefetch_segments_max
        };
        let newest = listed.into_iter().rev().take(ahead);
        newest
            .filter(|(name, _)| stream.record_of(*name).is_none() && !stream.has_failed(*name))
            .collect()
    }

    /// Has `due` fetched and signed, and waits for it as long as a playlist may be held.
    async fn hold_for(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        due: Vec<(Name, Target)>,
        hold: Duration,
    ) {
        if due.is_empty() {
            return;
        }
        let started = Instant::now();
        // In a task of its own, which goes on when the hold is over.
        let names: Vec<Name> = due.iter().map(|(name, _)| *name).collect();
        let work = tokio::spawn(prepare_all(self.clone(), stream.clone(), due));
        let _ = tokio::time::timeout(hold, work).await;
        self.metrics.hold_seconds.record(started.elapsed());
        let missing = names
            .iter()
            .filter(|name| stream.record_of(**name).is_none());
        self.metrics.tags_missing.increment(missing.count() as u64);
    }

    /// How `name` is listed. Live manifests are read again, by the clock as it is now, if need be.
    pub(crate) fn listing_of(&self, stream: &Stream, site: usize, name: Name) -> Option<Listing> {
        if let Some(listing) = stream.listing(name) {
            return Some(listing);
        }
        for (path, text) in stream.manifests() {
            let Ok(target) = self.sites.get(site)?.target(&path.parse().ok()?) else {
                continue;
            };
            // Viewers whose clock is a little fast ask a little early.
            let now = now_unix_ms().saturating_add(CLOCK_ERROR_MS);
            let Ok(manifest) = dash::read(&text, &Site::viewer_url(&target), now) else {
                continue;
            };
            for representation in &manifest.representations {
                self.note_track(stream, &target, &representation.track, Clock::Ahead);
            }
        }
        stream.listing(name)
    }

    /// Signs `object` as the segment `name`, if it is listed and the same for all viewers.
    pub(crate) async fn sign(
        &self,
        stream: &Arc<Stream>,
        site: usize,
        name: Name,
        object: &Object,
    ) {
        if vary::names(&object.headers).is_none_or(|names| !names.is_empty()) {
            return;
        }
        let Some(listing) = self.listing_of(stream, site, name) else {
            return;
        };
        let (stream, body) = (stream.clone(), object.body.clone());
        let took = self.metrics.sign_seconds.clone();
        let work = move || {
            let started = Instant::now();
            let signed = stream.sign(name, listing, &body);
            took.record(started.elapsed());
            signed
        };
        if let Ok(Some(signed)) = tokio::task::spawn_blocking(work).await {
            object.set_record(signed);
            self.metrics.records_signed.increment(1);
        }
    }
}

/// At what time a track is read.
#[derive(Clone, Copy)]
enum Clock {
    /// As it is now.
    Now,
    /// As it is now, or as it was a moment ago: blocking reloads and others come in any order.
    Overlapping,
    /// As it will be soon.
    Ahead,
}

const CLOCK_ERROR_MS: u64 = 1000;
/// An answer that overtakes another one is newer by so many segments at most.
const OVERLAP_SEGMENTS: u64 = 1;
/// A low-latency playlist is held back for this share of a part at most: a quarter.
const PART_HOLD_SHARE: u64 = 4;
/// The answer to a blocking reload is the same whenever it is asked for (in target durations).
const RELOAD_TARGETS: u64 = 6;

fn hls_kind(target: &Target, track: &Track, low_latency: Option<LowLatency>) -> Kind {
    if track.ended {
        return Kind::Playlist;
    }
    let target_ms = u64::from(track.target_ms);
    let fresh_ms_max = match low_latency {
        _ if target.is_blocking() => target_ms.saturating_mul(RELOAD_TARGETS),
        Some(LowLatency { part_target_ms }) => part_target_ms / 2,
        None => target_ms / 2,
    };
    Kind::Live {
        target_ms,
        fresh_ms_max,
    }
}

async fn prepare_all(proxy: Arc<Proxy>, stream: Arc<Stream>, due: Vec<(Name, Target)>) {
    let each = due
        .iter()
        .map(|(name, target)| prepare(&proxy, &stream, *name, target));
    join_all(each).await;
}

/// Makes the record of one segment: of the object in the cache, or else of one fetched for it.
async fn prepare(proxy: &Arc<Proxy>, stream: &Arc<Stream>, name: Name, target: &Target) {
    let Ok(_permit) = proxy.prefetch_permits.acquire().await else {
        return;
    };
    if stream.record_of(name).is_some() {
        return;
    }
    match proxy.cached(target).filter(|object| object.is_fresh()) {
        Some(object) if object.status == http::StatusCode::OK => {
            proxy.sign(stream, target.site, name, &object).await;
        }
        Some(_) => {}
        None => {
            if !proxy.prefetch(target).await {
                stream.on_failed(name);
            }
        }
    }
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
