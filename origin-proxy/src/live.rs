//! What the proxy does with playlists: learn what is listed, sign it, tell viewers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use swarm_core::{
    id::Name,
    timeline::{Listed, PLAYLIST_LEN_MAX, SEGMENTS_LIVE_MAX, Track, dash, hls},
};

use crate::{
    freshness::Kind,
    lowlatency::LowLatency,
    object::{Object, Records},
    playlist::{Format, annotate_mpd},
    proxy::{Errand, Proxy},
    records::{Listing, Ranges, Stream},
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
        is_shared: bool,
        raw: &Bytes,
        format: Format,
    ) -> (Bytes, Kind) {
        if raw.len() > PLAYLIST_LEN_MAX {
            tracing::warn!(
                path = target.path,
                len = raw.len(),
                "playlist is too long to be read"
            );
            return (raw.clone(), unread_kind(raw));
        }
        let Ok(text) = std::str::from_utf8(raw) else {
            tracing::warn!(
                path = target.path,
                "origin sent a playlist that is not UTF-8"
            );
            return (raw.clone(), Kind::Playlist);
        };
        self.note_delicate(target, text, format);
        let stream = self.stream_of(target).cloned();
        match format {
            Format::Hls => {
                let site = self.site_of(target);
                let promise = || self.lives.announce(text, target, site);
                let (body, kind) = match is_shared.then(promise).flatten() {
                    None => self.release_hls(target, raw, text, stream).await,
                    Some(promised) => {
                        let target = site.without_directives(target);
                        let raw = Bytes::from(promised.clone());
                        self.release_hls(&target, &raw, &promised, stream).await
                    }
                };
                (body, kind)
            }
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
            Ok(hls::HlsPlaylist::Multivariant(list)) => {
                let renditions = list.renditions.iter().filter_map(|item| item.url.as_ref());
                let urls = list.variants.iter().map(|item| &item.url);
                self.note_elsewhere(target, urls.chain(renditions));
                return (raw.clone(), Kind::Playlist);
            }
            Err(error) => {
                tracing::warn!(path = target.path, %error, "playlist is passed on as it is");
                return (raw.clone(), Kind::Playlist);
            }
        };
        let site = self.site_of(target);
        let low_latency = self.parts.note(text, target, site);
        if low_latency.is_some() {
            self.note_grown(text, target);
        }
        let kind = hls_kind(target, &track, low_latency);
        self.note_elsewhere(target, track.segments.iter().map(|listed| &listed.url));
        let last = track.segments.last().map_or(0, |last| last.info.seq);
        let parts = text.matches("#EXT-X-PART:").count() as u64;
        self.note_edge(target, !track.ended, (last, parts));
        let Some(stream) = stream else {
            return (raw.clone(), kind);
        };
        // Ranges of pictures overlap those of segments, and are for winding, not for playing.
        if text.contains("#EXT-X-I-FRAMES-ONLY") {
            return (raw.clone(), kind);
        }
        let Noted { mut due, is_anew } = self.note_track(&stream, target, &track, Clock::Now);
        let source = source_of(target, &track);
        let has_seam = discontinuities(text).is_some_and(|n| stream.on_discontinuities(source, n));
        if has_seam || is_anew {
            self.distrust_beside(target, &track, text);
        }
        if low_latency.is_some() {
            let is_awaited = target.is_blocking() || self.lives.is_awaited(&target.key, text);
            due.extend(self.note_parts(&stream, target, &track, is_awaited));
        }
        let hold = plan_hold(self.config.records.record_hold_ms_max, low_latency);
        self.hold_for(&stream, due, hold).await;
        let content_of = |listed: &Listed| {
            let is_ours = site.local(&listed.url).is_some();
            is_ours.then(|| stream.content_of(listed)).flatten()
        };
        let tagged = hls::annotate(text, &url, target.tag(stream.id), content_of);
        let added = tagged.len().saturating_sub(text.len());
        self.metrics.tag_bytes.increment(added as u64);
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
        let tracks = manifest.representations.iter().map(|one| &one.track);
        let listed = tracks.clone().flat_map(|track| &track.segments);
        self.note_elsewhere(target, listed.map(|listed| &listed.url));
        let last = tracks.filter_map(|track| Some(track.segments.last()?.info.seq));
        self.note_edge(
            target,
            manifest.is_live,
            (last.fold(0, u64::wrapping_add), 0),
        );
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
            let track = &representation.track;
            let Noted { mut due, is_anew } = self.note_track(&stream, target, track, Clock::Now);
            if is_anew {
                self.distrust_beside(target, track, "");
            }
            // Those that are being made would keep others waiting for as long.
            if stream.has_growing_segments() {
                due.retain(|(_, place)| self.is_there(place));
            }
            tokio::spawn(prepare_all(self.clone(), stream.clone(), due));
        }
        (Bytes::from(annotate_mpd(text, target.tag(stream.id))), kind)
    }

    /// Notes what a track lists.
    fn note_track(&self, stream: &Stream, target: &Target, track: &Track, clock: Clock) -> Noted {
        if !track.ended {
            stream.on_target(u64::from(track.target_ms));
        }
        let source = source_of(target, track);
        let last_seq = track.segments.last().map_or(0, |last| last.info.seq);
        let era_before = stream.era(source);
        // Ahead of its time, the last number is not what the next manifest has to be measured by.
        let era = match clock {
            Clock::Now => stream.on_window(source, last_seq, OVERLAP_SEGMENTS),
            Clock::Ahead => era_before,
        };
        if era != era_before {
            // Viewers who go by the clock ask for names that are not listed again yet.
            let site = self.site_of(target);
            let name = |key: &str| site.path_of(key).map(Name::of_url);
            self.distrust_all(|key| name(key).is_some_and(|name| stream.has_listed(source, name)));
        }
        let (listed, is_again) = self.note_listed(stream, target, source, era, &track.segments);
        let ahead = if track.ended {
            0
        } else {
            self.config.records.prefetch_segments_max
        };
        let further_back = listed.len().saturating_sub(ahead);
        // Further back, what is there anyway: it may have been asked for before it was listed.
        let is_due = |(index, (name, place)): &(usize, (Name, Target))| {
            stream.record_of(*name).is_none()
                && !stream.has_failed(*name)
                && (*index >= further_back || self.is_there(place) && !stream.has_forgotten(*name))
        };
        // The newest are looked at last, so that their records are the last to make room.
        let due = listed.into_iter().enumerate().filter(is_due);
        let mut due: Vec<(Name, Target)> = due.map(|(_, due)| due).collect();
        due.reverse();
        Noted {
            due,
            is_anew: is_again || era != era_before,
        }
    }

    /// Has what a track needs beside its segments, its keys among it, asked for again: an encoder that has started
    /// anew often gives other bytes the same names.
    fn distrust_beside(&self, target: &Target, track: &Track, text: &str) {
        let site = self.site_of(target);
        let inits = track.inits.iter();
        let inits = inits.filter_map(|init| site.local(&init.url));
        // For some hundred changes of keys.
        let keys = self.keys_of(target, text).take(SEGMENTS_LIVE_MAX);
        let places: HashMap<String, Target> = inits
            .chain(keys)
            .map(|place| (place.key.clone(), place))
            .collect();
        for place in places.values() {
            tracing::debug!(path = place.path, "asked for again after a new beginning");
            self.distrust(place);
        }
    }

    /// Whether the cache has an object that may be signed.
    pub(crate) fn is_there(&self, target: &Target) -> bool {
        let object = self.cached(target);
        object.is_some_and(|object| object.is_fresh() && object.status == http::StatusCode::OK)
    }

    /// Notes what a playlist lists: names, and what of this proxy or its origin they stand for; and whether any
    /// name is used again.
    pub(crate) fn note_listed<'a>(
        &self,
        stream: &Stream,
        target: &Target,
        source: Name,
        era: u64,
        segments: impl IntoIterator<Item = &'a Listed>,
    ) -> (Vec<(Name, Target)>, bool) {
        let site = self.site_of(target);
        let mut is_again = false;
        let mut listed: Vec<(Name, Target)> = Vec::new();
        // Of each object that has ranges.
        let mut ranged: HashMap<String, (Target, Ranges)> = HashMap::new();
        for segment in segments {
            let Some(place) = site.local(&segment.url) else {
                continue;
            };
            let place = place.listed_for(target);
            if stream.on_listed(source, era, segment) {
                tracing::info!(path = place.path, "name is used again");
                self.distrust(&place);
                is_again = true;
            }
            if let Some(range) = segment.range {
                let of = ranged.entry(place.key.clone());
                let (_, ranges) = of.or_insert_with(|| (place.clone(), Ranges::new()));
                ranges.insert(range, segment.info.name);
            }
            listed.push((segment.info.name, place));
        }
        for (place, ranges) in ranged.into_values() {
            self.note_ranges(stream, &place, ranges);
        }
        (listed, is_again)
    }

    /// Notes the ranges of an object that are segments. One that is shorter in the cache has grown.
    fn note_ranges(&self, stream: &Stream, place: &Target, ranges: Ranges) {
        let ends = ranges.keys().map(|(first, len)| first.saturating_add(*len));
        let end = ends.max().unwrap_or(0);
        stream.on_ranges(Name::of_url(&place.path), ranges);
        let is_grown = |object: &Arc<Object>| object.is_cut(end);
        if self
            .cached(place)
            .filter(|object| object.is_fresh())
            .as_ref()
            .is_some_and(is_grown)
        {
            tracing::debug!(path = place.path, "object has grown");
            self.distrust(place);
        }
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

    /// Signs what of `object` is listed, if it is the same for all viewers.
    pub(crate) async fn sign(&self, stream: &Arc<Stream>, target: &Target, object: &Object) {
        if vary::names(&object.headers).is_none_or(|names| !names.is_empty()) {
            return;
        }
        let name = Name::of_url(&target.path);
        let whole = self.listing_of(stream, target.site, name);
        let ranges = stream.ranges(name);
        if whole.is_none() && ranges.is_empty() {
            return;
        }
        let (stream, body) = (stream.clone(), object.body.clone());
        let metrics = self.metrics.clone();
        let work = move || {
            let started = (Instant::now(), thread_cpu());
            let ranges = ranges.iter().filter_map(|((first, len), name)| {
                let end = first.checked_add(*len)?;
                let bytes = body.get(usize::try_from(*first).ok()?..usize::try_from(end).ok()?)?;
                let signed = stream.sign(*name, stream.listing(*name)?, bytes)?;
                Some((*first, end, signed))
            });
            let records = Records {
                ranges: ranges.collect(),
                whole: whole.and_then(|listing| stream.sign(name, listing, &body)),
            };
            let count = records.ranges.len() + usize::from(records.whole.is_some());
            metrics.records_signed.increment(count as u64);
            metrics.sign_seconds.record(started.0.elapsed());
            let cpu = thread_cpu().saturating_sub(started.1);
            metrics
                .sign_cpu_us
                .increment(u64::try_from(cpu.as_micros()).unwrap_or(0));
            records
        };
        if let Ok(records) = tokio::task::spawn_blocking(work).await {
            object.set_records(records);
        }
    }
}

/// What this thread has had of the processor.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// What there is to do about a track.
struct Noted {
    /// Segments without a record, the newest first: the newest ones of a live track, and what the cache has.
    due: Vec<(Name, Target)>,
    /// Its numbers have started again, or a name stands for another segment.
    is_anew: bool,
}

/// The discontinuities that a playlist has had until its end; none if it leaves out some (LL-HLS).
fn discontinuities(text: &str) -> Option<u64> {
    let mut count = 0_u64;
    for line in text.lines() {
        if line.starts_with("#EXT-X-SKIP:") {
            return None;
        }
        if let Some(before) = line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:") {
            count = count.saturating_add(before.trim().parse().unwrap_or(0));
        } else if line.trim_end() == "#EXT-X-DISCONTINUITY" {
            count = count.saturating_add(1);
        }
    }
    Some(count)
}

/// What the numbers of a track are counted for.
pub(crate) fn source_of(target: &Target, track: &Track) -> Name {
    Name::of(&format!("{}#{}", target.path, track.track))
}

/// How long a playlist may be held back for records.
fn plan_hold(hold_ms_max: u64, low_latency: Option<LowLatency>) -> Duration {
    let part_target_ms = low_latency.map(|low_latency| low_latency.part_target_ms);
    let bound_ms = part_target_ms.map_or(u64::MAX, |part_ms| part_ms / PART_HOLD_SHARE);
    Duration::from_millis(hold_ms_max.min(bound_ms))
}

/// At what time a track is read.
#[derive(Clone, Copy)]
enum Clock {
    /// As it is now, or as it was a moment ago: blocking reloads come in any order, and one of several
    /// origins may lag behind the others.
    Now,
    /// As it will be soon.
    Ahead,
}

const CLOCK_ERROR_MS: u64 = 1000;
/// A playlist that is older than one before it, and no new beginning, is so many segments behind at most, unless
/// the track has been seen to come from origins that are further apart.
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

/// What a playlist that is not read is taken for: one that may change at any moment, unless its end says
/// otherwise.
fn unread_kind(raw: &[u8]) -> Kind {
    if raw.trim_ascii_end().ends_with(b"#EXT-X-ENDLIST") {
        return Kind::Playlist;
    }
    Kind::Live {
        target_ms: UNREAD_TARGET_MS,
        fresh_ms_max: UNREAD_TARGET_MS / 2,
    }
}

/// A live playlist that is not read is taken to have segments as long as this, in milliseconds.
const UNREAD_TARGET_MS: u64 = 2000;

async fn prepare_all(proxy: Arc<Proxy>, stream: Arc<Stream>, due: Vec<(Name, Target)>) {
    // One object may be several segments.
    let mut seen = HashSet::new();
    let each = due
        .iter()
        .filter(|(_, target)| seen.insert(&target.key))
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
            proxy.sign(stream, target, &object).await;
        }
        Some(_) => {}
        None => {
            let headers = HeaderMap::new();
            if !proxy.run(Errand::Prefetch, target, &headers).await {
                stream.on_failed(name);
            }
        }
    }
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_latency_playlist_is_held_for_a_quarter_of_a_part_at_most() {
        let parts = |part_target_ms| Some(LowLatency { part_target_ms });
        for (hold_ms_max, low_latency, expected_ms) in [
            (400, None, 400),
            (400, parts(500), 125),
            (400, parts(4000), 400),
            (0, parts(500), 0),
            (400, parts(3), 0),
        ] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(plan_hold(hold_ms_max, low_latency), expected);
        }
    }
}
