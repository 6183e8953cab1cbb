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
/// The rank of one who never seeds.
pub(super) const NEVER: u8 = u8::MAX;

/// A member's claim on a stripe: the highest score seeds it, the next ones are its backups.
///
/// Removing a member moves only its own stripes; a member's share grows with its weight.
pub(super) fn score(peer: PeerId, weight: u16, name: Name, stripe: u32) -> u64 {
    let hash = mix(mix(peer.0 ^ mix(name.0)) ^ u64::from(stripe));
    (u64::from(weight) << 40) / neg_log2(hash)
}

/// How many of `others` go before `me`, for each stripe. [`NEVER`] throughout without weight.
pub(super) fn ranks(
    me: (PeerId, u16),
    others: impl Iterator<Item = (PeerId, u16)> + Clone,
    name: Name,
    stripe_count: u32,
) -> [u8; STRIPES_MAX as usize] {
    let mut ranks = [NEVER; STRIPES_MAX as usize];
    if me.1 == 0 {
        return ranks;
    }
    for (stripe, rank) in ranks.iter_mut().enumerate().take(stripe_count as usize) {
        let stripe = stripe as u32;
        let mine = (score(me.0, me.1, name, stripe), me.0);
        let before = others
            .clone()
            .filter(|(peer, weight)| {
                *weight > 0 && (score(*peer, *weight, name, stripe), *peer) > mine
            })
            .count();
        *rank = before.min(usize::from(NEVER) - 1) as u8;
    }
    ranks
}

/// Who passes each piece on to all others, of those who are given with their weights: the work is
/// shared by weight, and nobody is asked for much more than its share (rendezvous hashing with
/// bounded loads), because the slowest one decides when the segment is whole. `nobody` throughout
/// if none has weight.
pub(super) fn distributors<K: Copy>(
    members: &[(K, PeerId, u16)],
    nobody: K,
    name: Name,
    pieces: u32,
) -> Vec<K> {
    let total: u64 = members.iter().map(|member| u64::from(member.2)).sum();
    let share = |weight: u16| u64::from(pieces) * u64::from(weight) * QUOTA_PERCENT;
    let mut quotas: Vec<u64> = members
        .iter()
        .map(|member| (share(member.2) + 50 * total) / (100 * total.max(1)))
        .collect();
    let mut chosen = Vec::with_capacity(pieces as usize);
    for piece in 0..pieces {
        let score_of = |index: usize| {
            let (_, peer, weight) = members[index];
            (score(peer, weight, name, PIECES + piece), peer)
        };
        let able = (0..members.len()).filter(|index| members[*index].2 > 0);
        let free = able.clone().filter(|index| quotas[*index] > 0);
        let best = free.max_by_key(|index| score_of(*index));
        let best = best.or_else(|| able.max_by_key(|index| score_of(*index)));
        if let Some(index) = best {
            quotas[index] = quotas[index].saturating_sub(1);
        }
        chosen.push(best.map_or(nobody, |index| members[index].0));
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
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        mantissa = if square >> 64 == 0 {
            square as u64
        } else {
            fraction |= 1;
            (square >> 1) as u64
        };
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
            first += u32::from(before[0] == 0);
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
                firsts[stripe] += u32::from(*rank == 0);
            }
        }
        assert_eq!(firsts, [1; 4]);
    }

    #[test]
    fn pieces_are_shared_by_weight_and_views_that_differ_mostly_agree() {
        let members: Vec<(u8, PeerId, u16)> = (0..12)
            .map(|i| (i, PeerId(u64::from(i) + 5), if i < 6 { 160 } else { 40 }))
            .collect();
        let all = distributors(&members, 99, Name(3), 39);
        for (key, _, weight) in &members {
            let count = all.iter().filter(|k| *k == key).count();
            assert!(
                count <= if *weight == 160 { 6 } else { 2 },
                "{key}: {count}"
            );
        }
        let fewer = distributors(&members[1..], 99, Name(3), 39);
        let same = all.iter().zip(&fewer).filter(|(a, b)| a == b).count();
        assert!(same > 25, "{same} of 39 as before");
        assert_eq!(distributors(&[], 99, Name(3), 2), [99, 99]);
    }

    #[test]
    fn a_leech_never_seeds() {
        assert_eq!(
            ranks((PeerId(1), 0), [].into_iter(), Name(1), 8),
            [NEVER; 8]
        );
    }
}
