//! Launches of `kernels/gated_delta_rule_*.cu`.

mod call;

use super::chunks::{CHUNK, chunk_count};
use super::{Arg, check, check_flat, refused};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};
pub use call::delta_variants;
use call::{Call, File};

const OP: &str = "cuda gated_delta_rule";
/// Most columns of a head's key: a chunk of keys and one of queries lie in shared memory.
const MAX_KEY: usize = 256;

/// The recurrence on matrices; states start at 0.
#[derive(Debug, Clone, Copy)]
pub struct DeltaRule<'a> {
    /// Its dimensions.
    pub shape: DeltaShape,
    /// Borders of packed sequences, u32; absent: the sequences are of equal length.
    pub cu_seqlens: Option<&'a Tensor>,
    /// Queries and keys `[N, heads key_size]`, values `[N, heads value_size]`, a and b `[N, heads]`.
    pub inputs: [&'a Tensor; 5],
    /// a_log and dt_bias `[heads]`, f32.
    pub params: [&'a Tensor; 2],
}

/// Dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Rows.
    pub rows: usize,
    /// Sequences, at most.
    pub seqs: usize,
    /// Heads.
    pub heads: usize,
    /// Columns of a head's query and key.
    pub key_size: usize,
    /// Columns of a head's value.
    pub value_size: usize,
}

impl DeltaShape {
    /// # Errors
    /// Sizes that the kernels do not take.
    pub fn check(&self) -> CudaResult<()> {
        if self.rows == 0 || self.seqs == 0 || self.heads == 0 || self.key_size == 0 || self.value_size == 0 {
            return Err(refused(OP, format!("a size of {self:?} is 0"), "give positive sizes"));
        }
        if self.key_size > MAX_KEY {
            let what = format!("key_size {} is more than {MAX_KEY}", self.key_size);
            return Err(refused(OP, what, "choose more heads of smaller keys, or --device cpu"));
        }
        Ok(())
    }

    /// Places for chunks of all sequences and heads: enough for any borders.
    fn slots(&self) -> usize {
        chunk_count(self.rows, self.seqs, false) * self.heads
    }

    fn keys(&self) -> usize {
        padded(self.key_size)
    }

    fn values(&self) -> usize {
        padded(self.value_size)
    }

    /// Columns of a head's value that pass through a sequence together.
    fn slice(&self) -> usize {
        if self.values().is_multiple_of(32) { 32 } else { 16 }
    }

    /// Rows and columns, f32, of what both passes work on: W, U and then v', the keys decayed to the end, each chunk's decay, states.
    pub fn work(&self) -> [(usize, usize); 5] {
        let (slots, keys, values) = (self.slots(), self.keys(), self.values());
        [(slots * CHUNK, keys), (slots * CHUNK, values), (slots * CHUNK, keys), (1, slots), (slots * keys, values)]
    }

    /// Of what the backward works on beside: T with A and P, the decayed queries, the gradients of v' and of the states.
    pub fn work_backward(&self) -> [(usize, usize); 4] {
        let (slots, keys, values) = (self.slots(), self.keys(), self.values());
        [(3 * slots * CHUNK, CHUNK), (slots * CHUNK, keys), (slots * CHUNK, values), (slots * keys, values)]
    }

    /// Columns, f64, of each chunk's shares of the gradients of a_log and dt_bias.
    pub fn shares(&self) -> usize {
        2 * self.slots()
    }
}

/// Columns of a head in work and in shared memory: what products take in parts of 16, 32 or 64.
fn padded(cols: usize) -> usize {
    if cols <= 16 { 16 } else { cols.next_multiple_of(32) }
}

/// `o` `[N, heads value_size]`, through `work`: [`DeltaShape::work`].
///
/// # Errors
/// Shapes or types that do not fit; sizes that [`DeltaShape::check`] refuses.
pub fn gated_delta_rule(device: &Device, op: DeltaRule<'_>, o: &Tensor, work: [&Tensor; 5]) -> CudaResult<()> {
    let call = Call::new(device, op, &[("o", o)], &[])?;
    check_work(&op.shape.work(), &work)?;
    call.states(None, work)?;
    let [_, written, _, _, states] = work;
    let mut args = call.inputs();
    args.extend([Arg::from(states), written.into(), o.into(), o.stride.into()]);
    // SAFETY: the arguments of delta_outputs, of the shapes checked above.
    unsafe { call.launch(File::Outputs, "delta_outputs", call.slots(), &mut args) }
}

/// Where the backward writes: the gradients of the inputs, shaped like them, and those of the parameters, added to what they
/// hold with `accumulate`.
#[derive(Debug, Clone, Copy)]
pub struct DeltaGrad<'a> {
    /// Of q, k, v, a and b.
    pub inputs: [&'a Tensor; 5],
    /// Of a_log and dt_bias, f32.
    pub params: [&'a Tensor; 2],
    /// Which of those hold something.
    pub accumulate: [bool; 2],
}

/// Every gradient, through `work`: [`DeltaShape::work`], [`DeltaShape::work_backward`] and, f64, [`DeltaShape::shares`].
///
/// # Errors
/// As [`gated_delta_rule`].
pub fn gated_delta_rule_backward(
    device: &Device,
    op: DeltaRule<'_>,
    d_o: &Tensor,
    grad: DeltaGrad<'_>,
    (work, more, shares): ([&Tensor; 5], [&Tensor; 4], &Tensor),
) -> CudaResult<()> {
    let [dq, dk, dv, da, db] = grad.inputs;
    let call = Call::new(device, op, &[("do", d_o), ("dv", dv)], &[("dq", dq), ("dk", dk)])?;
    let shape = op.shape;
    check(OP, shape.rows, shape.heads, d_o.dtype, &[("da", da), ("db", db)])?;
    for p in grad.params {
        check_flat(OP, "gradient of a parameter", p, shape.heads, Dtype::F32)?;
    }
    check_work(&shape.work(), &work)?;
    check_work(&shape.work_backward(), &more)?;
    check_flat(OP, "shares", shares, shape.shares(), Dtype::F64)?;
    let [kept, q_start, dwritten, dstates] = more;
    call.states(Some((d_o, kept, q_start, dwritten)), work)?;
    let [w, written, k_end, whole, states] = work;

    let mut args = call.sequences();
    args.extend([Arg::from(d_o), d_o.stride.into(), w.into(), k_end.into(), q_start.into(), whole.into()]);
    args.extend([Arg::from(dwritten), dstates.into()]);
    // SAFETY: the arguments of delta_state_gradients, of the shapes checked above; so below.
    unsafe { call.launch(File::States, "delta_state_gradients", call.slices(), &mut args)? };

    let mut args = call.inputs();
    args.extend([Arg::from(d_o), d_o.stride.into(), kept.into(), states.into(), written.into(), dstates.into()]);
    // Sums of dk and dq go over W and the decayed queries, which nothing reads any more.
    args.extend([Arg::from(dwritten), w.into(), q_start.into()]);
    args.extend(grad.inputs.into_iter().flat_map(|t| [Arg::from(t), t.stride.into()]));
    args.push(shares.into());
    // SAFETY: as above.
    unsafe { call.launch(File::Gradients, "delta_gradients", call.slots(), &mut args)? };

    let [da_log, ddt_bias] = grad.params;
    let chunks = call.slots() / shape.heads;
    let [add_log, add_bias] = grad.accumulate.map(usize::from);
    let mut args = vec![shares.into(), chunks.into(), shape.heads.into()];
    args.extend([Arg::from(da_log), add_log.into(), ddt_bias.into(), add_bias.into()]);
    // SAFETY: as above.
    unsafe { call.launch(File::Gradients, "delta_parameters", shape.heads, &mut args) }
}

fn check_work(shapes: &[(usize, usize)], work: &[&Tensor]) -> CudaResult<()> {
    shapes.iter().zip(work).try_for_each(|(&(rows, cols), t)| check_flat(OP, "work", t, rows * cols, Dtype::F32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_too_large_are_refused_by_name() {
        let shape = DeltaShape { rows: 64, seqs: 1, heads: 1, key_size: 256, value_size: 4096 };
        assert!(shape.check().is_ok());
        let message = DeltaShape { key_size: 257, ..shape }.check().unwrap_err().to_string();
        assert!(message.contains("key_size 257") && message.contains("more heads"), "{message}");
    }

    /// The slots of a packed batch, as the kernels number them: `cu[seq] / 64 + seq` is a sequence's first.
    #[test]
    fn slots_of_sequences_do_not_meet() {
        for borders in
            [vec![0usize, 1, 3, 3, 64, 130], vec![0, 63, 64, 129, 1000, 1000], vec![0, 64, 128, 192, 256, 320]]
        {
            let (rows, seqs) = (borders[borders.len() - 1], borders.len() - 1);
            let first = |seq: usize| borders[seq] / CHUNK + seq;
            for (seq, pair) in borders.windows(2).enumerate() {
                let end = first(seq) + (pair[1] - pair[0]).div_ceil(CHUNK);
                assert!(end <= if seq + 1 < seqs { first(seq + 1) } else { rows / CHUNK + seqs }, "{borders:?} {seq}");
            }
        }
    }
}
