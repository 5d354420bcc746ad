//! Floating-point operations of a tape, by one formula for every model.
//!
//! Over `N = batch * len` tokens in rows of `T`, a multiplication and an addition counted as two:
//!
//! | op | forward |
//! |---|---|
//! | linear `in -> out` | `2 N in out`; the output embedding is one, the input embedding none |
//! | attention, `d` columns | `2 N (T + 1) d`: scores and mixture over the `(T + 1) / 2` tokens that one sees on average |
//! | short convolution, W taps, D columns | `2 N W D`, and `N W D` for taps that have a static part added |
//! | its low-rank taps | `2 N R W D` besides; head-wise taps and codes come from linears |
//! | mixture of experts, hidden width F | `6 N top_k d F`; its router is a linear |
//! | gated delta rule, H heads of key K and value V | `6 N H K V`: the token by token form, which is the cheapest |
//! | Mamba-2's recurrence, D columns, state S | `4 N S D`, the same |
//!
//! Norms, activations, positions, sums and the loss count nothing. Training a step takes three forward passes' worth:
//! one forward and two backward. The update is left out. What utilisation (MFU) counts is less: `step_throughput::model_flops`.

use crate::op::{Filter, Op};
use crate::tape::Tape;

impl Tape {
    /// Operations of one forward pass. Rows packed with documents count as whole ones.
    pub fn flops(&self) -> f64 {
        self.ops().iter().map(|op| self.op_flops(op)).sum()
    }

    fn op_flops(&self, op: &Op) -> f64 {
        let n = self.tokens() as f64;
        match *op {
            Op::Linear { w, .. } => 2.0 * n * self.spec(w).numel() as f64,
            Op::Attention { q, .. } => 2.0 * n * (self.seq_len() + 1) as f64 * self.cols(q) as f64,
            Op::ShortConv { x, filter, width, .. } => {
                let taps = n * (width * self.cols(x)) as f64;
                2.0 * taps
                    + match filter {
                        Filter::Static { .. } => 0.0,
                        Filter::HeadWise { static_w, .. } => f64::from(u8::from(static_w.is_some())) * taps,
                        Filter::LowRank { z, static_w, .. } => {
                            (2.0 * self.cols(z) as f64 + f64::from(u8::from(static_w.is_some()))) * taps
                        }
                    }
            }
            Op::Moe(moe) => {
                let experts = self.cols(moe.logits) as f64;
                let one =
                    [moe.gate, moe.up, moe.down].map(|w| self.spec(w).numel() as f64).iter().sum::<f64>() / experts;
                2.0 * n * moe.top_k as f64 * one
            }
            Op::GatedDeltaRule(op) => {
                let key_size = self.cols(op.q) / self.cols(op.a);
                6.0 * n * (key_size * self.cols(op.v)) as f64
            }
            Op::Ssd(op) => 4.0 * n * (self.cols(op.b) / op.groups * self.cols(op.x)) as f64,
            Op::Embedding { .. }
            | Op::AddPositions { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::SwiGlu { .. }
            | Op::Gelu { .. }
            | Op::Add { .. }
            | Op::CrossEntropy { .. } => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{GatedDeltaRule, Ssd};
    use crate::params::Init;

    /// By hand: 3 rows of 5 tokens, d = 4, vocabulary 7, width 2, rank 3.
    #[test]
    fn the_formula_by_hand() {
        let mut tape = Tape::new(3, 5).unwrap();
        let t = &mut tape;
        let mut param = |name: &str, shape: &[usize]| t.param(name, shape, Init::Ones, true).unwrap();
        let (table, a, u) = (param("table", &[7, 4]), param("a", &[3, 4]), param("u", &[3, 8]));
        let (head, w, static_w) = (param("head", &[4, 4]), param("w", &[2, 4]), param("static_w", &[2, 4]));
        let x = t.embedding(table).unwrap();
        let z = t.linear(x, a, None, None).unwrap();
        let filter = Filter::LowRank { z, u, static_w: Some(static_w) };
        let y = t.short_conv(x, filter, 2, true, false).unwrap();
        let y = t.short_conv(y, Filter::Static { w }, 2, true, false).unwrap();
        let weight = t.linear(y, head, None, None).unwrap();
        let filter = Filter::HeadWise { weight, head_size: 2, static_w: None };
        let y = t.short_conv(y, filter, 2, true, false).unwrap();
        let y = t.attention(y, y, y, 2).unwrap();
        let logits = t.linear(y, table, None, None).unwrap();
        t.cross_entropy(logits);
        let low_rank = 2 * 12 + (2 * 3 + 1 + 2) * 8;
        let others = 2 * 8 + (2 * 16 + 2 * 8) + 2 * 6 * 4 + 2 * 28;
        assert_eq!(tape.flops(), f64::from(15 * (low_rank + others)));
    }

    /// 5 tokens, 4 columns in 2 heads; keys of 3, states of 3 in 1 group.
    #[test]
    fn recurrences_by_hand() {
        let mut tape = Tape::new(1, 5).unwrap();
        let t = &mut tape;
        let mut param = |name: &str, shape: &[usize]| t.param(name, shape, Init::Ones, true).unwrap();
        let (wide, narrow, gate) = (param("wide", &[6, 4]), param("narrow", &[3, 4]), param("gate", &[2, 4]));
        let (table, h) = (param("table", &[7, 4]), param("h", &[2]));
        let x = t.embedding(table).unwrap();
        let k = t.linear(x, wide, None, None).unwrap();
        let b = t.linear(x, narrow, None, None).unwrap();
        let a = t.linear(x, gate, None, None).unwrap();
        let linears = t.flops();
        assert_eq!(linears, 5.0 * 2.0 * 4.0 * (6.0 + 3.0 + 2.0));
        t.gated_delta_rule(GatedDeltaRule { q: k, k, v: x, a, b: a, a_log: h, dt_bias: h }).unwrap();
        assert_eq!(t.flops() - linears, 5.0 * 6.0 * 2.0 * 3.0 * 2.0);
        t.ssd(Ssd { x, b, c: b, dt: a, a_log: h, dt_bias: h, d: h, groups: 1 }).unwrap();
        assert_eq!(t.flops() - linears, 5.0 * (72.0 + 4.0 * 3.0 * 4.0));
    }
}
