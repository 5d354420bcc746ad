//! Each op alone: small tapes of an embedding, the op under test in every option, and a linear head.

use backend::{Batch, Filter, GatedDeltaRule, Init, Moe, Param, Result, Ssd, Tape, Var};

use crate::common::random_batch;

/// Columns of the values; also the vocabulary.
const D: usize = 8;

/// Rows, their length and their borders.
type Rows = (usize, usize, Option<Vec<usize>>);

/// Named tapes with a batch each, of two rows and of one row that holds three sequences.
pub(crate) fn op_tapes() -> Vec<(String, Tape, Batch)> {
    tapes(ops(), &[(2, 3, None), (1, 6, Some(vec![0, 1, 3, 6]))])
}

/// The recurrences on rows about as long as the chunks that kernels cut them into, and much longer.
pub(crate) fn recurrent_tapes() -> Vec<(String, Tape, Batch)> {
    let mut recurrent = ops();
    recurrent.retain(|(name, _)| name.starts_with("gated_delta_rule") || name.starts_with("ssd"));
    tapes(recurrent, &[(1, 64, None), (1, 65, None), (1, 1000, None), (1, 194, Some(vec![0, 64, 65, 194]))])
}

fn tapes(ops: Vec<(String, Build)>, rows: &[Rows]) -> Vec<(String, Tape, Batch)> {
    let mut all = Vec::new();
    for (name, build) in ops {
        for (batch, len, borders) in rows.iter().cloned() {
            let mut tape = Tape::new(batch, len).unwrap();
            let table = param(&mut tape, "table", &[D, D]);
            let x = tape.embedding(table).unwrap();
            let y = build(&mut tape, x).unwrap();
            let logits = branch(&mut tape, "head", y, D);
            tape.cross_entropy(logits);
            let mut data = random_batch(&tape, D, 2);
            data.cu_seqlens = borders;
            all.push((format!("{name}, {batch} x {len}"), tape, data));
        }
    }
    all
}

fn param(t: &mut Tape, name: &str, shape: &[usize]) -> Param {
    t.param(name, shape, Init::Zeros, true).unwrap()
}

/// `x` through a linear layer of its own.
fn branch(t: &mut Tape, name: &str, x: Var, cols: usize) -> Var {
    let w = param(t, name, &[cols, t.cols(x)]);
    t.linear(x, w, None, None).unwrap()
}

type Build = Box<dyn Fn(&mut Tape, Var) -> Result<Var>>;

/// An op, recorded on an embedding of D columns.
fn ops() -> Vec<(String, Build)> {
    fn case(name: &str, build: impl Fn(&mut Tape, Var) -> Result<Var> + 'static) -> (String, Build) {
        (name.into(), Box::new(build))
    }
    let mut ops = vec![
        case("embedding", |_, x| Ok(x)),
        case("add_positions", |t, x| {
            let table = param(t, "positions", &[9, D]);
            t.add_positions(x, table)
        }),
        case("linear", |t, x| {
            let (w, bias) = (param(t, "w", &[D, D]), param(t, "bias", &[D]));
            let y = branch(t, "other", x, D);
            t.linear(x, w, Some(bias), Some(y))
        }),
        case("linear, its input the residual", |t, x| {
            let w = param(t, "w", &[D, D]);
            t.linear(x, w, None, Some(x))
        }),
        case("rms_norm", |t, x| {
            let gain = param(t, "gain", &[D]);
            t.rms_norm(x, gain, 1e-5)
        }),
        case("rms_norm by groups", |t, x| {
            let gain = param(t, "gain", &[D / 4]);
            t.rms_norm(x, gain, 1e-2)
        }),
        case("layer_norm", |t, x| {
            let (gain, bias) = (param(t, "gain", &[D]), param(t, "bias", &[D]));
            t.layer_norm(x, gain, bias, 1e-5)
        }),
        case("rope", |t, x| t.rope(x, 2, 100.0)),
        case("attention", |t, x| {
            let [q, k, v] = ["q", "k", "v"].map(|name| branch(t, name, x, 2 * D));
            t.attention(q, k, v, 2)
        }),
        case("attention of turned values", |t, x| {
            let [q, k, v] = ["q", "k", "v"].map(|name| branch(t, name, x, 2 * D));
            let (q, k) = (t.rope(q, 2, 100.0)?, t.rope(k, 2, 100.0)?);
            t.attention(q, k, v, 2)
        }),
        case("attention of a turned value read again", |t, x| {
            let (q, v) = (t.rope(x, 1, 100.0)?, branch(t, "v", x, D));
            let k = t.rope(v, 1, 100.0)?;
            let y = t.attention(q, k, v, 1)?;
            t.add(y, q)
        }),
        case("attention of one value", |t, x| t.attention(x, x, x, 1)),
        case("swiglu", |t, x| {
            let (gate, up) = (branch(t, "gate", x, D), branch(t, "up", x, D));
            t.swiglu(gate, up)
        }),
        case("swiglu of one value", |t, x| t.swiglu(x, x)),
        case("gelu", |t, x| Ok(t.gelu(x))),
        case("add", |t, x| {
            let y = branch(t, "other", x, D);
            t.add(x, y)
        }),
        case("add to itself", |t, x| t.add(x, x)),
    ];
    for (top_k, renormalize, balanced, aux_weight) in
        [(1, false, false, 0.0), (2, true, false, 0.3), (3, false, true, 0.3), (2, true, true, 0.0)]
    {
        let name = format!("moe, top {top_k}, renormalize {renormalize}, balanced {balanced}, aux {aux_weight}");
        ops.push(case(&name, move |t, x| {
            const E: usize = 4;
            let [gate, up] = ["gate", "up"].map(|name| param(t, name, &[E * 5, D]));
            let (logits, down) = (branch(t, "router", x, E), param(t, "down", &[E * D, 5]));
            let bias = if balanced { Some(t.balance("bias", E, 0.1)?) } else { None };
            let z_weight = aux_weight / 3.0;
            t.moe(Moe { x, logits, gate, up, down, bias, top_k, renormalize, aux_weight, z_weight })
        }));
    }
    for heads in [1, 2] {
        ops.push(case(&format!("gated_delta_rule, {heads} heads"), move |t, x| {
            let [q, k] = ["q", "k"].map(|name| branch(t, name, x, 3 * heads));
            let [a, b] = ["a", "b"].map(|name| branch(t, name, x, heads));
            let [a_log, dt_bias] = ["a_log", "dt_bias"].map(|name| param(t, name, &[heads]));
            let v = branch(t, "v", x, D);
            t.gated_delta_rule(GatedDeltaRule { q, k, v, a, b, a_log, dt_bias })
        }));
    }
    ops.push(case("gated_delta_rule of one value", |t, x| {
        let [a_log, dt_bias] = ["a_log", "dt_bias"].map(|name| param(t, name, &[2]));
        let a = branch(t, "a", x, 2);
        t.gated_delta_rule(GatedDeltaRule { q: x, k: x, v: x, a, b: a, a_log, dt_bias })
    }));
    for (heads, groups) in [(1, 1), (2, 1), (4, 2)] {
        ops.push(case(&format!("ssd, {heads} heads in {groups} groups"), move |t, x| {
            let [b, c] = ["b", "c"].map(|name| branch(t, name, x, 3 * groups));
            let [a_log, dt_bias, d] = ["a_log", "dt_bias", "d"].map(|name| param(t, name, &[heads]));
            let (x, dt) = (branch(t, "x", x, D), branch(t, "dt", x, heads));
            t.ssd(Ssd { x, b, c, dt, a_log, dt_bias, d, groups })
        }));
    }
    ops.push(case("ssd of one value", |t, x| {
        let [a_log, dt_bias, d] = ["a_log", "dt_bias", "d"].map(|name| param(t, name, &[D]));
        t.ssd(Ssd { x, b: x, c: x, dt: x, a_log, dt_bias, d, groups: 2 })
    }));
    for width in [1, 2, 4, 8] {
        for (residual, silu) in [(false, false), (true, false), (true, true)] {
            let options = format!("width {width}, residual {residual}, silu {silu}");
            ops.push(case(&format!("static conv, {options}"), move |t, x| {
                let w = param(t, "static_w", &[width, D]);
                t.short_conv(x, Filter::Static { w }, width, residual, silu)
            }));
            for bias in [false, true] {
                let static_w = move |t: &mut Tape| bias.then(|| param(t, "static_w", &[width, D]));
                ops.push(case(&format!("head-wise conv, {options}, bias {bias}"), move |t, x| {
                    let weight = branch(t, "weight", x, D / 4 * width);
                    let filter = Filter::HeadWise { weight, head_size: 4, static_w: static_w(t) };
                    t.short_conv(x, filter, width, residual, silu)
                }));
                ops.push(case(&format!("low-rank conv, {options}, bias {bias}"), move |t, x| {
                    let (z, u) = (branch(t, "a", x, 3), param(t, "u", &[3, width * D]));
                    let filter = Filter::LowRank { z, u, static_w: static_w(t) };
                    t.short_conv(x, filter, width, residual, silu)
                }));
            }
        }
    }
    ops
}
