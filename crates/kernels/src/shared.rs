//! A tensor that several threads write, each its own elements: one head's columns of every row.

use std::marker::PhantomData;

use crate::gemm::MatMut;

/// A mutably borrowed slice, split by the caller's promise rather than by the borrow checker.
pub(crate) struct Shared<'a> {
    data: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the slice is borrowed for 'a; who takes parts of it promises that no two threads share an element.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above; `&Shared` gives access to elements only through unsafe functions with that promise.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// While the slice lives, nothing else reads or writes these elements.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start <= self.len && len <= self.len - start, "slice out of bounds");
        // SAFETY: inside the borrowed slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// A matrix whose first element is at `start`.
    ///
    /// # Safety
    /// While the matrix lives, nothing else reads or writes its elements.
    pub(crate) unsafe fn mat(&self, start: usize, rows: usize, cols: usize, row_stride: usize) -> MatMut<'_> {
        assert!(start <= self.len, "matrix out of bounds");
        // SAFETY: `start` is inside the borrowed slice; exclusive by the caller's promise.
        unsafe { MatMut::from_raw(self.data.add(start), self.len - start, rows, cols, row_stride) }
    }
}
