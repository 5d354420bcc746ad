//! MAD's fuzzy in-context recall (mad-lab, `mad/data/instances.py`, `multi_query`): keys and values of several tokens.
//!
//! Token V - 1 pads; of the others the lower half (rounded down) are key tokens, the rest value tokens. A key is an
//! ordered choice of distinct key tokens, a value of distinct value tokens. Sizes are uniform, 1..=max, except that
//! test keys always have the largest. Nothing marks borders, but keys and values alternate and share no token.
//! Key-value pairs are drawn with replacement, a key's value at its first use; one pair, the probe, is sure to be
//! among them, and the probe's key and value end the sequence. L + 1 tokens, padded on the left, give L positions.
//!
//! Labels: in training every next token, padding included; in test, from the last token of a key that has occurred
//! before, the tokens of its value.
//!
//! The probe is inserted at the first border past a uniform position, unless drawn earlier. mad-lab takes that position
//! from a range that reaches beyond the last border, so that the probe is missing from a few of its sequences; ours
//! stops where it is sure to fit.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::sampling::distinct;
use super::task::{Recall, settings};
use crate::{Example, IGNORE, Result, Split};

/// MAD's fuzzy in-context recall. Baseline: `vocab = 16`, `len = 128`, `max_key_len = 3`, `max_value_len = 3`,
/// `train_examples = 12800`; one at a time vocab 32, 64, 128, len 256, 512, 1024, train_examples 6400, 3200, 1600, 800.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuzzyRecall {
    /// Tokens: key tokens, value tokens, padding.
    pub vocab: u32,
    /// Positions.
    pub len: u32,
    /// The most tokens of a key.
    pub max_key_len: u32,
    /// The most tokens of a value.
    pub max_value_len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

/// A key and its value, as places in the tokens written so far.
struct Pair {
    key: Range<usize>,
    value: Range<usize>,
}

impl FuzzyRecall {
    fn key_tokens(&self) -> Range<u32> {
        0..(self.vocab - 1) / 2
    }

    fn value_tokens(&self) -> Range<u32> {
        (self.vocab - 1) / 2..self.vocab - 1
    }

    fn draw_key(&self, split: Split, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let size = match split {
            Split::Train => rng.random_range(1..=self.max_key_len),
            Split::Test => self.max_key_len,
        };
        distinct(rng, self.key_tokens(), size as usize)
    }

    fn draw_value(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let size = rng.random_range(1..=self.max_value_len);
        distinct(rng, self.value_tokens(), size as usize)
    }
}

impl Recall for FuzzyRecall {
    const NAME: &'static str = "fuzzy-recall";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check::positive(task, &[("max_key_len", self.max_key_len), ("max_value_len", self.max_value_len)])?;
        let symbols = u64::from(self.vocab).saturating_sub(1);
        let (key_len, value_len) = (u64::from(self.max_key_len), u64::from(self.max_value_len));
        check::enough(task, "key tokens", key_len, symbols / 2, "raise vocab or lower max_key_len")?;
        let have = symbols - symbols / 2;
        check::enough(task, "value tokens", value_len, have, "raise vocab or lower max_value_len")?;
        // One pair drawn at random, the probe and the query, at their longest.
        let need = 3 * (key_len + value_len);
        let what = || "two pairs and the query".into();
        check::fits(task, self.len, need, what, "raise len, or lower max_key_len or max_value_len")
    }

    fn write(&self, _seed: u64, split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let len = self.len as usize;
        let (probe_key, probe_value) = (self.draw_key(split, rng), self.draw_value(rng));
        let longest = (self.max_key_len + self.max_value_len) as usize;
        // Pairs start below this border, so that the last of them and the query still fit.
        let border = len - probe_key.len() - probe_value.len() - longest;
        // A step is at most `longest`, so some pair starts between here and the border.
        let insert_at = rng.random_range(0..=border - longest);

        let mut tokens: Vec<u32> = Vec::with_capacity(len + 1);
        let mut labels = Vec::with_capacity(len + 1); // Of the prediction OF each token, not yet shifted.
        let mut seen: Vec<Pair> = Vec::new();
        let mut probe_seen = false;
        loop {
            let last = tokens.len() >= border;
            let key = if last || (tokens.len() >= insert_at && !probe_seen) {
                probe_key.clone()
            } else {
                self.draw_key(split, rng)
            };
            let bound = seen.iter().find(|pair| tokens[pair.key.clone()] == key[..]);
            let repeated = bound.is_some();
            let value = match bound {
                Some(pair) => tokens[pair.value.clone()].to_vec(),
                None if key == probe_key => probe_value.clone(),
                None => self.draw_value(rng),
            };
            probe_seen |= key == probe_key;

            let (start, middle) = (tokens.len(), tokens.len() + key.len());
            tokens.extend(key);
            labels.resize(middle, IGNORE);
            if repeated {
                labels.extend(&value);
            }
            tokens.extend(value);
            labels.resize(tokens.len(), IGNORE);
            if !repeated {
                seen.push(Pair { key: start..middle, value: middle..tokens.len() });
            }
            if last {
                break;
            }
        }

        let padding = len + 1 - tokens.len();
        let padded = std::iter::repeat_n(self.vocab - 1, padding).chain(tokens.iter().copied());
        out.ids.extend(padded.clone().take(len));
        match split {
            Split::Train => out.targets.extend(padded.skip(1)),
            Split::Test => {
                out.targets.extend(std::iter::repeat_n(IGNORE, padding - 1));
                out.targets.extend(labels);
            }
        }
    }
}
