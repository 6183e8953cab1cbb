//! Actions as words, by [`super::KINDS`].

use swarm_core::peer::{Action, CloseReason, Event, Payload, Span};

/// Appends one action to `words`.
pub fn encode(action: &Action, words: &mut Vec<u32>) {
    let mut out = Words(words);
    match action {
        Action::FetchCdn { fetch, name, range } => {
            let (first, len) = range.unwrap_or((0, 0));
            out.kind(0).u32(fetch.0).wide(name.0).u32(first).u32(len)
        }
        Action::CancelFetch(fetch) => out.kind(1).u32(fetch.0),
        Action::Deliver {
            request,
            payload,
            reported_bps,
        } => match payload {
            Payload::Segment(id) => {
                let out = out.kind(2).u32(request.0);
                out.wide(id.0).wide(*reported_bps)
            }
            Payload::Fetch(fetch) => {
                let out = out.kind(3).u32(request.0);
                out.u32(fetch.0).wide(*reported_bps)
            }
        },
        Action::Bypass(request) => out.kind(4).u32(request.0),
        Action::Fail { request, fetch } => out.kind(5).u32(request.0).u32(fetch.0),
        Action::Connect {
            slot,
            peer,
            offer,
            native,
        } => {
            let out = out.kind(6).u32(slot.0.into()).wide(peer.0);
            out.u32((*offer).into()).u32((*native).into())
        }
        Action::Close { slot, reason } => out.kind(7).u32(slot.0.into()).u32(index_of(*reason)),
        Action::Signal { slot, payload } => out.kind(8).u32(slot.0.into()).span(payload),
        Action::SendFrame { slot, frame } => out.kind(9).u32(slot.0.into()).span(frame),
        Action::SendRecord { slot, segment } => out.kind(10).u32(slot.0.into()).wide(segment.0),
        Action::SendPiece {
            slot,
            segment,
            piece,
        } => {
            let out = out.kind(11).u32(slot.0.into());
            out.wide(segment.0).u32((*piece).into())
        }
        Action::TrackerConnect => out.kind(12),
        Action::TrackerClose => out.kind(13),
        Action::SendTracker(frame) => out.kind(14).span(frame),
        Action::Evict(segment) => out.kind(15).wide(segment.0),
        Action::UseStun(servers) => out.kind(16).span(servers),
        Action::UseRelays { servers, only } => out.kind(17).span(servers).u32((*only).into()),
        Action::UseTracker(place) => out.kind(18).span(place),
        Action::Release {
            request,
            segment,
            pieces,
        } => {
            let out = out.kind(19).u32(request.0);
            out.wide(segment.0).u32((*pieces).into())
        }
        Action::Emit(event) => encode_event(event, &mut out),
    };
}

fn encode_event<'a, 'b>(event: &Event, out: &'a mut Words<'b>) -> &'a mut Words<'b> {
    match event {
        Event::Delivered {
            name,
            track,
            seq,
            bytes_p2p,
            bytes_cdn,
            waited_ms,
        } => {
            let out = out.kind(20).wide(name.0).u32(track.0).wide(*seq);
            out.u32(*bytes_p2p).u32(*bytes_cdn).u32(*waited_ms)
        }
        Event::Joined { peer } => out.kind(21).wide(peer.0),
        Event::TrackerLost { retry_ms } => out.kind(22).u32(*retry_ms),
        Event::Refused => out.kind(23),
        Event::PeerUp { slot, peer } => out.kind(24).u32(slot.0.into()).wide(peer.0),
        Event::PeerDown { slot, peer, reason } => {
            let out = out.kind(25).u32(slot.0.into());
            out.wide(peer.0).u32(index_of(*reason))
        }
        Event::Backstop { name, missing } => out.kind(26).wide(name.0).u32(*missing),
    }
}

const fn index_of(reason: CloseReason) -> u32 {
    match reason {
        CloseReason::Lost => 0,
        CloseReason::SetupTimeout => 1,
        CloseReason::Silent => 2,
        CloseReason::Misbehaved => 3,
        CloseReason::Left => 4,
        CloseReason::Leaving => 5,
        CloseReason::Replaced => 6,
    }
}

struct Words<'a>(&'a mut Vec<u32>);

impl Words<'_> {
    fn kind(&mut self, index: u32) -> &mut Self {
        self.u32(index)
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.push(value);
        self
    }

    fn wide(&mut self, value: u64) -> &mut Self {
        self.u32((value >> 32) as u32).u32(value as u32)
    }

    fn span(&mut self, span: &Span) -> &mut Self {
        self.u32(span.start).u32(span.end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::KINDS;
    use super::*;
    use swarm_core::id::{FetchId, Name, PeerId, RequestId, SegmentId, Slot, TrackId};

    fn to_do() -> Vec<(&'static str, Action)> {
        let (slot, peer, segment) = (Slot(3), PeerId(1 << 40), SegmentId(7));
        let (request, fetch, name) = (RequestId(1), FetchId(2), Name(1 << 33 | 5));
        let reason = CloseReason::Replaced;
        let range = Some((16_384, 5));
        let (offer, native) = (true, false);
        let (payload, frame, piece) = (0..2, 2..4, 63);
        let deliver = |payload| {
            let reported_bps = 1 << 32;
            Action::Deliver {
                request,
                payload,
                reported_bps,
            }
        };
        vec![
            ("fetchCdn", Action::FetchCdn { fetch, name, range }),
            ("cancelFetch", Action::CancelFetch(fetch)),
            ("deliverSegment", deliver(Payload::Segment(segment))),
            ("deliverFetch", deliver(Payload::Fetch(fetch))),
            ("bypass", Action::Bypass(request)),
            ("fail", Action::Fail { request, fetch }),
            (
                "connect",
                Action::Connect {
                    slot,
                    peer,
                    offer,
                    native,
                },
            ),
            ("close", Action::Close { slot, reason }),
            ("signal", Action::Signal { slot, payload }),
            ("sendFrame", Action::SendFrame { slot, frame }),
            ("sendRecord", Action::SendRecord { slot, segment }),
            (
                "sendPiece",
                Action::SendPiece {
                    slot,
                    segment,
                    piece,
                },
            ),
            ("trackerConnect", Action::TrackerConnect),
            ("trackerClose", Action::TrackerClose),
            ("sendTracker", Action::SendTracker(4..9)),
            ("evict", Action::Evict(segment)),
            ("useStun", Action::UseStun(0..0)),
            (
                "useRelays",
                Action::UseRelays {
                    servers: 1..9,
                    only: true,
                },
            ),
            ("useTracker", Action::UseTracker(0..4)),
            (
                "release",
                Action::Release {
                    request,
                    segment,
                    pieces: 64,
                },
            ),
        ]
    }

    fn facts() -> Vec<(&'static str, Action)> {
        let (slot, peer, name) = (Slot(3), PeerId(1 << 40), Name(1 << 33 | 5));
        let reason = CloseReason::Replaced;
        let delivered = Event::Delivered {
            name,
            track: TrackId(4),
            seq: 9,
            bytes_p2p: 1,
            bytes_cdn: 2,
            waited_ms: 3,
        };
        let facts = [
            ("delivered", delivered),
            ("joined", Event::Joined { peer }),
            ("trackerLost", Event::TrackerLost { retry_ms: 500 }),
            ("refused", Event::Refused),
            ("peerUp", Event::PeerUp { slot, peer }),
            ("peerDown", Event::PeerDown { slot, peer, reason }),
            ("backstop", Event::Backstop { name, missing: 8 }),
        ];
        facts
            .map(|(name, event)| (name, Action::Emit(event)))
            .into()
    }

    #[test]
    fn every_kind_is_written_as_specified() {
        let samples = [to_do(), facts()].concat();
        assert_eq!(samples.len(), KINDS.len());
        for (index, (name, action)) in samples.iter().enumerate() {
            let mut words = vec![];
            encode(action, &mut words);
            let kind = KINDS[index];
            assert_eq!(*name, kind.name);
            assert_eq!(words[0] as usize, index, "{name}");
            let expected: usize = kind.fields.iter().map(|(_, ty)| ty.words()).sum();
            assert_eq!(words.len(), 1 + expected, "{name}");
        }
    }

    #[test]
    fn wide_fields_have_the_high_word_first() {
        let mut words = vec![];
        encode(&Action::Evict(SegmentId(0x0123_4567_89ab_cdef)), &mut words);
        assert_eq!(words, [15, 0x0123_4567, 0x89ab_cdef]);
    }
}
