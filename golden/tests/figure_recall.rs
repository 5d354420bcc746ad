//! The recall figure at scale smoke.

mod suite;

golden_item!(recall::Figure);

/// Seeds run side by side or with several threads each: a run has the same bits at any number of threads.
#[test]
fn a_row_has_the_same_bits_at_1_2_and_4_threads() {
    let mut runs = Vec::new();
    for threads in ["1", "2", "4"] {
        let out = tempfile::tempdir().unwrap();
        let flags = ["--rows", "varkey.lowrank", "--seeds", "1", "--threads", threads, "-q", "--out"];
        let flags: Vec<String> = flags.into_iter().chain(out.path().to_str()).map(String::from).collect();
        assert!(cli::run_with(&recall::Figure, &flags, &mut Vec::new()) <= 1);
        runs.push(["metrics.csv", "curve.csv"].map(|file| std::fs::read(out.path().join(file)).unwrap()));
    }
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}
