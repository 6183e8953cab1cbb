//! The driver of one viewer's machine: inputs in, actions carried out.

use swarm_core::{
    id::Slot,
    peer::{Action, Event as Fact, Input, Outbox, Span},
    time::Instant,
};

use super::{event::Event, letters::number, network::falsify, node::NEVER, part::Part};
use crate::{measure::Reason, population::Cheat};

/// Kind byte of a claim: a fetch that follows one is for the group.
const CLAIM: u8 = 0x05;
/// Timers of tabs that are not shown fire at multiples of this.
const HIDDEN_US: u64 = 1_000_000;

/// What one outbox tells of the fetches in it.
#[derive(Default)]
struct Context {
    claimed: bool,
    backstop: bool,
    /// The message written last: broadcasts share it.
    span: Option<Span>,
    forged: Option<Vec<u8>>,
    /// Where it is kept, once it was sent within this part.
    shared: Option<u32>,
}

impl Part {
    /// One input for a viewer's machine; then everything it wants is done.
    pub(super) fn input(&mut self, node: u32, input: Input<'_>) {
        let now = Instant::from_micros(self.now);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if self.trace.follows(number(self.index, node)) {
            let viewer = number(self.index, node);
            self.trace.add(viewer, self.now, &input, &self.catalog);
        }
        let mut out = std::mem::take(&mut self.out);
        live.peer.handle(now, input, &mut out);
        let wakeup = live.peer.next_wakeup();
        live.wakes.wanted = wakeup.map_or(NEVER, |wakeup| wakeup.at.as_micros());
        self.schedule_wake(node);
        if !out.actions().is_empty() {
            let mut context = Context::default();
            for action in out.actions() {
                self.act(node, action, &out, &mut context);
            }
            out.clear();
        }
        self.out = out;
        if self.audit_every() == 1 {
            self.check_waiting(node);
        }
    }

    fn schedule_wake(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let wanted = live.wakes.wanted;
        if wanted == NEVER {
            return;
        }
        let is_past = wanted <= now;
        let mut at = if is_past { now + 1000 } else { wanted };
        if live.hidden {
            at = at.next_multiple_of(HIDDEN_US);
        }
        // A timer that fires too early costs next to nothing; one that is set anew, an event.
        if live.wakes.set(at) {
            self.queue.push(at, Event::Wake { node });
        }
        if is_past {
            self.metrics.on_problem(now, || {
                format!("viewer {node} wants to wake in the past: at {wanted} us")
            });
        }
    }

    pub(super) fn wake(&mut self, node: u32) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.wakes.fire();
        if live.wakes.wanted > now {
            self.schedule_wake(node);
        } else {
            self.input(node, Input::Tick);
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
                self.check_quotas(node);
            }
            Action::CancelFetch(fetch) => self.cancel_fetch(node, *fetch),
            Action::Release {
                request,
                segment,
                pieces,
            } => {
                self.check_release(node, *request, *segment, *pieces);
                self.pieces_arrive(node, *request, *segment, *pieces);
            }
            Action::Deliver {
                request,
                payload,
                reported_bps,
            } => {
                self.check_delivery(node, *request, payload);
                self.segment_arrives(node, *request, *reported_bps);
            }
            Action::Bypass(request) => self.bypass(node, *request),
            Action::Fail { request, .. } => self.bypass(node, *request),
            Action::Connect {
                slot, peer, offer, ..
            } => self.connect(node, *slot, *peer, *offer),
            Action::Close { slot, .. } => self.close_link(node, *slot),
            Action::SendFrame { slot, frame } => self.act_frame(node, *slot, frame, out, context),
            Action::SendRecord { slot, segment } => self.send_record(node, *slot, *segment),
            Action::SendPiece {
                slot,
                segment,
                piece,
            } => self.send_piece(node, *slot, *segment, *piece),
            Action::TrackerConnect => self.tracker_connect(node),
            Action::TrackerClose => self.tracker_close(node),
            Action::SendTracker(span) => self.send_tracker(node, out.bytes(span)),
            Action::Evict(id) => {
                if let Some(live) = &mut self.nodes[node as usize].live {
                    live.store.retain(|stored| stored.id != *id);
                }
            }
            Action::Emit(Fact::Backstop { .. }) => context.backstop = true,
            Action::Signal { .. }
            | Action::UseStun(_)
            | Action::UseRelays { .. }
            | Action::UseTracker(_)
            | Action::Emit(_) => {}
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
        if context.span.as_ref() != Some(span) {
            context.span = Some(span.clone());
            context.shared = None;
            context.forged = match self.cheat(node) {
                Cheat::FalseHaves => falsify(bytes),
                _ => None,
            };
            self.check_frame(node, bytes);
        }
        let bytes = context.forged.as_deref().unwrap_or(bytes);
        self.send_frame(node, slot, bytes, &mut context.shared);
    }
}
