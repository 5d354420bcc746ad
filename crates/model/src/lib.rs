//! Models as tapes: the Transformer with every convolution variant.
//!
//! A typed configuration records its ops on a [`backend::Tape`]; nothing here computes.

mod config;
mod conv;
mod transformer;

pub use config::{Conv, ConvKind, Mlp, Norm, Place, Positions, Transformer};
