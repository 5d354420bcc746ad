//! The two small-sample statements that claims rest on. The interval is exact for any continuous distribution, the
//! test where, without an effect, a seed's two values could as well be swapped; beyond [`ENUMERATED`] pairs the test
//! draws patterns of signs instead of enumerating them, which keeps its level (p counts the observed pattern as drawn).

use crate::measured::median;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Up to so many pairs [`sign_flip_p`] enumerates all 2^n patterns.
const ENUMERATED: usize = 20;
/// The patterns that it draws for more pairs.
const DRAWN: usize = 100_000;

/// The coverage that [`rank_interval`] aims at.
const COVERAGE: f64 = 0.9;

/// An interval for the median from order statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The sample median.
    pub median: f64,
    /// The lower end, a sample value.
    pub low: f64,
    /// The upper end, a sample value.
    pub high: f64,
    /// The probability that it covers the true median: 1 - 2 P(Bin(n, 1/2) < k).
    pub coverage: f64,
}

/// [x_(k), x_(n+1-k)] with the greatest k of coverage >= 0.9; the whole range where n is too small for that
/// (coverage 75 % at n = 3, 87.5 % at 4, 93.8 % at 5). `None` for no values.
pub fn rank_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (mut k, mut coverage) = (1, 1.0 - 2.0 * binomial_half(n, 0));
    let mut tail = binomial_half(n, 0);
    while 2 * (k + 1) <= n {
        tail += binomial_half(n, k);
        if 1.0 - 2.0 * tail < COVERAGE {
            break;
        }
        k += 1;
        coverage = 1.0 - 2.0 * tail;
    }
    Some(Interval { median: median(&sorted), low: sorted[k - 1], high: sorted[n - k], coverage })
}

/// P(Bin(n, 1/2) = k).
fn binomial_half(n: usize, k: usize) -> f64 {
    (0..k).fold(0.5f64.powi(n as i32), |p, i| p * (n - i) as f64 / (i + 1) as f64)
}

/// The one-sided p-value of the sign-flip (permutation) test on paired differences: the share of the 2^n patterns of
/// signs whose sum is at least the observed one. Small when the differences are positive; 2^-n at best, and 1e-5 where
/// patterns are drawn. Ties with the observed sum count, so that p is never 0. No pairs give 1.
pub fn sign_flip_p(differences: &[f64]) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    let asked = differences.iter().sum::<f64>() - 1e-12 * sizes.iter().sum::<f64>();
    if sizes.len() <= ENUMERATED {
        let patterns = 1u32 << sizes.len();
        let reach = (0..patterns).filter(|signs| signed_sum(&sizes, |i| signs >> i & 1 == 1) >= asked);
        return reach.count() as f64 / f64::from(patterns);
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let reach = (0..DRAWN).filter(|_| signed_sum(&sizes, |_| random.random()) >= asked);
    (reach.count() + 1) as f64 / (DRAWN + 1) as f64
}

fn signed_sum(sizes: &[f64], mut positive: impl FnMut(usize) -> bool) -> f64 {
    sizes.iter().enumerate().map(|(i, d)| if positive(i) { *d } else { -d }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_intervals_of_known_coverage() {
        for (n, low, high, coverage) in [
            (1, 1.0, 1.0, 0.0),
            (3, 1.0, 3.0, 0.75),
            (5, 1.0, 5.0, 0.9375),
            (8, 2.0, 7.0, 1.0 - 2.0 * 9.0 / 256.0),
            (20, 6.0, 15.0, 0.958_610_534_667_968_8),
        ] {
            let values: Vec<f64> = (1..=n).rev().map(f64::from).collect();
            let got = rank_interval(&values).unwrap();
            assert_eq!((got.low, got.high), (low, high), "n = {n}");
            assert!((got.coverage - coverage).abs() < 1e-12, "n = {n}: {}", got.coverage);
        }
        assert_eq!(rank_interval(&[]), None);
    }

    #[test]
    fn sign_flip_of_known_shares() {
        for (d, p) in [
            (vec![], 1.0),
            (vec![0.1, 0.2, 0.3], 1.0 / 8.0),
            (vec![-0.1, 0.2, 0.3], 2.0 / 8.0),
            (vec![0.5; 5], 1.0 / 32.0),
            (vec![0.6, 0.6, 0.6, 0.6, -0.01], 2.0 / 32.0),
            (vec![0.0; 4], 1.0),
            (vec![-1.0, -1.0], 1.0),
        ] {
            assert_eq!(sign_flip_p(&d), p, "{d:?}");
        }
    }

    /// Beyond 20 pairs every pair still counts: the last ones can turn the verdict, and p is near that of the normal
    /// approximation.
    #[test]
    fn many_pairs_all_count() {
        let mut d = vec![0.1; 20];
        d.extend([-1.0; 10]);
        assert!(sign_flip_p(&d) > 0.9, "{}", sign_flip_p(&d));
        assert!(sign_flip_p(&[0.3; 30]) < 1e-4);
        // The sum of 100 signs is at least 10 with probability 0.1841.
        let mut d = vec![1.0; 55];
        d.extend([-1.0; 45]);
        assert!((sign_flip_p(&d) - 0.1841).abs() < 5e-3, "{}", sign_flip_p(&d));
        assert_eq!(sign_flip_p(&d), sign_flip_p(&d), "the same values give the same p");
    }

    #[test]
    fn the_test_of_the_reverse_is_the_complement() {
        let d = [0.3, -0.2, 0.7, 0.1];
        let reverse: Vec<f64> = d.iter().map(|d| -d).collect();
        let equal = 1.0 / 16.0;
        assert!((sign_flip_p(&d) + sign_flip_p(&reverse) - 1.0 - equal).abs() < 1e-12);
    }
}
