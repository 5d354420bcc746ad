//! Linear RNNs in the place of attention: Gated DeltaNet and Mamba-2.
//!
//! On h, the normed block input, and with the short convolutions `silu(conv(.))` that both have of their own:
//! ```text
//! Gated DeltaNet: q, k, v = conv(W h); a, b = W h;    x + o(norm(delta(q, k, v, a, b)) silu(g h)), the norm head by head
//! Mamba-2:        x, b, c = conv(W h); z, dt = W h;   x + o(norm(ssd(x, b, c, dt) silu(z)))
//! ```
//! Both are as in the reference implementations, but Mamba-2's convolution has no bias and is three, on x, b and c.
//! Rates of decay start at `U(1, 16)` and step sizes log-uniform in `[0.001, 0.1]`; neither decays.

use backend::{Error, GatedDeltaRule, Init, Param, Result, Ssd, Tape, Var};

use crate::config::{self, Mamba2, Place, Transformer};
use crate::transformer::EPS;

const RATES: Init = Init::LogOfUniform { low: 1.0, high: 16.0 };
const STEP_SIZES: Init = Init::InverseSoftplus { low: 1e-3, high: 0.1 };

impl Transformer {
    pub(crate) fn gated_deltanet(
        &self,
        t: &mut Tape,
        x: Var,
        sizes: config::GatedDeltaNet,
        prefix: &str,
    ) -> Result<Var> {
        let config::GatedDeltaNet { heads, key_size, value_size } = sizes;
        positive("gated-deltanet", &[("heads", heads), ("key_size", key_size), ("value_size", value_size)])?;
        let h = self.norm(t, x, &format!("{prefix}.norm"))?;
        let mut stream = |name: &str, place, cols| self.stream(t, h, &format!("{prefix}.{name}"), place, cols);
        let q = stream("q", Place::Q, heads * key_size)?;
        let k = stream("k", Place::K, heads * key_size)?;
        let v = stream("v", Place::V, heads * value_size)?;
        let mut project = |name: &str, cols| self.project(t, h, &format!("{prefix}.{name}"), cols);
        let (a, b, gate) = (project("a", heads)?, project("b", heads)?, project("g", heads * value_size)?);
        let [a_log, dt_bias] = self.gates(t, prefix, heads)?;
        let y = t.gated_delta_rule(GatedDeltaRule { q, k, v, a, b, a_log, dt_bias })?;
        let gain = t.param(format!("{prefix}.o_norm.weight"), &[value_size], Init::Ones, false)?;
        let y = t.rms_norm(y, gain, EPS)?;
        let y = t.swiglu(gate, y)?;
        self.write_back(t, x, y, prefix, Place::O)
    }

    pub(crate) fn mamba2(&self, t: &mut Tape, x: Var, sizes: Mamba2, prefix: &str) -> Result<Var> {
        let Mamba2 { heads, intermediate, state_size, groups } = sizes;
        let named = [("heads", heads), ("intermediate", intermediate), ("state_size", state_size), ("groups", groups)];
        positive("mamba-2", &named)?;
        let h = self.norm(t, x, &format!("{prefix}.norm"))?;
        let mut stream = |name: &str, place, cols| self.stream(t, h, &format!("{prefix}.{name}"), place, cols);
        let input = stream("x", Place::V, intermediate)?;
        let b = stream("b", Place::K, groups * state_size)?;
        let c = stream("c", Place::Q, groups * state_size)?;
        let mut project = |name: &str, cols| self.project(t, h, &format!("{prefix}.{name}"), cols);
        let (gate, dt) = (project("z", intermediate)?, project("dt", heads)?);
        let [a_log, dt_bias] = self.gates(t, prefix, heads)?;
        let d = t.param(format!("{prefix}.d"), &[heads], Init::Ones, false)?;
        let y = t.ssd(Ssd { x: input, b, c, dt, a_log, dt_bias, d, groups })?;
        let y = t.swiglu(gate, y)?;
        let gain = t.param(format!("{prefix}.o_norm.weight"), &[intermediate], Init::Ones, false)?;
        let y = t.rms_norm(y, gain, EPS)?;
        self.write_back(t, x, y, prefix, Place::O)
    }

    fn project(&self, t: &mut Tape, h: Var, name: &str, cols: usize) -> Result<Var> {
        let w = self.matrix(t, &format!("{name}.weight"), cols, self.d_model)?;
        t.linear(h, w, None, None)
    }

    /// A projection and its convolution.
    fn stream(&self, t: &mut Tape, h: Var, name: &str, place: Place, cols: usize) -> Result<Var> {
        let y = self.project(t, h, name, cols)?;
        self.conv.built_in(t, name, place, y, h, self.init_std)
    }

    /// a_log and dt_bias.
    fn gates(&self, t: &mut Tape, prefix: &str, heads: usize) -> Result<[Param; 2]> {
        let a_log = t.param(format!("{prefix}.a_log"), &[heads], RATES, false)?;
        Ok([a_log, t.param(format!("{prefix}.dt_bias"), &[heads], STEP_SIZES, false)?])
    }
}

fn positive(op: &'static str, sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Shape { op, what: format!("{name} is 0"), remedy: "give a positive size" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv, ConvKind};

    /// The 400M configurations published for the framework nearest to the paper's, whose own are unknown. 400M is with tied
    /// embeddings.
    fn published(mixer: &str) -> Transformer {
        let json = format!(r#"{{"vocab":100352,"d_model":1024,"layers":24,"ffn":2752,"tied":true,"mixer":{mixer}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    const DELTA: &str = r#"{"gated-deltanet":{"heads":2,"key_size":256,"value_size":512}}"#;
    const MAMBA: &str = r#"{"mamba-2":{"heads":64,"intermediate":1216,"state_size":216}}"#;

    /// No count of the paper's is known: these are sums by hand.
    #[test]
    fn counts_by_hand() {
        const D: usize = 1024;
        let around = 100_352 * D + D + 24 * (3 * D * 2752 + 2 * D);
        let delta = D * (512 + 512 + 1024) + 4 * (512 + 512 + 1024) + D * 1024 + 2 * D * 2 + 2 * 2 + 512 + 1024 * D;
        assert_eq!(published(DELTA).parameter_count().unwrap(), around + 24 * delta);
        let mamba = D * (1216 + 2 * 216) + 4 * (1216 + 2 * 216) + D * (1216 + 64) + 3 * 64 + 1216 + 1216 * D;
        assert_eq!(published(MAMBA).parameter_count().unwrap(), around + 24 * mamba);

        // A dynamic kind adds its generators: codes and U of rank 16 for each of the three streams.
        let conv = Conv { kind: ConvKind::LowRank, ..Conv::default() };
        let dynamic = Transformer { conv, ..published(DELTA) };
        let generators = 3 * 16 * D + 16 * 4 * (512 + 512 + 1024);
        assert_eq!(dynamic.parameter_count().unwrap(), around + 24 * (delta + generators));
        // Head-wise filters leave the streams that conv.on does not name as they are.
        let conv = Conv { kind: ConvKind::HeadWise, on: vec![Place::V], ..Conv::default() };
        let dynamic = Transformer { conv, ..published(MAMBA) };
        assert_eq!(dynamic.parameter_count().unwrap(), around + 24 * (mamba + 1216 / 32 * 4 * D));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |mixer: &str| published(mixer).record(1, 1).unwrap_err().to_string();
        let message = refused(r#"{"gated-deltanet":{"heads":0,"key_size":256,"value_size":512}}"#);
        assert!(message.contains("gated-deltanet: heads is 0"), "{message}");
        let message = refused(r#"{"mamba-2":{"heads":7,"intermediate":1216,"state_size":216}}"#);
        assert!(message.contains("1216 columns cannot be split by 7"), "{message}");
        let message = refused(r#"{"mamba-2":{"heads":64,"intermediate":1216,"state_size":216,"groups":3}}"#);
        assert!(message.contains("64 columns cannot be split by 3"), "{message}");
        assert!(serde_json::from_str::<crate::Mixer>(r#"{"mamba-2":{"heads":1,"states":2}}"#).is_err());
    }

    #[test]
    fn attention_is_left_out_of_what_is_written() {
        let plain: Transformer = serde_json::from_str(r#"{"vocab":8,"d_model":8,"layers":1,"heads":1}"#).unwrap();
        assert!(!serde_json::to_string(&plain).unwrap().contains("mixer"));
        let written = serde_json::to_string(&published(MAMBA)).unwrap();
        assert_eq!(serde_json::from_str::<Transformer>(&written).unwrap(), published(MAMBA));
    }
}
