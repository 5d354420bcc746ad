//! Tokens from a checkpoint: decoding with sampling.
//!
//! [`open`] finds the model's configuration in the checkpoint itself; [`generate`] takes in a prompt and draws what
//! follows token by token. Decoding gives the logits of the full pass, and a [`Sampler`] draws the same tokens
//! from the same seed at any number of threads.

mod checkpoint;
mod decoding;
mod error;
mod sampler;
mod stream;

pub use checkpoint::{Checkpoint, open};
pub use decoding::{Model, Whole};
pub use error::{Error, Result};
pub use sampler::Sampler;
pub use stream::Stream;

use std::ops::ControlFlow;

/// Takes in `prompt` with a model at its start, and draws up to `tokens` more below `vocab`, the tokenizer's, which may
/// be smaller than the model's. Each is handed to `each` as soon as it is drawn, which may break off.
///
/// # Errors
/// [`Error::Prompt`] at an empty prompt or an id outside of the vocabulary, [`Error::NotFinite`], [`Error::Backend`],
/// and what `each` says.
pub fn generate(
    model: &mut Model,
    prompt: &[u32],
    tokens: usize,
    vocab: usize,
    sampler: &mut Sampler,
    each: &mut dyn FnMut(u32) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let [first @ .., last] = prompt else {
        return Err(Error::Prompt { what: "no token to start from".into(), remedy: "give at least one" });
    };
    let vocab = vocab.min(model.vocab());
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        let what = format!("id {id} in a vocabulary of {vocab}");
        return Err(Error::Prompt { what, remedy: "use the tokenizer that the model was trained with" });
    }
    model.prefill(first)?;
    let mut id = *last;
    for _ in 0..tokens {
        let position = model.position();
        let drawn = sampler.draw(&model.step(id)?[..vocab]);
        id = drawn.ok_or(Error::NotFinite { position })?;
        if each(id)?.is_break() {
            break;
        }
    }
    Ok(())
}
