//! Tokens from a checkpoint: decoding with sampling.
//!
//! [`open`] finds the model's configuration in the checkpoint itself; [`generate`] takes in a prompt in one pass and
//! draws what follows token by token. Decoding gives the logits of the full pass, and a [`Sampler`] draws the same tokens
//! from the same seed at any number of threads.

mod checkpoint;
mod error;
mod sampler;
mod stream;

pub use checkpoint::{Checkpoint, open};
pub use error::{Error, Result};
pub use sampler::Sampler;
pub use stream::Stream;

use std::ops::ControlFlow;

use backend::Decoder;

/// Takes in `prompt` with a decoder at its start, and draws up to `tokens` more below `vocab`, the tokenizer's, which may
/// be smaller than the model's. Each is handed to `each` as soon as it is drawn, which may break off.
///
/// # Errors
/// [`Error::Prompt`] at an empty prompt or an id outside of the vocabulary, [`Error::NotFinite`], [`Error::Backend`],
/// and what `each` says.
pub fn generate(
    decoder: &mut Decoder,
    prompt: &[u32],
    tokens: usize,
    vocab: usize,
    sampler: &mut Sampler,
    each: &mut dyn FnMut(u32) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let [first @ .., last] = prompt else {
        return Err(Error::Prompt { what: "no token to start from".into(), remedy: "give at least one" });
    };
    let vocab = vocab.min(decoder.vocab());
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        let what = format!("id {id} in a vocabulary of {vocab}");
        return Err(Error::Prompt { what, remedy: "use the tokenizer that the model was trained with" });
    }
    decoder.prefill(first)?;
    let mut id = *last;
    for _ in 0..tokens {
        let position = decoder.position();
        let drawn = sampler.draw(&decoder.step(&[id])?[..vocab]);
        id = drawn.ok_or(Error::NotFinite { position })?;
        if each(id)?.is_break() {
            break;
        }
    }
    Ok(())
}
