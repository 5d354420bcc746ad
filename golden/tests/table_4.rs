//! Training throughput at scale smoke: which rows there are and what is counted of them. Times are this machine's.

mod suite;

golden_item!(step_throughput::Table::default());
