//! Associative recall: the paper's figure, ours beside it.
fn main() {}
