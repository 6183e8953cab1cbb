//! What no scheduler can beat: the bounds that results are plotted against.

/// How much of an uplink's rate is media, after headers and acknowledgements.
pub(crate) const USEFUL: f64 = 0.95;

/// The throughput bound: one copy for everybody, and no more bytes from peers than their uplinks
/// carry.
pub(crate) fn throughput(viewers: f64, upload_bps_mean: f64, rate_bps: f64) -> f64 {
    (1.0 - 1.0 / viewers.max(1.0)).min(USEFUL * upload_bps_mean / rate_bps)
}

/// The same for groups that share nothing: one copy for each.
pub(crate) fn groups(viewers: f64, groups: f64, upload_bps_mean: f64, rate_bps: f64) -> f64 {
    (1.0 - groups.max(1.0) / viewers.max(1.0)).min(USEFUL * upload_bps_mean / rate_bps)
}

/// The delay frontier: in `window_s`, with hops of `hop_s`, where every holder passes on to `fan_out`
/// others, as (hops, share that need not ask the CDN).
pub(crate) fn frontier(window_s: f64, hop_s: f64, fan_out: usize) -> (usize, f64) {
    let hops = (window_s / hop_s.max(1e-3)).floor().clamp(0.0, 64.0) as usize;
    let mut new = vec![1.0f64];
    for hop in 1..=hops {
        let from = hop.saturating_sub(fan_out.max(1));
        let born: f64 = new[from..hop].iter().sum();
        new.push(born);
    }
    (hops, 1.0 - 1.0 / new.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_is_the_sum_of_fibonacci_numbers() {
        for (hops, reached) in [(0, 1.0), (1, 2.0), (2, 4.0), (3, 7.0), (4, 12.0)] {
            let (counted, share) = frontier(f64::from(hops), 1.0, 2);
            assert_eq!(counted, hops as usize);
            assert!((share - (1.0 - 1.0 / reached)).abs() < 1e-9);
        }
    }

    #[test]
    fn a_thin_uplink_bounds_before_the_group_does() {
        assert!((throughput(10_000.0, 3e6, 5e6) - 0.57).abs() < 1e-9);
        assert!((groups(150.0, 10.0, 50e6, 5e6) - (1.0 - 1.0 / 15.0)).abs() < 1e-9);
    }
}
