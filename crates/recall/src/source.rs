//! A recall task as training and evaluation batches.

use backend::Batch;
use data::{Split, Task};
use train::Source;

/// The examples of a task under one seed.
#[derive(Debug, Clone)]
pub struct TaskSource {
    /// The task.
    pub task: Task,
    /// The seed of its examples.
    pub seed: u64,
}

type Result = std::result::Result<Batch, Box<dyn std::error::Error + Send + Sync>>;

impl TaskSource {
    fn batch(&self, split: Split, first: u64, rows: usize) -> Result {
        let examples = self.task.batch(self.seed, split, first, rows)?;
        Ok(Batch::new(examples.ids, examples.targets))
    }
}

impl Source for TaskSource {
    fn row_len(&self) -> usize {
        self.task.len()
    }

    fn train(&self, step: u64, rows: usize) -> Result {
        self.batch(Split::Train, (step - 1) * rows as u64, rows)
    }

    fn eval(&self, first: usize, rows: usize) -> Result {
        self.batch(Split::Test, first as u64, rows)
    }
}
