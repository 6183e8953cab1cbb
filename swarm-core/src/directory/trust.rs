//! Who is believed: viewers whom others have caught sending bad bytes, and viewers that accuse
//! everybody because they can verify nothing (their page has another key than the stream).

use alloc::{boxed::Box, vec::Vec};

use super::{Directory, io::Action, slab::Key};
use crate::{id::PeerId, time::Instant};

/// So many different viewers must accuse one, however few there are.
const ACCUSERS_MIN: usize = 2;
/// Accusations of one viewer that are remembered, the latest.
const COMPLAINTS_MAX: usize = 32;

/// What accusations say of a viewer. Nearly all viewers have none.
#[derive(Debug, Default)]
pub(super) struct Trust(Option<Box<Record>>);

#[derive(Debug, Default)]
struct Record {
    /// Who has caught it sending bad bytes.
    accusers: Vec<PeerId>,
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

    /// Somebody has caught it sending bad bytes. Whether that is the last straw: as many as
    /// `accusers_max` have, or, where fewer could, most of those who were linked with it. Their own
    /// pairs with it are over; `linked` others are not.
    fn on_accused(&mut self, by: PeerId, linked: usize, accusers_max: u8) -> bool {
        let record = self.0.get_or_insert_default();
        if record.shunned || record.accusers.contains(&by) {
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

    fn accusers(&self) -> &[PeerId] {
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
        record.accusers.retain(|accuser| *accuser != by);
        let cleared = record.shunned && record.accusers.len() < ACCUSERS_MIN;
        record.shunned &= !cleared;
        cleared
    }
}

impl Directory {
    /// A viewer has caught another one sending bad bytes.
    pub(super) fn on_accusation(&mut self, accuser: Key, accused: Key) {
        let now = self.now;
        let accusers_max = self.policy.accusers_max;
        let (Some(v), Some(w)) = (self.viewers.get(accuser), self.viewers.get(accused)) else {
            return;
        };
        let (by, whom) = (v.peer, w.peer);
        if v.trust.is_at_fault(now) {
            return;
        }
        let linked = w.meetings.count_up();
        let shunned = self
            .viewers
            .get_mut(accused)
            .is_some_and(|w| w.trust.on_accused(by, linked, accusers_max));
        if shunned {
            self.part_from_all(accused, |conn, peer| Action::Shun { conn, peer });
        }
        if let Some(v) = self.viewers.get_mut(accuser) {
            v.trust.on_complained(whom);
        }
        if self.count_unshared(accuser) >= usize::from(self.policy.complaints_max) {
            self.on_fault(accuser);
        }
    }

    /// How many of those that a viewer accuses nobody else does who has verified anything: who has
    /// the wrong key finds all bytes bad, and is not alone with it where a page has it.
    fn count_unshared(&self, accuser: Key) -> usize {
        let Some(v) = self.viewers.get(accuser) else {
            return 0;
        };
        let is_proven = |peer: &PeerId| {
            let viewer = self.names.get(peer).and_then(|key| self.viewers.get(*key));
            viewer.is_some_and(|viewer| viewer.totals.bytes_p2p > 0)
        };
        let is_unshared = |whom: &&PeerId| {
            let accused = self.names.get(whom).and_then(|key| self.viewers.get(*key));
            accused.is_some_and(|accused| {
                let mut others = accused.trust.accusers().iter().filter(|by| **by != v.peer);
                !others.any(is_proven)
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
