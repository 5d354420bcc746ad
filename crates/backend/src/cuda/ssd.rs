//! The recurrence of Mamba-2.

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, SsdGrad, SsdShape, chunk_count};

use super::lower::Lower;
use super::program::View;
use crate::op::Ssd;
use crate::tape::Tape;

/// The launches' shape for so many sequences in so many chunks.
pub(super) fn shape(tape: &Tape, op: &Ssd, sequences: usize, chunks: usize) -> SsdShape {
    let (heads, groups) = (tape.cols(op.dt), op.groups);
    let (head_size, state_size) = (tape.cols(op.x) / heads, tape.cols(op.b) / groups);
    SsdShape { sequences, chunks, heads, head_size, groups, state_size }
}

impl Lower<'_> {
    /// Where the chunks of the batch lie, found by the first step that needs it.
    fn chunks(&mut self) -> View {
        if let Some(plan) = self.chunks {
            return plan;
        }
        let borders = self.inputs.cu_seqlens();
        let chunks = chunk_count(self.tokens(), borders.cols - 1, !self.packed);
        let plan = self.temporary(1, 4 * chunks, Dtype::U32);
        self.p.step("chunks", [borders, plan], |on, [borders, plan]| dense::plan_chunks(on.device, borders, plan));
        self.chunks = Some(plan);
        plan
    }

    fn ssd_shape(&mut self, op: &Ssd) -> SsdShape {
        let chunks = self.chunks().cols / 4;
        shape(self.tape, op, self.inputs.cu_seqlens().cols - 1, chunks)
    }

    /// What both passes read: the plan, the values, the parameters.
    fn ssd_reads(&mut self, op: &Ssd) -> [View; 8] {
        let [x, b, c, dt] = [op.x, op.b, op.c, op.dt].map(|x| self.value(x));
        let [a_log, dt_bias, d] = [op.a_log, op.dt_bias, op.d].map(|p| self.master(p));
        [self.chunks(), x, b, c, dt, a_log, dt_bias, d]
    }

    pub(super) fn ssd_forward(&mut self, i: usize, op: Ssd) {
        let shape = self.ssd_shape(&op);
        let [plan, x, b, c, dt, a_log, dt_bias, d] = self.ssd_reads(&op);
        let (y, saved) = (self.fresh(x.cols), self.statistics(shape.saved_len()));
        let (sequences, groups) = (shape.sequences, shape.groups);
        let views = [plan, x, b, c, dt, a_log, dt_bias, d, y, saved];
        self.p.step("ssd", views, move |on, [plan, x, b, c, dt, a_log, dt_bias, d, y, saved]| {
            let params = [a_log, dt_bias, d];
            dense::ssd(on.device, dense::Ssd { sequences, groups, plan, x, b, c, dt, params }, y, saved)
        });
        self.values[i] = Some(y);
        self.saved[i] = Some(saved);
    }

    pub(super) fn ssd_backward(&mut self, i: usize, op: Ssd, dy: View) {
        let Some(saved) = self.saved[i] else { return };
        let shape = self.ssd_shape(&op);
        let [plan, x, b, c, dt, a_log, dt_bias, d] = self.ssd_reads(&op);
        let mut detours = Vec::new();
        let [dx, db, dc, ddt] = [op.x, op.b, op.c, op.dt].map(|x| {
            let (dx, more) = self.targets(&[x]);
            detours.extend(more);
            dx
        });
        let of = [op.a_log, op.dt_bias, op.d];
        let add = of.map(|p| std::mem::replace(&mut self.touched[p.index()], true));
        let [da_log, ddt_bias, dd] = of.map(|p| self.param_gradient(p, 1, shape.heads));
        let work = self.statistics(shape.work_len());
        let shares = self.temporary(1, shape.shares_len(), Dtype::F64);
        let (sequences, groups) = (shape.sequences, shape.groups);
        let views =
            [plan, x, b, c, dt, a_log, dt_bias, d, saved, dy, dx, db, dc, ddt, da_log, ddt_bias, dd, work, shares];
        self.p.step("ssd back", views, move |on, views| {
            let [plan, x, b, c, dt, a_log, dt_bias, d, saved, dy, dx, db, dc, ddt, da_log, ddt_bias, dd, work, shares] =
                views;
            let op = dense::Ssd { sequences, groups, plan, x, b, c, dt, params: [a_log, dt_bias, d] };
            let params = [(da_log, add[0]), (ddt_bias, add[1]), (dd, add[2])];
            dense::ssd_backward(on.device, op, saved, dy, SsdGrad { dx, db, dc, ddt, params }, [work, shares])
        });
        self.finish(detours);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::groups::Groups;
    use super::super::layout::Layout;
    use super::super::lower::{Pass, lower};
    use super::super::supported;
    use super::*;
    use crate::params::Init;

    /// Gated recurrences, each on the output of the last.
    pub(in super::super) fn recurrences(blocks: usize, heads: usize, head_size: usize) -> Tape {
        let (d, groups, states) = (heads * head_size, 2, 3);
        let mut t = Tape::new(2, 70).unwrap();
        let embed = t.param("embed", &[16, d], Init::Ones, true).unwrap();
        let mut x = t.embedding(embed).unwrap();
        for block in 0..blocks {
            let cols = [("z", d), ("b", groups * states), ("c", groups * states), ("dt", heads)];
            let [z, b, c, dt] = cols.map(|(name, cols)| {
                let w = t.param(format!("{block}.{name}"), &[cols, d], Init::Ones, true).unwrap();
                t.linear(x, w, None, None).unwrap()
            });
            let [a_log, dt_bias, skip] = ["a_log", "dt_bias", "d"]
                .map(|name| t.param(format!("{block}.{name}"), &[heads], Init::Ones, false).unwrap());
            let y = t.ssd(Ssd { x, b, c, dt, a_log, dt_bias, d: skip, groups }).unwrap();
            x = t.swiglu(z, y).unwrap();
        }
        let logits = t.linear(x, embed, None, None).unwrap();
        t.cross_entropy(logits);
        t
    }

    #[test]
    fn chunks_are_planned_once_a_pass_and_no_gradient_is_moved() {
        for recompute in [false, true] {
            let mut tape = recurrences(3, 4, 4);
            tape.set_recompute(recompute);
            let groups = Groups::new(&tape);
            let layout = Layout::new(&tape, &groups);
            for (packed, chunks) in [(None, 4), (Some(8), 140 / 64 + 8)] {
                let pass = Pass::Train { add: false };
                let steps = lower(&tape, &groups, &layout, pass, Dtype::Bf16, "any", packed).program.steps;
                let count = |name: &str| steps.iter().filter(|s| s.name == name).count();
                assert_eq!((count("chunks"), count("ssd back"), count("copy")), (1, 3, 0));
                assert_eq!(count("ssd"), if recompute { 6 } else { 3 });
                let plan = steps.iter().find(|s| s.name == "chunks").unwrap().views[1];
                assert_eq!(plan.cols, 4 * chunks);
            }
        }
    }

    #[test]
    fn heads_that_registers_cannot_hold_are_refused_by_name() {
        supported(&recurrences(1, 4, 128)).unwrap();
        let message = supported(&recurrences(1, 4, 132)).unwrap_err().to_string();
        assert_eq!(
            message,
            "cuda ssd: head_size = 132 is out of range 1 to 128; give more heads, or run this model with --device cpu"
        );
    }
}
