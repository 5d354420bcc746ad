//! nanoGPT's setting at scale smoke.

mod suite;

golden_item!(lm_scaling::Table::nanogpt());
