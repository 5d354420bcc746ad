//! Table 4: how many tokens a second a training step of each model takes, and what its convolutions cost.
//!
//! A step is forward, backward, clipping and AdamW on random tokens, timed by the clock from the batch on the host to the norm on
//! the host. [`flops`] says what is counted as work; the peak rate that it is held against is a device's own.

mod experiment;
mod flops;
mod measure;
mod peer;
mod row;

pub use experiment::{Table, plan};
pub use flops::{model_flops, peak_flops};
pub use measure::{Timing, backend, batch, measure, rule, state};
pub use peer::{Peer, peers};
pub use row::Row;
