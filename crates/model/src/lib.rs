//! Models as tapes: the Transformer, Gated DeltaNet and Mamba-2, with every convolution variant.
//!
//! A typed configuration records its ops on a [`backend::Tape`]; nothing here computes.

mod config;
mod conv;
mod linear_rnn;
mod moe;
mod transformer;

pub use config::{Conv, ConvKind, GatedDeltaNet, Mamba2, Mixer, Mlp, Moe, Norm, Place, Positions, Transformer};
