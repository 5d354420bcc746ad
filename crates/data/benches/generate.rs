//! Tokens per second of one thread, per task. Run: `cargo bench -p data`.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data::{Split, Task};

fn generate(criterion: &mut Criterion) {
    let tasks: BTreeMap<String, Task> =
        toml::from_str(include_str!("../tests/tasks.toml")).expect("the tests' settings parse");
    let mut group = criterion.benchmark_group("generate");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for (name, task) in tasks {
        let count = 128;
        group.throughput(Throughput::Elements((count * task.len()) as u64));
        group.bench_function(name, |bencher| {
            let mut start = 0;
            bencher.iter(|| {
                start += count as u64;
                task.batch(0, Split::Train, start, count)
            });
        });
    }
}

criterion_group!(benches, generate);
criterion_main!(benches);
