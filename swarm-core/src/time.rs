//! Time as the core sees it: a monotonic instant of 8 bytes, in microseconds from an origin that
//! the driver chooses.

use core::num::NonZeroU64;

/// A point in monotonic time. `Option<Instant>` is 8 bytes.
///
/// Only comparisons and saturating arithmetic; the origin has no meaning outside one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The earliest instant.
    pub const ORIGIN: Self = Self(NonZeroU64::MIN);

    /// The instant `micros` microseconds after the driver's origin (0 counts as 1).
    pub const fn from_micros(micros: u64) -> Self {
        match NonZeroU64::new(micros) {
            Some(value) => Self(value),
            None => Self::ORIGIN,
        }
    }

    /// The instant `millis` milliseconds after the driver's origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_micros(millis.saturating_mul(1000))
    }

    /// Microseconds since the driver's origin.
    pub const fn as_micros(self) -> u64 {
        self.0.get()
    }

    /// This instant and `millis` milliseconds.
    pub const fn plus_ms(self, millis: u64) -> Self {
        Self::from_micros(self.0.get().saturating_add(millis.saturating_mul(1000)))
    }

    /// This instant less `millis` milliseconds, and not before the driver's origin.
    pub const fn minus_ms(self, millis: u64) -> Self {
        Self::from_micros(self.0.get().saturating_sub(millis.saturating_mul(1000)))
    }

    /// This instant and `micros` microseconds.
    pub const fn plus_us(self, micros: u64) -> Self {
        Self::from_micros(self.0.get().saturating_add(micros))
    }

    /// Milliseconds from `earlier` to this instant, 0 if `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.us_since(earlier) / 1000
    }

    /// Microseconds from `earlier` to this instant, 0 if `earlier` is later.
    pub const fn us_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_instant_is_eight_bytes() {
        assert_eq!(size_of::<Option<Instant>>(), 8);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::from_millis(5).ms_since(Instant::from_millis(9)), 0);
        assert_eq!(
            Instant::from_micros(u64::MAX).plus_ms(1),
            Instant::from_micros(u64::MAX)
        );
    }
}
