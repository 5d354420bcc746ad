//! The ladder of trust below the GPU: finite differences, dfdx f64, dfdx f32 and CPU f32.

mod agreement;
mod common;
mod custom_op;
mod decoding;
mod finite_differences;
mod op_tapes;
mod properties;
mod refusals;
mod training;
mod values;
