//! The driver of one viewer's machine: inputs in, actions carried out.

use swarm_core::{
    id::Slot,
    peer::{Action, Event as Fact, Input, Outbox, Payload, Span},
    time::Instant,
};

use super::{Event, World, catalog::all_pieces, network::falsify};
use crate::{measure::Reason, population::Cheat};

/// Kind byte of a claim: a fetch that follows one is for the group.
const CLAIM: u8 = 0x05;
/// Timers of tabs that are not shown fire at multiples of this.
const HIDDEN_US: u64 = 1_000_000;
/// One have-map in so many is compared with the store.
const AUDIT_EVERY: u64 = 64;

/// What one outbox tells of the fetches in it.
#[derive(Default)]
struct Context {
    claimed: bool,
    backstop: bool,
    /// The frame written last, and where it was in the outbox: broadcasts share it.
    frame: Option<(Span, u32)>,
}

impl World {
    /// One input for a viewer's machine; then everything it wants is done.
    pub(super) fn input(&mut self, node: u32, input: Input<'_>) {
        let now = Instant::from_micros(self.now);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let mut out = std::mem::take(&mut self.out);
        live.peer.handle(now, input, &mut out);
        self.schedule_wake(node);
        self.carry_out(node, &out);
        out.clear();
        self.out = out;
    }

    fn schedule_wake(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(wakeup) = live.peer.next_wakeup() else {
            live.wake = 0;
            return;
        };
        let mut at = wakeup.at.as_micros();
        if at <= now {
            self.metrics.on_problem(now, || {
                format!("viewer {node} wants to wake in the past: {wakeup:?}")
            });
            at = now + 1000;
        }
        if self.nodes[node as usize].viewer.hidden {
            at = at.next_multiple_of(HIDDEN_US);
        }
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        // A timer that fires too early costs one empty call; one that is set anew, an event.
        if live.wake == 0 || live.wake <= now || at < live.wake {
            live.wake = at;
            self.queue.push(at, Event::Wake { node });
        }
    }

    pub(super) fn wake(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if live.wake != now {
            return;
        }
        live.wake = 0;
        match live.peer.next_wakeup() {
            Some(wakeup) if wakeup.at.as_micros() > now => self.schedule_wake(node),
            Some(_) => self.input(node, Input::Tick),
            None => {}
        }
    }

    fn carry_out(&mut self, node: u32, out: &Outbox) {
        let mut context = Context::default();
        for action in out.actions() {
            self.act(node, action, out, &mut context);
        }
    }

    fn act(&mut self, node: u32, action: &Action, out: &Outbox, context: &mut Context) {
        match action {
            Action::FetchCdn { fetch, name, range } => {
                let reason = match context {
                    Context { backstop: true, .. } => Reason::Backstop,
                    Context { claimed: true, .. } => Reason::Seed,
                    _ => Reason::Alone,
                };
                self.fetch_for_core(node, *fetch, *name, *range, reason);
            }
            Action::CancelFetch(fetch) => self.cancel_fetch(node, *fetch),
            Action::Deliver {
                request,
                payload,
                reported_bps,
            } => {
                if let Payload::Segment(id) = payload {
                    self.check_delivery(node, *id);
                }
                self.segment_arrives(node, *request, *reported_bps);
            }
            Action::Bypass(request) => self.bypass(node, *request),
            Action::Fail { request, .. } => self.bypass(node, *request),
            Action::Connect { slot, peer, .. } => self.connect(node, *slot, *peer),
            Action::Close { slot, .. } => self.close_link(node, *slot),
            Action::SendFrame { slot, frame } => self.act_frame(node, *slot, frame, out, context),
            Action::SendRecord { slot, segment } => self.send_record(node, *slot, *segment),
            Action::SendPiece {
                slot,
                segment,
                piece,
            } => self.send_piece(node, *slot, *segment, *piece),
            Action::TrackerConnect => self.tracker_connect(node),
            Action::SendTracker(span) => self.send_tracker(node, out.bytes(span)),
            Action::Evict(id) => {
                if let Some(live) = &mut self.nodes[node as usize].live {
                    live.store.retain(|stored| stored.id != *id);
                }
            }
            Action::Emit(Fact::Backstop { .. }) => context.backstop = true,
            Action::TrackerClose | Action::Signal { .. } | Action::UseStun(_) | Action::Emit(_) => {
            }
        }
    }

    fn act_frame(
        &mut self,
        node: u32,
        slot: Slot,
        span: &Span,
        out: &Outbox,
        context: &mut Context,
    ) {
        let bytes = out.bytes(span);
        if bytes.first() == Some(&CLAIM) {
            context.claimed = true;
            context.backstop = false;
        }
        let frame = match &context.frame {
            Some((old, frame)) if old == span => {
                self.frames.add_reader(*frame);
                *frame
            }
            _ => {
                let forged = match self.nodes[node as usize].viewer.cheat {
                    Cheat::FalseHaves => falsify(bytes),
                    _ => None,
                };
                self.audit_haves(node, bytes);
                let frame = self.frames.add(forged.as_deref().unwrap_or(bytes), 1);
                context.frame = Some((span.clone(), frame));
                frame
            }
        };
        if !self.send_frame(node, slot, frame) {
            // Nobody reads it: the link has gone meanwhile.
            let bytes = self.frames.take(frame);
            self.frames.put_back(frame, bytes);
            context.frame = None;
        }
    }

    /// Compares now and then what a viewer says it has with what it has.
    fn audit_haves(&mut self, node: u32, bytes: &[u8]) {
        use swarm_core::wire::peer::PeerMsg;
        if !self.events.is_multiple_of(AUDIT_EVERY) {
            return;
        }
        let now = self.now;
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        match PeerMsg::decode(bytes) {
            Ok(PeerMsg::Have(entries)) => {
                for entry in entries {
                    if entry.bits & !live.stored(entry.segment) != 0 {
                        self.metrics
                            .on_problem(now, || format!("viewer {node} announces what it has not"));
                    }
                }
            }
            Ok(_) => {}
            Err(error) => {
                self.metrics.on_problem(now, || {
                    format!("viewer {node} sends a malformed message: {error}")
                });
            }
        }
    }

    /// What is handed to a player is whole, and equals the origin's.
    fn check_delivery(&mut self, node: u32, id: swarm_core::id::SegmentId) {
        let now = self.now;
        let content = self
            .catalog
            .place_of(id)
            .map(|place| self.catalog.content(place));
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let whole = content.is_some_and(|content| live.stored(id) == all_pieces(&content));
        if !whole {
            self.metrics.bad_pieces_played += 1;
            self.metrics
                .on_problem(now, || format!("viewer {node} plays what is not verified"));
        }
    }
}
