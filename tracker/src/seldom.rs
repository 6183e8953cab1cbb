//! Warnings that strangers could cause at any rate.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets a warning through once in a while.
#[derive(Debug)]
pub(crate) struct Seldom {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next_at: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    pub(crate) const fn new(every: Duration) -> Self {
        let state = State {
            next_at: None,
            left_out: 0,
        };
        Self {
            every,
            state: Mutex::new(state),
        }
    }

    /// Whether it is to be said now: how often it happened since it was said last, this time included.
    pub(crate) fn times(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left_out += 1;
        if state.next_at.is_some_and(|at| now < at) {
            return None;
        }
        state.next_at = Some(now + self.every);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_said_now_and_then_with_how_often_it_was() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let seldom = Seldom::new(second);
        let at = |ms| seldom.times(start + Duration::from_millis(ms));
        assert_eq!(at(0), Some(1));
        for ms in 1..500 {
            assert_eq!(at(ms), None);
        }
        assert_eq!(at(1_000), Some(500));
        assert_eq!(at(1_001), None);
    }
}
