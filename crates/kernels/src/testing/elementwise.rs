//! What is asked of every activation of one input.

use super::*;
use crate::Result;

/// x, dy, dx.
type Backward = fn(&[f32], &[f32], &mut [f32]) -> Result<()>;

/// An activation that is 0 far below 0 and its input far above.
pub(crate) struct Activation {
    pub(crate) forward: fn(&[f32], &mut [f32]) -> Result<()>,
    pub(crate) backward: Backward,
    /// In f64.
    pub(crate) reference: fn(f64) -> f64,
    /// Inputs are drawn from minus this to this.
    pub(crate) range: f32,
}

impl Activation {
    /// Values, gradients, tails and refusals of an op of this name.
    pub(crate) fn check(&self, name: &str) {
        let reference = |x: &[f64]| x.iter().map(|&x| (self.reference)(x)).collect::<Vec<_>>();
        for n in [1, 17, 300] {
            let x: Vec<f32> = random(n, 1).iter().map(|v| self.range * v).collect();
            let dy = random(n, 2);
            let (y, dx) = self.run(&x, &dy);
            assert_close("y", &y, &reference(&wide(&x)));
            assert_close("dx", &dx, &gradient(&x, |x| inner(&reference(x), &dy)));
        }

        let far = [-1e30, -100.0, 100.0, 1e12];
        let (y, dx) = self.run(&far, &[1.0; 4]);
        assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6 && y[2..] == far[2..], "{y:?}");
        assert!(dx[0].abs() < 1e-6 && dx[1].abs() < 1e-6 && dx[2..] == [1.0, 1.0], "{dx:?}");

        let error = (self.backward)(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]).unwrap_err();
        let want = format!("{name} backward: dy has 2 elements, expected 3 for shape [elements=3]");
        assert_eq!(error.to_string(), want);
        let error = (self.forward)(&[0.0; 3], &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.to_string(), format!("{name}: y has 2 elements, expected 3 for shape [elements=3]"));
    }

    /// y and dx.
    fn run(&self, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut y, mut dx) = (poisoned(x.len()), poisoned(x.len()));
        (self.forward)(x, &mut y).unwrap();
        (self.backward)(x, dy, &mut dx).unwrap();
        (y, dx)
    }
}
