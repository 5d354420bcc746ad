//! The kernel core: every op's CPU forward and backward.
//!
//! Ops are plain functions on `f32` slices. Outputs are overwritten in full, what they held before does not matter,
//! unless [`Store::Accumulate`] is asked for. Work is split in blocks whose size does not depend on the number of
//! threads and partial sums are added in a fixed order, so a result has the same bits at any thread count.
//!
//! Threads are those of the current rayon pool: run a whole step inside `pool.install`, since calling an op from
//! outside hands it over to the global pool each time.

mod blocks;
mod check;
mod decay;
mod error;
mod gemm;
mod scratch;
mod sequences;
mod shared;
mod simd;
mod store;
#[cfg(test)]
mod testing;
mod transpose;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod cuda;
pub mod elementwise;
pub mod embedding;
pub mod gated_delta_rule;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod moe;
pub mod positions;
pub mod rms_norm;
pub mod rope;
pub mod short_conv;
pub mod silu;
pub mod ssd;
pub mod swiglu;

pub use error::{Error, Result};
pub use sequences::Sequences;
pub use store::Store;

/// The README's example is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
