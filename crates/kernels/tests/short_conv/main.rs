//! The short convolution against its definition in f64, and the properties that hold bit for bit.

mod accuracy;
mod arguments;
mod bitwise;
mod problem;
mod random;
mod reference;
