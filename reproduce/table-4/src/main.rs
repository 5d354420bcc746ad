//! Training throughput: the paper's statements, ours beside them.

fn main() -> std::process::ExitCode {
    cli::run(&step_throughput::Table::default())
}
