//! Mixtures of experts as language models, with and without dynamic convolutions on Q, K and V.
//!
//! They are trained by `lm_scaling`, as rows of table 1 whose model has experts in the place of its MLP. What is theirs
//! alone is measured here, on the trained model and held-out rows: how evenly the router spreads the tokens.

use backend::Backend;
use data::text::{Corpus, Documents};
use lm_scaling::{CorpusSource, Row};
use model::Mlp;
use train::{Result, Source};

/// Held-out rows that are routed.
const ROWS: usize = 16;

/// Of a mixture of experts:
///
/// | metric | of |
/// |---|---|
/// | `load_max` | tokens of the fullest expert over the mean, averaged over the layers; 1 is even |
/// | `idle_experts` | share of the experts that got no token |
/// | `aux_loss` | the weighted load-balancing and z-losses of all layers, nats |
///
/// Nothing for other MLPs. Routing is dropless: a load that loses or invents a token is an error.
///
/// # Errors
/// If the row does not fit the text, the backend fails, or tokens are lost.
pub fn probe(row: &Row, corpus: &Corpus, backend: &mut dyn Backend) -> Result<Vec<(&'static str, f64)>> {
    let Mlp::Moe(experts) = row.model.mlp else { return Ok(Vec::new()) };
    let count = ROWS.min(corpus.evaluation_rows() as usize);
    let refused = |source| train::Error::Source { what: format!("the first {count} evaluation rows"), source };
    // A row of packed documents has a batch of its own.
    let rows = if row.data.documents == Documents::Packed { 1 } else { count };
    let tape = row.model.record(rows, row.data.context)?;
    let (mut loads, mut aux): (Vec<Vec<usize>>, f64) = (Vec::new(), 0.0);
    for first in (0..count).step_by(rows.max(1)) {
        let batch = CorpusSource { corpus, seed: 0 }.eval(first, rows).map_err(refused)?;
        let scores = backend.evaluate(&tape, &batch)?;
        aux += f64::from(scores.aux) * rows as f64 / count as f64;
        loads.resize(scores.load.len(), vec![0; experts.experts]);
        for (tokens, more) in loads.iter_mut().flatten().zip(scores.load.iter().flatten()) {
            *tokens += more;
        }
    }
    let choices = count * row.data.context * experts.top_k;
    let (mut fullest, mut idle) = (0.0, 0);
    for load in &loads {
        let routed: usize = load.iter().sum();
        if routed != choices {
            let what = format!("{routed} choices routed of {choices}");
            return Err(
                backend::Error::Shape { op: "moe", what, remedy: "report it: routing must lose no token" }.into()
            );
        }
        let most = load.iter().copied().max().unwrap_or(0);
        fullest += most as f64 * load.len() as f64 / choices as f64;
        idle += load.iter().filter(|tokens| **tokens == 0).count();
    }
    let layers = loads.len() as f64;
    let experts = layers * experts.experts as f64;
    let idle = idle as f64 / experts;
    Ok(vec![("load_max", fullest / layers), ("idle_experts", idle), ("aux_loss", aux)])
}
