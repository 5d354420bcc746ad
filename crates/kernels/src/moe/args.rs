//! What a caller passes in, and what the forward pass leaves for the backward.

use crate::{Error, Result, check};

/// Dimensions of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens (N).
    pub tokens: usize,
    /// Columns of x and y (D).
    pub d: usize,
    /// Experts (E).
    pub experts: usize,
    /// Experts of each token (k), at most E.
    pub top_k: usize,
    /// Hidden width of an expert (F).
    pub ffn: usize,
}

impl Shape {
    /// Pairs of a token and one of its experts.
    pub(super) fn pairs(&self) -> usize {
        self.tokens * self.top_k
    }

    /// Refuses dimensions of 0 and more choices than experts, and the named slices if they do not have N rows of
    /// their width.
    pub(super) fn check(&self, op: &'static str, rows: &[(&'static str, usize, usize)]) -> Result<()> {
        let Self { tokens, d, experts, top_k, ffn } = *self;
        for (name, size) in [("tokens", tokens), ("d", d), ("experts", experts), ("top_k", top_k), ("ffn", ffn)] {
            check::positive(op, name, size)?;
        }
        if top_k > experts {
            let range = format!("1..={experts}");
            let remedy = "choose at most as many experts as there are";
            return Err(Error::Range { op, name: "top_k", found: top_k, range, remedy });
        }
        rows.iter().try_for_each(|&(name, found, width)| {
            check::size(op, name, found, &[("tokens", tokens), ("columns", width)])
        })
    }

    pub(super) fn check_weights(&self, op: &'static str, w: &Weights) -> Result<()> {
        for (name, found) in [("gate", w.gate.len()), ("up", w.up.len()), ("down", w.down.len())] {
            check::size(op, name, found, &[("experts", self.experts), ("ffn", self.ffn), ("d", self.d)])?;
        }
        Ok(())
    }
}

/// How tokens are weighted, and what is added to the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Whether a token's k weights are scaled to a sum of 1: the softmax over the chosen experts alone.
    pub renormalize: bool,
    /// Weight of the load-balancing loss.
    pub aux_weight: f32,
    /// Weight of the z-loss.
    pub z_weight: f32,
}

/// The experts' weights.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// `[E F, D]`.
    pub gate: &'a [f32],
    /// `[E F, D]`.
    pub up: &'a [f32],
    /// `[E D, F]`.
    pub down: &'a [f32],
}

/// One of [`Weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The gates.
    Gate,
    /// The ups.
    Up,
    /// The downs.
    Down,
}

/// What a pass keeps, its buffers reused by the next of the same shape. Slots are pairs sorted by expert.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// Softmax of the logits `[N, E]`.
    pub(super) probs: Vec<f32>,
    /// Log of its denominator `[N]`.
    pub(super) lse: Vec<f32>,
    /// Chosen experts `[N, k]`.
    pub(super) choices: Vec<u32>,
    /// Their weights `[N, k]`.
    pub(super) weights: Vec<f32>,
    /// First slot of each expert, and the number of slots `[E + 1]`.
    pub(super) firsts: Vec<usize>,
    /// The pair, `n k + j`, in each slot.
    pub(super) pairs: Vec<u32>,
    /// The slot of each pair.
    pub(super) slots: Vec<u32>,
    /// Auxiliary losses, weighted.
    pub(super) aux: f32,
    /// x by slot `[k N, D]`.
    pub(super) x: Vec<f32>,
    /// Gate products by slot `[k N, F]`; the backward leaves their gradient.
    pub(super) gate: Vec<f32>,
    /// The same of up.
    pub(super) up: Vec<f32>,
    /// Outputs by slot `[k N, D]`; the backward leaves the gradient of x.
    pub(super) out: Vec<f32>,
    /// Gradients of the outputs by slot, unweighted `[k N, D]`.
    pub(super) dy: Vec<f32>,
    /// Hidden values times the pair's weight, by slot `[k N, F]`.
    pub(super) hidden: Vec<f32>,
    /// Gradients of the pairs' weights, by slot `[k N]`.
    pub(super) dweights: Vec<f32>,
}

impl Saved {
    /// The auxiliary losses of the pass, weighted.
    pub fn aux(&self) -> f32 {
        self.aux
    }

    /// The chosen experts `[N, k]`, the likeliest first.
    pub fn choices(&self) -> &[u32] {
        &self.choices
    }

    /// Pairs of each expert.
    pub fn load(&self) -> impl Iterator<Item = usize> + '_ {
        self.firsts.windows(2).map(|pair| pair[1] - pair[0])
    }
}
