//! The token and label layout that every task writes.

/// The target of a position whose prediction is neither trained nor scored.
pub const IGNORE: u32 = u32::MAX;

/// Which of a task's two disjoint families of examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Examples to train on.
    Train,
    /// Held-out examples; no random stream is shared with [`Split::Train`].
    Test,
}

/// One sequence, or several of equal length one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// Input tokens.
    pub ids: Vec<u32>,
    /// `targets[t]` is the label of the prediction made at position t (already shifted: a model that has read
    /// `ids[..=t]` is asked for it), or [`IGNORE`].
    pub targets: Vec<u32>,
}

impl Example {
    /// Appends an unlabelled token.
    pub(crate) fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.targets.push(IGNORE);
    }

    /// Appends a token and the label of the prediction made on it.
    pub(crate) fn push_labelled(&mut self, id: u32, target: u32) {
        self.ids.push(id);
        self.targets.push(target);
    }
}
