//! The kernels on an NVIDIA GPU: `kernels/*.cu` compiled at first use for the device found, and their launches.
//!
//! Builds with no CUDA anywhere; what is missing at run time is a [`CudaError`] with a hint. Kernels are specialised by
//! defines ([`compile::Defines`]), not by files; compiled variants are kept on disk ([`compile::cubin`]). Formulas, layouts
//! and entry points: `kernels/README.md`.
//!
//! State: the kernels themselves were checked and timed on an H100 (kernels/NOTES.md) by a host program that is not part
//! of this repository. The launches of this module compile and their tables are tested; they have not run on a GPU yet.

pub mod attention;
mod cache;
pub mod compile;
pub mod dense;
mod device;
mod error;
pub mod graph;
mod library;
pub mod matmul;
mod memory;
pub mod short_conv;
pub mod source;

pub use device::Device;
pub use error::{CudaError, CudaResult};
pub use library::{driver_present, load_cublas};
pub use memory::{Dtype, Memory, Tensor};
