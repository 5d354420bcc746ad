//! The kernel core: every op's CPU forward and backward.
//!
//! Ops are plain functions on `f32` slices. Outputs are overwritten in full: what they held before does not
//! matter. Work is split in blocks whose size does not depend on the number of threads and partial sums are
//! added in a fixed order, so a result has the same bits at any thread count.

mod error;

pub use error::{Error, Result};
