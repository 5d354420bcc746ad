//! The mixture of experts as a block's MLP.
//!
//! `x + moe(h) (+ shared(h))`, h the normed block input: a linear router without bias, the experts, and a SwiGLU MLP
//! that every token passes through.

use backend::{Error, Result, Tape, Var};

use crate::config::{Moe, Place, Transformer};

impl Transformer {
    /// Adds the experts' output on `h` to the residual stream `x`.
    pub(crate) fn experts(&self, t: &mut Tape, x: Var, h: Var, moe: Moe, prefix: &str) -> Result<Var> {
        self.check_experts(&moe)?;
        let (d, Moe { experts, top_k, ffn, .. }) = (self.d_model, moe);
        let router = self.matrix(t, &format!("{prefix}.router.weight"), experts, d)?;
        let logits = t.linear(h, router, None, None)?;
        let gate = self.matrix(t, &format!("{prefix}.experts.gate.weight"), experts * ffn, d)?;
        let up = self.matrix(t, &format!("{prefix}.experts.up.weight"), experts * ffn, d)?;
        let down = format!("{prefix}.experts.down.weight");
        let down = t.param(down, &[experts * d, ffn], self.write_back_init(), true)?;
        let bias = if moe.loss_free_gamma > 0.0 {
            Some(t.balance(format!("{prefix}.router.balance"), experts, moe.loss_free_gamma)?)
        } else {
            None
        };
        let Moe { renormalize, aux_weight, z_weight, .. } = moe;
        let y = t.moe(backend::Moe { x: h, logits, gate, up, down, bias, top_k, renormalize, aux_weight, z_weight })?;
        let x = t.add(x, y)?;
        if moe.shared_ffn == 0 {
            return Ok(x);
        }
        let gate = self.matrix(t, &format!("{prefix}.shared.gate.weight"), moe.shared_ffn, d)?;
        let up = self.matrix(t, &format!("{prefix}.shared.up.weight"), moe.shared_ffn, d)?;
        let (gate, up) = (t.linear(h, gate, None, None)?, t.linear(h, up, None, None)?);
        let hidden = t.swiglu(gate, up)?;
        let down = format!("{prefix}.shared.down.weight");
        let down = t.param(down, &[d, moe.shared_ffn], self.write_back_init(), true)?;
        t.linear(hidden, down, None, Some(x))
    }

    fn check_experts(&self, moe: &Moe) -> Result<()> {
        let refuse = |what: String, remedy| Err(Error::Shape { op: "moe", what, remedy });
        for (name, value) in [("experts", moe.experts), ("ffn", moe.ffn)] {
            if value == 0 {
                return refuse(format!("moe.{name} is 0"), "give a positive size");
            }
        }
        for (name, value) in
            [("aux_weight", moe.aux_weight), ("z_weight", moe.z_weight), ("loss_free_gamma", moe.loss_free_gamma)]
        {
            if !(0.0..f32::INFINITY).contains(&value) {
                return refuse(format!("moe.{name} is {value}"), "give a finite value of at least 0");
            }
        }
        if let Some(place) = [Place::Gate, Place::Up, Place::Down].into_iter().find(|&p| self.conv.is_on(p)) {
            let what = format!("a convolution on {}, where an expert's tokens are not neighbours", place.name());
            return refuse(what, "leave gate, up and down out of conv.on");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Transformer {
        let json = r#"{"vocab":50,"d_model":12,"layers":3,"heads":2,"mlp":{"moe":{
            "experts":8,"top_k":2,"ffn":5,"shared_ffn":7,"loss_free_gamma":0.001}}}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn six_experts_of_eight_are_idle() {
        let (model, expert) = (small(), 3 * 12 * 5);
        let active = 2 * 50 * 12 + 12 + 3 * (4 * 12 * 12 + 2 * 12 + 8 * 12 + 2 * expert + 3 * 12 * 7);
        assert_eq!(model.active_parameter_count().unwrap(), active);
        // The bias of loss-free balancing is no parameter.
        assert_eq!(model.parameter_count().unwrap(), active + 3 * 6 * expert);
        let dense = Transformer { mlp: crate::Mlp::Swiglu, ffn: 8, ..small() };
        assert_eq!(dense.active_parameter_count().unwrap(), dense.parameter_count().unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |change: &dyn Fn(&mut Moe, &mut crate::Conv)| {
            let mut model = small();
            let crate::Mlp::Moe(moe) = &mut model.mlp else { unreachable!() };
            change(moe, &mut model.conv);
            model.record(1, 1).unwrap_err().to_string()
        };
        let message = refused(&|moe, _| moe.top_k = 9);
        assert!(message.contains("top_k 9 is out of range 1..=8"), "{message}");
        let message = refused(&|moe, _| moe.ffn = 0);
        assert!(message.contains("moe.ffn is 0"), "{message}");
        let message = refused(&|moe, _| moe.z_weight = f32::NAN);
        assert!(message.contains("moe.z_weight is NaN"), "{message}");
        let message = refused(&|_, conv| (conv.kind, conv.on) = (crate::ConvKind::Static, Place::ALL.to_vec()));
        assert!(message.contains("a convolution on gate"), "{message}");
    }
}
