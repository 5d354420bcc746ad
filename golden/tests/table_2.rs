//! Table 2 at scale smoke: the CPU ops against f64, and what is printed; times are of no golden.

mod suite;

use kernel_throughput::Table;

golden_item!(Table::default());
