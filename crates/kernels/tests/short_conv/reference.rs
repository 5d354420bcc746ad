//! The definition in f64, one loop per index, and its analytic gradients.

use crate::problem::{Kind, Spec, Tensors, find};

/// The taps of every token, `[B * T, W, D]`.
fn taps(spec: &Spec, operands: &Tensors<f64>) -> Vec<f64> {
    let (d, width) = (spec.d, spec.width);
    let static_w = operands.iter().find(|(name, _)| *name == "static_w").map(|(_, w)| w);
    let mut taps = vec![0.0; spec.tokens() * width * d];
    for t in 0..spec.tokens() {
        for k in 0..width {
            for c in 0..d {
                let dynamic = match spec.kind {
                    Kind::Static => find(operands, "w")[k * d + c],
                    Kind::HeadWise(size) => find(operands, "weight")[(t * (d / size) + c / size) * width + k],
                    Kind::LowRank(rank) => {
                        let (z, u) = (find(operands, "z"), find(operands, "u"));
                        (0..rank).map(|r| z[t * rank + r] * u[(r * width + k) * d + c]).sum()
                    }
                };
                taps[(t * width + k) * d + c] = dynamic + static_w.map_or(0.0, |w| w[k * d + c]);
            }
        }
    }
    taps
}

/// Each sequence's inputs with its W - 1 earlier ones before them, `[W - 1 + len, D]`.
fn padded(spec: &Spec, operands: &Tensors<f64>) -> Vec<Vec<f64>> {
    let (d, state) = (spec.d, (spec.width - 1) * spec.d);
    let x = find(operands, "x");
    let initial = |s: usize| match operands.iter().find(|(name, _)| *name == "initial_state") {
        Some((_, initial)) => initial[s * state..][..state].to_vec(),
        None => vec![0.0; state],
    };
    let bounds = spec.bounds();
    let sequences = bounds.windows(2).enumerate();
    sequences.map(|(s, b)| [initial(s), x[b[0] * d..b[1] * d].to_vec()].concat()).collect()
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// The sums over the taps, `[B * T, D]`.
fn sums(spec: &Spec, taps: &[f64], padded: &[Vec<f64>]) -> Vec<f64> {
    let (d, width) = (spec.d, spec.width);
    let mut sums = vec![0.0; spec.tokens() * d];
    for (s, bound) in spec.bounds().windows(2).enumerate() {
        for t in bound[0]..bound[1] {
            for k in 0..width {
                for c in 0..d {
                    let x = padded[s][(t - bound[0] + width - 1 - k) * d + c];
                    sums[t * d + c] += taps[(t * width + k) * d + c] * x;
                }
            }
        }
    }
    sums
}

/// y and the final state.
pub(crate) fn forward(spec: &Spec, operands: &Tensors<f64>) -> Tensors<f64> {
    let padded = padded(spec, operands);
    let state = (spec.width - 1) * spec.d;
    let sums = sums(spec, &taps(spec, operands), &padded);
    let act = |v: f64| if spec.options.silu { v * sigmoid(v) } else { v };
    let residual = if spec.options.residual { 1.0 } else { 0.0 };
    let y = sums.iter().zip(find(operands, "x")).map(|(&v, &x)| act(v) + residual * x).collect();
    let final_state = padded.iter().flat_map(|p| p[p.len() - state..].to_vec()).collect();
    vec![("y", y), ("final_state", final_state)]
}

/// `forward` and all gradients, by the names and in the order of `problem::ours`.
pub(crate) fn all(spec: &Spec, operands: &Tensors<f64>) -> Tensors<f64> {
    let (d, width, n) = (spec.d, spec.width, spec.tokens());
    let state = (width - 1) * d;
    let (taps, padded) = (taps(spec, operands), padded(spec, operands));
    let dy = find(operands, "dy");
    let dact = |v: f64| {
        if spec.options.silu { sigmoid(v) * (1.0 + v * (1.0 - sigmoid(v))) } else { 1.0 }
    };
    let g: Vec<f64> = sums(spec, &taps, &padded).iter().zip(dy).map(|(&v, &dy)| dy * dact(v)).collect();

    let mut dpadded: Vec<Vec<f64>> = padded.iter().map(|p| vec![0.0; p.len()]).collect();
    let mut dtaps = vec![0.0; taps.len()];
    for (s, bound) in spec.bounds().windows(2).enumerate() {
        for t in bound[0]..bound[1] {
            for k in 0..width {
                for c in 0..d {
                    let (tap, at) = ((t * width + k) * d + c, (t - bound[0] + width - 1 - k) * d + c);
                    dtaps[tap] = g[t * d + c] * padded[s][at];
                    dpadded[s][at] += g[t * d + c] * taps[tap];
                }
            }
        }
        if spec.dfinal {
            let len = dpadded[s].len();
            let dfinal = &find(operands, "dfinal_state")[s * state..][..state];
            dpadded[s][len - state..].iter_mut().zip(dfinal).for_each(|(v, d)| *v += d);
        }
    }
    let mut dx: Vec<f64> = dpadded.iter().flat_map(|p| p[state..].to_vec()).collect();
    if spec.options.residual {
        dx.iter_mut().zip(dy).for_each(|(v, dy)| *v += dy);
    }
    let dinitial = dpadded.iter().flat_map(|p| p[..state].to_vec()).collect();

    let mut dstatic = vec![0.0; width * d];
    dtaps.chunks_exact(width * d).for_each(|row| dstatic.iter_mut().zip(row).for_each(|(v, d)| *v += d));
    let mut tensors = forward(spec, operands);
    tensors.extend([("dx", dx), ("dinitial_state", dinitial)]);
    match spec.kind {
        Kind::Static => tensors.push(("dw", dstatic.clone())),
        Kind::HeadWise(size) => {
            let mut dweight = vec![0.0; n * spec.columns()];
            for (i, dtap) in dtaps.iter().enumerate() {
                let (t, k, c) = (i / d / width, i / d % width, i % d);
                dweight[(t * (d / size) + c / size) * width + k] += dtap;
            }
            tensors.push(("dweight", dweight));
        }
        Kind::LowRank(rank) => {
            let (z, u) = (find(operands, "z"), find(operands, "u"));
            let (mut dz, mut du) = (vec![0.0; z.len()], vec![0.0; u.len()]);
            for t in 0..n {
                let dtaps = &dtaps[t * width * d..][..width * d];
                for r in 0..rank {
                    for (j, dtap) in dtaps.iter().enumerate() {
                        dz[t * rank + r] += dtap * u[r * width * d + j];
                        du[r * width * d + j] += dtap * z[t * rank + r];
                    }
                }
            }
            tensors.extend([("dz", dz), ("du", du)]);
        }
    }
    if spec.with_static && spec.kind != Kind::Static {
        tensors.push(("dstatic_w", dstatic));
    }
    tensors
}

pub(crate) fn to_f64(tensors: &Tensors<f32>) -> Tensors<f64> {
    tensors.iter().map(|(name, v)| (*name, v.iter().map(|&v| f64::from(v)).collect())).collect()
}
