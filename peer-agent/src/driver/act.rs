//! Carries out what the core wants, and takes in what the player and its playlists say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use swarm_core::id::{FetchId, Name, RequestId, SegmentId, StreamId};
use swarm_core::limits::REQUESTS_MAX;
use swarm_core::peer::{Action, Event, FetchOutcome, Input, Outbox, Payload};
use swarm_core::timeline::Track;
use url::Url;

use super::{Answer, Asker, Driver, Pending, Released, RunningFetch, flags};
use crate::fetch::{Done, Job};
use crate::snapshot::AgentEvent;
use crate::tracker_link::TrackerLink;

/// A stream of which no playlist was read for this long is not played any more.
const STREAM_IDLE: Duration = Duration::from_secs(15);

impl Driver {
    pub(super) fn act(&mut self, action: &Action, outbox: &Outbox) {
        match action {
            Action::FetchCdn { .. } if self.is_leaving => {}
            Action::FetchCdn { fetch, name, range } => self.start_fetch(*fetch, *name, *range),
            Action::CancelFetch(fetch) => {
                if let Some(running) = self.fetches.remove(fetch) {
                    self.shared.store.drop_body(*fetch);
                    let bytes = running.bytes.load(Ordering::Relaxed);
                    self.pending.push_back(Pending::FetchCancelled {
                        fetch: *fetch,
                        bytes,
                    });
                }
            }
            Action::Release {
                request,
                segment,
                pieces,
            } => self.release(*request, *segment, *pieces),
            Action::Deliver {
                request,
                payload,
                reported_bps,
            } => self.deliver(*request, *payload, *reported_bps),
            Action::Bypass(request) => self.answer(*request, Answer::Bypass),
            Action::Fail { request, fetch } => {
                let said = self.failures.iter().find(|(failed, _)| failed == fetch);
                let status = said.map_or(StatusCode::BAD_GATEWAY, |(_, status)| *status);
                self.answer(*request, Answer::Fail { status });
            }
            Action::Connect { .. }
            | Action::Close { .. }
            | Action::Signal { .. }
            | Action::SendFrame { .. }
            | Action::SendRecord { .. }
            | Action::SendPiece { .. } => self.act_on_link(action, outbox),
            Action::TrackerConnect => self.connect_tracker(),
            Action::TrackerClose => {
                self.tracker = None;
                self.tracker_up = false;
            }
            Action::SendTracker(frame) => {
                let frame = Bytes::copy_from_slice(outbox.bytes(frame));
                let sent = self.tracker.as_ref().is_some_and(|link| link.send(frame));
                if !sent {
                    self.tracker = None;
                    self.tracker_up = false;
                    self.pending.push_back(Pending::TrackerDown);
                }
            }
            Action::Evict(segment) => {
                self.shared.store.evict(*segment);
                self.links.forget(*segment);
            }
            Action::UseStun(servers) => {
                let servers = std::str::from_utf8(outbox.bytes(servers)).unwrap_or_default();
                self.links.use_stun(servers.split_whitespace());
            }
            Action::UseRelays { servers, only } => {
                let lines = std::str::from_utf8(outbox.bytes(servers)).unwrap_or_default();
                self.links.use_relays(lines, *only);
            }
            Action::UseTracker(place) => {
                let place = std::str::from_utf8(outbox.bytes(place)).unwrap_or_default();
                self.tracker_place = place_of(place, self.tracker_url.as_ref());
            }
            Action::Emit(event) => self.emit(event),
        }
    }

    fn act_on_link(&mut self, action: &Action, outbox: &Outbox) {
        match action {
            Action::Connect {
                slot,
                peer,
                offer,
                native,
            } => {
                let begun = self.links.connect(*slot, *peer, *offer, *native);
                let failed = (!begun).then_some(Pending::LinkDown(*slot, None));
                self.pending.extend(failed);
            }
            Action::Close { slot, reason } => {
                tracing::debug!(?slot, ?reason, "link closed");
                self.links.close(*slot);
            }
            Action::Signal { slot, payload } => {
                self.links.handle_signal(*slot, outbox.bytes(payload));
            }
            Action::SendFrame { slot, frame } => {
                let frame = Bytes::copy_from_slice(outbox.bytes(frame));
                let sent = self.links.send_control(*slot, frame);
                self.pending.extend(sent);
            }
            Action::SendRecord { slot, segment } => {
                if let Some(record) = self.shared.store.record(*segment) {
                    let sent = self.links.send_record(*slot, &record);
                    self.pending.extend(sent);
                }
            }
            Action::SendPiece {
                slot,
                segment,
                piece,
            } => {
                let bytes = self.shared.store.piece(*segment, (*piece).into());
                let sent = self.links.send_piece(*slot, *segment, *piece, bytes);
                self.pending.extend(sent);
            }
            // The others are no business of a link.
            _ => {}
        }
    }

    fn start_fetch(&mut self, fetch: FetchId, name: Name, range: Option<(u32, u32)>) {
        let Some(located) = self.shared.catalog.find(name) else {
            // The playlist that named it is long gone.
            tracing::debug!(%name, "local catalog has no URL of a segment");
            let (status, outcome) = (StatusCode::NOT_FOUND, FetchOutcome::Failed);
            let done = Done {
                fetch,
                outcome,
                status,
                bytes: 0,
                ttfb_ms: 0,
                total_ms: 0,
            };
            return self.pending.push_back(Pending::FetchDone(done));
        };
        let bytes = Arc::new(AtomicU32::new(0));
        let job = Job {
            fetch,
            name,
            located,
            range,
            bytes: bytes.clone(),
        };
        let task = tokio::spawn(self.fetcher.clone().run(job)).abort_handle();
        self.fetches.insert(fetch, RunningFetch { task, bytes });
    }

    fn release(&self, request: RequestId, segment: SegmentId, pieces: u8) {
        if let Some(asker) = self.requests.get(&request) {
            asker.release(Released { segment, pieces });
        }
    }

    fn deliver(&mut self, request: RequestId, payload: Payload, reported_bps: u64) {
        let store = &self.shared.store;
        let media = match payload {
            Payload::Segment(segment) => store.whole(segment),
            Payload::Fetch(fetch) => store.body(fetch),
        };
        let answer = match media {
            Some(media) => Answer::Deliver {
                payload,
                media,
                reported_bps,
            },
            None => {
                tracing::warn!(?payload, "local store lost what was to be delivered");
                Answer::Bypass
            }
        };
        self.answer(request, answer);
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        if let Some(asker) = self.requests.remove(&request) {
            asker.answer(answer);
        }
    }

    fn connect_tracker(&mut self) {
        let Some(url) = self.tracker_place.as_ref().or(self.tracker_url.as_ref()) else {
            return self.pending.push_back(Pending::TrackerDown);
        };
        self.tracker_number = self.tracker_number.wrapping_add(1);
        let events = self.tracker_events.clone();
        self.tracker_up = false;
        self.tracker = Some(TrackerLink::open(url.clone(), self.tracker_number, events));
    }

    fn emit(&mut self, event: &Event) {
        if let Event::Joined { peer } = event {
            self.peer_name = Some(peer.to_string());
        }
        tracing::debug!(?event, "swarm");
        // An error means that nobody listens.
        let _ = self
            .shared
            .events
            .send(AgentEvent::of(event, &self.shared.catalog));
    }

    pub(super) fn handle_want(
        &mut self,
        request: RequestId,
        name: Name,
        grain_ms: u32,
        asker: Asker,
    ) {
        if self.requests.len() >= REQUESTS_MAX {
            return asker.answer(Answer::Bypass);
        }
        let now = tokio::time::Instant::now();
        if let Some(located) = self.shared.catalog.find(name)
            && let Some(segments) = self.tracks.on_wanted(located.track, now)
        {
            let segments = segments.to_vec();
            self.handle(Input::Timeline {
                track: located.track,
                segments: &segments,
            });
        }
        self.requests.insert(request, asker);
        self.handle(Input::Wanted {
            request,
            name,
            grain_ms,
        });
    }

    pub(super) fn handle_playlist(&mut self, tracks: &[Track]) {
        let now = tokio::time::Instant::now();
        for track in tracks {
            if let Some(stream) = track.stream {
                self.on_stream(stream, now);
            }
            // Segments of a stream that was not joined are the CDN's alone.
            let foreign = track.stream.is_some() && track.stream != self.joined;
            if self.tracks.on_read(track, now) && !foreign {
                let segments = self.tracks.segments(track.track).to_vec();
                self.handle(Input::Timeline {
                    track: track.track,
                    segments: &segments,
                });
            }
        }
    }

    /// A playlist of this stream was read. The first stream is joined; another one only when that
    /// is not played any more.
    fn on_stream(&mut self, stream: StreamId, now: tokio::time::Instant) {
        if self.joined == Some(stream) {
            self.joined_seen = now;
        } else if self.joined.is_none() || now.duration_since(self.joined_seen) > STREAM_IDLE {
            self.seen = Some(stream);
            self.joined_seen = now;
            self.join();
        }
    }

    /// Joins the swarm of the stream that is played, once there is a key to trust.
    pub(super) fn join(&mut self) {
        let Some(stream) = self.seen.filter(|_| self.consent != Some(false)) else {
            return;
        };
        if self.joined == Some(stream) || !self.shared.trust.knows(stream) {
            return;
        }
        self.joined = Some(stream);
        self.shared.trust.set_stream(stream);
        self.enter(stream);
    }

    fn enter(&mut self, stream: StreamId) {
        let token = self.token.clone();
        self.handle(Input::Join {
            stream,
            token: &token,
        });
    }

    /// The person has agreed to peers: a tracker that refused for want of it is asked again. Or has
    /// not: everybody is told goodbye.
    pub(super) fn handle_consent(&mut self, agreed: bool) {
        if self.consent.replace(agreed) == Some(agreed) {
            return;
        }
        self.environment.flags = flags(&self.config, self.consent);
        self.handle(Input::Environment(self.environment));
        match self.joined {
            Some(stream) if agreed => self.enter(stream),
            None if agreed => self.join(),
            _ => {
                self.joined = None;
                self.handle(Input::Leave);
            }
        }
    }
}

/// The address that the tracker sends us to; `None` for our own. Not from an encrypted connection to
/// one that is not: the token goes there.
fn place_of(place: &str, own: Option<&Url>) -> Option<Url> {
    let place = Url::parse(place).ok()?;
    let worse = place.scheme() != "wss" && own.is_some_and(|own| own.scheme() == "wss");
    if worse || !["ws", "wss"].contains(&place.scheme()) || place.host().is_none() {
        tracing::warn!(
            host = place.host_str(),
            "tracker names another one that is not safe"
        );
        return None;
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_from_an_encrypted_tracker_to_a_plain_one() {
        let [plain, safe] = ["ws://a.example/", "wss://a.example/"].map(|u| Url::parse(u).unwrap());
        let goes = |place: &str, own: &Url| place_of(place, Some(own)).is_some();
        assert!(goes("ws://b.example/", &plain) && goes("wss://b.example/", &plain));
        assert!(goes("wss://b.example:9/x", &safe) && !goes("ws://b.example/", &safe));
        for place in ["", "http://b.example/", "wss://", "b.example"] {
            assert!(!goes(place, &plain), "{place}");
        }
    }
}
