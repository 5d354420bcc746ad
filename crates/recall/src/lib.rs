//! Associative recall: a row of the recall figure to measured cells.
//!
//! A [`Row`] is a task, a Transformer and how it is trained; [`measure`] trains it once per seed and returns what
//! it measured. Seeds run side by side, each on a thread of its own; the numbers do not depend on how many do.
//!
//! MAD's compression task is not among the rows: it trains an autoencoder that reads its answer from the last
//! position through a head of its own, which is not a language model on a tape. The table shows its published numbers
//! alone.

mod error;
mod experiment;
mod measure;
mod row;
mod source;

pub use error::{Error, Result};
pub use experiment::Figure;
pub use measure::{Measured, measure};
pub use row::{Grid, Row, Score, Trial};
pub use source::TaskSource;
