//! Variable-key MQAR: associative recall whose keys are sequences of 1 to several tokens.
//!
//! The paper shows a suite of this name but not its settings; the definition here is ours.
//!
//! # Definition
//! Four disjoint alphabets, in this order of ids: F fillers, C continuing symbols, E ending symbols, values. A key is
//! any number of continuing symbols and then one ending symbol, `c* e`: a token itself tells whether its key goes on,
//! so the code is prefix-free. Keys of length l: C^(l-1) E.
//!
//! An example has N distinct keys with N distinct values, `k1 v1 ... kN vN`, each key written out whole. Then come Q
//! queries, each a whole key, and the fillers that make up the length, in uniformly random order. The label, on the
//! query's last token, is the key's value; the value is not inserted. Queries go through the keys in shuffled passes,
//! so no key is asked a second time before every key has been asked once.
//!
//! # What makes it hard
//! The key alphabets are small on purpose, so keys share endings (N > E forces it), beginnings, and whole suffixes:
//! `e`, `c e` and `d c e` are three keys. Hence the last token does not identify a key, and a model that cannot join
//! neighbours fails. Nor does a window of fixed width: it holds too little of a long key, and with a short one also
//! what happens to stand before it, which differs between context (a value) and query (a filler or another query).
//!
//! The key that ends at an ending symbol is that symbol and the continuing symbols right before it. This also makes the
//! parse unique: what stands before a key is a value, a filler or another key's ending symbol, never a continuing one.
//!
//! # What it does not show
//! It asks for joined neighbours, which a short convolution gives and attention alone has to learn. It need not
//! separate dynamic filters from static ones: a projection before the filter can blank whatever is not a continuing
//! symbol at the earlier taps, and then a static window as wide as the longest key is nearly always right. Nor does the
//! ending symbol tell a filter generated from it how long its key is. In [`super::SelectiveKeyMqar`] the right taps
//! hang on the token.
//!
//! Controls: `key_lengths = [1]` is plain MQAR; `[0, 1]`, all keys of two tokens, suits a static filter of width 2.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::queries::{scatter, shuffled_passes};
use super::sampling::{distinct, weighted};
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// Variable-key MQAR: `k1 v1 ... kN vN` with keys of several tokens, then whole keys among filler, each labelled with
/// its value on its last token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariableKeyMqar {
    /// Filler symbols F; 1 gives blanks, more give noise.
    pub fillers: u32,
    /// Continuing symbols C: the tokens of a key before its last.
    pub continuing: u32,
    /// Ending symbols E: the last token of a key.
    pub ending: u32,
    /// Value symbols.
    pub values: u32,
    /// `key_lengths[l - 1]` is the relative frequency of keys of length l: `[1, 1, 1]` for 1 to 3 alike. A length whose
    /// keys are all in the example already is left out of the draw.
    pub key_lengths: Vec<u32>,
    /// Key-value pairs N.
    pub pairs: u32,
    /// Queries Q.
    pub queries: u32,
    /// Positions. Must hold N pairs and Q queries at their longest.
    pub len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl VariableKeyMqar {
    /// The number of keys of `len` tokens.
    fn keys_of_len(&self, len: usize) -> u64 {
        let exponent = u32::try_from(len - 1).unwrap_or(u32::MAX);
        u64::from(self.continuing).saturating_pow(exponent).saturating_mul(self.ending.into())
    }

    /// The most tokens that a key has; 0 if no length has a positive frequency.
    fn longest(&self) -> usize {
        self.key_lengths.iter().rposition(|&frequency| frequency > 0).map_or(0, |i| i + 1)
    }

    /// `pairs` distinct keys.
    fn draw_keys(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
        let continuing = self.fillers..self.fillers + self.continuing;
        let ending = continuing.end..continuing.end + self.ending;
        let mut frequencies: Vec<u64> = self.key_lengths.iter().map(|&f| f.into()).collect();
        let mut left: Vec<u64> = (1..=frequencies.len()).map(|len| self.keys_of_len(len)).collect();
        let mut keys: Vec<Vec<u32>> = Vec::with_capacity(self.pairs as usize);
        while keys.len() < self.pairs as usize {
            let i = weighted(rng, &frequencies);
            let key = loop {
                let mut key: Vec<u32> = (0..i).map(|_| rng.random_range(continuing.clone())).collect();
                key.push(rng.random_range(ending.clone()));
                if !keys.contains(&key) {
                    break key;
                }
            };
            keys.push(key);
            left[i] -= 1;
            if left[i] == 0 {
                frequencies[i] = 0;
            }
        }
        keys
    }
}

impl Recall for VariableKeyMqar {
    const NAME: &'static str = "variable-key-mqar";

    fn vocab(&self) -> u64 {
        [self.fillers, self.continuing, self.ending, self.values].into_iter().map(u64::from).sum()
    }

    settings!();

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        let longest = self.longest() as u64;
        let counts = [
            ("fillers", self.fillers),
            ("ending", self.ending),
            ("pairs", self.pairs),
            ("queries", self.queries),
            ("every entry of key_lengths", longest.try_into().unwrap_or(u32::MAX)),
            // Keys of one token have no continuing symbol.
            ("continuing", if longest == 1 { 1 } else { self.continuing }),
        ];
        check::positive(task, &counts)?;
        let lengths = (1..).zip(&self.key_lengths).filter(|&(_, &frequency)| frequency > 0);
        let keys = lengths.fold(0u64, |sum, (len, _)| sum.saturating_add(self.keys_of_len(len)));
        let pairs = self.pairs.into();
        let remedy = "raise continuing, ending or the longest of key_lengths, or lower pairs";
        check::enough(task, "keys", pairs, keys, remedy)?;
        check::enough(task, "values", pairs, self.values.into(), "raise values or lower pairs")?;
        let context = pairs.saturating_mul(longest + 1);
        let need = context.saturating_add(u64::from(self.queries).saturating_mul(longest));
        let what = || format!("{} pairs and {} queries of keys of {longest}", self.pairs, self.queries);
        check::fits(task, self.len, need, what, "raise len, lower pairs or queries, or shorten key_lengths")
    }

    fn write(&self, _seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let end = out.ids.len() + self.len as usize;
        let keys = self.draw_keys(rng);
        let first_value = self.fillers + self.continuing + self.ending;
        let values = distinct(rng, first_value..first_value + self.values, keys.len());
        for (key, &value) in keys.iter().zip(&values) {
            for &token in key {
                out.push(token);
            }
            out.push(value);
        }

        let asked = shuffled_passes(rng, keys.len(), self.queries as usize);
        let queries: Vec<_> = asked.into_iter().map(|pair| (keys[pair].as_slice(), values[pair])).collect();
        scatter(rng, &queries, self.fillers, end, out);
    }
}
