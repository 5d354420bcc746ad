//! Per-thread working memory, kept from call to call.

use std::cell::Cell;

/// Bytes the memory is aligned to: a cache line, so that a vector never lies across two.
const ALIGN: usize = 64;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `f` slices of these lengths with unspecified contents. While `f` runs, another call on its thread (a task
/// that rayon runs while `f` waits) gets memory of its own.
pub(crate) fn with<const K: usize, R>(lens: [usize; K], f: impl FnOnce([&mut [f32]; K]) -> R) -> R {
    const LINE: usize = ALIGN / size_of::<f32>();
    let needed = lens.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
    let mut memory = SCRATCH.take();
    if memory.len() < needed {
        memory = vec![0.0; needed];
    }
    let start = memory.as_ptr().align_offset(ALIGN);
    let mut rest = &mut memory[start..];
    let slices = lens.map(|len| {
        let line = rest.split_off_mut(..len.next_multiple_of(LINE)).expect("the lengths were summed");
        &mut line[..len]
    });
    let result = f(slices);
    SCRATCH.set(memory);
    result
}
