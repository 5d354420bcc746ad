//! The operations that utilisation (MFU) is reckoned from: those that the model's size demands.

use backend::{Op, Tape};

/// Floating-point operations of a training step, as MFU counts them; what a training computes in all, convolutions among it, is
/// [`Tape::flops`]. Twice the multiplications of every linear (generators of taps among them) and of causal
/// attention's two products, forward; three times that with the backward. Convolutions, norms and the optimizer count for nothing,
/// and so does what is computed again.
pub fn model_flops(tape: &Tape) -> f64 {
    let (n, len) = (tape.tokens() as f64, tape.seq_len() as f64);
    let forward: f64 = tape
        .ops()
        .iter()
        .map(|op| match *op {
            Op::Linear { w, .. } => 2.0 * n * tape.spec(w).numel() as f64,
            Op::Attention { q, .. } => 2.0 * 2.0 * n * (len / 2.0) * tape.cols(q) as f64,
            _ => 0.0,
        })
        .sum();
    3.0 * forward
}

/// The dense bf16 rate of a device's matrix units, by its datasheet.
pub fn peak_flops(device: &str) -> Option<f64> {
    [("H100", 989.4e12), ("H200", 989.4e12), ("A100", 312e12)].iter().find(|(n, _)| device.contains(n)).map(|(_, f)| *f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Transformer;

    /// The usual estimate: 6 per parameter of a product and token, 6 d T per layer and token for causal attention.
    #[test]
    fn a_step_is_six_per_weight_and_token_and_attention() {
        let text = "vocab = 64\nd_model = 16\nlayers = 3\nheads = 2\nffn = 40";
        let model: Transformer = toml::from_str(text).unwrap();
        let tape = model.record(2, 32).unwrap();
        let weights = 3.0 * (4.0 * 256.0 + 3.0 * 640.0) + 1024.0;
        let tokens = 64.0;
        assert_eq!(model_flops(&tape), 6.0 * weights * tokens + 3.0 * 6.0 * 16.0 * 32.0 * tokens);
    }
}
