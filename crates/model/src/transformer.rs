//! The Transformer, recorded on a tape.
//!
//! Block: `x += o(attention(q, k, v)); x += mlp(x)`, each on a normed input. A convolution follows its linear
//! and comes before QK-norm and RoPE. Taps of q, k, v, gate and up are generated from the normed block input;
//! those of o and down from the linear's own input.

use backend::{Error, Init, Param, Result, Tape, Var};

use crate::config::{Mixer, Mlp, Norm, Place, Positions, Transformer};

pub(crate) const EPS: f32 = 1e-5;

impl Transformer {
    /// The model with its loss, for `batch` rows of `len` tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the sizes that do not fit.
    pub fn record(&self, batch: usize, len: usize) -> Result<Tape> {
        self.check()?;
        let mut tape = Tape::new(batch, len)?;
        let t = &mut tape;
        let d = self.d_model;
        let embed = self.matrix(t, "embed.weight", self.vocab, d)?;
        let mut x = t.embedding(embed)?;
        if self.positions == Positions::Learned {
            let table = self.matrix(t, "positions.weight", self.max_len, d)?;
            x = t.add_positions(x, table)?;
        }
        for layer in 0..self.layers {
            x = self.mix(t, x, layer)?;
            x = self.mlp(t, x, &format!("blocks.{layer}.mlp"))?;
        }
        let x = self.norm(t, x, "norm")?;
        let head = if self.tied { embed } else { self.matrix(t, "head.weight", self.vocab, d)? };
        let logits = t.linear(x, head, None, None)?;
        t.cross_entropy(logits);
        Ok(tape)
    }

    /// Number of trained values, nothing allocated.
    ///
    /// # Errors
    /// As [`Transformer::record`].
    pub fn parameter_count(&self) -> Result<usize> {
        Ok(self.record(1, 1)?.parameter_count())
    }

    /// The same without the experts that a token does not meet.
    ///
    /// # Errors
    /// As [`Transformer::record`].
    pub fn active_parameter_count(&self) -> Result<usize> {
        Ok(self.record(1, 1)?.active_parameter_count())
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: String, remedy| Err(Error::Shape { op: "transformer", what, remedy });
        for (name, value) in [("vocab", self.vocab), ("d_model", self.d_model)] {
            if value == 0 {
                return refuse(format!("{name} is 0"), "give a positive size");
            }
        }
        if self.mixer == Mixer::Attention && (self.heads == 0 || !self.d_model.is_multiple_of(self.heads)) {
            let what = format!("{} heads do not divide d_model {}", self.heads, self.d_model);
            return refuse(what, "choose a number of heads that divides d_model");
        }
        if matches!(self.mlp, Mlp::Swiglu | Mlp::Gelu) && self.ffn == 0 {
            return refuse("ffn is 0".into(), "give the MLP a hidden width, or set mlp = \"none\"");
        }
        Ok(())
    }

    /// `x + mixer(norm(x))`.
    fn mix(&self, t: &mut Tape, x: Var, layer: usize) -> Result<Var> {
        let prefix = &format!("blocks.{layer}.mixer");
        match self.mixer {
            Mixer::Attention => self.attention(t, x, &format!("blocks.{layer}.attn")),
            Mixer::GatedDeltaNet(sizes) => self.gated_deltanet(t, x, sizes, prefix),
            Mixer::Mamba2(sizes) => self.mamba2(t, x, sizes, prefix),
        }
    }

    fn attention(&self, t: &mut Tape, x: Var, prefix: &str) -> Result<Var> {
        let d = self.d_model;
        let h = self.norm(t, x, &format!("{prefix}.norm"))?;
        let [q, k, v] = [Place::Q, Place::K, Place::V].map(|place| -> Result<Var> {
            let w = self.matrix(t, &format!("{prefix}.{}.weight", place.name()), d, d)?;
            let y = t.linear(h, w, None, None)?;
            let y = self.conv.record(t, prefix, place, y, h, self.init_std)?;
            if place == Place::V { Ok(y) } else { self.position(t, y, prefix, place) }
        });
        let y = t.attention(q?, k?, v?, self.heads)?;
        self.write_back(t, x, y, prefix, Place::O)
    }

    /// QK-norm and RoPE of q or k, where configured.
    fn position(&self, t: &mut Tape, mut y: Var, prefix: &str, place: Place) -> Result<Var> {
        if self.qk_norm {
            let name = format!("{prefix}.{}_norm.weight", place.name());
            let gain = t.param(name, &[self.d_model / self.heads], Init::Ones, false)?;
            y = t.rms_norm(y, gain, EPS)?;
        }
        if self.positions == Positions::Rope {
            y = t.rope(y, self.heads, self.rope_theta)?;
        }
        Ok(y)
    }

    fn mlp(&self, t: &mut Tape, x: Var, prefix: &str) -> Result<Var> {
        if self.mlp == Mlp::None {
            return Ok(x);
        }
        let h = self.norm(t, x, &format!("{prefix}.norm"))?;
        let mut widen = |place: Place| -> Result<Var> {
            let w = self.matrix(t, &format!("{prefix}.{}.weight", place.name()), self.ffn, self.d_model)?;
            let y = t.linear(h, w, None, None)?;
            self.conv.record(t, prefix, place, y, h, self.init_std)
        };
        let y = match self.mlp {
            Mlp::None => return Ok(x),
            Mlp::Moe(moe) => return self.experts(t, x, h, moe, prefix),
            Mlp::Gelu => {
                let up = widen(Place::Up)?;
                t.gelu(up)
            }
            Mlp::Swiglu => {
                let (gate, up) = (widen(Place::Gate)?, widen(Place::Up)?);
                t.swiglu(gate, up)?
            }
        };
        self.write_back(t, x, y, prefix, Place::Down)
    }

    /// `x + conv(linear(y))` of o or down; without a convolution the product adds to the stream directly.
    pub(crate) fn write_back(&self, t: &mut Tape, x: Var, y: Var, prefix: &str, place: Place) -> Result<Var> {
        let name = format!("{prefix}.{}.weight", place.name());
        let w = t.param(name, &[self.d_model, t.cols(y)], self.write_back_init(), true)?;
        if !self.conv.is_on(place) {
            return t.linear(y, w, None, Some(x));
        }
        let out = t.linear(y, w, None, None)?;
        let out = self.conv.record(t, prefix, place, out, y, self.init_std)?;
        t.add(x, out)
    }

    /// Initial values of the linears that write to the residual stream.
    pub(crate) fn write_back_init(&self) -> Init {
        let depth = if self.depth_scaled_init { (2.0 * self.layers as f32).sqrt() } else { 1.0 };
        Init::Normal { std: self.init_std / depth }
    }

    pub(crate) fn norm(&self, t: &mut Tape, x: Var, prefix: &str) -> Result<Var> {
        let d = self.d_model;
        let gain = t.param(format!("{prefix}.weight"), &[d], Init::Ones, false)?;
        match self.norm {
            Norm::Rms => t.rms_norm(x, gain, EPS),
            Norm::Layer => {
                let bias = t.param(format!("{prefix}.bias"), &[d], Init::Zeros, false)?;
                t.layer_norm(x, gain, bias, EPS)
            }
        }
    }

    pub(crate) fn matrix(&self, t: &mut Tape, name: &str, rows: usize, cols: usize) -> Result<Param> {
        t.param(name, &[rows, cols], Init::Normal { std: self.init_std }, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Conv, ConvKind};

    #[test]
    fn sizes_that_do_not_fit_are_refused_with_a_remedy() {
        let mut model: Transformer =
            serde_json::from_str(r#"{"vocab":16,"d_model":24,"layers":1,"heads":5,"ffn":8}"#).unwrap();
        let message = model.record(1, 4).unwrap_err().to_string();
        assert!(message.contains("5 heads do not divide d_model 24"), "{message}");
        model.heads = 3;
        model.conv = Conv { kind: ConvKind::HeadWise, head_size: 7, ..Conv::default() };
        let message = model.record(1, 4).unwrap_err().to_string();
        assert!(message.contains("head_size 7 does not divide 24"), "{message}");
    }
}
