//! Mixtures of experts on the tape.

use kernels::moe::{Options, Shape};

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
    /// [`Error::Shape`] if the experts do not fit x or the logits, there are fewer than `top_k`, or two of their weights are one.
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
        if moe.gate == moe.up || moe.gate == moe.down || moe.up == moe.down {
            let what = format!("{} stands for two of gate, up and down", self.spec(moe.down).name);
            return Err(Error::Shape { op: OP, what, remedy: "declare a parameter for each" });
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

impl Moe {
    /// The kernels' dimensions.
    pub(crate) fn shape(&self, tape: &Tape) -> Shape {
        Shape {
            tokens: tape.tokens(),
            d: tape.cols(self.x),
            experts: tape.cols(self.logits),
            top_k: self.top_k,
            ffn: tape.spec(self.down).shape[1],
        }
    }

    /// `share` multiplies the auxiliary losses.
    pub(crate) fn options(&self, share: f32) -> Options {
        let Self { renormalize, aux_weight, z_weight, .. } = *self;
        Options { renormalize, aux_weight: share * aux_weight, z_weight: share * z_weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 experts of 2 on 4 columns, 2 to a token.
    fn record(change: impl Fn(&mut Tape, &mut Moe)) -> Result<Tape> {
        let mut t = Tape::new(1, 5)?;
        let mut matrix = |name: &str, rows: usize, cols: usize| t.param(name, &[rows, cols], Init::Zeros, true);
        let (table, router) = (matrix("table", 7, 4)?, matrix("router", 3, 4)?);
        let (gate, up, down) = (matrix("gate", 6, 4)?, matrix("up", 6, 4)?, matrix("down", 12, 2)?);
        let x = t.embedding(table)?;
        let logits = t.linear(x, router, None, None)?;
        let bias = Some(t.balance("bias", 3, 0.1)?);
        let (renormalize, aux_weight, z_weight) = (true, 0.0, 0.0);
        let mut moe = Moe { x, logits, gate, up, down, bias, top_k: 2, renormalize, aux_weight, z_weight };
        change(&mut t, &mut moe);
        t.moe(moe)?;
        Ok(t)
    }

    #[test]
    fn a_token_meets_its_experts_alone() {
        let tape = record(|_, _| ()).unwrap();
        assert_eq!(tape.parameter_count(), 7 * 4 + 3 * 4 + 3 * 24);
        assert_eq!(tape.active_parameter_count(), 7 * 4 + 3 * 4 + 2 * 24);
    }

    #[test]
    fn experts_that_do_not_fit_are_refused() {
        let refused = |change: &dyn Fn(&mut Tape, &mut Moe)| record(change).unwrap_err().to_string();
        let message = refused(&|_, moe| moe.top_k = 4);
        assert_eq!(message, "moe: top_k 4 is out of range 1..=3; choose at most as many experts as there are");
        let message = refused(&|_, moe| moe.down = moe.gate);
        assert_eq!(message, "moe: rows of down and E * D differ: 6 and 12; make them equal");
        let message = refused(&|t, moe| moe.up = t.param("wide", &[6, 5], Init::Zeros, true).unwrap());
        assert_eq!(message, "moe: columns of gate or up and of x differ: 5 and 4; make them equal");
        let message = refused(&|t, moe| moe.bias = Some(t.balance("long", 4, 0.1).unwrap()));
        assert_eq!(message, "moe: elements of the bias and experts differ: 4 and 3; make them equal");
        let message = refused(&|t, moe| moe.bias = Some(t.param("trained", &[3], Init::Zeros, false).unwrap()));
        assert_eq!(message, "moe: bias trained would be trained; declare it with Tape::balance");
    }
}
