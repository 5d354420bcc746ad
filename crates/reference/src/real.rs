//! The two element types a reference runs in.

use dfdx::dtypes::Dtype;

/// `f64` to compare with, `f32` to run as fast as dfdx can.
pub trait Real: Dtype {
    /// The type's name: `f64`.
    const NAME: &'static str;

    /// The nearest value of this type.
    fn lift(x: f64) -> Self;

    /// The same value, in double precision.
    fn lower(self) -> f64;
}

impl Real for f64 {
    const NAME: &'static str = "f64";

    fn lift(x: f64) -> Self {
        x
    }

    fn lower(self) -> f64 {
        self
    }
}

impl Real for f32 {
    const NAME: &'static str = "f32";

    fn lift(x: f64) -> Self {
        x as f32
    }

    fn lower(self) -> f64 {
        f64::from(self)
    }
}
