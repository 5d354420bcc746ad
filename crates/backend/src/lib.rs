//! The seam: a tape of coarse ops, parameters, and the backends that run it.
