//! MAD's memorization (mad-lab, `mad/data/instances.py`): a fixed map from keys to values, learnt by heart.
//!
//! Token V - 1 marks a place to fill; of the others the lower half (rounded down) are keys, the rest values. The map is
//! one-to-one, drawn from the seed, and the same in every example of both splits. A sequence is L / 2 slots `key mark`,
//! keys drawn with replacement; the label on the mark is the key's value, which no sequence shows. Both splits label
//! the same positions.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::permutation::Permutation;
use super::stream::{Purpose, stream};
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// MAD's memorization. Baseline: `vocab = 256`, `len = 32`, `train_examples = 256`; vocab 512, 1024, 2048, 4096, 8192.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memorization {
    /// Tokens: keys, values, mark.
    pub vocab: u32,
    /// Positions, even.
    pub len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl Recall for Memorization {
    const NAME: &'static str = "memorization";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check::even(task, self.len)?;
        let have = u64::from(self.vocab).saturating_sub(1);
        check::enough(task, "keys and values", 2, have, "raise vocab to at least 3")
    }

    fn write(&self, seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let mark = self.vocab - 1;
        let keys = mark / 2;
        // There are as many values as keys or one more, so this takes different keys to different values.
        let map = Permutation::new((mark - keys).into(), stream(seed, Purpose::Map, 0));
        for _ in 0..self.len / 2 {
            let key = rng.random_range(0..keys);
            out.push(key);
            out.push_labelled(mark, keys + map.at(key.into()) as u32);
        }
    }
}
