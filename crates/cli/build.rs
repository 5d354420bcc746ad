//! The compiler's version, for the run record.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc).arg("--version").output();
    let version = asked.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default();
    let version = if version.is_empty() { "unknown".to_string() } else { version };
    println!("cargo:rustc-env=BUILT_WITH_RUSTC={version}");
}
