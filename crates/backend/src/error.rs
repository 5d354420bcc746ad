//! What the seam refuses, and what to do about it.

/// A refused recording or pass: the op, what was wrong and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// An op was recorded with shapes that do not fit.
    #[error("{op}: {what}; {remedy}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The shapes at odds.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A parameter, by name, is missing, duplicated or of another shape.
    #[error("parameter {name}: {what}; {remedy}")]
    Param {
        /// The parameter's name.
        name: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A batch does not fit the tape it is run through.
    #[error("batch: {what}; {remedy}")]
    Batch {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A backend cannot do this, or its device failed.
    #[error("{backend}: {what}\nhint: {hint}")]
    Backend {
        /// The backend's name.
        backend: String,
        /// What failed.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl From<kernels::cuda::CudaError> for Error {
    fn from(e: kernels::cuda::CudaError) -> Self {
        if let kernels::cuda::CudaError::Argument(e) = e {
            return Self::Kernel(e);
        }
        let message = e.to_string();
        let (what, hint) = message.split_once("\nhint: ").unwrap_or((&message, "see the op's documentation"));
        let what = what.strip_prefix("cuda: ").unwrap_or(what);
        Self::Backend { backend: "cuda".into(), what: what.into(), hint: hint.into() }
    }
}

/// The result of recording or running a tape.
pub type Result<T> = std::result::Result<T, Error>;
