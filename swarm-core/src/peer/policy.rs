//! The knobs of the peer machine. Defaults tune themselves to the playlist; none needs setting.

/// Everything that the peer machine is told once. Shared by all machines of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether to use peers at all. Without it every request is [`super::Action::Bypass`]ed.
    pub enabled: bool,
    /// Most stripes that a segment is fetched in; 1 where the CDN does not cache ranges.
    pub stripes_max: u8,
    /// Smallest stripe worth a request of its own, in bytes.
    pub stripe_len_min: u32,
    /// How long one rank waits for the one before it to seed a stripe, in milliseconds, on top of
    /// what the CDN usually takes.
    pub rank_delay_ms: u32,
    /// The share of groups that fetch a stripe from the CDN at once, in percent; the others wait a
    /// moment for these to bring it. 100 where every group is to be on its own.
    pub first_groups_percent: u8,
    /// How many times the expected CDN time must be left when the backstop fires, in percent.
    pub backstop_margin_percent: u32,
    /// Added to the backstop's margin, in milliseconds.
    pub backstop_guard_ms: u32,
    /// Links to aim for until the tracker says otherwise.
    pub links_target: u8,
    /// How long a link may take to open, in milliseconds.
    pub link_setup_ms_max: u32,
    /// How long a link may be silent, in milliseconds.
    pub link_silence_ms_max: u32,
    /// How long changes of the have-map are gathered before they are sent, in milliseconds.
    pub have_batch_ms: u32,
    /// Shortest and longest back-off to the tracker, in milliseconds; jittered by half.
    pub tracker_backoff_ms: (u32, u32),
    /// How many segments behind the newest one are kept for others, on each track.
    pub segments_kept: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            stripes_max: 8,
            stripe_len_min: 64 * 1024,
            rank_delay_ms: 200,
            first_groups_percent: 12,
            backstop_margin_percent: 125,
            backstop_guard_ms: 500,
            links_target: 14,
            link_setup_ms_max: 15_000,
            link_silence_ms_max: 12_000,
            have_batch_ms: 80,
            tracker_backoff_ms: (500, 30_000),
            segments_kept: 12,
        }
    }
}

/// Why a link was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It broke, or the other side closed it.
    Lost,
    /// It did not open in time.
    SetupTimeout,
    /// Nothing was heard for too long.
    Silent,
    /// The other side sent bad bytes or broke the protocol.
    Misbehaved,
    /// The other side said goodbye.
    Left,
    /// This viewer leaves or changes the stream.
    Leaving,
    /// A better use for the place was found.
    Replaced,
}
