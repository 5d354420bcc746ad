//! Table 3, the ablations: the paper's, ours beside it.

fn main() -> std::process::ExitCode {
    cli::run(&lm_scaling::Table::three())
}
