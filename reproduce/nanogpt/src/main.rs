//! nanoGPT's small setting on tinyshakespeare: its loss, ours beside it.

fn main() -> std::process::ExitCode {
    cli::run(&lm_scaling::Table::nanogpt())
}
