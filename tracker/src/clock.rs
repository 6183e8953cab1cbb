//! Milliseconds in four bytes, for what is kept of every connection.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// A little before the first time that is asked for, which was read before it got here.
static BEGAN: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
});

/// The time, in milliseconds since this process first asked. Begins anew after 49 days: compare by
/// [`since_ms`].
pub(crate) fn ms_of(now: Instant) -> u32 {
    now.saturating_duration_since(*BEGAN).as_millis() as u32
}

/// As [`ms_of`], at this moment.
pub(crate) fn now_ms() -> u32 {
    ms_of(Instant::now())
}

/// Milliseconds from one such time to another; 0 if the first is the later one.
pub(crate) const fn since_ms(then_ms: u32, now_ms: u32) -> u32 {
    let passed_ms = now_ms.wrapping_sub(then_ms);
    if passed_ms > u32::MAX / 2 {
        0
    } else {
        passed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_the_wrap() {
        assert_eq!(since_ms(10, 25), 15);
        assert_eq!(since_ms(25, 10), 0);
        assert_eq!(since_ms(u32::MAX - 4, 5), 10);
    }
}
