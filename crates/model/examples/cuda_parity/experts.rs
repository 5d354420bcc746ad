//! Which experts tokens meet, on the GPU and on the CPU.

use backend::{Backend, Batch, CpuBackend, CudaBackend, Error, Op, Params, Precision, State, Tape};
use model::{Mlp, Moe, Transformer};

use crate::common::{random_state, tiny};

/// States tried for one from which all tokens meet the CPU's experts.
const STATES: u64 = 16;

/// A mixture of 192 columns. Without auxiliary losses, whose sum over parts of a batch is not that of the whole.
pub(crate) fn wider() -> Transformer {
    let moe = Moe {
        experts: 12,
        top_k: 3,
        ffn: 88,
        shared_ffn: 96,
        renormalize: true,
        aux_weight: 0.0,
        z_weight: 0.0,
        loss_free_gamma: 0.01,
    };
    Transformer { d_model: 192, layers: 1, heads: 3, mlp: Mlp::Moe(moe), ..tiny() }
}

/// The state that a tape is checked from, and how many choices are not the CPU's there: in bf16 the first of some where all are.
pub(crate) fn state(tape: &Tape, data: &Batch, precision: Precision) -> Result<(State, usize), Error> {
    let first = random_state(tape, 4);
    let mixtures = tape.ops().iter().any(|op| matches!(op, Op::Moe(_)));
    if precision == Precision::F32 || !mixtures {
        return Ok((first, 0));
    }
    let (mut cpu, mut cuda) = (CpuBackend::new(), CudaBackend::new(0, precision)?);
    let mut fewest = (first, usize::MAX);
    for seed in 4..4 + STATES {
        let state = random_state(tape, seed);
        cpu.load(state.clone())?;
        cuda.load(state.clone())?;
        cpu.evaluate(tape, data)?;
        cuda.evaluate(tape, data)?;
        let moved = moved(tape, &state.params, &cpu, &cuda)?;
        if moved < fewest.1 {
            fewest = (state, moved);
        }
        if moved == 0 {
            break;
        }
    }
    Ok(fewest)
}

/// Choices of the evaluation before that are not the CPU's.
fn moved(tape: &Tape, params: &Params, cpu: &CpuBackend, cuda: &CudaBackend) -> Result<usize, Error> {
    let mut count = 0;
    for op in tape.ops() {
        let Op::Moe(moe) = op else { continue };
        let bias = moe.bias.map(|b| &params.values[b.index()][..]);
        let experts = tape.cols(moe.logits);
        let (a, b) = (cpu.read(moe.logits)?, cuda.read(moe.logits)?);
        for (a, b) in a.chunks(experts).zip(b.chunks(experts)) {
            let (a, b) = (chosen(a, bias, moe.top_k), chosen(b, bias, moe.top_k));
            count += a.iter().filter(|e| !b.contains(e)).count();
        }
    }
    Ok(count)
}

/// The experts of a token.
fn chosen(logits: &[f32], bias: Option<&[f32]>, top_k: usize) -> Vec<usize> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    let score = |e: usize| (logits[e] - max).exp() / total + bias.map_or(0.0, |b| b[e]);
    let mut experts: Vec<usize> = (0..logits.len()).collect();
    experts.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    experts.truncate(top_k);
    experts
}
