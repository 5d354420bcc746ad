//! What every launch of the gated delta rule has in common: arguments, defines, blocks and shared memory.

use super::super::{Arg, Kernel, check, check_flat, code, refused, vector};
use super::{CHUNK, DeltaRule, DeltaShape, OP, chunk_count};
use crate::cuda::compile::Defines;
use crate::cuda::short_conv::Variant;
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

/// Bytes of shared memory that leave room for a second block on a multiprocessor.
const HALF: usize = 110 << 10;

/// A source file, and for which use it is compiled.
#[derive(Debug, Clone, Copy)]
pub(super) enum File {
    Prepare { backward: bool },
    States,
    Outputs,
    Gradients,
}

impl File {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare { .. } => "gated_delta_rule_prepare.cu",
            Self::States => "gated_delta_rule_states.cu",
            Self::Outputs => "gated_delta_rule_outputs.cu",
            Self::Gradients => "gated_delta_rule_gradients.cu",
        }
    }

    /// Bytes of dynamic shared memory, as in the kernels' headers.
    fn shared(self, shape: &DeltaShape) -> usize {
        let (keys, pairs) = (shape.keys(), CHUNK * (CHUNK + 4));
        let part = [64, 32].into_iter().find(|part| shape.values().is_multiple_of(*part)).unwrap_or(16) + 8;
        let slice = shape.slice() + 8;
        let floats = match self {
            Self::Prepare { backward } => {
                let queries = if backward { CHUNK * (keys + 4).max(part) } else { 0 };
                CHUNK * (keys + 4) + pairs + CHUNK * (CHUNK + 8) + queries
            }
            Self::States => keys * slice + 2 * CHUNK * (keys + 4) + 2 * CHUNK * slice,
            Self::Outputs => CHUNK * (keys + CHUNK + 4) + (CHUNK * (keys + 4)).max((keys + CHUNK) * part),
            Self::Gradients => 10 * pairs,
        };
        4 * floats
    }

    /// Threads of a block: more of them where a multiprocessor holds one block alone. The products of states are too small to share out
    /// (kernels/NOTES.md).
    fn threads(self, shape: &DeltaShape) -> usize {
        if matches!(self, Self::States) || self.shared(shape) <= HALF { 256 } else { 512 }
    }

    fn defines(self, shape: &DeltaShape, code: i64, vec: usize) -> Vec<(&'static str, i64)> {
        let mut all = vec![("DTYPE", code), ("VEC", vec as i64), ("THREADS", self.threads(shape) as i64)];
        all.extend([("KEY", shape.key_size as i64), ("VALUE", shape.value_size as i64)]);
        match self {
            Self::Prepare { backward } => all.push(("BACKWARD", backward.into())),
            Self::States => all.push(("SLICE", shape.slice() as i64)),
            Self::Outputs | Self::Gradients => {}
        }
        all
    }
}

pub(super) struct Call<'a> {
    device: &'a Device,
    op: DeltaRule<'a>,
    code: i64,
    vec: usize,
}

impl<'a> Call<'a> {
    /// With the operands that are shaped like v, and those like q.
    pub(super) fn new(
        device: &'a Device,
        op: DeltaRule<'a>,
        like_v: &[(&str, &Tensor)],
        like_q: &[(&str, &Tensor)],
    ) -> CudaResult<Self> {
        let (shape, [q, k, v, a, b]) = (op.shape, op.inputs);
        shape.check()?;
        let DeltaShape { rows, seqs, heads, key_size, value_size } = shape;
        check(OP, rows, heads * key_size, q.dtype, &[("q", q), ("k", k)])?;
        check(OP, rows, heads * key_size, q.dtype, like_q)?;
        check(OP, rows, heads * value_size, q.dtype, &[("v", v)])?;
        check(OP, rows, heads * value_size, q.dtype, like_v)?;
        check(OP, rows, heads, q.dtype, &[("a", a), ("b", b)])?;
        for p in op.params {
            check_flat(OP, "a_log or dt_bias", p, heads, Dtype::F32)?;
        }
        match op.cu_seqlens {
            Some(cu) => check_flat(OP, "cu_seqlens", cu, seqs + 1, Dtype::U32)?,
            None if rows.is_multiple_of(seqs) => {}
            None => return Err(refused(OP, format!("{rows} rows in {seqs} sequences"), "choose sizes that divide")),
        }
        let wide: Vec<&Tensor> = like_v.iter().chain(like_q).map(|(_, t)| *t).chain([q, k, v]).collect();
        Ok(Self { device, op, code: code(OP, q)?, vec: vector(&wide, &[key_size, value_size]) })
    }

    /// Blocks with a chunk of a head each.
    pub(super) fn slots(&self) -> usize {
        let DeltaShape { rows, seqs, heads, .. } = self.op.shape;
        match self.op.cu_seqlens {
            Some(_) => self.op.shape.slots(),
            None => chunk_count(rows, seqs, true) * heads,
        }
    }

    /// Blocks with a part of a head's value in one sequence each.
    pub(super) fn slices(&self) -> usize {
        let shape = self.op.shape;
        shape.seqs * shape.heads * (shape.values() / shape.slice())
    }

    /// Arguments that say where sequences are.
    pub(super) fn sequences(&self) -> Vec<Arg> {
        let DeltaShape { rows, seqs, heads, .. } = self.op.shape;
        vec![self.op.cu_seqlens.into(), (rows / seqs).into(), heads.into()]
    }

    /// Arguments that start the kernels of single chunks.
    pub(super) fn inputs(&self) -> Vec<Arg> {
        let DeltaShape { rows, seqs, heads, .. } = self.op.shape;
        let mut args: Vec<Arg> = self.op.inputs.into_iter().flat_map(|t| [Arg::from(t), t.stride.into()]).collect();
        args.extend(self.op.params.map(Arg::from));
        args.extend([Arg::from(self.op.cu_seqlens), seqs.into(), (rows / seqs).into(), heads.into()]);
        args
    }

    /// Every chunk's operands, then the states and v'; for a backward also what it needs of each chunk: T, the decayed queries and the
    /// gradient of v' in its own chunk.
    pub(super) fn states(
        &self,
        backward: Option<(&Tensor, &Tensor, &Tensor, &Tensor)>,
        work: [&Tensor; 5],
    ) -> CudaResult<()> {
        let [w, u, k_end, whole, states] = work;
        let (d_o, [kept, q_start, dwritten]) = match backward {
            Some((d_o, t, q, dv)) => (Some(d_o), [t, q, dv].map(Some)),
            None => (None, [None; 3]),
        };
        let mut args = self.inputs();
        args.extend([Arg::from(d_o), d_o.map_or(0, |d| d.stride).into()]);
        args.extend([w, u, k_end, whole].map(Arg::from));
        args.extend([kept, q_start, dwritten].map(Arg::from));
        let prepare = File::Prepare { backward: d_o.is_some() };
        // SAFETY: the arguments of delta_prepare, of the shapes that the callers checked; so below.
        unsafe { self.launch(prepare, "delta_prepare", self.slots(), &mut args)? };
        let mut args = self.sequences();
        args.extend([w, k_end, whole, u, states].map(Arg::from));
        // SAFETY: as above.
        unsafe { self.launch(File::States, "delta_states", self.slices(), &mut args) }
    }

    /// # Safety
    /// As [`Kernel::launch`].
    pub(super) unsafe fn launch(
        &self,
        file: File,
        entry: &'static str,
        blocks: usize,
        args: &mut [Arg],
    ) -> CudaResult<()> {
        let shape = &self.op.shape;
        let defines = &file.defines(shape, self.code, self.vec);
        let (threads, shared) = (file.threads(shape), file.shared(shape));
        let kernel = Kernel { file: file.name(), entry, defines, blocks: (blocks, 1), threads, shared };
        // SAFETY: by the caller.
        unsafe { kernel.launch(self.device, args) }
    }
}

/// A sample of the kernels' variants, for a compile check: types, sizes of heads that fill their parts and that do not.
pub fn delta_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for (code, wide) in [(0, 4), (1, 8)] {
        for (key_size, value_size, vec) in [(128, 128, wide), (256, 512, wide), (40, 24, wide), (3, 8, 1)] {
            let shape = DeltaShape { rows: 1, seqs: 1, heads: 1, key_size, value_size };
            let files = [File::Prepare { backward: false }, File::Prepare { backward: true }];
            for file in files.into_iter().chain([File::States, File::Outputs, File::Gradients]) {
                all.push(Variant { file: file.name(), defines: Defines::new(&file.defines(&shape, code, vec)) });
            }
        }
    }
    all
}
