//! Which rendition to play: by the bandwidth that deliveries report, as browsers' players do it.

/// Share of the bandwidth that a better rendition may need, in percent.
const UP_PERCENT: u64 = 70;
/// Share of the bandwidth that the current rendition may need.
const STAY_PERCENT: u64 = 95;

/// How the rendition is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// By bandwidth; begins with the lowest.
    #[default]
    Auto,
    /// Always this one, counted from 0 by rising bit rate; the highest if there are fewer.
    Fixed(usize),
}

/// The estimate and the choice.
#[derive(Debug)]
pub(super) struct Abr {
    level: Level,
    /// Bit rates of the renditions, rising.
    bitrates: Vec<u64>,
    fast: f64,
    slow: f64,
    current: usize,
}

impl Abr {
    /// For renditions of these bit rates, lowest first.
    pub(super) fn new(level: Level, bitrates: Vec<u64>) -> Self {
        let current = match level {
            Level::Auto => 0,
            Level::Fixed(index) => index.min(bitrates.len().saturating_sub(1)),
        };
        Self {
            level,
            bitrates,
            fast: 0.0,
            slow: 0.0,
            current,
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// A segment came at this bandwidth; the rendition for the next one.
    pub(super) fn on_segment(&mut self, reported_bps: u64) -> usize {
        if reported_bps == 0 || self.level != Level::Auto {
            return self.current;
        }
        let sample = reported_bps as f64;
        let ewma = |old: f64, weight: f64| {
            if old == 0.0 {
                sample
            } else {
                old + (sample - old) * weight
            }
        };
        self.fast = ewma(self.fast, 0.5);
        self.slow = ewma(self.slow, 0.2);
        let estimate = self.fast.min(self.slow) as u64;
        let fits = |index: usize, percent: u64| {
            self.bitrates
                .get(index)
                .is_some_and(|bitrate| *bitrate <= estimate / 100 * percent)
        };
        let better = (self.current + 1..self.bitrates.len()).rev();
        let mut better = better.filter(|index| fits(*index, UP_PERCENT));
        if let Some(index) = better.next() {
            self.current = index;
        } else if !fits(self.current, STAY_PERCENT) {
            let worse = (0..self.current)
                .rev()
                .find(|index| fits(*index, UP_PERCENT));
            self.current = worse.unwrap_or(0);
        }
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_reported_bandwidth_with_care() {
        let mut abr = Abr::new(Level::Auto, vec![350_000, 950_000, 2_800_000]);
        assert_eq!(abr.current(), 0);
        assert_eq!(abr.on_segment(1_200_000), 0, "0.95 needs more than 1.2");
        assert_eq!(abr.on_segment(0), 0);
        for _ in 0..10 {
            abr.on_segment(6_000_000);
        }
        assert_eq!(abr.current(), 2);
        for _ in 0..10 {
            abr.on_segment(1_500_000);
        }
        assert_eq!(abr.current(), 1);
        assert_eq!(abr.on_segment(10_000), 0);
    }

    #[test]
    fn a_fixed_level_stays() {
        let mut abr = Abr::new(Level::Fixed(7), vec![1, 2, 3]);
        assert_eq!(abr.on_segment(1), 2);
        assert_eq!(Abr::new(Level::Fixed(0), vec![]).current(), 0);
    }
}
