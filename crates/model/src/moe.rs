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

    fn seven_billion() -> Transformer {
        let json = r#"{"vocab":100352,"d_model":1536,"layers":40,"heads":24,"mlp":{"moe":{
            "experts":128,"top_k":8,"ffn":256,"shared_ffn":1024,"loss_free_gamma":0.001}}}"#;
        serde_json::from_str(json).unwrap()
    }

    /// PAPER section 6: 6.92B in all, 1.26B of them met by a token.
    #[test]
    fn counts_of_the_seven_billion() {
        let billions = |n: usize| format!("{:.2}", n as f64 / 1e9);
        let model = seven_billion();
        assert_eq!(billions(model.parameter_count().unwrap()), "6.92");
        assert_eq!(billions(model.active_parameter_count().unwrap()), "1.26");
        // Without experts all parameters are active, and a bias per expert is not one of them.
        let dense = Transformer { mlp: crate::Mlp::Swiglu, ffn: 8, ..seven_billion() };
        assert_eq!(dense.active_parameter_count().unwrap(), dense.parameter_count().unwrap());
        let crate::Mlp::Moe(moe) = model.mlp else { unreachable!() };
        let without_bias = Transformer { mlp: crate::Mlp::Moe(Moe { loss_free_gamma: 0.0, ..moe }), ..seven_billion() };
        assert_eq!(without_bias.parameter_count().unwrap(), model.parameter_count().unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |change: &dyn Fn(&mut Moe, &mut crate::Conv)| {
            let mut model = seven_billion();
            let crate::Mlp::Moe(moe) = &mut model.mlp else { unreachable!() };
            change(moe, &mut model.conv);
            model.record(1, 1).unwrap_err().to_string()
        };
        let message = refused(&|moe, _| moe.top_k = 129);
        assert!(message.contains("top_k 129 is out of range 1..=128"), "{message}");
        let message = refused(&|moe, _| moe.ffn = 0);
        assert!(message.contains("moe.ffn is 0"), "{message}");
        let message = refused(&|moe, _| moe.z_weight = f32::NAN);
        assert!(message.contains("moe.z_weight is NaN"), "{message}");
        let message = refused(&|_, conv| (conv.kind, conv.on) = (crate::ConvKind::Static, Place::ALL.to_vec()));
        assert!(message.contains("a convolution on gate"), "{message}");
    }
}
