//! The CDN: time to the first byte, a rate per viewer, and bodies that arrive in steps.

use swarm_core::{
    id::{FetchId, Name, RequestId},
    peer::{FetchOutcome, Input, Source},
    rng::{Rng, mix},
};

use super::{
    ORIGIN_US,
    catalog::{Place, all_pieces, pieces_below},
    event::Event,
    node::{Asker, Fetching, probe_of},
    part::Part,
};
use crate::{
    measure::Reason,
    options::us,
    population::Cheat,
    random::{between, chance, lognormal},
};

/// Bytes that arrive in one step of a ranged fetch.
const STEP_LEN: u32 = 128 * 1024;
/// Steps that a whole object arrives in, at most.
const STEPS_MAX: u32 = 8;
/// A viewer counts as new for so long.
const WARM_UP_US: u64 = 15_000_000;

impl Part {
    fn slowness(&self) -> f64 {
        match self.options.cdn.slow {
            Some((from_s, to_s, factor)) if !self.healed => {
                let at = self.now - ORIGIN_US;
                if (us(from_s)..us(to_s)).contains(&at) {
                    factor
                } else {
                    1.0
                }
            }
            _ => 1.0,
        }
    }

    pub(super) fn fetch_for_core(
        &mut self,
        node: u32,
        fetch: FetchId,
        name: Name,
        range: Option<(u32, u32)>,
        reason: Reason,
    ) {
        let Some(place) = self.catalog.place_named(name) else {
            return;
        };
        self.note(2, node, name.0 ^ u64::from(range.map_or(0, |r| r.0)));
        self.fetch(node, Asker::Core(fetch), place, range, reason);
    }

    pub(super) fn fetch_for_player(&mut self, node: u32, request: RequestId, place: Place) {
        self.fetch(node, Asker::Player(request), place, None, Reason::Bypass);
    }

    fn fetch(
        &mut self,
        node: u32,
        asker: Asker,
        place: Place,
        range: Option<(u32, u32)>,
        reason: Reason,
    ) {
        let content = self.catalog.segment(place).content;
        let (from, len) = range.unwrap_or((0, content.len));
        let (slowness, cdn) = (self.slowness(), &self.options.cdn);
        let sender = &mut self.nodes[node as usize];
        let Some(live) = &mut sender.live else { return };
        live.fetch_count += 1;
        let id = live.fetch_count;
        // A viewer's fetches have the same luck in its twin: what differs between the two worlds is not chance.
        let mut luck = Rng::new(mix(sender.viewer.seed ^ mix(id.into())));
        let server_ms = between(&mut luck, cdn.ttfb_ms.0, cdn.ttfb_ms.1) * slowness;
        let spread = lognormal(&mut luck, 1.0, 0.25);
        let fails = chance(&mut luck, cdn.failures) && !self.healed;
        let ttfb_us = sender.viewer.cdn_rtt_us + us(server_ms / 1e3);
        let is_young = self.now - live.joined_at < WARM_UP_US;
        let is_warm_up = is_young && matches!(reason, Reason::Alone | Reason::Backstop);
        live.fetches.push(Fetching {
            id,
            asker,
            place,
            from,
            len,
            whole: range.is_none(),
            got: 0,
            step: 0,
            step_at: self.now,
            began: false,
            since: self.now,
            ttfb_us,
            rate_bps: ((sender.viewer.cdn_bps as f64 * spread / slowness) as u64).max(100_000),
            fails,
            reason: if is_warm_up { Reason::WarmUp } else { reason },
        });
        self.metrics.cdn_requests += u64::from(self.metrics.is_measured(self.now));
        self.queue
            .push(self.now + ttfb_us, Event::FetchStep { node, fetch: id });
    }

    /// A part of a body is there; the next one takes its turn on the viewer's links.
    pub(super) fn fetch_step(&mut self, node: u32, fetch: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(index) = live.fetches.iter().position(|f| f.id == fetch) else {
            return;
        };
        let current = &mut live.fetches[index];
        if current.fails {
            let failed = live.fetches.remove(index);
            live.failed_at = now;
            return self.end_fetch(node, &failed, FetchOutcome::Failed);
        }
        current.began = true;
        let step = std::mem::take(&mut current.step);
        current.got += step;
        current.step_at = now;
        let copy = *current;
        if step > 0 {
            let bytes = u64::from(step);
            self.metrics.on_cdn(now, bytes, copy.place, copy.reason);
            if self.nodes[node as usize].viewer.cheat == Cheat::Honest {
                self.metrics.on_cdn_honest(now, bytes);
            }
            self.report_body(node, &copy, step);
            if let Asker::Player(request) = copy.asker {
                self.segment_progresses(node, request, (copy.got.into(), copy.len.into()));
            }
        }
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(index) = live.fetches.iter().position(|f| f.id == fetch) else {
            return;
        };
        if copy.got >= copy.len {
            let done = live.fetches.remove(index);
            return self.end_fetch(node, &done, FetchOutcome::Verified);
        }
        let longest = if copy.whole && self.options.grain_s == 0.0 {
            (copy.len / STEPS_MAX).max(STEP_LEN)
        } else {
            STEP_LEN
        };
        let step = longest.min(copy.len - copy.got);
        live.fetches[index].step = step;
        let bits = u64::from(step) * 8_000_000;
        live.cdn_free = live.cdn_free.max(now) + bits / copy.rate_bps;
        let cdn_free = live.cdn_free;
        let house = self.house_of(node);
        house.down_free = house.down_free.max(now) + bits / house.down_bps.max(1);
        let at = cdn_free.max(house.down_free);
        self.queue.push(at, Event::FetchStep { node, fetch });
    }

    /// Tells the core of the pieces that the last step has completed.
    fn report_body(&mut self, node: u32, fetch: &Fetching, step: u32) {
        let Asker::Core(id) = fetch.asker else { return };
        let source = Source::Cdn(id);
        let segment = self.catalog.segment(fetch.place);
        let (content, record) = (segment.content, segment.record.clone());
        if fetch.got == step {
            if let Some(live) = &mut self.nodes[node as usize].live {
                live.store_record(content.id);
            }
            let record = &record;
            self.input(node, Input::Record { source, record });
        }
        let first = fetch.from.div_ceil(content.piece_len);
        let end = fetch.from + fetch.got;
        let count = content.len.div_ceil(content.piece_len);
        let last = if end >= content.len {
            count
        } else {
            end / content.piece_len
        };
        let arrived = pieces_below(last) & !pieces_below(first) & all_pieces(&content);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(stored) = live.entry(content.id) else {
            return;
        };
        let bits = arrived & !stored.bits;
        stored.bits |= bits;
        if bits == 0 {
            return;
        }
        let seq = fetch.place.seq();
        if bits >> probe_of(seq, count) & 1 != 0 {
            stored.hop = 0;
            let published = (seq + 1) * self.options.segment_us();
            let delay_us = self.now.saturating_sub(published);
            self.metrics.on_hop(self.now, 0, delay_us);
        }
        self.on_stored(node, fetch.place);
        let segment = content.id;
        self.input(
            node,
            Input::Pieces {
                source,
                segment,
                bits,
            },
        );
    }

    pub(super) fn cancel_fetch(&mut self, node: u32, id: FetchId) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.fetches.retain(|fetch| fetch.asker != Asker::Core(id));
    }

    fn end_fetch(&mut self, node: u32, fetch: &Fetching, outcome: FetchOutcome) {
        let total_us = self.now - fetch.since;
        match fetch.asker {
            Asker::Core(id) => self.input(
                node,
                Input::FetchDone {
                    fetch: id,
                    outcome,
                    bytes: fetch.got,
                    ttfb_ms: (fetch.ttfb_us / 1000) as u32,
                    total_ms: (total_us / 1000) as u32,
                },
            ),
            Asker::Player(request) if outcome == FetchOutcome::Failed => {
                self.fetch_for_player(node, request, fetch.place);
            }
            Asker::Player(request) => {
                let body_us = (total_us - fetch.ttfb_us).max(1);
                let bps = u64::from(fetch.len) * 8_000_000 / body_us;
                self.segment_arrives(node, request, bps);
            }
        }
    }
}
