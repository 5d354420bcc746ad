//! Linear RNNs as language models: Gated DeltaNet and Mamba-2, with static or dynamic convolutions.
//!
//! They are trained by `lm_scaling`, as rows of table 1 whose model has another mixer than attention. What is theirs
//! alone is measured here, on the trained model: what decoding keeps per sequence instead of keys and values, and that
//! decoding token by token, one recurrent step after another, gives what the chunked pass gives.

use backend::{Backend, Batch, Decoder, Op, Tape};
use data::text::Corpus;
use lm_scaling::{CorpusSource, Row};
use model::Mixer;
use train::{Result, Source};

/// Tokens on which decoding is held against the full pass: two chunks and one token.
const TOKENS: usize = 129;

/// Of a linear RNN:
///
/// | metric | unit | of |
/// |---|---|---|
/// | `state_kib` | KiB | what a sequence keeps between two tokens, recurrent and convolution states, in f32 |
/// | `decode_gap` | relative norm | logits decoded token by token against those of the full pass, a held-out row |
///
/// Nothing for a Transformer.
///
/// # Errors
/// If the row does not fit the text or the backend fails.
pub fn probe(row: &Row, corpus: &Corpus, backend: &mut dyn Backend) -> Result<Vec<(&'static str, f64)>> {
    if row.model.mixer == Mixer::Attention {
        return Ok(Vec::new());
    }
    let step = row.model.record(1, 1)?;
    let state_kib = state_len(&step) as f64 * 4.0 / 1024.0;
    Ok(vec![("state_kib", state_kib), ("decode_gap", decode_gap(row, step, corpus, backend)?)])
}

/// Values that a sequence keeps between two tokens.
fn state_len(tape: &Tape) -> usize {
    let kept = |op: &Op| match *op {
        Op::GatedDeltaRule(delta) => tape.cols(delta.k) / tape.cols(delta.a) * tape.cols(delta.v),
        Op::Ssd(ssd) => tape.cols(ssd.b) / ssd.groups * tape.cols(ssd.x),
        Op::ShortConv { x, width, .. } => (width - 1) * tape.cols(x),
        _ => 0,
    };
    tape.ops().iter().map(kept).sum()
}

fn decode_gap(row: &Row, step: Tape, corpus: &Corpus, backend: &mut dyn Backend) -> Result<f64> {
    let refused = |source| train::Error::Source { what: "the first evaluation row".into(), source };
    let held_out = CorpusSource { corpus, seed: 0 }.eval(0, 1).map_err(refused)?;
    let len = TOKENS.min(held_out.ids.len());
    let (ids, targets) = (held_out.ids[..len].to_vec(), held_out.targets[..len].to_vec());
    let tape = row.model.record(1, len)?;
    backend.evaluate(&tape, &Batch::new(ids.clone(), targets))?;
    let Some(logits) = tape.logits() else { return Ok(f64::NAN) };
    let full = backend.read(logits)?;
    let mut decoder = Decoder::new(step, backend.state()?.params)?;
    let (mut apart, mut norm) = (0.0, 0.0);
    for (id, full) in ids.iter().zip(full.chunks_exact(row.model.vocab)) {
        for (decoded, full) in decoder.step(&[*id])?.iter().zip(full) {
            apart += f64::from(decoded - full).powi(2);
            norm += f64::from(*full).powi(2);
        }
    }
    Ok((apart / norm).sqrt())
}
