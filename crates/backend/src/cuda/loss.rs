//! The loss, and with it the classifier.

use kernels::cuda::dense;

use super::lower::Lower;
use super::program::View;
use crate::op::{Op, Param, Var};

/// Most bytes of the logits of a chunk of rows.
const LOGITS: usize = 2 << 30;

impl Lower<'_> {
    /// The input and weight of the classifier that makes these logits, if they are for the loss alone.
    pub(super) fn head(&self, logits: Var) -> Option<(Var, Param)> {
        let Op::Linear { x, w, bias: None, residual: None } = self.tape.ops()[logits.index()] else { return None };
        (self.tape.logits() == Some(logits) && self.groups.uses[logits.index()].len() == 1).then_some((x, w))
    }

    /// The loss, and with it the classifier: logits of a chunk of rows, their loss and, in training, their gradient in place and
    /// what follows from it. The logits of all rows never exist at once.
    pub(super) fn loss(&mut self, logits: Var) {
        let (n, vocab) = (self.tokens(), self.tape.cols(logits));
        let train = self.trains();
        let Some((x, w)) = self.head(logits) else {
            let value = self.value(logits);
            let target = if train { self.temporary(n, vocab, self.dtype) } else { value };
            if train {
                self.copy(value, target);
                self.grads[logits.index()] = Some(target);
            }
            return self.score(target, 0, train);
        };
        let most = LOGITS / (vocab.next_multiple_of(8) * self.dtype.bytes());
        let chunks = if self.keeps() { 1 } else { n.div_ceil(most.max(128)) };
        let rows = n.div_ceil(chunks).next_multiple_of(128).min(n);
        let buffer = self.p.buffer(rows, vocab, self.dtype, self.keeps());
        let (input, weight) = (self.value(x), self.weight(w, vocab, self.tape.cols(x)));
        for from in (0..n).step_by(rows) {
            let chunk = buffer.rows(0, rows.min(n - from));
            let input = input.rows(from, chunk.rows);
            self.product("classifier", input, weight, chunk, None, None);
            self.score(chunk, from, train);
            if train {
                let (dx, accumulate) = if from == 0 { self.contribute(x) } else { (self.gradient(x), false) };
                self.input_gradient("classifier dx", chunk, weight, dx.rows(from, chunk.rows), accumulate);
                self.weight_gradient("classifier dw", chunk, input, w);
            }
        }
        if self.keeps() {
            self.values[logits.index()] = Some(buffer);
        }
    }

    fn score(&mut self, logits: View, from: usize, train: bool) {
        let part = |v: View| v.columns(from, logits.rows);
        let (targets, nll, argmax) = (part(self.inputs.targets()), part(self.inputs.nll()), part(self.inputs.argmax()));
        self.p.step(
            "cross_entropy",
            [logits, targets, nll, argmax, self.inputs.weight()],
            move |on, [l, t, n, a, w]| dense::cross_entropy(on.device, l, t, n, a, train.then_some(w)),
        );
    }
}
