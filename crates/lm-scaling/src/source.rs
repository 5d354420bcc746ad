//! A text as training and evaluation batches.

use backend::Batch;
use data::text::{Corpus, Rows};
use train::Source;

/// The rows of a text in the order of one seed.
#[derive(Debug, Clone, Copy)]
pub struct CorpusSource<'a> {
    /// The text.
    pub corpus: &'a Corpus,
    /// The seed of its order.
    pub seed: u64,
}

type Result = std::result::Result<Batch, Box<dyn std::error::Error + Send + Sync>>;

fn batch(rows: Rows) -> Batch {
    Batch { ids: rows.ids, targets: rows.targets, cu_seqlens: rows.cu_seqlens }
}

impl Source for CorpusSource<'_> {
    fn row_len(&self) -> usize {
        self.corpus.context()
    }

    fn train(&self, step: u64, rows: usize) -> Result {
        Ok(batch(self.corpus.train_rows(self.seed, (step - 1) * rows as u64, rows)?))
    }

    fn eval(&self, first: usize, rows: usize) -> Result {
        Ok(batch(self.corpus.evaluation(first as u64, rows)?))
    }
}
