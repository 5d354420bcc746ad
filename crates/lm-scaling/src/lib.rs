//! Language models on text: a row of a table to measured cells.
//!
//! A [`Row`] is a model, a text and how it is trained; [`measure()`] trains it once per seed. Which system a row is, the
//! model's own fields say: its mixer, its MLP, its convolutions. A [`Table`] is an item of the paper whose rows are such
//! rows, as a reproduce binary runs it.

mod error;
mod held_out;
mod measure;
mod row;
mod source;
mod table;

pub use error::{Error, Result};
pub use held_out::HeldOut;
pub use measure::{Measured, Probe, measure};
pub use row::{Row, WithoutData};
pub use source::CorpusSource;
pub use table::Table;
