//! Table 1 at scale smoke.

mod suite;

static TABLE: lm_scaling::Table = lm_scaling::Table::one(&[linear_rnn::probe, moe::probe]);

golden_item!(TABLE);
