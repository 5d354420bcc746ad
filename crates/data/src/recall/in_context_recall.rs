//! MAD's in-context recall and noisy in-context recall (mad-lab, `mad/data/instances.py`, `multi_query`).
//!
//! L / 2 slots of two tokens, key and value. A key is drawn with replacement; its value is drawn at the key's first
//! use and bound for the sequence. With noise, a slot is two noise tokens with probability `noise`, except the last
//! slot and one random slot before it. The last slot asks for a key that has occurred.
//!
//! Labels: in training every next token; in test, on each key that has occurred before, its value. The sequence has L
//! tokens and the last position has no label (mad-lab drops that position, which a causal model cannot tell).

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::task::{Recall, settings};
use crate::{Error, Example, IGNORE, Result, Split};

/// MAD's in-context recall. Baseline: `vocab = 16`, `len = 128`, `train_examples = 12800`; one at a time vocab 32, 64,
/// 128, len 256, 512, 1024, train_examples 6400, 3200, 1600, 800.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InContextRecall {
    /// Tokens: keys in the lower half, values in the upper (which has one more if odd).
    pub vocab: u32,
    /// Positions, even.
    pub len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

/// MAD's noisy in-context recall. Baseline: `vocab = 32`, `noise_vocab = 16`, `noise = 0.2`, `len = 128`,
/// `train_examples = 12800`; one at a time vocab 48, 80, 144, noise 0.4, 0.6, 0.8, and len and train_examples as in
/// [`InContextRecall`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoisyRecall {
    /// Tokens, noise included: keys, values, then noise.
    pub vocab: u32,
    /// How many of the tokens are noise.
    pub noise_vocab: u32,
    /// Probability that a slot is noise, in 0..1.
    pub noise: f64,
    /// Positions, even.
    pub len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl Recall for InContextRecall {
    const NAME: &'static str = "in-context-recall";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        check_slots(Self::NAME, self.len)?;
        check::enough(Self::NAME, "keys and values", 2, self.vocab.into(), "raise vocab to at least 2")
    }

    fn write(&self, _seed: u64, split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        write_slots(self.vocab, 0..0, 0.0, self.len, split, rng, out);
    }
}

impl Recall for NoisyRecall {
    const NAME: &'static str = "noisy-recall";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check_slots(task, self.len)?;
        if !(0.0..1.0).contains(&self.noise) {
            let range = "from 0 to below 1";
            return Err(Error::Range { task, field: "noise", value: self.noise, range });
        }
        check::positive(task, &[("noise_vocab", self.noise_vocab)])?;
        let symbols = self.vocab.saturating_sub(self.noise_vocab);
        check::enough(task, "keys and values", 2, symbols.into(), "raise vocab to at least noise_vocab + 2")
    }

    fn write(&self, _seed: u64, split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let symbols = self.vocab - self.noise_vocab;
        write_slots(symbols, symbols..self.vocab, self.noise, self.len, split, rng, out);
    }
}

fn check_slots(task: &'static str, len: u32) -> Result<()> {
    check::even(task, len)?;
    check::fits(task, len, 4, || "one pair and one query of two".into(), "raise len")
}

/// Appends `len / 2` slots over `symbols` keys and values; a slot is two tokens of `noise_tokens` with probability
/// `noise`.
fn write_slots(
    symbols: u32,
    noise_tokens: Range<u32>,
    noise: f64,
    len: u32,
    split: Split,
    rng: &mut ChaCha8Rng,
    out: &mut Example,
) {
    let (start, slots) = (out.ids.len(), len / 2);
    let mut values = vec![None; symbols as usize / 2];
    let mut seen = Vec::new();
    let sure = rng.random_range(0..slots - 1);
    for slot in 0..slots {
        let last = slot == slots - 1;
        if slot != sure && !last && rng.random_bool(noise) {
            for _ in 0..2 {
                out.push(rng.random_range(noise_tokens.clone()));
            }
            continue;
        }
        let key = if last { seen[rng.random_range(0..seen.len())] } else { rng.random_range(0..symbols / 2) };
        let bound = values[key as usize];
        let value = bound.unwrap_or_else(|| rng.random_range(symbols / 2..symbols));
        if bound.is_none() {
            values[key as usize] = Some(value);
            seen.push(key);
        }
        out.push_labelled(key, bound.unwrap_or(IGNORE));
        out.push(value);
    }
    if split == Split::Train {
        // Each position predicts the next token; the last one has none.
        let (ids, targets) = (&out.ids[start..], &mut out.targets[start..]);
        for (target, &next) in targets.iter_mut().zip(&ids[1..]) {
            *target = next;
        }
    }
}
