//! The scaling figure at scale smoke.

mod suite;

golden_item!(lm_scaling::Table::scaling());
