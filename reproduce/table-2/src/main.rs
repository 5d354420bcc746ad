//! The kernel benchmark: the paper's times, ours beside them. `--peer FILE` adds those of `kernels/peer_bench.py`.

fn main() -> std::process::ExitCode {
    cli::run(&kernel_throughput::Table::default())
}
