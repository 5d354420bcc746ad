//! What the tests share: the models under test, random parameters and batches, and how far two tensors are apart.

use backend::{Batch, IGNORE, Init, ParamSpec, Params, State, Tape};
use model::{Conv, ConvKind, GatedDeltaNet, Mamba2, Mixer, Mlp, Moe, Norm, Place, Positions, Transformer};

pub(crate) const VOCAB: usize = 11;

/// A small Transformer: 2 blocks, 2 heads of 8, everything else default.
pub(crate) fn tiny() -> Transformer {
    Transformer {
        vocab: VOCAB,
        d_model: 16,
        layers: 2,
        heads: 2,
        mixer: Mixer::Attention,
        mlp: Mlp::Swiglu,
        ffn: 24,
        norm: Norm::Rms,
        positions: Positions::Rope,
        rope_theta: 1e4,
        max_len: 64,
        tied: false,
        qk_norm: false,
        conv: Conv::default(),
        init_std: 0.02,
        depth_scaled_init: true,
    }
}

/// Models of one block wide enough that work is split, in rows and in columns, one for each kind of convolution.
pub(crate) fn wider() -> Vec<(String, Transformer)> {
    use ConvKind::{HeadWise, LowRank, Static};
    let model = |kind| {
        let conv = Conv { head_size: 32, rank: 16, on: Place::ALL.to_vec(), ..conv(kind, 4, true) };
        Transformer { d_model: 192, layers: 1, heads: 3, ffn: 320, conv, ..tiny() }
    };
    let mut all: Vec<_> = [Static, HeadWise, LowRank].map(|kind| (format!("{kind:?}, wider"), model(kind))).into();
    let delta = GatedDeltaNet { heads: 3, key_size: 32, value_size: 64 };
    let mamba = Mamba2 { heads: 6, intermediate: 228, state_size: 32, groups: 1 };
    for (name, mixer) in [("gated deltanet", Mixer::GatedDeltaNet(delta)), ("mamba-2", Mixer::Mamba2(mamba))] {
        let conv = Conv { on: vec![Place::Q, Place::K, Place::V], rank: 16, ..conv(LowRank, 4, true) };
        let model = Transformer { d_model: 192, layers: 1, mixer, mlp: Mlp::None, conv, ..tiny() };
        all.push((format!("{name}, wider"), model));
    }
    all
}

/// A convolution of that kind on q, k and v, sized for [`tiny`].
pub(crate) fn conv(kind: ConvKind, width: usize, bias: bool) -> Conv {
    Conv { kind, width, bias, head_size: 4, rank: 3, ..Conv::default() }
}

/// [`tiny`] with 5 experts, 2 to a token, and everything about them in use. With an `aux_weight` of 1 the auxiliary
/// losses' gradient is about as large as the loss's: where it is all there is, f32's rounding of the rest must not show.
pub(crate) fn experts(aux_weight: f32) -> Transformer {
    let moe = Moe {
        experts: 5,
        top_k: 2,
        ffn: 6,
        shared_ffn: 7,
        renormalize: true,
        aux_weight,
        z_weight: aux_weight / 2.0,
        loss_free_gamma: 0.01,
    };
    Transformer { mlp: Mlp::Moe(moe), ..tiny() }
}

/// The linear RNNs, sized for [`tiny`].
pub(crate) fn linear_rnns() -> [(&'static str, Mixer); 2] {
    // A head has more than one filter of those that share channels, or a small one would shrink it whole, and its norm
    // would blow up what f32 rounds.
    let delta = GatedDeltaNet { heads: 2, key_size: 8, value_size: 8 };
    let mamba = Mamba2 { heads: 4, intermediate: 24, state_size: 4, groups: 2 };
    [("gated deltanet", Mixer::GatedDeltaNet(delta)), ("mamba-2", Mixer::Mamba2(mamba))]
}

/// How many times f32's rounding weighs what it does in a Transformer. Gated DeltaNet norms an output that is in proportion
/// to what a query and a key have in common: where that is little, its rounding grows. dfdx in f32 shows the same.
pub(crate) fn rounding(model: &Transformer) -> f64 {
    if matches!(model.mixer, Mixer::GatedDeltaNet(_)) { 4.0 } else { 1.0 }
}

/// Every variant of the model, named: each choice of norm, MLP, positions, tying and QK-norm, and each kind of
/// convolution at several widths, with and without static taps, on QKV, on single streams and on all seven linears.
pub(crate) fn variants() -> Vec<(String, Transformer)> {
    use ConvKind::{HeadWise, LowRank, Static};
    let mut all = vec![
        ("plain".into(), tiny()),
        ("layer norm".into(), Transformer { norm: Norm::Layer, ..tiny() }),
        ("gelu".into(), Transformer { mlp: Mlp::Gelu, ..tiny() }),
        ("no mlp".into(), Transformer { mlp: Mlp::None, ..tiny() }),
        ("learned positions".into(), Transformer { positions: Positions::Learned, ..tiny() }),
        ("no positions".into(), Transformer { positions: Positions::None, ..tiny() }),
        ("tied".into(), Transformer { tied: true, ..tiny() }),
        ("qk-norm".into(), Transformer { qk_norm: true, ..tiny() }),
    ];
    if let Mlp::Moe(moe) = experts(1.0).mlp {
        let bare = Moe { top_k: 1, shared_ffn: 0, renormalize: false, aux_weight: 0.0, loss_free_gamma: 0.0, ..moe };
        all.push(("experts, one to a token".into(), Transformer { mlp: Mlp::Moe(bare), ..tiny() }));
    }
    let mut with = |name: String, base: Transformer, conv: Conv| all.push((name, Transformer { conv, ..base }));
    for width in 1..=8 {
        // Every width meets every kind; static taps are left out at the odd ones.
        let bias = width % 2 == 0;
        for kind in [Static, HeadWise, LowRank] {
            with(format!("{kind:?} width {width} bias {bias}"), tiny(), conv(kind, width, bias));
        }
    }
    for kind in [Static, HeadWise, LowRank] {
        for (bias, mlp) in [(true, Mlp::Swiglu), (false, Mlp::Gelu)] {
            let on = Place::ALL.to_vec();
            let name = format!("{kind:?} on all linears, {mlp:?}, bias {bias}");
            with(name, Transformer { mlp, ..tiny() }, Conv { on, ..conv(kind, 4, bias) });
        }
        with(format!("{kind:?}, experts"), experts(1.0), conv(kind, 4, true));
        let modern = Transformer { qk_norm: true, tied: true, ..tiny() };
        with(format!("{kind:?}, qk-norm, tied"), modern, conv(kind, 4, true));
        let old = Transformer { norm: Norm::Layer, mlp: Mlp::Gelu, positions: Positions::Learned, ..tiny() };
        with(format!("{kind:?}, layer norm, gelu, learned positions"), old, conv(kind, 3, true));
    }
    for (name, mixer) in linear_rnns() {
        let model = Transformer { mixer, ..tiny() };
        with(format!("{name}, plain"), model.clone(), Conv::default());
        for (kind, on) in [(HeadWise, Conv::default().on), (LowRank, vec![Place::Q]), (LowRank, Place::ALL.to_vec())] {
            with(format!("{name}, {kind:?} on {on:?}"), model.clone(), Conv { on, ..conv(kind, 4, true) });
        }
    }
    for (kind, place) in [(HeadWise, Place::Q), (LowRank, Place::K), (Static, Place::V)] {
        let bare = Transformer { mlp: Mlp::None, positions: Positions::None, ..tiny() };
        with(format!("{kind:?} on {place:?}, no mlp"), bare, Conv { on: vec![place], ..conv(kind, 4, true) });
    }
    all
}

/// Random values in every parameter, those that start at 0 or 1 too: a generator of zeros would hide half of a
/// dynamic convolution's gradient. Matrices are small enough that activations stay near 1 and f32 can meet 1e-5.
pub(crate) fn random_params(specs: std::sync::Arc<[ParamSpec]>, seed: u64) -> Params {
    let scattered: Vec<ParamSpec> = specs
        .iter()
        .map(|spec| {
            let std = if spec.shape.len() == 1 { 0.3 } else { 0.5 / (spec.shape[1] as f32).sqrt() };
            ParamSpec { init: Init::Normal { std }, ..spec.clone() }
        })
        .collect();
    let mut params = Params { specs: specs.clone(), values: Params::init(scattered.into(), seed).values };
    for (spec, values) in specs.iter().zip(&mut params.values) {
        if spec.init == Init::Ones {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
    }
    params
}

pub(crate) fn random_state(tape: &Tape, seed: u64) -> State {
    State::new(random_params(tape.specs(), seed))
}

/// Random ids and targets below `vocab`, every fifth target ignored.
pub(crate) fn random_batch(tape: &Tape, vocab: usize, seed: u64) -> Batch {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as u32
    };
    let ids = (0..tape.tokens()).map(|_| draw()).collect();
    let targets = (0..tape.tokens()).map(|n| if n % 5 == 1 { IGNORE } else { draw() }).collect();
    Batch::new(ids, targets)
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The norm of `a - b`.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}
