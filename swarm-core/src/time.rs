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

/// A number of 48 bits in six bytes, aligned to two, for what is kept many times. It stops at its greatest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed(2))]
pub(crate) struct Short {
    low: u32,
    high: u16,
}

impl Short {
    const MAX: u64 = (1 << 48) - 1;

    pub(crate) const fn new(value: u64) -> Self {
        let value = if value < Self::MAX { value } else { Self::MAX };
        Self {
            low: value as u32,
            high: (value >> 32) as u16,
        }
    }

    pub(crate) const fn get(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    pub(crate) const fn add(&mut self, more: u64) {
        *self = Self::new(self.get().saturating_add(more));
    }
}

/// An instant in six bytes, as exact as others: those of the first 8.9 years after the driver's origin. Later ones
/// become the last of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(Short);

impl Moment {
    pub(crate) const fn new(at: Instant) -> Self {
        Self(Short::new(at.as_micros()))
    }

    pub(crate) const fn get(self) -> Instant {
        Instant::from_micros(self.0.get())
    }
}

impl From<Instant> for Moment {
    fn from(at: Instant) -> Self {
        Self::new(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_instant_is_eight_bytes_and_a_moment_six() {
        assert_eq!(size_of::<Option<Instant>>(), 8);
        assert_eq!((size_of::<Moment>(), align_of::<Moment>()), (6, 2));
    }

    #[test]
    fn a_moment_is_its_instant_for_years_and_stops_then() {
        const YEAR_US: u64 = 365 * 24 * 3600 * 1_000_000;
        for us in [1, 0xffff, 0x1_0000, 0x1234_5678_9abc, 8 * YEAR_US] {
            let at = Instant::from_micros(us);
            assert_eq!(Moment::new(at).get(), at);
        }
        let last = Moment::new(Instant::from_micros(9 * YEAR_US));
        assert_eq!(last.get().as_micros(), Short::MAX);
        let mut bytes = Short::new(Short::MAX - 5);
        bytes.add(4);
        assert_eq!(bytes.get(), Short::MAX - 1);
        bytes.add(u64::MAX);
        assert_eq!(bytes.get(), Short::MAX);
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
