//! The operands of a case, and the results of one implementation.

use crate::case::{Case, Op};

/// Operands in f32, already rounded to the case's type. Streams one after the other; within a stream the layouts of
/// the op: x, dy `[N, D]`; taps `[N, H W]` or z `[N, R]`; u `[R, W D]`; static_w `[W, D]`; states `[S, W - 1, D]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Operands {
    /// The input.
    pub x: Vec<f32>,
    /// Head-wise filters, or codes.
    pub taps: Vec<f32>,
    /// Generators.
    pub u: Vec<f32>,
    /// Static taps.
    pub static_w: Vec<f32>,
    /// Initial state.
    pub state: Vec<f32>,
    /// Gradient of y.
    pub dy: Vec<f32>,
    /// Gradient of the final state.
    pub dfinal: Vec<f32>,
}

/// Results in the same layouts; empty where the case has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results<F> {
    /// The output.
    pub y: Vec<F>,
    /// Final state.
    pub final_state: Vec<F>,
    /// Gradient of x.
    pub dx: Vec<F>,
    /// Gradient of the filters, or of z.
    pub dtaps: Vec<F>,
    /// Gradient of U.
    pub du: Vec<F>,
    /// Gradient of the static taps.
    pub dstatic_w: Vec<F>,
    /// Gradient of the initial state.
    pub dstate: Vec<F>,
}

impl<F: Copy + Into<f64>> Results<F> {
    /// Each result with its name.
    pub fn named(&self) -> [(&'static str, &[F]); 7] {
        [
            ("y", &self.y),
            ("final_state", &self.final_state),
            ("dx", &self.dx),
            ("dtaps", &self.dtaps),
            ("du", &self.du),
            ("dstatic_w", &self.dstatic_w),
            ("dstate", &self.dstate),
        ]
    }

    /// ‖self - reference‖ / ‖reference‖ of each result; NaN anywhere gives NaN, another size infinity.
    pub fn errors<G: Copy + Into<f64>>(&self, reference: &Results<G>) -> Vec<(&'static str, f64)> {
        let pairs = self.named().into_iter().zip(reference.named());
        pairs
            .filter(|((_, a), (_, b))| a.len() + b.len() > 0)
            .map(|((name, a), (_, b))| (name, distance(a, b)))
            .collect()
    }
}

fn distance<F: Copy + Into<f64>, G: Copy + Into<f64>>(found: &[F], reference: &[G]) -> f64 {
    if found.len() != reference.len() {
        return f64::INFINITY;
    }
    let (mut apart, mut norm) = (0.0, 0.0);
    for (&a, &b) in found.iter().zip(reference) {
        let (a, b): (f64, f64) = (a.into(), b.into());
        apart += (a - b) * (a - b);
        norm += b * b;
    }
    if apart == 0.0 { 0.0 } else { (apart / norm.max(1e-60)).sqrt() }
}

impl Operands {
    /// Pseudo-random operands of a case: uniform, of standard deviation 1 for x and dy, and such that taps have about 0.5.
    pub fn random(case: &Case, seed: u64) -> Self {
        Self::fill(case, seed, usize::MAX)
    }

    /// The same, each operand a block of numbers over and over: large ones are made quickly, which is enough for timing.
    pub fn repeating(case: &Case, seed: u64) -> Self {
        Self::fill(case, seed, (1 << 18) + 3)
    }

    fn fill(case: &Case, seed: u64, period: usize) -> Self {
        let (n, d, w, s) = (case.rows(), case.d, case.width, case.streams);
        let fill = |tensor: u64, len: usize, deviation: f32| -> Vec<f32> {
            let start = splitmix(seed.wrapping_mul(31).wrapping_add(tensor));
            let value = |i: u64| {
                let unit = (splitmix(start.wrapping_add(i)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
                case.dtype.round(unit * deviation * 3f32.sqrt())
            };
            let mut values: Vec<f32> = (0..len.min(period) as u64).map(value).collect();
            while values.len() < len {
                values.extend_from_within(..values.len().min(len - values.len()));
            }
            values
        };
        let u = if let Op::LowRank { rank } = case.op { 1.0 / (rank as f32).sqrt() } else { 0.0 };
        Self {
            x: fill(1, s * n * d, 1.0),
            taps: fill(2, s * n * case.columns(), 0.5),
            u: fill(3, s * case.rank() * w * d, u),
            static_w: fill(4, if case.has_static() { s * w * d } else { 0 }, 0.5),
            state: fill(5, s * case.state_len(), 1.0),
            dy: fill(6, s * n * d, 1.0),
            dfinal: fill(7, s * case.state_len(), 1.0),
        }
    }

    /// The operands of one stream, as a case of its own.
    pub fn stream(&self, case: &Case, index: usize) -> Self {
        let part = |v: &Vec<f32>| {
            let len = v.len() / case.streams;
            v[index * len..(index + 1) * len].to_vec()
        };
        Self {
            x: part(&self.x),
            taps: part(&self.taps),
            u: part(&self.u),
            static_w: part(&self.static_w),
            state: part(&self.state),
            dy: part(&self.dy),
            dfinal: part(&self.dfinal),
        }
    }
}

impl<F> Results<F> {
    /// The results of all streams, one after the other.
    pub fn join(streams: Vec<Self>) -> Self {
        let mut all = Self {
            y: Vec::new(),
            final_state: Vec::new(),
            dx: Vec::new(),
            dtaps: Vec::new(),
            du: Vec::new(),
            dstatic_w: Vec::new(),
            dstate: Vec::new(),
        };
        for stream in streams {
            all.y.extend(stream.y);
            all.final_state.extend(stream.final_state);
            all.dx.extend(stream.dx);
            all.dtaps.extend(stream.dtaps);
            all.du.extend(stream.du);
            all.dstatic_w.extend(stream.dstatic_w);
            all.dstate.extend(stream.dstate);
        }
        all
    }
}

/// A hash of a counter: the same operands on every machine.
pub(crate) fn splitmix(counter: u64) -> u64 {
    let z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_size_or_a_nan_is_no_agreement() {
        assert_eq!(distance(&[1.0f32], &[1.0f64, 2.0]), f64::INFINITY);
        assert!(distance(&[f32::NAN, 1.0], &[1.0f64, 1.0]).is_nan());
        assert_eq!(distance(&[3.0f32, 4.0], &[3.0f64, 4.0]), 0.0);
        assert!((distance(&[3.0f32, 5.0], &[3.0f64, 4.0]) - 0.2).abs() < 1e-12);
    }
}
