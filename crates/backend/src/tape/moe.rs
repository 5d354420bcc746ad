//! Mixtures of experts on the tape.

use super::Tape;
use crate::op::{Moe, Op, Param, Var};
use crate::params::{Init, ParamSpec};
use crate::{Error, Result};

impl Tape {
    /// Declares the bias of loss-free balancing, one value per expert, moved by `gamma` a step.
    ///
    /// # Errors
    /// As [`Tape::param`].
    pub fn balance(&mut self, name: impl Into<String>, experts: usize, gamma: f32) -> Result<Param> {
        let (shape, init) = (vec![experts], Init::Zeros);
        self.declare(ParamSpec { name: name.into(), shape, init, decay: false, balance: Some(gamma) })
    }

    /// Records [`Op::Moe`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the experts do not fit x or the logits, or there are fewer than `top_k`.
    pub fn moe(&mut self, moe: Moe) -> Result<Var> {
        const OP: &str = "moe";
        let (d, experts) = (self.cols(moe.x), self.cols(moe.logits));
        if !(1..=experts).contains(&moe.top_k) {
            let what = format!("top_k {} is out of range 1..={experts}", moe.top_k);
            return Err(Error::Shape { op: OP, what, remedy: "choose at most as many experts as there are" });
        }
        let [down_rows, ffn] = self.matrix(OP, moe.down)?;
        self.same(OP, "rows of down and E * D", down_rows, experts * d)?;
        for w in [moe.gate, moe.up] {
            let [rows, cols] = self.matrix(OP, w)?;
            self.same(OP, "rows of gate or up and E * F", rows, experts * ffn)?;
            self.same(OP, "columns of gate or up and of x", cols, d)?;
        }
        if let Some(bias) = moe.bias {
            self.same(OP, "elements of the bias and experts", self.spec(bias).numel(), experts)?;
            if self.spec(bias).balance.is_none() {
                let what = format!("bias {} would be trained", self.spec(bias).name);
                return Err(Error::Shape { op: OP, what, remedy: "declare it with Tape::balance" });
            }
        }
        Ok(self.push(Op::Moe(moe), d))
    }

    /// [`Tape::parameter_count`] without the experts that a token does not meet.
    pub fn active_parameter_count(&self) -> usize {
        let idle = |op: &Op| match op {
            Op::Moe(m) => {
                let expert = [m.gate, m.up, m.down].map(|w| self.spec(w).numel()).iter().sum::<usize>();
                let experts = self.cols(m.logits);
                expert / experts * (experts - m.top_k)
            }
            _ => 0,
        };
        self.parameter_count() - self.ops.iter().map(idle).sum::<usize>()
    }
}
