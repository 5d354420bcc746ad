//! Models as tapes: the Transformer with every convolution variant.
//!
//! A typed configuration records its ops on a [`backend::Tape`]; nothing here computes.

mod config;
mod conv;
mod moe;
mod transformer;

pub use config::{Conv, ConvKind, Mlp, Moe, Norm, Place, Positions, Transformer};
