//! Distributions of many values in little memory, which parts of a run can add up.

/// Bits of a value that are kept below its highest one: 1.6 % of resolution.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// Counts of values by size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u64) {
        let index = index_of(value);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// The value below which `share` of the values lie; 0 without values.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = (self.total.saturating_sub(1) as f64 * share).round() as u64;
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            if below > rank {
                return value_of(index);
            }
        }
        0
    }
}

fn index_of(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() - SUB_BITS;
    (u64::from(exponent + 1) * SUB + (value >> exponent) - SUB) as usize
}

/// The middle of the values that share an index.
fn value_of(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let exponent = index / SUB - 1;
    let low = (index % SUB + SUB) << exponent;
    low + (1 << exponent) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_resolution() {
        let (mut all, mut half) = (Histogram::default(), Histogram::default());
        for value in 0..100_000u64 {
            if value % 2 == 0 { &mut all } else { &mut half }.add(value);
        }
        all.merge(&half);
        assert_eq!(all.total(), 100_000);
        for share in [0.01, 0.5, 0.95, 0.999] {
            let (found, exact) = (all.quantile(share) as f64, 99_999.0 * share);
            assert!((found / exact - 1.0).abs() < 0.016, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }

    #[test]
    fn small_values_are_exact_and_large_ones_fit() {
        for value in [0, 1, 63, 64, 65, 127, 128, u64::MAX] {
            let found = value_of(index_of(value));
            let off = found.abs_diff(value) as f64;
            assert!(off <= value as f64 / 64.0, "{value}: {found}");
        }
    }
}
