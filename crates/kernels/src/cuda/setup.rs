//! One thread at a time.
//!
//! Loading a kernel (the library's own too), pinned memory, and what frees them can wait for the whole context. The driver then
//! breaks the recording of a graph that another thread of the process is at, whatever the recording's mode; seen as
//! `STREAM_CAPTURE_INVALIDATED` once in some 300 short trainings, five side by side.

use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

static SETUP: ReentrantMutex<()> = ReentrantMutex::new(());

/// Until dropped no other thread records a graph, and none does what breaks a recording. A thread may take it twice.
pub fn setup() -> ReentrantMutexGuard<'static, ()> {
    SETUP.lock()
}
