//! The kernel core: every op's CPU forward and backward.
