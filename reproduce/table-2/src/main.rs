//! The kernel benchmark: the paper's times, ours beside them. `--peer FILE` adds those of `kernels/peer_bench.py`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match kernel_throughput::Table::from_flags(std::env::args().skip(1)) {
        Ok((table, flags)) => ExitCode::from(cli::run_with(&table, &flags, &mut std::io::stdout())),
        Err(error) => {
            eprint!("{}", error.text());
            ExitCode::from(error.exit_code())
        }
    }
}
