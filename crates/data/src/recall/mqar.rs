//! Multi-query associative recall (Zoology, `zoology/data/multiquery_ar.py`).
//!
//! N distinct keys from `1..V/2`, N distinct values from `V/2..V`, written `k1 v1 ... kN vN`. The rest is slots of two
//! positions, (L - 2N) / 2 of them; N are drawn without replacement, slot i (from 0) with weight (i + 1)^(a - 1), and
//! the j-th drawn holds key k_j in its first position. The label v_j sits on that position; the value is not inserted.
//! All other positions hold filler. Published: attention reaches 1.00 at V = 8192, (L, N) up to (512, 64).

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::sampling::{distinct, power_law_slots};
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// Multi-query associative recall: `k1 v1 ... kN vN`, then keys among filler, each labelled with its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqar {
    /// Tokens V: 0 is the blank, then the keys, the upper half the values.
    pub vocab: u32,
    /// Positions L.
    pub len: u32,
    /// Key-value pairs N, and queries.
    pub pairs: u32,
    /// Exponent a of the gap law, in 0..=1: 0.01 favours early slots, 1 is uniform.
    pub power: f64,
    /// What stands between the queries.
    pub filler: Filler,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

/// What stands where neither a pair nor a query does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filler {
    /// Uniform tokens of the whole vocabulary, keys and values included (Zoology's `random_non_queries`).
    Random,
    /// Token 0, which is neither key nor value (Zoology's figure 2).
    Zero,
}

impl Filler {
    /// One filler token.
    pub(crate) fn draw(self, vocab: u32, rng: &mut ChaCha8Rng) -> u32 {
        match self {
            Filler::Random => rng.random_range(0..vocab),
            Filler::Zero => 0,
        }
    }
}

impl Recall for Mqar {
    const NAME: &'static str = "mqar";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check::positive(task, &[("pairs", self.pairs)])?;
        check::power(task, self.power)?;
        // The keys are the smaller half: V/2 - 1 of them.
        let (need, have) = (self.pairs.into(), u64::from(self.vocab / 2).saturating_sub(1));
        check::enough(task, "keys", need, have, "raise vocab to at least 2 * pairs + 2, or lower pairs")?;
        let what = || format!("{} pairs and as many query slots of two", self.pairs);
        check::fits(task, self.len, 4 * need, what, "raise len or lower pairs")
    }

    fn write(&self, _seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let (start, len, pairs) = (out.ids.len(), self.len as usize, self.pairs as usize);
        let keys = distinct(rng, 1..self.vocab / 2, pairs);
        let values = distinct(rng, self.vocab / 2..self.vocab, pairs);
        for (&key, &value) in keys.iter().zip(&values) {
            out.push(key);
            out.push(value);
        }
        for _ in 2 * pairs..len {
            out.push(self.filler.draw(self.vocab, rng));
        }
        let slots = power_law_slots(rng, (len - 2 * pairs) / 2, pairs, self.power);
        for (j, slot) in slots.into_iter().enumerate() {
            let at = start + 2 * pairs + 2 * slot;
            out.ids[at] = keys[j];
            out.targets[at] = values[j];
        }
    }
}
