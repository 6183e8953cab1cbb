//! Viewers' visits: coming, reading playlists, playing, leaving.

use swarm_core::{
    id::{RequestId, SegmentId},
    peer::{Environment, Input, Peer},
    time::Instant,
    wire::tracker::{Nat, ViewerFlags},
};

use super::{
    catalog::{Catalog, Place},
    event::Event,
    node::{Asked, Live, Mapping, Played, SentLately, SlotState, Wakes},
    part::Part,
};
use crate::{player::Player, population::Departure};

/// Segments that playlists list, at least.
const LISTED_MIN: u64 = 8;
/// The player tells how it is doing this often, at most and at least.
const TICK_US: (u64, u64) = (250_000, 1_000_000);
/// Broken links of a closed tab are noticed after this time, by the tracker and by the neighbours.
const SILENT_US: (u64, u64) = (1_000_000, 2_500_000);
/// The connection to the tracker of a viewer that has said goodbye ends after this time.
const POLITE_US: u64 = 100_000;
/// The share of the believed bandwidth that a player's ABR uses, in percent.
const ABR_PERCENT: u64 = 75;

impl Part {
    pub(super) fn arrive(&mut self, node: u32) {
        let (now, options) = (self.now, self.options.clone());
        let began = Instant::from_micros(now);
        let viewer = &self.nodes[node as usize].viewer;
        let (seed, stay_us, channel) = (viewer.seed, viewer.stay_us, viewer.channel);
        let playlist_us = 3 * viewer.cdn_rtt_us + 20_000;
        let latency_us = crate::options::us(options.latency_s);
        let grain_us = crate::options::us(options.grain_s);
        let hidden = viewer.hidden;
        self.nodes[node as usize].live = Some(Box::new(Live {
            wakes: Wakes::default(),
            hidden,
            mapping: Mapping::Unknown,
            peer: Peer::new(self.policy.clone(), seed, began),
            slots: [SlotState::Free; swarm_core::limits::NEIGHBOURS_MAX],
            store: Vec::new(),
            fetches: Vec::new(),
            fetch_count: 0,
            knocks: Vec::new(),
            cdn_free: 0,
            lan_free: (0, 0),
            failed_at: 0,
            player: Player::new(now, options.segment_us(), latency_us, grain_us),
            asked: None,
            requests: 0,
            rendition: self.catalog.renditions().len() as u8 - 1,
            believed_bps: 0,
            switches: (0, 0),
            media: (0, 0),
            listed: 0,
            joined_at: now,
            sent: SentLately::default(),
        }));
        self.audience += 1;
        self.tell_environment(node);
        let stream = Catalog::stream(channel);
        self.input(node, Input::Join { stream, token: b"" });
        self.queue.push(now + playlist_us, Event::Poll { node });
        self.queue
            .push(now + playlist_us, Event::PlayerTick { node });
        self.queue.push(now + stay_us, Event::Leave { node });
    }

    pub(super) fn mapped(&mut self, node: u32) {
        if let Some(live) = &mut self.nodes[node as usize].live {
            live.mapping = Mapping::Known;
            self.tell_environment(node);
        }
    }

    /// What the driver knows of the device, at the start and when it changes.
    pub(super) fn tell_environment(&mut self, node: u32) {
        let entry = &self.nodes[node as usize];
        let (viewer, live) = (&entry.viewer, entry.live.as_deref());
        let is_known = live.is_some_and(|live| live.mapping == Mapping::Known);
        let mut flags = ViewerFlags::NATIVE;
        if viewer.leech {
            flags = flags.with(ViewerFlags::LEECH);
        }
        let environment = Environment {
            flags,
            nat: if is_known {
                viewer.contact.nat.as_told()
            } else {
                Nat::Unknown
            },
            upload_bps_max: viewer.upload_bps,
        };
        self.input(node, Input::Environment(environment));
    }

    pub(super) fn leave(&mut self, node: u32) {
        let departure = self.nodes[node as usize].viewer.departure;
        if self.nodes[node as usize].live.is_none() {
            return;
        }
        if departure == Departure::Polite {
            self.input(node, Input::Leave);
        }
        self.close_accounts(node);
        let Some(live) = self.nodes[node as usize].live.take() else {
            return;
        };
        self.audience -= 1;
        match departure {
            Departure::Polite => self.hang_up(node, POLITE_US),
            Departure::Silent => {
                self.hang_up(node, SILENT_US.0);
                self.break_links(&live.slots, SILENT_US.1);
            }
            Departure::Crashed => {}
        }
        if self.options.replace_leavers && self.now < self.end {
            self.add_node(self.now + 100_000);
        }
    }

    /// Takes down how a visit went.
    pub(super) fn close_accounts(&mut self, node: u32) {
        let now = self.now;
        let entry = &mut self.nodes[node as usize];
        let Some(live) = &mut entry.live else { return };
        live.player.stop(now);
        let player = &live.player;
        entry.played = Some(Played {
            startup_us: player.startup_us,
            stalls: player.stalls,
            stalled_us: player.stalled_us,
            played_us: player.played_us,
            switches: live.switches,
            skipped: player.skipped,
            media: live.media,
        });
    }

    /// The newest segment that is published by now.
    fn newest(&self) -> u64 {
        self.now / self.options.segment_us() - 1
    }

    /// A viewer reads its playlist.
    pub(super) fn poll(&mut self, node: u32) {
        let (now, segment_us) = (self.now, self.options.segment_us());
        if self.nodes[node as usize].live.is_none() {
            return;
        }
        self.list_now(node);
        self.ask_next(node);
        let lag_us = self.nodes[node as usize].viewer.playlist_lag_us;
        let next = (now / segment_us + 1) * segment_us + lag_us;
        self.queue.push(next, Event::Poll { node });
    }

    fn list_now(&mut self, node: u32) {
        let newest = self.newest();
        let latency_us = crate::options::us(self.options.latency_s);
        let window = LISTED_MIN.max(latency_us / self.options.segment_us() + 4);
        let channel = self.nodes[node as usize].viewer.channel;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.listed = newest;
        live.player.tune_in(self.now);
        let rendition = live.rendition;
        let mut listing = std::mem::take(&mut self.listing);
        listing.clear();
        listing.extend((newest - window..=newest).map(|seq| {
            let place = Place::new(channel, rendition, seq);
            self.catalog.info(place)
        }));
        let track = self.catalog.track(channel, rendition);
        let segments = &listing;
        self.input(node, Input::Timeline { track, segments });
        self.listing = listing;
    }

    pub(super) fn player_tick(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.player.advance(now);
        self.tell_player(node);
        self.check_waiting(node);
        self.check_forgotten(node);
        self.check_links(node);
        self.ask_next(node);
        let tick_us = (self.options.segment_us() / 4).clamp(TICK_US.0, TICK_US.1);
        self.queue.push(now + tick_us, Event::PlayerTick { node });
    }

    fn tell_player(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let player = &live.player;
        let end = (live.listed + 1) * self.options.segment_us();
        let position = now - player.latency_us(now).unwrap_or(0);
        let input = Input::Player {
            buffer_ms: (player.buffer_us() / 1000) as u32,
            lag_ms: (end.saturating_sub(position) / 1000) as u32,
            stalled: player.is_stalled(),
        };
        self.input(node, input);
    }

    /// The player asks for the next segment, if it can.
    pub(super) fn ask_next(&mut self, node: u32) {
        let now = self.now;
        let channel = self.nodes[node as usize].viewer.channel;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if live.asked.is_some() {
            return;
        }
        live.player.advance(now);
        let Some(seq) = live.player.wants(live.listed) else {
            return;
        };
        let place = Place::new(channel, live.rendition, seq);
        let name = self.catalog.segment(place).name;
        self.tell_player(node);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.requests += 1;
        let request = RequestId(live.requests);
        live.asked = Some(Asked {
            request,
            place,
            since: now,
        });
        let grain_ms = (self.options.grain_s * 1000.0) as u32;
        let wanted = Input::Wanted {
            request,
            name,
            grain_ms,
        };
        self.input(node, wanted);
    }

    pub(super) fn bypass(&mut self, node: u32, request: RequestId) {
        let live = self.nodes[node as usize].live.as_ref();
        if let Some(asked) = live.and_then(|live| live.asked(request)) {
            self.fetch_for_player(node, request, asked.place);
        }
    }

    /// The player, which plays while segments arrive, has got the first pieces of what it asked for.
    pub(super) fn pieces_arrive(
        &mut self,
        node: u32,
        request: RequestId,
        id: SegmentId,
        pieces: u8,
    ) {
        if let Some(segment) = self.catalog.by_id(id) {
            let whole = u64::from(segment.content.len);
            let part = u64::from(pieces) * u64::from(segment.content.piece_len);
            self.segment_progresses(node, request, (part.min(whole), whole));
        }
    }

    /// The player, which plays while segments arrive, has got `part` of `whole` bytes of what it asked for.
    pub(super) fn segment_progresses(
        &mut self,
        node: u32,
        request: RequestId,
        (part, whole): (u64, u64),
    ) {
        let now = self.now;
        if let Some(live) = &mut self.nodes[node as usize].live
            && let Some(asked) = live.asked(request)
            && live.player.is_progressive()
        {
            live.player
                .on_progress(now, asked.place.seq(), (part, whole));
        }
    }

    /// The player has got what it asked for.
    pub(super) fn segment_arrives(&mut self, node: u32, request: RequestId, bps: u64) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(Asked { place, .. }) = live.asked(request) else {
            return;
        };
        let seq = place.seq();
        live.asked = None;
        live.media.0 += 1;
        live.media.1 += self.catalog.renditions()[usize::from(place.rendition())];
        live.player.on_segment(now, seq);
        live.believed_bps = if live.believed_bps == 0 {
            bps
        } else {
            (live.believed_bps * 3 + bps) / 4
        };
        self.note(4, node, seq);
        self.queue.push(now, Event::Ask { node });
        self.adapt(node);
    }

    /// The player's ABR: the highest rendition within its share of the believed bandwidth.
    fn adapt(&mut self, node: u32) {
        let renditions = self.catalog.renditions();
        if renditions.len() < 2 {
            return;
        }
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let most = live.believed_bps * ABR_PERCENT / 100;
        let best = renditions.iter().rposition(|bps| *bps <= most).unwrap_or(0) as u8;
        if best == live.rendition {
            return;
        }
        let old = std::mem::replace(&mut live.rendition, best);
        if best > old {
            live.switches.0 += 1;
        } else {
            live.switches.1 += 1;
        }
        self.queue.push(self.now, Event::Switch { node, from: old });
    }

    pub(super) fn switch(&mut self, node: u32, from: u8) {
        let channel = self.nodes[node as usize].viewer.channel;
        let track = self.catalog.track(channel, from);
        self.input(node, Input::TrackEnded(track));
        self.list_now(node);
    }

    /// A segment is stored further; notes the moment at which it is whole.
    pub(super) fn on_stored(&mut self, node: u32, place: Place) {
        let segment = self.catalog.segment(place);
        let (id, full) = (segment.content.id, segment.full());
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        if live.stored(id) == full {
            let published = (place.seq() + 1) * self.options.segment_us();
            let delay_us = self.now.saturating_sub(published);
            self.metrics.on_ready(self.now, delay_us);
        }
    }
}
