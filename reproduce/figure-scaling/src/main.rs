//! Loss against training compute: the paper's compute advantages, ours beside them.

fn main() -> std::process::ExitCode {
    cli::run(&lm_scaling::Table::scaling())
}
