//! Buffers that outlive a pass: a training step allocates nothing once every size has been seen.

use std::collections::HashMap;

/// Free buffers by length. What a taken buffer holds is stale: ops overwrite their outputs in full.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: HashMap<usize, Vec<Vec<f32>>>,
}

impl Pool {
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        self.free.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; len])
    }

    pub(super) fn give(&mut self, buffer: Vec<f32>) {
        if !buffer.is_empty() {
            self.free.entry(buffer.len()).or_default().push(buffer);
        }
    }
}
