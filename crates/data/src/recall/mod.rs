//! Recall tasks: a config and a generator each, random access by (seed, split, index), and [`Task`], their enum.

mod check;
mod compositional_mqar;
mod fuzzy_recall;
mod in_context_recall;
mod memorization;
mod mqar;
mod permutation;
mod queries;
mod sampling;
mod selective_copying;
mod selective_key_mqar;
pub(crate) mod stream;
mod task;
mod variable_key_mqar;

pub use compositional_mqar::CompositionalMqar;
pub use fuzzy_recall::FuzzyRecall;
pub use in_context_recall::{InContextRecall, NoisyRecall};
pub use memorization::Memorization;
pub use mqar::{Filler, Mqar};
pub use selective_copying::SelectiveCopying;
pub use selective_key_mqar::SelectiveKeyMqar;
pub use task::Task;
pub use variable_key_mqar::VariableKeyMqar;
