//! MAD's selective copying (mad-lab, `mad/data/instances.py`): n content tokens, drawn with replacement, stand in order
//! among L - 2n - 1 blanks; after a copy token and n blanks, the model gives them back in order.
//!
//! Token V - 1 asks for the copy, V - 2 is the blank, the others are content. Each blank falls before one of the n
//! content tokens, all equally likely, so the last content token always stands right before the copy token, as in
//! mad-lab. In both splits the n blanks at the end carry the labels, nothing else does.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// MAD's selective copying. Baseline: `vocab = 16`, `len = 256`, `copies = 16`, `train_examples = 12800`; one at a time
/// vocab 32, 64, 128, len 512, 1024, copies 32, 64, 96, train_examples 6400, 3200, 1600, 800.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveCopying {
    /// Tokens: content, blank, copy.
    pub vocab: u32,
    /// Positions.
    pub len: u32,
    /// Tokens to copy.
    pub copies: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl Recall for SelectiveCopying {
    const NAME: &'static str = "selective-copying";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check::positive(task, &[("copies", self.copies)])?;
        let have = u64::from(self.vocab).saturating_sub(2);
        check::enough(task, "content tokens", 1, have, "raise vocab to at least 3")?;
        let what = || format!("{} tokens, their copies and the copy token", self.copies);
        check::fits(task, self.len, 2 * u64::from(self.copies) + 1, what, "raise len or lower copies")
    }

    fn write(&self, _seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let (copy, blank) = (self.vocab - 1, self.vocab - 2);
        let content: Vec<u32> = (0..self.copies).map(|_| rng.random_range(0..blank)).collect();
        let mut blanks_before = vec![0; content.len()];
        for _ in 0..self.len - 2 * self.copies - 1 {
            blanks_before[rng.random_range(0..content.len())] += 1;
        }
        for (&token, blanks) in content.iter().zip(blanks_before) {
            for _ in 0..blanks {
                out.push(blank);
            }
            out.push(token);
        }
        out.push(copy);
        for token in content {
            out.push_labelled(blank, token);
        }
    }
}
