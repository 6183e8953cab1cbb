//! Distributions, from additions, multiplications and divisions alone: the same seed gives the same
//! values on every machine, which `exp` and `ln` of the system's library do not promise.

use swarm_core::rng::Rng;

/// A uniform value in `[0, 1)`.
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A uniform value in `[from, to)`.
pub(crate) fn between(rng: &mut Rng, from: f64, to: f64) -> f64 {
    from + (to - from) * unit(rng)
}

/// Whether an event of probability `p` happens.
pub(crate) fn chance(rng: &mut Rng, p: f64) -> bool {
    unit(rng) < p
}

/// A log-normal value with the given median and deviation of its logarithm.
pub(crate) fn lognormal(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    median * exp(sigma * normal(rng))
}

/// An exponential value with the given mean.
pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * ln(1.0 - unit(rng))
}

/// The index of one of `weights`, drawn by weight.
pub(crate) fn pick(rng: &mut Rng, weights: impl Iterator<Item = f64> + Clone) -> usize {
    let mut left = unit(rng) * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Nearly normal: the sum of twelve uniform values (Irwin and Hall), cut at six deviations.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| unit(rng)).sum::<f64>() - 6.0
}

/// `e` to the power of `x`, for |x| < 700.
pub(crate) fn exp(x: f64) -> f64 {
    const LN_2: f64 = core::f64::consts::LN_2;
    let halvings = (x / LN_2).round();
    let rest = x - halvings * LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..18 {
        term *= rest / f64::from(n);
        sum += term;
    }
    let factor = if halvings < 0.0 { 0.5 } else { 2.0 };
    (0..halvings.abs() as u32).fold(sum, |value, _| value * factor)
}

/// The natural logarithm of a positive number.
pub(crate) fn ln(x: f64) -> f64 {
    let (mut mantissa, mut doublings) = (x, 0.0);
    while mantissa > 1.5 {
        mantissa *= 0.5;
        doublings += 1.0;
    }
    while mantissa < 0.75 {
        mantissa *= 2.0;
        doublings -= 1.0;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let (square, mut power, mut sum) = (ratio * ratio, ratio, 0.0);
    for n in 0..20 {
        sum += power / f64::from(2 * n + 1);
        power *= square;
    }
    2.0 * sum + doublings * core::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_the_librarys() {
        for x in [-5.0, -0.3, 0.0, 0.7, 3.3, 12.0] {
            assert!((exp(x) / f64::exp(x) - 1.0).abs() < 1e-12, "exp {x}");
        }
        for x in [1e-9, 0.2, 0.75, 1.0, 1.4, 2.0, 1e7] {
            assert!((ln(x) - f64::ln(x)).abs() < 1e-12, "ln {x}");
        }
    }

    #[test]
    fn moments_are_as_asked() {
        let mut rng = Rng::new(5);
        let mut values: Vec<f64> = (0..20_001).map(|_| lognormal(&mut rng, 8.0, 0.6)).collect();
        values.sort_by(f64::total_cmp);
        assert!((values[10_000] - 8.0).abs() < 0.2, "{}", values[10_000]);
        let mean = (0..20_000).map(|_| exponential(&mut rng, 3.0)).sum::<f64>() / 20_000.0;
        assert!((mean - 3.0).abs() < 0.1, "{mean}");
    }
}
