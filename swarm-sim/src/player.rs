//! A player: asks for one segment after the other, plays at a fixed latency, stalls when it must.

/// The player gives up its place for the live edge when it has fallen behind by as many segments.
const BEHIND_MAX: u64 = 3;
/// Most that is buffered ahead, in microseconds.
const BUFFER_US_MAX: u64 = 30_000_000;
/// What must be there before playing starts, at most, in microseconds.
const START_US_MAX: u64 = 1_000_000;

/// All times in microseconds of the simulation; media time is the time at which it was captured.
#[derive(Clone, Debug)]
pub(crate) struct Player {
    segment_us: u64,
    latency_us: u64,
    /// Media that it takes at a time while a segment arrives; 0 if it takes whole segments.
    grain_us: u64,
    /// Where the playhead was, and when.
    position: u64,
    position_at: u64,
    /// End of what is buffered.
    end: u64,
    playing: bool,
    started: bool,
    stalled_at: Option<u64>,
    /// When the last stall was over.
    resumed_at: u64,
    pub(crate) next_seq: Option<u64>,
    pub(crate) startup_us: Option<u64>,
    pub(crate) stalls: u32,
    pub(crate) stalled_us: u64,
    pub(crate) played_us: u64,
    pub(crate) skipped: u32,
    joined_at: u64,
}

impl Player {
    pub(crate) fn new(now: u64, segment_us: u64, latency_us: u64, grain_us: u64) -> Self {
        Self {
            segment_us,
            latency_us,
            grain_us,
            position: 0,
            position_at: now,
            end: 0,
            playing: false,
            started: false,
            stalled_at: None,
            resumed_at: 0,
            next_seq: None,
            startup_us: None,
            stalls: 0,
            stalled_us: 0,
            played_us: 0,
            skipped: 0,
            joined_at: now,
        }
    }

    /// Chooses where to begin once the playlist is there.
    pub(crate) fn tune_in(&mut self, now: u64) {
        if self.next_seq.is_none() {
            self.next_seq = Some((now - self.latency_us) / self.segment_us);
        }
    }

    /// The segment to ask for, if there is room and the playlist has it.
    pub(crate) fn wants(&self, listed: u64) -> Option<u64> {
        let room = self.end.saturating_sub(self.position) < BUFFER_US_MAX;
        self.next_seq.filter(|seq| *seq <= listed && room)
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, now: u64) {
        let passed = now.saturating_sub(self.position_at);
        let from = std::mem::replace(&mut self.position_at, now);
        if !self.playing {
            if self.stalled_at.is_some() {
                self.stalled_us += passed;
            }
            return;
        }
        let left = self.end.saturating_sub(self.position);
        let played = passed.min(left);
        self.position += played;
        self.played_us += played;
        if passed > left {
            self.playing = false;
            self.stalled_at = Some(from + left);
            self.stalls += 1;
            self.stalled_us += passed - left;
        }
    }

    /// As much of a segment is there, from its beginning: `part` of `whole` bytes.
    pub(crate) fn on_progress(&mut self, now: u64, seq: u64, (part, whole): (u64, u64)) {
        self.advance(now);
        let media_us = self.segment_us * part / whole.max(1);
        let media_us = media_us / self.grain_us.max(1) * self.grain_us;
        let start = seq * self.segment_us;
        if self.next_seq != Some(seq) || start + media_us <= self.end {
            return;
        }
        if self.end < start && self.started && self.stalled_at.is_some() {
            self.position = self.position.max(start);
        }
        self.end = start + media_us;
        if !self.started && self.position == 0 {
            self.position = start;
        }
        if !self.started {
            self.position = self.position.max((now - self.latency_us).min(self.end));
        }
        let enough = self.segment_us.min(START_US_MAX);
        if !self.playing && self.end - self.position >= enough {
            self.playing = true;
            if !std::mem::replace(&mut self.started, true) {
                self.startup_us = Some(now - self.joined_at);
            }
            self.resume(now);
        }
    }

    /// Whether it plays segments while they arrive.
    pub(crate) const fn is_progressive(&self) -> bool {
        self.grain_us > 0
    }

    /// A segment is there.
    pub(crate) fn on_segment(&mut self, now: u64, seq: u64) {
        self.advance(now);
        let start = seq * self.segment_us;
        let follows = self.position != 0 && self.end == start;
        self.end = start + self.segment_us;
        self.next_seq = Some(seq + 1);
        if !self.started {
            let behind = now.saturating_sub(self.end + self.latency_us);
            let is_patient = now - self.joined_at < self.latency_us;
            if behind > 0 && (is_patient || behind > BEHIND_MAX * self.segment_us) {
                // It came after its time: playing begins elsewhere.
                let live = (now - self.latency_us) / self.segment_us;
                (self.position, self.next_seq) = (self.end, Some(live.max(seq + 1)));
                return;
            }
            if !follows {
                self.position = start;
            }
            // Who has waited for long plays what comes as late as it is, as after a stall.
            if behind == 0 {
                self.position = self.position.max(now - self.latency_us);
            }
            let enough = self.segment_us.min(START_US_MAX);
            if self.end - self.position >= enough {
                self.started = true;
                self.playing = true;
                self.startup_us = Some(now - self.joined_at);
            }
            return;
        }
        if self.stalled_at.is_some() {
            let behind = now.saturating_sub(self.position);
            if behind > self.latency_us + BEHIND_MAX * self.segment_us {
                let live = (now - self.latency_us) / self.segment_us;
                if live > seq + 1 {
                    self.skipped += (live - seq - 1) as u32;
                    self.next_seq = Some(live);
                    self.position = live * self.segment_us;
                    self.end = self.position;
                    return;
                }
            }
            self.position = self.position.max(start.min(self.end));
            self.resume(now);
            self.playing = true;
        }
    }

    fn resume(&mut self, now: u64) {
        if self.stalled_at.take().is_some() {
            self.resumed_at = now;
        }
    }

    /// Whether it has played without a stall for so long.
    pub(crate) fn is_calm(&self, now: u64, for_us: u64) -> bool {
        self.started && self.stalled_at.is_none() && self.resumed_at + for_us <= now
    }

    /// Stops for good: what is not played by then is not missed.
    pub(crate) fn stop(&mut self, now: u64) {
        self.advance(now);
        self.playing = false;
        self.stalled_at = None;
    }

    pub(crate) fn buffer_us(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_at.is_some()
    }

    /// How far the playhead is behind what is happening, once it plays.
    pub(crate) fn latency_us(&self, now: u64) -> Option<u64> {
        self.started.then(|| now.saturating_sub(self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn it_starts_at_its_latency_and_stalls_when_the_buffer_is_empty() {
        let mut player = Player::new(100 * S, 4 * S, 10 * S, 0);
        player.tune_in(100 * S);
        assert_eq!(player.wants(23), Some(22));
        player.on_segment(101 * S, 22);
        assert_eq!((player.startup_us, player.buffer_us()), (Some(S), S));
        player.advance(103 * S);
        assert_eq!(
            (player.stalls, player.stalled_us, player.played_us),
            (1, S, S)
        );
        player.on_segment(104 * S, 23);
        assert_eq!((player.stalled_us, player.is_stalled()), (2 * S, false));
        assert_eq!(player.latency_us(104 * S), Some(12 * S));
        assert!(!player.is_calm(105 * S, 2 * S) && player.is_calm(106 * S, 2 * S));
        assert_eq!(player.wants(23), None);
    }

    #[test]
    fn it_plays_whole_grains_of_a_segment_that_arrives() {
        let mut player = Player::new(100 * S, 4 * S, 6 * S, S / 2);
        player.tune_in(100 * S);
        assert_eq!(player.wants(23), Some(23), "it begins 2 s into the segment");
        player.on_progress(100 * S, 23, (62, 100));
        assert_eq!((player.startup_us, player.buffer_us()), (None, 0));
        player.on_progress(101 * S, 23, (99, 100));
        assert_eq!((player.startup_us, player.buffer_us()), (None, S / 2));
        player.on_segment(101 * S, 23);
        assert_eq!((player.startup_us, player.buffer_us()), (Some(S), S));
        player.on_progress(102 * S, 24, (24, 100));
        player.advance(104 * S);
        assert_eq!((player.stalls, player.played_us), (1, S + S / 2));
        player.on_progress(104 * S, 24, (40, 100));
        assert!(!player.is_stalled(), "a second is there again");
        assert_eq!(player.wants(24), Some(24), "the rest is still to come");
    }

    #[test]
    fn it_begins_elsewhere_when_the_first_segment_is_late_and_after_a_while_with_what_there_is() {
        let mut player = Player::new(100 * S, 4 * S, 10 * S, 0);
        player.tune_in(100 * S);
        player.on_segment(103 * S, 22);
        assert_eq!((player.startup_us, player.next_seq), (None, Some(23)));
        player.on_segment(111 * S, 23);
        assert_eq!(player.startup_us, Some(11 * S), "it has waited for long");
        assert_eq!(player.latency_us(111 * S), Some(19 * S));

        let mut player = Player::new(100 * S, 4 * S, 10 * S, 0);
        player.tune_in(100 * S);
        player.on_segment(125 * S, 22);
        assert_eq!((player.startup_us, player.next_seq), (None, Some(28)));
    }

    #[test]
    fn it_goes_back_to_the_live_edge_when_it_is_far_behind() {
        let mut player = Player::new(100 * S, 4 * S, 10 * S, 0);
        player.tune_in(100 * S);
        player.on_segment(100 * S, 22);
        player.advance(140 * S);
        player.on_segment(140 * S, 23);
        assert_eq!(player.next_seq, Some(32));
        assert!(player.skipped > 0 && player.is_stalled());
        player.on_segment(141 * S, 32);
        assert!(!player.is_stalled());
    }
}
