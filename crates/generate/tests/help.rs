//! What `generate --help` says.

use std::process::Command;

#[test]
fn help_tells_every_argument() {
    let out = Command::new(env!("CARGO_BIN_EXE_generate")).arg("--help").output().unwrap();
    assert!(out.status.success());
    insta::assert_snapshot!("help", String::from_utf8(out.stdout).unwrap());
}
