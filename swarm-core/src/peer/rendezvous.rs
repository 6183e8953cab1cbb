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
/// Removing a member moves only its own stripes; a member's share grows with its weight.
pub(super) fn score(peer: PeerId, weight: u16, name: Name, stripe: u32) -> u64 {
    let hash = mix(mix(peer.0 ^ mix(name.0)) ^ u64::from(stripe));
    (u64::from(weight) << 40) / neg_log2(hash)
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
    // One member at a time: its scores for the stripes do not wait for each other.
    let scores_of = |(peer, weight): (PeerId, u16)| {
        let mut scores = [(0, peer); STRIPES_MAX as usize];
        for (stripe, its) in scores.iter_mut().enumerate().take(count) {
            its.0 = score(peer, weight, name, stripe as u32);
        }
        scores
    };
    let mine = scores_of(me);
    let (mut before, mut first) = ([0u8; STRIPES_MAX as usize], mine);
    for member in others.filter(|(_, weight)| !is_weak(*weight)) {
        let theirs = scores_of(member);
        for stripe in 0..count {
            before[stripe] = before[stripe].saturating_add(u8::from(theirs[stripe] > mine[stripe]));
            first[stripe] = first[stripe].max(theirs[stripe]);
        }
    }
    for (stripe, rank) in ranks.iter_mut().enumerate().take(count) {
        *rank = (before[stripe].min(NEVER - 1), first[stripe].1);
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
        let score_of = |index: usize| {
            let (_, peer, weight) = &members[index];
            (score(*peer, *weight, name, PIECES + piece), *peer)
        };
        let able = (0..members.len()).filter(|index| members[*index].2 > 0);
        let free = able.clone().filter(|index| quotas[*index] > 0);
        let best = free.max_by_key(|index| score_of(*index));
        let Some(index) = best.or_else(|| able.max_by_key(|index| score_of(*index))) else {
            return Vec::new();
        };
        quotas[index] = quotas[index].saturating_sub(1);
        chosen.push(index as u8);
    }
    chosen
}

/// `-log2(hash / 2^64)` as a fixed-point number with 16 fractional bits, at least 1.
fn neg_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    // The mantissa in [1, 2), squared once for every fractional bit of its logarithm.
    let mut mantissa = hash << zeros;
    let mut fraction = 0;
    for _ in 0..16 {
        // Nobody can guess the digits: branches on them would cost more than the squares.
        let square = u128::from(mantissa) * u128::from(mantissa);
        let digit = (square >> 127) as u64;
        fraction = fraction << 1 | digit;
        mantissa = (square >> (63 + digit)) as u64;
    }
    ((u64::from(zeros) + 1) << 16) - fraction
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
        assert_eq!(distributors::<()>(&[], Name(3), 2), []);
    }

    #[test]
    fn a_leech_never_seeds() {
        assert_eq!(
            ranks((PeerId(1), 0), [].into_iter(), Name(1), 8).map(|rank| rank.0),
            [NEVER; 8]
        );
    }
}
