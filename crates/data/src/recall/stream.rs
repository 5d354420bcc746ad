//! Where an example's random numbers come from: a ChaCha8 key per (seed, purpose), a ChaCha8 stream per index.
//!
//! Key = seed (8 bytes LE) | purpose (1 byte) | zeros; the index is the 64-bit nonce. Purposes have different keys, so
//! training, test, epoch orders and fixed maps never share a stream, and no state is carried from index to index.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::permutation::Permutation;
use crate::Split;

/// What a stream is for; the number is part of the key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Train = 1,
    Test = 2,
    /// The order of a finite training set; the index is the epoch.
    Epoch = 3,
    /// A map that all examples of a seed share.
    Map = 4,
    /// Where the windows of an epoch of text begin; the index is the epoch.
    Offset = 5,
}

impl From<Split> for Purpose {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Purpose::Train,
            Split::Test => Purpose::Test,
        }
    }
}

/// The random numbers of one (seed, purpose, index).
pub(crate) fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}

/// The member of a training set of `examples` (at least 1) met at step `index` of endless shuffled epochs: each epoch
/// visits every member once, in a pseudorandom order of its own.
pub(crate) fn member(seed: u64, index: u64, examples: u64) -> u64 {
    let order = stream(seed, Purpose::Epoch, index / examples);
    Permutation::new(examples, order).at(index % examples)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn every_key_and_index_has_its_own_stream() {
        use Purpose::{Epoch, Map, Offset, Test, Train};
        let mut firsts = Vec::new();
        for seed in [0, 1, u64::MAX] {
            for purpose in [Train, Test, Epoch, Map, Offset] {
                firsts.extend([0, 1, 1 << 40].map(|index| stream(seed, purpose, index).next_u64()));
            }
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 45);
    }

    #[test]
    fn an_epoch_visits_every_member_once() {
        for examples in [1, 2, 7, 256, 1000] {
            let epoch = |number: u64| -> Vec<u64> {
                (0..examples).map(|at| member(3, number * examples + at, examples)).collect()
            };
            let mut sorted = epoch(5);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..examples));
            if examples > 7 {
                assert_ne!(epoch(0), epoch(1), "epochs of {examples} have the same order");
            }
        }
    }
}
