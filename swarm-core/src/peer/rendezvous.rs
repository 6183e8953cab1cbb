//! Who seeds what: weighted rendezvous hashing (Thaler and Ravishankar 1998; the weighted form
//! after Schindelhauer and Schomaker 2005), in integers so that every machine agrees.

use alloc::vec::Vec;

use crate::{
    id::{Name, PeerId},
    limits::STRIPES_MAX,
    rng::mix,
};

/// The most that a member distributes, as a part of its share by weight.
const QUOTA_PERCENT: u64 = 110;
/// Pieces are hashed as stripes beyond the last one.
const PIECES: u32 = 256;
/// Who has less than this part of the strongest one's weight does not seed.
const WEAK_PART: u16 = 20;
/// The rank of one who never seeds.
pub(super) const NEVER: u8 = u8::MAX;

/// A member's claim on a stripe: the highest score seeds it, the next ones are its backups.
///
/// Removing a member moves only its own stripes; a member's share grows with its weight. Scores take
/// logarithms, and most comparisons are plain without them: what the first digits tell is enough.
#[derive(Clone, Copy)]
struct Lot {
    peer: PeerId,
    /// The weight as the score divides it.
    weight: u64,
    hash: u64,
}

impl Lot {
    fn new(peer: PeerId, weight: u16, name: Name, stripe: u32) -> Self {
        Self {
            peer,
            weight: u64::from(weight) << 40,
            hash: mix(mix(peer.0 ^ mix(name.0)) ^ u64::from(stripe)),
        }
    }

    /// The score, and who goes first of those with the same one.
    fn key(&self) -> (u64, PeerId) {
        (self.weight / neg_log2(self.hash), self.peer)
    }

    /// Whether its key is greater than `other`.
    fn beats(&self, other: (u64, PeerId)) -> bool {
        let (least, most) = neg_log2_bounds(self.hash);
        let (weight, score) = (u128::from(self.weight), u128::from(other.0));
        if weight < score * u128::from(least) {
            false
        } else if weight >= (score + 1) * u128::from(most) {
            true
        } else {
            self.key() > other
        }
    }
}

/// How many of `others` go before `me`, for each stripe, and who goes before all. [`NEVER`] throughout
/// without weight.
pub(super) fn ranks(
    me: (PeerId, u16),
    others: impl Iterator<Item = (PeerId, u16)> + Clone,
    name: Name,
    stripe_count: u32,
) -> [(u8, PeerId); STRIPES_MAX as usize] {
    let mut ranks = [(NEVER, me.0); STRIPES_MAX as usize];
    let strongest = others.clone().map(|(_, weight)| weight).max().unwrap_or(0);
    let is_weak = |weight: u16| weight == 0 || weight < strongest.max(me.1) / WEAK_PART;
    if is_weak(me.1) {
        return ranks;
    }
    let count = (stripe_count as usize).min(ranks.len());
    for (stripe, rank) in ranks.iter_mut().enumerate().take(count) {
        let lot = |(peer, weight): (PeerId, u16)| Lot::new(peer, weight, name, stripe as u32);
        let mine = lot(me).key();
        let (mut before, mut first) = (0u8, mine);
        for member in others.clone().filter(|(_, weight)| !is_weak(*weight)) {
            let theirs = lot(member);
            if theirs.beats(mine) {
                before = before.saturating_add(1);
                if theirs.beats(first) {
                    first = theirs.key();
                }
            }
        }
        *rank = (before.min(NEVER - 1), first.1);
    }
    ranks
}

/// Who passes each piece on to all others: the index of one of `members`, who are given with their
/// weights. The work is shared by weight, and nobody is asked for much more than its share
/// (rendezvous hashing with bounded loads), because the slowest one decides when the segment is
/// whole. Empty if none has weight.
pub(super) fn distributors<K>(members: &[(K, PeerId, u16)], name: Name, pieces: u32) -> Vec<u8> {
    let total: u64 = members.iter().map(|member| u64::from(member.2)).sum();
    let share = |weight: u16| u64::from(pieces) * u64::from(weight) * QUOTA_PERCENT;
    let mut quotas: Vec<u64> = members
        .iter()
        .map(|member| (share(member.2) + 50 * total) / (100 * total.max(1)))
        .collect();
    let mut chosen = Vec::with_capacity(pieces as usize);
    for piece in 0..pieces {
        let best_of = |is_able: &dyn Fn(usize) -> bool| {
            let mut best: Option<(usize, (u64, PeerId))> = None;
            for (index, (_, peer, weight)) in members.iter().enumerate() {
                if *weight == 0 || !is_able(index) {
                    continue;
                }
                let lot = Lot::new(*peer, *weight, name, PIECES + piece);
                if best.is_none_or(|(_, key)| lot.beats(key)) {
                    best = Some((index, lot.key()));
                }
            }
            best.map(|(index, _)| index)
        };
        let best = best_of(&|index| quotas[index] > 0);
        let Some(index) = best.or_else(|| best_of(&|_| true)) else {
            return Vec::new();
        };
        quotas[index] = quotas[index].saturating_sub(1);
        chosen.push(index as u8);
    }
    chosen
}

/// `-log2(hash / 2^64)` as a fixed-point number with 16 fractional bits, at least 1.
const fn neg_log2(hash: u64) -> u64 {
    let hash = if hash == 0 { 1 } else { hash };
    let zeros = hash.leading_zeros();
    ((zeros as u64 + 1) << 16) - fraction_of(hash << zeros)
}

/// The fraction of the logarithm of a mantissa in [1, 2), whose one is the highest bit.
const fn fraction_of(mut mantissa: u64) -> u64 {
    // The mantissa is squared once for every fractional bit of its logarithm.
    let (mut fraction, mut bit) = (0, 0);
    while bit < 16 {
        // Nobody can guess the digits: branches on them would cost more than the squares.
        let square = mantissa as u128 * mantissa as u128;
        let digit = (square >> 127) as u64;
        fraction = fraction << 1 | digit;
        mantissa = (square >> (63 + digit)) as u64;
        bit += 1;
    }
    fraction
}

/// Bits of a mantissa that are looked up, the one in front not counted.
const KNOWN_BITS: u32 = 8;

/// [`fraction_of`] the least mantissa with these bits; it never falls when the mantissa grows.
const FRACTIONS: [u32; (1 << KNOWN_BITS) + 1] = {
    let mut fractions = [1 << 16; (1 << KNOWN_BITS) + 1];
    let mut index = 0;
    while index < 1 << KNOWN_BITS {
        let mantissa = ((1 << KNOWN_BITS) + index as u64) << (63 - KNOWN_BITS);
        fractions[index] = fraction_of(mantissa) as u32;
        index += 1;
    }
    fractions
};

/// Two numbers between which [`neg_log2`] is, or which it is.
fn neg_log2_bounds(hash: u64) -> (u64, u64) {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    let index = (hash << zeros << 1 >> (u64::BITS - KNOWN_BITS)) as usize;
    let whole = (u64::from(zeros) + 1) << 16;
    let least = whole - u64::from(FRACTIONS[index + 1]);
    (least, whole - u64::from(FRACTIONS[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_four_digits() {
        for (hash, expected) in [
            (1u64 << 63, 1.0),
            (1 << 62, 2.0),
            (3 << 62, 0.415_04),
            (1, 64.0),
        ] {
            let got = neg_log2(hash) as f64 / 65536.0;
            assert!((got - expected).abs() < 1e-3, "{hash}: {got}");
        }
        assert!(neg_log2(u64::MAX) >= 1);
    }

    #[test]
    fn bounds_of_logarithms_hold_and_comparisons_are_those_of_the_scores() {
        let mut rng = crate::rng::Rng::new(2);
        let mut edges = alloc::vec![0, 1, 2, 3, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1];
        edges.extend((0..256).flat_map(|i| [(256 + i) << 55, ((256 + i) << 55) - 1]));
        edges.extend((0..20_000).map(|_| rng.next_u64() >> rng.at_most(63)));
        let lots = edges.iter().map(|hash| {
            let (least, most) = neg_log2_bounds(*hash);
            assert!((least..=most).contains(&neg_log2(*hash)), "{hash:x}");
            Lot {
                peer: PeerId(hash % 7),
                weight: rng.at_most(300) << 40,
                hash: *hash,
            }
        });
        let lots: Vec<Lot> = lots.collect();
        for pair in lots.windows(2) {
            let (one, other) = (pair[0], pair[1].key());
            assert_eq!(one.beats(other), one.key() > other);
            assert!(!one.beats(one.key()));
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let members = [(PeerId(1), 100), (PeerId(2), 300)];
        let mut first = 0;
        for name in 0..4000 {
            let before = ranks(members[0], members[1..].iter().copied(), Name(name), 1);
            first += u32::from(before[0].0 == 0);
        }
        assert!(
            (900..1100).contains(&first),
            "{first} of 4000 for a quarter of the weight"
        );
    }

    #[test]
    fn every_stripe_has_exactly_one_first() {
        let members: [(PeerId, u16); 5] = core::array::from_fn(|i| (PeerId(i as u64 + 9), 50));
        let mut firsts = [0; 4];
        for (i, me) in members.iter().enumerate() {
            let others = members
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .map(|(_, m)| *m);
            for (stripe, rank) in ranks(*me, others, Name(7), 4).iter().take(4).enumerate() {
                firsts[stripe] += u32::from(rank.0 == 0);
            }
        }
        assert_eq!(firsts, [1; 4]);
    }

    #[test]
    fn pieces_are_shared_by_weight_and_views_that_differ_mostly_agree() {
        let members: Vec<((), PeerId, u16)> = (0..12)
            .map(|i| ((), PeerId(i + 5), if i < 6 { 160 } else { 40 }))
            .collect();
        let all = distributors(&members, Name(3), 39);
        for (index, (_, _, weight)) in members.iter().enumerate() {
            let count = all.iter().filter(|k| usize::from(**k) == index).count();
            assert!(
                count <= if *weight == 160 { 6 } else { 2 },
                "{index}: {count}"
            );
        }
        let fewer = distributors(&members[1..], Name(3), 39);
        let same = all.iter().zip(&fewer).filter(|(a, b)| **a == **b + 1);
        let same = same.count();
        assert!(same > 25, "{same} of 39 as before");
        assert!(distributors::<()>(&[], Name(3), 2).is_empty());
    }

    #[test]
    fn a_leech_never_seeds() {
        assert_eq!(
            ranks((PeerId(1), 0), [].into_iter(), Name(1), 8).map(|rank| rank.0),
            [NEVER; 8]
        );
    }
}
