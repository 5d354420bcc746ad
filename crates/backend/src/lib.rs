//! The seam: a tape of coarse ops, parameters, and the backends that run it.
//!
//! A model records its ops on a [`Tape`] once per batch shape; a [`Backend`] interprets it. Three interpreters
//! share it: [`CpuBackend`] here, the dfdx reference in `crates/reference`, and CUDA.

mod backend;
mod batch;
mod cpu;
mod cuda;
mod error;
mod flops;
mod op;
mod optim;
mod params;
mod tape;

pub use backend::{Backend, Part, Scores};
pub use batch::{Batch, IGNORE};
pub use cpu::{CpuBackend, Decoder};
pub use cuda::{CudaBackend, MemoryPlan, Precision, cuda_device, cuda_kernels, supported as supported_on_cuda};
pub use error::{Error, Result};
pub use op::{Filter, GatedDeltaRule, Moe, Op, Param, Ssd, Var};
pub use optim::{AdamW, State, excess_load};
pub use params::{Init, ParamSpec, Params};
pub use tape::Tape;
