//! The kernels on an NVIDIA GPU: `kernels/*.cu` compiled at first use for the device found, and their launches.
//!
//! Builds with no CUDA anywhere; what is missing at run time is a [`CudaError`] with a hint. Kernels are specialised by
//! defines ([`compile::Defines`]), not by files; compiled variants are kept on disk ([`compile::cubin`]). Formulas, layouts
//! and entry points: `kernels/README.md`.
//!
//! `kernel-throughput check` compares the short convolution's launches with the CPU op and an f64 reference on a GPU; what
//! was run, and how fast it is, stands in kernels/NOTES.md.

mod arguments;
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
mod readback;
mod setup;
pub mod short_conv;
pub mod source;
mod staging;

pub use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
pub use device::Device;
pub use error::{CudaError, CudaResult};
pub use library::{driver_present, load_cublas};
pub use memory::{Dtype, Memory, Tensor};
pub use readback::Readback;
pub use setup::setup;
pub use staging::Staging;
