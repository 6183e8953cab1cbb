//! Seeded randomness for jitter and ties. Never for secrets: those are the drivers'.

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, fast and the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that yields the same values for the same `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A value in `0..=max`.
    pub const fn at_most(&mut self, max: u64) -> u64 {
        ((self.next_u64() as u128 * (max as u128 + 1)) >> 64) as u64
    }
}

/// The finaliser of SplitMix64: spreads every input bit over all output bits.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_is_a_closed_range() {
        let mut rng = Rng::new(7);
        let mut seen = [false; 4];
        for _ in 0..100 {
            seen[rng.at_most(3) as usize] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(Rng::new(1).at_most(0), 0);
    }
}
