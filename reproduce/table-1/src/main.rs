//! Table 1, language modelling: the paper's, ours beside it.

use lm_scaling::Table;

static TABLE: Table = Table::one(&[linear_rnn::probe, moe::probe]);

fn main() -> std::process::ExitCode {
    cli::run(&TABLE)
}
