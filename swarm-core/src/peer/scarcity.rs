//! When the CDN brings less than is played, because many ask for the same bytes over the same line: an office whose
//! staff all open the stream at once. Then a group divides even what its players wait for.

use super::{
    Peer,
    io::{Action, Outbox},
    segment::Segment,
};

/// A fetch for the player is judged when it has taken as long as the segment plays, and this.
const JUDGED_MS_MIN: u64 = 2000;
/// The CDN is not scarce any more when it gives so much of what is played.
const PLENTY_PERCENT: u64 = 150;

/// How long after it was made a fetch for the player is judged.
pub(super) fn judged_after_ms(segment: &Segment) -> u64 {
    JUDGED_MS_MIN.max(segment.duration_ms.into())
}

impl Peer {
    /// Whether the group divides what its players wait for.
    pub(super) fn is_scarce(&self) -> bool {
        self.player.scarce && self.neighbours.ready_slots() != 0
    }

    /// Gives up what the player waits for if it has taken as long as it plays, not half of it has come, and
    /// neighbours do not hold the rest: they wait for the same bytes. From now on each brings a part.
    pub(super) fn look_for_scarcity(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let ours = |f: &&super::transfers::Fetch| f.name == segment.name && !f.seeding;
        let Some(since) = self.fetches.iter().filter(ours).map(|f| f.since).min() else {
            return;
        };
        let is_judged = since.plus_ms(judged_after_ms(segment)) <= self.now;
        if !is_judged || !segment.is_known() || self.neighbours.ready_slots() == 0 {
            return;
        }
        let missing = segment.full() & !segment.have;
        if missing.count_ones() * 2 <= segment.full().count_ones() {
            return;
        }
        let masks = self.neighbours.masks(segment.track());
        let row = segment.id().and_then(|id| self.remotes.row(id));
        let [offered] = row.map_or([0], |row| row.held_by([masks.seeding | masks.giving]));
        if missing & !offered == 0 {
            return;
        }
        (self.player.scarce, self.player.careful) = (true, false);
        self.cancel_fetches(index, out);
        // The order of seeders begins anew.
        let segment = &mut self.segments[index];
        (segment.known_at, segment.fresh) = (self.now, true);
        segment.work_mut().began_ms = None;
        self.touch_all();
    }

    /// A fetch is done: whether the CDN keeps up again with what is played.
    pub(super) fn look_for_plenty(&mut self, index: usize) {
        let track = self.segments[index].track();
        let played_bps = track.map_or(0, |track| self.bitrate_bps(track));
        if self.player.scarce && self.estimate.cdn_bps() >= played_bps * PLENTY_PERCENT / 100 {
            (self.player.scarce, self.player.caught_up) = (false, true);
            self.touch_all();
        }
    }

    /// Neighbours bring what is being fetched: it is not needed from the CDN.
    pub(super) fn cancel_fetches(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let (now, name) = (self.now, segment.name);
        let beside = u64::from(segment.bytes_p2p);
        for fetch in self.fetches.extract_if(.., |fetch| fetch.name == name) {
            out.push(Action::CancelFetch(fetch.id));
            let bytes = u64::from(fetch.brought);
            self.stats.bytes_cdn += bytes;
            if fetch.whole {
                let total_ms = now.ms_since(fetch.since);
                self.estimate.on_cancelled(bytes + beside, total_ms);
            }
        }
    }
}
