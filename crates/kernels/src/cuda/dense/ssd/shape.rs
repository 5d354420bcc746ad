//! Sizes of the recurrence of Mamba-2, and how its kernels cut them.

use super::super::chunks::CHUNK;
use crate::error::{Error, Result};

/// Arrays of a chunk's tokens that every head has: GATES of ssd.cuh.
pub(super) const GATES: usize = 5;
/// Most columns of a head: those that a thread keeps in registers.
const MAX_HEAD_SIZE: usize = 128;
/// Blocks that fill a device: where there would be more, one takes several heads.
const BLOCKS: usize = 1536;

/// Dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SsdShape {
    /// Sequences, each with a state of its own; some may be empty.
    pub sequences: usize,
    /// Chunks of the plan.
    pub chunks: usize,
    /// Heads.
    pub heads: usize,
    /// Columns of a head.
    pub head_size: usize,
    /// Groups of heads that share b and c.
    pub groups: usize,
    /// Rows of a state.
    pub state_size: usize,
}

impl SsdShape {
    /// Refuses what the kernels cannot take; asks no device.
    ///
    /// # Errors
    /// [`Error::Range`] naming the dimension.
    pub fn check(&self) -> Result<()> {
        if (1..=MAX_HEAD_SIZE).contains(&self.head_size) {
            return Ok(());
        }
        let (range, remedy) = (format!("1 to {MAX_HEAD_SIZE}"), "give more heads, or run this model with --device cpu");
        Err(Error::Range { op: "cuda ssd", name: "head_size", found: self.head_size, range, remedy })
    }

    /// f32 that the forward keeps for the backward: gates, products of c and b, states.
    pub fn saved_len(&self) -> usize {
        self.gates() + self.chunks * self.groups * CHUNK * CHUNK + self.states()
    }

    /// f32 that the backward works in: gradients of states, and of the products by blocks of heads.
    pub fn work_len(&self) -> usize {
        self.states() + self.chunks * (self.heads / self.taken()) * CHUNK * CHUNK
    }

    /// f64 that it works in: the chunks' shares of gradients by parameters.
    pub fn shares_len(&self) -> usize {
        self.chunks * self.heads * 3
    }

    /// f32 of all gates.
    pub(super) fn gates(&self) -> usize {
        self.chunks * self.heads * GATES * CHUNK
    }

    /// f32 of the states of all chunks.
    pub(super) fn states(&self) -> usize {
        self.chunks * self.heads * self.state_size * self.head_size.next_multiple_of(4)
    }

    /// Heads that a block of the gradients takes.
    pub(super) fn taken(&self) -> usize {
        let (in_group, all) = (self.heads / self.groups, self.chunks * self.heads);
        (1..=in_group.min(16)).rev().find(|n| in_group.is_multiple_of(*n) && all / n >= BLOCKS).unwrap_or(1)
    }

    /// Rows of a state that are in shared memory at a time, at most `most`: as many tiles of as many rows each.
    fn tile(&self, most: usize) -> usize {
        self.state_size.div_ceil(self.state_size.div_ceil(most)).next_multiple_of(8)
    }

    /// The tile of a file's kernels.
    pub(super) fn tile_of(&self, file: &str) -> usize {
        self.tile(match file {
            super::STATES => 128,
            super::GRADIENTS if self.head_size > 64 => 32,
            super::GRADIENTS if self.head_size > 32 => 64,
            _ => 72,
        })
    }

    /// Of a file's kernels, for elements that lie together in x and in b.
    pub(super) fn defines(&self, file: &str, dtype: i64, x_vec: usize, b_vec: usize) -> [(&'static str, i64); 6] {
        [
            ("DTYPE", dtype),
            ("HEAD_SIZE", self.head_size as i64),
            ("STATE_SIZE", self.state_size as i64),
            ("TILE", self.tile_of(file) as i64),
            ("X_VEC", x_vec as i64),
            ("B_VEC", b_vec as i64),
        ]
    }
}

/// The stride of rows in shared memory that are read across: see ssd.cuh.
pub(super) fn across(n: usize) -> usize {
    n.next_multiple_of(8) + 4
}

/// And of those that are read along.
pub(super) fn along(n: usize) -> usize {
    n.next_multiple_of(8) + if n.next_multiple_of(8).is_multiple_of(16) { 8 } else { 0 }
}
