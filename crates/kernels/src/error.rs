//! What an op refuses, and what to do about it.

/// A refused call: the op, what was wrong and the remedy. No op panics on its arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A slice or tensor does not have the size its shape asks for.
    #[error("{op}: {name} has {found} elements, expected {expected} for shape {shape}")]
    Size {
        /// The op that refused.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Elements given.
        found: usize,
        /// Elements the shape asks for.
        expected: usize,
        /// The shape in words, such as `[B=2, T=8, D=16]`.
        shape: String,
    },
    /// A dimension is out of the supported range.
    #[error("{op}: {name} = {found} is out of range {range}; {remedy}")]
    Range {
        /// The op that refused.
        op: &'static str,
        /// The dimension.
        name: &'static str,
        /// The value given.
        found: usize,
        /// The values allowed.
        range: String,
        /// What to do.
        remedy: &'static str,
    },
    /// One dimension must divide another.
    #[error("{op}: {divisor_name} = {divisor} does not divide {name} = {found}; {remedy}")]
    Divides {
        /// The op that refused.
        op: &'static str,
        /// The dimension to be divided.
        name: &'static str,
        /// Its value.
        found: usize,
        /// The dimension that must divide it.
        divisor_name: &'static str,
        /// Its value.
        divisor: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// An argument is malformed in a way of its own (`cu_seqlens`, row strides, labels).
    #[error("{op}: {what}; {remedy}")]
    Argument {
        /// The op that refused.
        op: &'static str,
        /// What is wrong, with the values.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// The result of an op.
pub type Result<T> = std::result::Result<T, Error>;
