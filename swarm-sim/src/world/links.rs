//! Links between viewers: offers and answers through the tracker, hole punching, breaking.

use swarm_core::{
    id::{PeerId, Slot},
    peer::Input,
};

use super::{
    event::{At, Event, Knock, Reply},
    letters::{local_of, part_of},
    node::{End, Mapping, SlotState},
    part::Part,
    tracker::TRACKER_US,
};
use crate::{
    population::{Contact, delay_us},
    random::between,
};

/// How long a link that cannot be set up keeps trying.
const SETUP_FAILS_US: u64 = 8_000_000;
/// Setting up ICE, DTLS and SCTP takes this long and about four round trips.
const SETUP_US: u64 = 120_000;
const SETUP_DELAYS: (f64, f64) = (6.0, 12.0);
/// How long until the end of a link is noticed.
const CLOSED_US: u64 = 50_000;

/// The viewer of this name.
pub(crate) fn number_of(peer: PeerId) -> u32 {
    (peer.0 - 1) as u32
}

/// The name of a viewer.
pub(crate) fn peer_of(number: u32) -> PeerId {
    PeerId(u64::from(number) + 1)
}

impl Part {
    /// The core wants a link. The one that offers knocks at the other through the tracker.
    pub(super) fn connect(&mut self, node: u32, slot: Slot, peer: PeerId, offer: bool) {
        let from = self.number(node);
        self.links += 1;
        let link = self.links << 4 | self.index;
        let contact = self.nodes[node as usize].viewer.contact.clone();
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.slots[usize::from(slot.0)] = SlotState::Waiting(peer, offer.then_some(link));
        let tracker_us = contact.delay_us + TRACKER_US;
        if live.mapping == Mapping::Unknown {
            // The STUN server is the tracker's.
            live.mapping = Mapping::Asked;
            self.queue
                .push(self.now + 2 * tracker_us, Event::Mapped { node });
        }
        if offer {
            let other = number_of(peer);
            let at = self.now + tracker_us;
            let knock = Box::new(Knock {
                from,
                slot: slot.0,
                link,
                contact,
            });
            let node = local_of(other);
            self.post(other, at, Event::Knock { node, knock });
            return;
        }
        let waiting = |knock: &Knock| peer_of(knock.from) == peer;
        if let Some(index) = live.knocks.iter().rposition(waiting) {
            let knock = live.knocks.swap_remove(index);
            self.answer(node, slot, &knock);
        }
    }

    /// An offer has come. It may overtake the tracker's introduction, and waits for it then.
    pub(super) fn knocked(&mut self, node: u32, knock: Knock) {
        let peer = peer_of(knock.from);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let waits = |state: &SlotState| matches!(state, SlotState::Waiting(p, None) if *p == peer);
        match live.slots.iter().position(waits) {
            Some(slot) => self.answer(node, Slot(slot as u8), &knock),
            None => {
                live.knocks.retain(|old| old.from != knock.from);
                live.knocks.truncate(swarm_core::limits::NEIGHBOURS_MAX);
                live.knocks.push(knock);
            }
        }
    }

    fn answer(&mut self, node: u32, slot: Slot, knock: &Knock) {
        let mine = &self.nodes[node as usize].viewer.contact;
        let delay_us = delay_us(mine, &knock.contact);
        let is_lan = mine.household == knock.contact.household;
        let reachable = mine.reaches(&knock.contact) && !self.is_parted(mine, &knock.contact);
        let delays = between(&mut self.rng, SETUP_DELAYS.0, SETUP_DELAYS.1);
        let wait_us = if reachable {
            SETUP_US + (delays * delay_us as f64) as u64
        } else {
            SETUP_FAILS_US
        };
        let reply = Reply {
            from: self.number(node),
            slot: slot.0,
            delay_us,
            is_lan,
            done_at: self.now + wait_us,
            reachable,
        };
        let back = At {
            node: local_of(knock.from),
            link: knock.link,
            slot: knock.slot,
        };
        let at = self.now + delay_us.max(mine.delay_us + TRACKER_US);
        let boxed = Box::new(reply);
        self.post(
            knock.from,
            at,
            Event::Reply {
                at: back,
                reply: boxed,
            },
        );
        let far = Reply {
            from: knock.from,
            slot: knock.slot,
            ..reply
        };
        self.link(node, slot.0, knock.link, &far);
    }

    /// The answer to an offer.
    pub(super) fn replied(&mut self, at: At, reply: &Reply) {
        let Some(live) = &self.nodes[at.node as usize].live else {
            return;
        };
        match live.slots.get(usize::from(at.slot)) {
            Some(SlotState::Waiting(_, Some(link))) if *link == at.link => {
                self.link(at.node, at.slot, at.link, reply);
            }
            _ => {
                // It was given up meanwhile: the other side hears of it.
                let back = At {
                    node: local_of(reply.from),
                    link: at.link,
                    slot: reply.slot,
                };
                let noticed = self.now + reply.delay_us + CLOSED_US;
                self.post(reply.from, noticed, Event::LinkDown { at: back });
            }
        }
    }

    /// One side's end of a link that will be up, or have failed, at `far.done_at`.
    fn link(&mut self, node: u32, slot: u8, link: u32, far: &Reply) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.slots[usize::from(slot)] = SlotState::Linked(End {
            link,
            node: far.from,
            slot: far.slot,
            up: false,
            is_lan: far.is_lan,
            is_cut: false,
            buffered: 0,
            delay_us: far.delay_us,
            last_arrival: 0,
            busy_until: 0,
        });
        let at = At { node, link, slot };
        let event = if far.reachable {
            Event::LinkUp { at }
        } else {
            Event::LinkDown { at }
        };
        self.queue.push(far.done_at, event);
    }

    pub(super) fn link_up(&mut self, at: At) {
        if let Some(end) = self.end(at) {
            end.up = true;
            self.input(at.node, Input::LinkUp(Slot(at.slot)));
        }
    }

    pub(super) fn link_down(&mut self, at: At) {
        if self.end(at).is_none() {
            return;
        }
        if let Some(live) = &mut self.nodes[at.node as usize].live {
            live.slots[usize::from(at.slot)] = SlotState::Free;
            self.input(at.node, Input::LinkDown(Slot(at.slot)));
        }
    }

    /// This side closes a link; the other notices a little later.
    pub(super) fn close_link(&mut self, node: u32, slot: Slot) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let state = std::mem::replace(&mut live.slots[usize::from(slot.0)], SlotState::Free);
        if let SlotState::Linked(end) = state {
            let at = (self.now + end.delay_us + CLOSED_US).max(end.last_arrival);
            self.post_down(&end, at);
        }
    }

    /// Everybody who was linked with a viewer that vanished notices after `after_us`.
    pub(super) fn break_links(&mut self, slots: &[SlotState], after_us: u64) {
        for state in slots {
            if let SlotState::Linked(end) = state {
                self.post_down(end, self.now + after_us);
            }
        }
    }

    fn post_down(&mut self, end: &End, at: u64) {
        let far = At {
            node: local_of(end.node),
            link: end.link,
            slot: end.slot,
        };
        self.post(end.node, at, Event::LinkDown { at: far });
    }

    /// Whether the network between two viewers is cut.
    pub(super) fn is_parted(&self, one: &Contact, other: &Contact) -> bool {
        let Some((_, _, share)) = self.options.faults.partition else {
            return false;
        };
        let seed = self.options.seed;
        self.parted && one.is_far(seed, share) != other.is_far(seed, share)
    }

    /// The end of a link, if it is still in its slot.
    pub(super) fn end(&mut self, at: At) -> Option<&mut End> {
        let live = self.nodes[at.node as usize].live.as_mut()?;
        match live.slots.get_mut(usize::from(at.slot)) {
            Some(SlotState::Linked(end)) if end.link == at.link => Some(end),
            _ => None,
        }
    }

    /// Whether two numbers are of one part.
    pub(super) fn is_here(&self, number: u32) -> bool {
        part_of(number) == self.index as usize
    }
}
