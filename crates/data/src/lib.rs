//! Associative-recall tasks and text as tokens; every generator takes a seed. Text: see [`text`].
//!
//! [`Task`] is one recall task with its typed settings; [`accuracy`] and [`macro_accuracy`] score it. An example is a
//! pure function of (task, seed, split, index), so a run resumes at any step without state:
//!
//! ```
//! use data::{Filler, IGNORE, Mqar, Split, Task};
//!
//! let filler = Filler::Random;
//! let task = Task::Mqar(Mqar { vocab: 64, len: 32, pairs: 4, power: 0.01, filler, train_examples: None });
//! let batch = task.batch(0, Split::Train, 0, 8)?;
//! assert_eq!(batch.ids.len(), 8 * task.len());
//! assert_eq!(batch.targets.iter().filter(|&&label| label != IGNORE).count(), 8 * 4);
//! # Ok::<(), data::Error>(())
//! ```

mod error;
mod example;
mod recall;
mod score;
pub mod text;

pub use error::{Error, Result};
pub use example::{Example, IGNORE, Split};
pub use recall::{
    CompositionalMqar, Filler, FuzzyRecall, InContextRecall, Memorization, Mqar, NoisyRecall, SelectiveCopying,
    SelectiveKeyMqar, Task, VariableKeyMqar,
};
pub use score::{accuracy, macro_accuracy};
