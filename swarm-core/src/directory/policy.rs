//! The knobs of the matchmaking machine.

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
    /// How long a pair that could not be linked is kept apart, in milliseconds.
    pub failed_pair_ms: u32,
    /// How long a pair whose link broke is kept apart, in milliseconds.
    pub lost_pair_ms: u32,
    /// How long a pair is kept apart after one accused the other of misbehaving, in milliseconds.
    pub misbehaved_pair_ms: u32,
    /// As many different accusers end the introductions of a viewer.
    pub accusers_max: u8,
    /// Introductions that a viewer may receive in a burst: it learns the addresses of others.
    pub introductions_burst: u16,
    /// Introductions that a viewer may receive in an hour beyond the burst.
    pub introductions_per_hour: u32,
    /// Viewers of one ISP that are no farther apart than this are in one metro area, in km.
    pub metro_km: u32,
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
            failed_pair_ms: 300_000,
            lost_pair_ms: 20_000,
            misbehaved_pair_ms: 3_600_000,
            accusers_max: 3,
            introductions_burst: 80,
            introductions_per_hour: 240,
            metro_km: 50,
        }
    }
}
