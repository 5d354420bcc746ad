//! Selective-key MQAR: the key's last token tells which token before it completes the key. Ours.
//!
//! # Definition
//! Four disjoint alphabets, in this order of ids: F fillers, C content symbols, E ending symbols, values. A block is R
//! content symbols and one ending symbol. Ending symbol number i points back `1 + i mod R` positions; the key is the
//! pair (ending symbol, content symbol pointed at), E C keys in all. The other R - 1 content symbols of a block are
//! noise, drawn anew each time the key is written.
//!
//! An example has N distinct keys with N distinct values, `block1 v1 ... blockN vN`, then Q queries among fillers as in
//! [`super::VariableKeyMqar`]; the label, on the query's ending symbol, is the key's value.
//!
//! # What it tests
//! Filters generated from the token at hand. At an ending symbol the right taps are 1 for the symbol itself, 1 where it
//! points and 0 elsewhere, and that symbol alone decides them. A static filter brings all R content symbols along, and
//! no fixed weighing of their matches ranks the right key first for every ending symbol: where one points, another has
//! noise. At C = 8, E = 6, R = 3, N = 16 the best weighing is right for 82 % of the queries. A filter of more than R
//! taps reaches the whole key. Keys of consecutive tokens leave a static filter a way out, see
//! [`super::VariableKeyMqar`]. `reach = 1` is the control without noise.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::check;
use super::queries::{scatter, shuffled_passes};
use super::sampling::distinct;
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// Selective-key MQAR: blocks of content symbols and an ending symbol, which tells the one content symbol that counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveKeyMqar {
    /// Filler symbols F; 1 gives blanks, more give noise.
    pub fillers: u32,
    /// Content symbols C.
    pub content: u32,
    /// Ending symbols E, at least R.
    pub ending: u32,
    /// Value symbols.
    pub values: u32,
    /// Content symbols of a block R: how far back an ending symbol may point.
    pub reach: u32,
    /// Key-value pairs N.
    pub pairs: u32,
    /// Queries Q.
    pub queries: u32,
    /// Positions.
    pub len: u32,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl SelectiveKeyMqar {
    /// A block for key number `key`, ending symbol major, with fresh noise.
    fn block(&self, key: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let (content, reach) = (self.content as usize, self.reach as usize);
        let (ending, chosen) = (key / content, key % content);
        let first = self.fillers;
        let mut block: Vec<u32> = (0..reach).map(|_| rng.random_range(first..first + self.content)).collect();
        block[reach - 1 - ending % reach] = first + chosen as u32;
        block.push(first + self.content + ending as u32);
        block
    }
}

impl Recall for SelectiveKeyMqar {
    const NAME: &'static str = "selective-key-mqar";

    fn vocab(&self) -> u64 {
        [self.fillers, self.content, self.ending, self.values].into_iter().map(u64::from).sum()
    }

    settings!();

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        let counts = [
            ("fillers", self.fillers),
            ("content", self.content),
            ("reach", self.reach),
            ("pairs", self.pairs),
            ("queries", self.queries),
        ];
        check::positive(task, &counts)?;
        let (pairs, reach) = (u64::from(self.pairs), u64::from(self.reach));
        check::enough(task, "ending symbols", reach, self.ending.into(), "raise ending to at least reach")?;
        let have = u64::from(self.ending) * u64::from(self.content);
        check::enough(task, "keys", pairs, have, "raise content or ending, or lower pairs")?;
        check::enough(task, "values", pairs, self.values.into(), "raise values or lower pairs")?;
        let context = pairs.saturating_mul(reach + 2);
        let need = context.saturating_add(u64::from(self.queries).saturating_mul(reach + 1));
        let what = || format!("{} pairs and {} queries of blocks of {}", self.pairs, self.queries, reach + 1);
        check::fits(task, self.len, need, what, "raise len, or lower pairs, queries or reach")
    }

    fn write(&self, _seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let end = out.ids.len() + self.len as usize;
        let (pairs, queries) = (self.pairs as usize, self.queries as usize);
        let keys = index::sample(rng, self.ending as usize * self.content as usize, pairs).into_vec();
        let first_value = self.fillers + self.content + self.ending;
        let values = distinct(rng, first_value..first_value + self.values, pairs);
        for (&key, &value) in keys.iter().zip(&values) {
            for token in self.block(key, rng) {
                out.push(token);
            }
            out.push(value);
        }
        let asked = shuffled_passes(rng, pairs, queries);
        let blocks: Vec<Vec<u32>> = asked.iter().map(|&pair| self.block(keys[pair], rng)).collect();
        let labels = asked.iter().map(|&pair| values[pair]);
        let queries: Vec<(&[u32], u32)> = blocks.iter().map(Vec::as_slice).zip(labels).collect();
        scatter(rng, &queries, self.fillers, end, out);
    }
}
