//! Named parameters: what a tape asks for, their initial values and their order.
//!
//! A parameter's first values depend on the seed and on its name alone, so two models that share a parameter
//! (a Transformer with and without convolutions, say) start with the same values in it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::sync::Arc;

use crate::{Error, Result};

/// How a parameter is first filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero: the generators of dynamic filters.
    Zeros,
    /// All one: norm gains.
    Ones,
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in `(-bound, bound]`.
    Uniform {
        /// Half the width of the interval.
        bound: f32,
    },
    /// The log of a uniform value: rates of decay.
    LogOfUniform {
        /// Least value, above 0.
        low: f32,
        /// Largest value.
        high: f32,
    },
    /// What softplus turns to a value whose log is uniform: biases of step sizes.
    InverseSoftplus {
        /// Least value after softplus, above 0.
        low: f32,
        /// Largest value after softplus.
        high: f32,
    },
}

/// A parameter as a tape declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Dotted name, unique in a model: `blocks.0.attn.q.weight`.
    pub name: String,
    /// Row-major shape; linear weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// First values.
    pub init: Init,
    /// Whether weight decay applies: matrices yes, gains, biases and convolution taps no.
    pub decay: bool,
    /// Set where AdamW leaves the parameter alone: the step gamma by which [`kernels::moe::rebalance`] moves the bias
    /// of loss-free balancing. A pass leaves [`crate::excess_load`] in the place of its gradient.
    pub balance: Option<f32>,
}

impl ParamSpec {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One `f32` tensor per declared parameter, in declaration order. Holds values, gradients or moments alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// The declarations.
    pub specs: Arc<[ParamSpec]>,
    /// The tensors, row-major, one per declaration.
    pub values: Vec<Vec<f32>>,
}

impl Params {
    /// All zero: fresh moments, or gradients before the first pass.
    pub fn zeros(specs: Arc<[ParamSpec]>) -> Self {
        let values = specs.iter().map(|s| vec![0.0; s.numel()]).collect();
        Self { specs, values }
    }

    /// Initial values drawn by each declaration's [`Init`], from `seed` and the parameter's name.
    pub fn init(specs: Arc<[ParamSpec]>, seed: u64) -> Self {
        let values = specs.iter().map(|s| draw(s, seed)).collect();
        Self { specs, values }
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::Param`] if no parameter has this name.
    pub fn get(&self, name: &str) -> Result<&[f32]> {
        Ok(&self.values[self.index(name)?])
    }

    /// The tensor of that name, to write.
    ///
    /// # Errors
    /// [`Error::Param`] if no parameter has this name.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Vec<f32>> {
        let i = self.index(name)?;
        Ok(&mut self.values[i])
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.specs.iter().position(|s| s.name == name).ok_or_else(|| Error::Param {
            name: name.into(),
            what: format!("not among the {} parameters of this model", self.specs.len()),
            remedy: "use a name the tape declares",
        })
    }

    /// Checks that these tensors are what `specs` declares, name by name.
    ///
    /// # Errors
    /// [`Error::Param`] naming the first one that differs.
    pub fn check(&self, specs: &[ParamSpec]) -> Result<()> {
        let remedy = "load values made for this model's configuration";
        if self.specs.len() != specs.len() || self.values.len() != specs.len() {
            let what = format!("{} tensors for a model of {} parameters", self.values.len(), specs.len());
            return Err(Error::Param { name: "*".into(), what, remedy });
        }
        for ((have, value), want) in self.specs.iter().zip(&self.values).zip(specs) {
            if have.name != want.name || have.shape != want.shape || value.len() != want.numel() {
                let what = format!("found {} {:?} where the model has shape {:?}", have.name, have.shape, want.shape);
                return Err(Error::Param { name: want.name.clone(), what, remedy });
            }
        }
        Ok(())
    }
}

fn draw(spec: &ParamSpec, seed: u64) -> Vec<f32> {
    let n = spec.numel();
    match spec.init {
        Init::Zeros => vec![0.0; n],
        Init::Ones => vec![1.0; n],
        Init::Uniform { bound } => {
            let mut rng = rng(spec, seed);
            (0..n).map(|_| ((unit(&mut rng) * 2.0 - 1.0) * f64::from(bound)) as f32).collect()
        }
        Init::LogOfUniform { low, high } => {
            let (mut rng, low, high) = (rng(spec, seed), f64::from(low), f64::from(high));
            (0..n).map(|_| (low + unit(&mut rng) * (high - low)).ln() as f32).collect()
        }
        Init::InverseSoftplus { low, high } => {
            let (mut rng, low, high) = (rng(spec, seed), f64::from(low).ln(), f64::from(high).ln());
            // The inverse of y = ln(1 + e^x) is y + ln(1 - e^-y).
            let inverse = |y: f64| y + (-(-y).exp_m1()).ln();
            (0..n).map(|_| inverse((low + unit(&mut rng) * (high - low)).exp()) as f32).collect()
        }
        Init::Normal { std } => {
            let mut rng = rng(spec, seed);
            (0..n).map(|_| (normal(&mut rng) * f64::from(std)) as f32).collect()
        }
    }
}

/// A stream of its own for every (seed, name): the name goes in by FNV-1a.
fn rng(spec: &ParamSpec, seed: u64) -> ChaCha8Rng {
    let hash =
        spec.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(hash);
    rng
}

/// Uniform in (0, 1], 53 bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// Box-Muller, one of the pair.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle) = (unit(rng), unit(rng));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, init: Init) -> ParamSpec {
        ParamSpec { name: name.into(), shape: vec![200, 500], init, decay: true, balance: None }
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let init = Init::Normal { std: 0.02 };
        let one = Params::init([spec("a", init), spec("b", init)].into(), 7);
        let other = Params::init([spec("b", init)].into(), 7);
        assert_eq!(one.get("b").unwrap(), other.get("b").unwrap());
        assert_ne!(one.get("a").unwrap(), one.get("b").unwrap());
        assert_ne!(other.values, Params::init([spec("b", init)].into(), 8).values);
    }

    #[test]
    fn draws_have_the_stated_moments() {
        for (init, std) in [(Init::Normal { std: 0.02 }, 0.02), (Init::Uniform { bound: 0.5 }, 0.5 / 3f64.sqrt())] {
            let p = Params::init([spec("x", init)].into(), 0);
            let n = p.values[0].len() as f64;
            let mean = p.values[0].iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let var = p.values[0].iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 4.0 * std / n.sqrt(), "{init:?}: mean {mean}");
            assert!((var.sqrt() / std - 1.0).abs() < 0.01, "{init:?}: std {}", var.sqrt());
        }
    }

    #[test]
    fn rates_and_step_sizes_lie_where_they_should() {
        let draw = |init| Params::init([spec("x", init)].into(), 3).values.remove(0).into_iter().map(f64::from);
        let spread = |values: Vec<f64>, low: f64, high: f64| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            assert!(values.iter().all(|v| (low - 1e-4..=high + 1e-4).contains(v)), "{low} to {high}");
            assert!((mean - (low + high) / 2.0).abs() < 0.01 * (high - low), "mean {mean} of {low} to {high}");
        };
        spread(draw(Init::LogOfUniform { low: 1.0, high: 16.0 }).map(f64::exp).collect(), 1.0, 16.0);
        let steps = draw(Init::InverseSoftplus { low: 1e-3, high: 0.1 });
        spread(steps.map(|x| x.exp().ln_1p().ln()).collect(), 1e-3f64.ln(), 0.1f64.ln());
    }

    #[test]
    fn another_models_values_are_refused_by_name() {
        let p = Params::init([spec("a", Init::Ones)].into(), 0);
        let message = p.check(&[spec("b", Init::Ones)]).unwrap_err().to_string();
        assert!(message.contains("parameter b"), "{message}");
    }
}
