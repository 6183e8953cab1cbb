//! The knobs of the matchmaking machine.

use super::ration::Rate;

/// Everything that the directory is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Viewers served at the same time; further ones are refused.
    pub viewers_max: u32,
    /// How often viewers report, in milliseconds.
    pub status_interval_ms: u32,
    /// A connected viewer that is not heard for this long is gone, in milliseconds. At least twice
    /// the status interval.
    pub silence_ms_max: u32,
    /// How long a viewer whose connection broke keeps its place, in milliseconds: the time it has
    /// to come back under its name.
    pub linger_ms: u32,
    /// Links inside its group that a viewer is helped to.
    pub links_target: u8,
    /// Links beyond the target that a viewer accepts from newcomers to its group.
    pub links_slack: u8,
    /// Random links to other groups that a newcomer is given; with those that others are given to
    /// it, it has about twice as many.
    pub long_links: u8,
    /// The size that groups grow to freely.
    pub group_target: u8,
    /// The size above which a group splits in two.
    pub group_max: u8,
    /// The size below which a group's members look for another one.
    pub group_thin: u8,
    /// As many viewers of one place that sit in groups of a wider area get a group of their own.
    pub group_condense: u8,
    /// How much a group above its target grows in one growth window, in percent.
    pub growth_percent: u8,
    /// The growth window, in milliseconds: about a segment.
    pub growth_window_ms: u32,
    /// How long a group may be thin before its members look elsewhere, in milliseconds.
    pub merge_after_ms: u32,
    /// How long departures are gathered before a group is refilled, in milliseconds.
    pub refill_after_ms: u32,
    /// How long the links of an old track are kept at most, in milliseconds.
    pub release_after_ms: u32,
    /// How long a pair may take to link before it counts as failed, in milliseconds.
    pub pending_ms_max: u32,
    /// How long a pair that could not be linked is kept apart, in milliseconds: as long as anybody
    /// watches. It ends where one of the two comes back with another network.
    pub failed_pair_ms: u32,
    /// How long a pair of which nothing was heard is kept apart, in milliseconds.
    pub unheard_pair_ms: u32,
    /// How long a pair whose link broke is kept apart, in milliseconds.
    pub lost_pair_ms: u32,
    /// How long a pair is kept apart after one accused the other of misbehaving, in milliseconds.
    pub misbehaved_pair_ms: u32,
    /// A viewer whom as many different ones have caught sending bad bytes is introduced to nobody, and
    /// everybody is told to give up the link with it. Where fewer than twice as many are linked with it,
    /// more than half of them, and at least two, are enough.
    pub accusers_max: u8,
    /// Accusations of viewers elsewhere that all viewers of one address (IPv6: of one /48) may make in a
    /// burst; further ones count for nothing but their own pair. They count as one accuser.
    pub address_accusations_burst: u32,
    /// Accusations of viewers elsewhere that all viewers of one address may make in an hour beyond it.
    pub address_accusations_per_hour: u32,
    /// A viewer that has accused as many different ones whom nobody else accuses who has verified
    /// anything is at fault itself: it has the wrong key. It is introduced to nobody for
    /// `complaints_pause_ms`, and its accusations are forgotten.
    pub complaints_max: u8,
    /// How long such a viewer is introduced to nobody, in milliseconds.
    pub complaints_pause_ms: u32,
    /// Introductions that a viewer may receive in a burst: it learns the addresses of others.
    pub introductions_burst: u16,
    /// Introductions that a viewer may receive in an hour beyond the burst.
    pub introductions_per_hour: u32,
    /// Introductions that all viewers of one address (household) may receive in a burst, at most: they
    /// have what as many viewers may as were there at once, and two more. Who joins again and again
    /// under new names learns no more than this.
    pub address_introductions_burst: u32,
    /// Introductions that all viewers of one address may receive in an hour beyond the burst.
    pub address_introductions_per_hour: u32,
    /// Viewers of one stream below which nobody is introduced.
    pub viewers_min: u32,
    /// Viewers that are behind the live edge by about as much share segments: those of one band,
    /// this wide, meet. In milliseconds; the first band is that of live viewers.
    pub lag_band_ms: u32,
    /// Viewers of one ISP that are no farther apart than this are in one metro area, in km.
    pub metro_km: u32,
}

impl Policy {
    pub(super) fn introductions(&self) -> Rate {
        Rate {
            burst: u32::from(self.introductions_burst),
            per_hour: self.introductions_per_hour,
        }
    }

    pub(super) const fn accusations(&self) -> Rate {
        Rate {
            burst: self.address_accusations_burst,
            per_hour: self.address_accusations_per_hour,
        }
    }

    pub(super) const fn address_introductions(&self) -> Rate {
        Rate {
            burst: self.address_introductions_burst,
            per_hour: self.address_introductions_per_hour,
        }
    }

    /// The band of a viewer that is `lag_ms` behind. One that is in a band already leaves it only
    /// when it is a quarter of a band beyond the edge.
    pub(super) fn lag_band(&self, lag_ms: u32, current: u8) -> u8 {
        let (lag, width) = (u64::from(lag_ms), u64::from(self.lag_band_ms.max(1)));
        let (low, slack) = (u64::from(current) * width, width / 4);
        if lag + slack >= low && lag < low + width + slack {
            return current;
        }
        (lag / width).min(u64::from(u8::MAX)) as u8
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            viewers_max: 1_000_000,
            status_interval_ms: 5_000,
            silence_ms_max: 16_000,
            linger_ms: 20_000,
            links_target: 20,
            links_slack: 3,
            long_links: 1,
            group_target: 15,
            group_max: 24,
            group_thin: 8,
            group_condense: 10,
            growth_percent: 30,
            growth_window_ms: 4_000,
            merge_after_ms: 10_000,
            refill_after_ms: 300,
            release_after_ms: 30_000,
            pending_ms_max: 45_000,
            failed_pair_ms: 14_400_000,
            unheard_pair_ms: 300_000,
            lost_pair_ms: 20_000,
            misbehaved_pair_ms: 3_600_000,
            accusers_max: 3,
            address_accusations_burst: 10,
            address_accusations_per_hour: 20,
            complaints_max: 5,
            complaints_pause_ms: 600_000,
            introductions_burst: 80,
            introductions_per_hour: 240,
            address_introductions_burst: 20_000,
            address_introductions_per_hour: 60_000,
            viewers_min: 0,
            lag_band_ms: 60_000,
            metro_km: 50,
        }
    }
}
