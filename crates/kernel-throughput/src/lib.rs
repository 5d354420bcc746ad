//! The dynamic short convolution checked against an f64 reference and timed, on the CPU and on a GPU.
//!
//! [`Case`] is one convolution; [`check`] compares implementations of it, [`Table`] is table 2 as an experiment, and
//! [`apply`] runs the op on tensors of a file. The binary `kernel-throughput` offers the first and the last.

pub mod apply;
mod case;
pub mod check;
pub mod cpu;
mod experiment;
pub mod gpu;
pub mod large;
mod peer;
mod reference;
mod row;
pub mod sample;
pub mod timing;
mod values;

pub use case::{Case, Dtype, Op};
pub use experiment::Table;
pub use peer::{Peer, peers};
pub use reference::reference;
pub use row::Row;
pub use values::{Operands, Results};
