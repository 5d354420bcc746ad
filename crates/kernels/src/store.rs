//! Whether an op writes its output or adds to it.

/// What an op does with what its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The output is overwritten in full; what it held does not matter, NaN included.
    Overwrite,
    /// The result is added to the output: a residual stream, a gradient with several sources.
    Accumulate,
}
