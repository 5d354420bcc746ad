//! Per-thread working memory, kept from call to call.

use std::cell::RefCell;

/// Bytes the memory is aligned to: a cache line, so that a vector never lies across two.
const ALIGN: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` slices of these lengths, rounded up to whole cache lines, with unspecified contents. `f` must neither
/// ask for more scratch nor wait for other rayon tasks, which might.
pub(crate) fn with<const K: usize, R>(lens: [usize; K], f: impl FnOnce([&mut [f32]; K]) -> R) -> R {
    let lens = lens.map(|len| len.next_multiple_of(ALIGN / size_of::<f32>()));
    SCRATCH.with_borrow_mut(|memory| {
        let needed = lens.iter().sum::<usize>() + ALIGN / size_of::<f32>();
        if memory.len() < needed {
            memory.resize(needed, 0.0);
        }
        let start = memory.as_ptr().align_offset(ALIGN);
        let mut rest = &mut memory[start..];
        f(lens.map(|len| rest.split_off_mut(..len).expect("the lengths were summed")))
    })
}
