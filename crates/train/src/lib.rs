//! Training: schedule, steps, evaluation, early stop, checkpoint and exact resume.
//!
//! [`train`] runs a [`Source`]'s batches through a [`backend::Backend`]. Nothing here draws a random number: a
//! source is asked for the batch of step i, so a run stopped at any step and resumed from its checkpoint logs
//! bit for bit what an unbroken one logs, if the device is the same; it may also go on on another, and the log says where
//! each step was made. The library prints nothing; a [`Progress`] hears of every step.
//! [`train_all`] runs many trainings side by side: a row's seeds, a grid's settings.

mod checkpoint;
mod command;
mod config;
mod device;
mod error;
mod evaluate;
mod jobs;
mod log;
mod parts;
mod run;
mod source;

pub use checkpoint::{load, remove, save, stored_run};
pub use command::Teller;
pub use config::{EarlyStop, TrainConfig};
pub use device::{Device, arithmetic, find as find_device, runs_on};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate};
pub use jobs::{Event, Job, Options, Probe, What, forget, train_all};
pub use log::{Leg, Log, Metric, Point};
pub use parts::Parts;
pub use run::{Checkpoint, End, Outcome, Progress, Run, train};
pub use source::Source;
