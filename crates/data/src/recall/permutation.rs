//! A pseudorandom permutation of `0..n` with random access: no table, so that the i-th element of a shuffled epoch of
//! any size costs a few dozen operations.
//!
//! A balanced Feistel network over the smallest even number of bits that holds n, six rounds, each (L, R) -> (R, L xor
//! F(R xor key)) with splitmix64's finaliser as F; a result outside `0..n` is encrypted again until it falls inside
//! (cycle walking: at most 4 n codes, so under 4 steps on average).

use rand::Rng;

const ROUNDS: usize = 6;

/// A permutation of `0..n`.
#[derive(Debug)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` (n at least 1) that `rng`'s first numbers pick.
    pub(crate) fn new(n: u64, mut rng: impl Rng) -> Self {
        let bits = u64::BITS - (n - 1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// The image of `index`, which is below n.
    pub(crate) fn at(&self, index: u64) -> u64 {
        let mut code = index;
        loop {
            code = self.encrypt(code);
            if code < self.n {
                return code;
            }
        }
    }

    fn encrypt(&self, code: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (code >> self.half_bits, code & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// splitmix64's finaliser (Steele, Lea and Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::stream::{Purpose, stream};

    #[test]
    fn is_a_bijection_at_every_size() {
        for n in (1..70).chain([255, 256, 257, 4096]) {
            let permutation = Permutation::new(n, stream(n, Purpose::Epoch, 0));
            let mut images: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
            images.sort_unstable();
            assert!(images.into_iter().eq(0..n), "n = {n}");
        }
    }

    #[test]
    fn reaches_the_top_of_the_range() {
        let permutation = Permutation::new(u64::MAX, stream(0, Purpose::Epoch, 0));
        assert!((0..64).map(|i| permutation.at(i)).any(|image| image > u64::MAX / 2));
    }

    /// Over 8,000 keys, each image of 0..10 turns up at each place 800 times, give or take 27 (one standard deviation).
    #[test]
    fn every_image_is_as_likely_at_every_place() {
        let mut counts = [[0i32; 10]; 10];
        for key in 0..8000 {
            let permutation = Permutation::new(10, stream(1, Purpose::Epoch, key));
            for place in 0..10 {
                counts[place][permutation.at(place as u64) as usize] += 1;
            }
        }
        for count in counts.as_flattened() {
            assert!((count - 800).abs() < 135, "{counts:?}");
        }
    }
}
