//! The draws that the tasks share.

use std::ops::Range;

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

/// `count` distinct tokens of `range`, which holds at least as many, in random order.
pub(crate) fn distinct(rng: &mut ChaCha8Rng, range: Range<u32>, count: usize) -> Vec<u32> {
    let picks = index::sample(rng, range.len(), count);
    picks.into_iter().map(|pick| range.start + pick as u32).collect()
}

/// An index of `weights`, which do not sum to 0, with that relative frequency.
pub(crate) fn weighted(rng: &mut ChaCha8Rng, weights: &[u64]) -> usize {
    let mut ticket = rng.random_range(0..weights.iter().sum());
    let mut index = 0;
    while ticket >= weights[index] {
        ticket -= weights[index];
        index += 1;
    }
    index
}

/// `count` distinct slots of `0..slots`, drawn one after the other, slot i with weight (i + 1)^(power - 1) among those
/// left. Early draws favour low slots, so the order carries information, as in Zoology.
///
/// Weights are rounded to 32 bits after the point, so that two platforms' `powf` that differ in the last digit still
/// draw the same.
pub(crate) fn power_law_slots(rng: &mut ChaCha8Rng, slots: usize, count: usize, power: f64) -> Vec<usize> {
    let weight = |i: usize| ((i as f64).powf(power - 1.0) * f64::from(u32::MAX)).round() as u64;
    let mut weights: Vec<u64> = (1..=slots).map(weight).collect();
    let draw = |_| {
        let slot = weighted(rng, &weights);
        weights[slot] = 0;
        slot
    };
    (0..count).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::stream::{Purpose, stream};

    /// First draws over 4 slots at power 0: weights 1, 1/2, 1/3, 1/4 of 25/12. Second draws follow by conditioning.
    #[test]
    fn slots_follow_the_power_law_without_replacement() {
        let (trials, weights) = (20_000u32, [1.0, 0.5, 1.0 / 3.0, 0.25]);
        let total: f64 = weights.iter().sum();
        let mut counts = [[0u32; 4]; 4];
        for trial in 0..trials {
            let slots = power_law_slots(&mut stream(7, Purpose::Train, trial.into()), 4, 2, 0.0);
            counts[slots[0]][slots[1]] += 1;
        }
        for (first, second) in (0..16).map(|i| (i / 4, i % 4)) {
            let expected = match first == second {
                true => 0.0,
                false => weights[first] / total * weights[second] / (total - weights[first]),
            };
            let found = f64::from(counts[first][second]) / f64::from(trials);
            // Five standard deviations.
            let width = 5.0 * (expected * (1.0 - expected) / f64::from(trials)).sqrt();
            assert!((found - expected).abs() <= width, "{first} then {second}: {found}, expected {expected}");
        }
    }

    #[test]
    fn all_slots_can_be_drawn() {
        let mut slots = power_law_slots(&mut stream(0, Purpose::Train, 0), 50, 50, 0.01);
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..50));
    }
}
