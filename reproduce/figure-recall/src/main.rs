//! Associative recall: the paper's figure, ours beside it.

fn main() -> std::process::ExitCode {
    cli::run(&recall::Figure)
}
