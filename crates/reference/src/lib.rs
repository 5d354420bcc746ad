//! The tape run through dfdx, in f64 or f32: the oracle of every gradient.
