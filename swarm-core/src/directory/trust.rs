//! Who is believed: viewers whom others have caught sending bad bytes, and viewers that accuse
//! everybody because they can verify nothing (their page has another key than the stream).

use alloc::{boxed::Box, vec::Vec};

use super::{Directory, io::Action, slab::Key};
use crate::{id::PeerId, time::Instant};

/// So many different viewers must accuse one, however few there are.
const ACCUSERS_MIN: usize = 2;
/// Accusations of one viewer that are remembered, the latest.
const COMPLAINTS_MAX: usize = 32;

/// What is left of an address of IPv6 when one is to stand for all that its holder has: providers give a
/// household a /56, companies and tunnels a /48. Addresses of IPv4 are below.
const HOLDER_V6: u128 = !0 << 80;

/// Who has caught a viewer sending bad bytes.
#[derive(Clone, Copy, Debug)]
struct Accuser {
    peer: PeerId,
    /// Whose accusations count as one; 0: this one's alone.
    holder: u128,
}

/// What accusations say of a viewer. Nearly all viewers have none.
#[derive(Debug, Default)]
pub(super) struct Trust(Option<Box<Record>>);

#[derive(Debug, Default)]
struct Record {
    /// Who has caught it sending bad bytes, each holder of addresses once.
    accusers: Vec<Accuser>,
    /// Whom it has accused.
    complaints: Vec<PeerId>,
    shunned: bool,
    /// Until when it counts as one that accuses without reason.
    at_fault_until: Option<Instant>,
}

impl Trust {
    /// Whether others may be introduced to it.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        let Some(record) = &self.0 else {
            return true;
        };
        !record.shunned && record.at_fault_until.is_none_or(|until| until <= now)
    }

    fn is_at_fault(&self, now: Instant) -> bool {
        let until = self.0.as_ref().and_then(|record| record.at_fault_until);
        until.is_some_and(|until| until > now)
    }

    /// Somebody new has caught it sending bad bytes. Whether that is the last straw: as many as
    /// `accusers_max` have, or, where fewer could, most of those who were linked with it. Their own
    /// pairs with it are over; `linked` others are not.
    fn on_accused(&mut self, by: Accuser, linked: usize, accusers_max: u8) -> bool {
        let record = self.0.get_or_insert_default();
        if record.shunned {
            return false;
        }
        record.accusers.push(by);
        let count = record.accusers.len();
        let most = ((linked + count) / 2 + 1).max(ACCUSERS_MIN);
        record.shunned = count >= usize::from(accusers_max).min(most);
        record.shunned
    }

    fn on_complained(&mut self, whom: PeerId) {
        let complaints = &mut self.0.get_or_insert_default().complaints;
        complaints.retain(|known| *known != whom);
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.remove(0);
        }
        complaints.push(whom);
    }

    fn complaints(&self) -> &[PeerId] {
        self.0.as_ref().map_or(&[], |record| &record.complaints)
    }

    fn accusers(&self) -> &[Accuser] {
        self.0.as_ref().map_or(&[], |record| &record.accusers)
    }

    /// Whom it has accused, without reason as is known by now.
    fn on_fault(&mut self, until: Instant) -> Vec<PeerId> {
        let record = self.0.get_or_insert_default();
        record.at_fault_until = Some(until);
        core::mem::take(&mut record.complaints)
    }

    /// An accuser is not believed any more. Whether that clears the accused.
    fn on_withdrawn(&mut self, by: PeerId) -> bool {
        let Some(record) = &mut self.0 else {
            return false;
        };
        record.accusers.retain(|accuser| accuser.peer != by);
        let cleared = record.shunned && record.accusers.len() < ACCUSERS_MIN;
        record.shunned &= !cleared;
        cleared
    }
}

impl Accuser {
    fn is_same(self, other: Self) -> bool {
        self.peer == other.peer || self.holder != 0 && self.holder == other.holder
    }
}

/// Who an address belongs to, as far as it shows.
const fn holder_of(address: u128) -> u128 {
    match address & HOLDER_V6 {
        0 => address,
        prefix => prefix,
    }
}

impl Directory {
    /// A viewer has caught another one, with which it was linked, sending bad bytes.
    pub(super) fn on_accusation(&mut self, accuser: Key, accused: Key) {
        let now = self.now;
        let accusers_max = self.policy.accusers_max;
        let (Some(v), Some(w)) = (self.viewers.get(accuser), self.viewers.get(accused)) else {
            return;
        };
        let (peer, whom) = (v.peer, w.peer);
        if v.trust.is_at_fault(now) {
            return;
        }
        let linked = w.meetings.count_up();
        let (from, at) = (holder_of(v.network.address), holder_of(w.network.address));
        // Of those who share its address each counts: they have nobody else, and harm nobody else.
        let holder = if from == at { 0 } else { from };
        let by = Accuser { peer, holder };
        let is_news = !w.trust.accusers().iter().any(|known| known.is_same(by));
        let counts = is_news && (holder == 0 || self.may_accuse(holder));
        let w = self.viewers.get_mut(accused);
        let shunned = counts && w.is_some_and(|w| w.trust.on_accused(by, linked, accusers_max));
        if shunned {
            self.stats.shunned += 1;
            self.part_from_all(accused, |conn, peer| Action::Shun { conn, peer });
        }
        if let Some(v) = self.viewers.get_mut(accuser) {
            v.trust.on_complained(whom);
        }
        if self.count_unshared(accuser) >= usize::from(self.policy.complaints_max) {
            self.on_fault(accuser);
        }
    }

    /// Takes one of the accusations that whoever holds these addresses may make.
    fn may_accuse(&mut self, holder: u128) -> bool {
        let (rate, now) = (self.policy.accusations(), self.now);
        let held = self.accusations.hold(holder, rate, now);
        let taken = self.accusations.lease(held, rate, now);
        self.accusations.release(held, 0, rate);
        taken > 0
    }

    /// How many of those that a viewer accuses nobody else does who has verified anything: who has
    /// the wrong key finds all bytes bad, and is not alone with it where a page has it.
    fn count_unshared(&self, accuser: Key) -> usize {
        let Some(v) = self.viewers.get(accuser) else {
            return 0;
        };
        let own = holder_of(v.network.address);
        let is_proven = |peer: &PeerId| {
            let viewer = self.names.get(peer).and_then(|key| self.viewers.get(*key));
            viewer.is_some_and(|viewer| viewer.totals.bytes_p2p > 0)
        };
        let is_unshared = |whom: &&PeerId| {
            let accused = self.names.get(whom).and_then(|key| self.viewers.get(*key));
            accused.is_some_and(|accused| {
                let is_other = |by: &&Accuser| by.peer != v.peer && (own == 0 || by.holder != own);
                let mut others = accused.trust.accusers().iter().filter(is_other);
                !others.any(|by| is_proven(&by.peer))
            })
        };
        v.trust.complaints().iter().filter(is_unshared).count()
    }

    /// It is the accuser that is at fault: it is introduced to nobody for a while, and what it said
    /// is forgotten.
    fn on_fault(&mut self, accuser: Key) {
        let until = self.now.plus_ms(u64::from(self.policy.complaints_pause_ms));
        let Some(v) = self.viewers.get_mut(accuser) else {
            return;
        };
        let by = v.peer;
        self.stats.false_accusers += 1;
        for whom in v.trust.on_fault(until) {
            let Some(key) = self.names.get(&whom).copied() else {
                continue;
            };
            let accused = self.viewers.get_mut(key);
            if accused.is_some_and(|accused| accused.trust.on_withdrawn(by)) {
                self.fill_viewer(key);
            }
        }
    }
}
