//! The tape run through dfdx, in f64 or f32: the oracle of every gradient.
//!
//! [`DfdxBackend`] composes each op of a [`backend::Tape`] from dfdx primitives and takes the gradients from dfdx's
//! own autodiff, which knows nothing of the hand-written backward passes it is compared with. Its f64 gradients are
//! in turn checked against finite differences, so trust runs: finite differences, dfdx f64, CPU f32, GPU.
//!
//! [`op`] has the short convolutions as custom dfdx ops with hand-written backward, for use in dfdx models.
//!
//! Three facts of dfdx 0.13 shape the code here. `slice` overwrites the gradient of its input where every other op
//! adds to it, so parts are taken with `select` and shifts made with `roll`. An op refuses two inputs of one id, and
//! `reshape_like` and `permute` keep the id, so a value meets itself only through an op that makes a new one.
//! `softmax` and `log_softmax` assume a contiguous input.

mod adamw;
pub mod compose;
mod dfdx_backend;
mod interpret;
mod layout;
pub mod op;
mod real;

pub use dfdx_backend::DfdxBackend;
pub use layout::Layout;
pub use real::Real;
