//! Compositional MQAR (Zoology, `zoology/data/compositional_mqar.py`): the value hangs on two key tokens.
//!
//! g first halves from `1..V/3`, g second halves from `V/3..2V/3`; each of the g^2 combinations gets a distinct value
//! from `2V/3..V`, so neither half alone determines it. Context: the g^2 triples `a b v` in random order. The rest is
//! slots of three positions, (L - 3 g^2) / 3 of them, drawn as in [`super::Mqar`]; a slot holds `a b` and filler, the
//! label sits on `b`. A key always has two tokens, so a static filter of width 2 suffices in principle: the control
//! for [`super::VariableKeyMqar`].

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Filler;
use super::check;
use super::sampling::{distinct, power_law_slots};
use super::task::{Recall, settings};
use crate::{Example, Result, Split};

/// Compositional MQAR: triples `a b v` over a grid of two-token keys, then `a b` among filler, labelled on `b`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompositionalMqar {
    /// Tokens V: 0 is the blank; first halves, second halves and values have a third each.
    pub vocab: u32,
    /// Positions L.
    pub len: u32,
    /// Side g of the grid: g^2 keys, and queries.
    pub grid: u32,
    /// Exponent a of the gap law, in 0..=1: 0.01 favours early slots, 1 is uniform.
    pub power: f64,
    /// What stands between the queries.
    pub filler: Filler,
    /// The size of the training set; endless if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_examples: Option<u64>,
}

impl Recall for CompositionalMqar {
    const NAME: &'static str = "compositional-mqar";

    settings!(vocab);

    fn check(&self) -> Result<()> {
        let task = Self::NAME;
        check::positive(task, &[("grid", self.grid)])?;
        check::power(task, self.power)?;
        let third = u64::from(self.vocab / 3);
        let (grid, pairs) = (u64::from(self.grid), u64::from(self.grid) * u64::from(self.grid));
        // The first halves are the smallest of the two key alphabets: V/3 - 1 of them.
        let (have, remedy) = (third.saturating_sub(1), "raise vocab to at least 3 * grid + 3, or lower grid");
        check::enough(task, "first key tokens", grid, have, remedy)?;
        let (have, remedy) = (u64::from(self.vocab) - 2 * third, "raise vocab to at least 3 * grid^2, or lower grid");
        check::enough(task, "values", pairs, have, remedy)?;
        let what = || format!("{pairs} triples and as many query slots of three");
        check::fits(task, self.len, pairs.saturating_mul(6), what, "raise len or lower grid")
    }

    fn write(&self, _seed: u64, _split: Split, rng: &mut ChaCha8Rng, out: &mut Example) {
        let (start, len, grid) = (out.ids.len(), self.len as usize, self.grid as usize);
        let third = self.vocab / 3;
        let firsts = distinct(rng, 1..third, grid);
        let seconds = distinct(rng, third..2 * third, grid);
        let values = distinct(rng, 2 * third..self.vocab, grid * grid);
        let keys = firsts.iter().flat_map(|&a| seconds.iter().map(move |&b| (a, b)));
        let mut pairs: Vec<_> = keys.zip(values).collect();
        pairs.shuffle(rng);
        for &((a, b), value) in &pairs {
            for id in [a, b, value] {
                out.push(id);
            }
        }
        for _ in 3 * pairs.len()..len {
            out.push(self.filler.draw(self.vocab, rng));
        }
        let slots = power_law_slots(rng, (len - 3 * pairs.len()) / 3, pairs.len(), self.power);
        for (slot, &((a, b), value)) in slots.into_iter().zip(&pairs) {
            let at = start + 3 * pairs.len() + 3 * slot;
            out.ids[at] = a;
            out.ids[at + 1] = b;
            out.targets[at + 1] = value;
        }
    }
}
