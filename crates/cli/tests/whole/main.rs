//! Whole invocations of a tiny experiment, each in a process of its own: exit codes, streams, files, resuming, kills.

mod fake;
mod files;
mod flags;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The experiment's process: this test binary started again by [`start`]. Run without its variable it has nothing to
/// do.
#[test]
fn child() {
    if let (Ok(plan), Ok(args)) = (std::env::var("FAKE_PLAN"), std::env::var("FAKE_ARGS")) {
        let args: Vec<String> = args.split_whitespace().map(str::to_string).collect();
        let code = cli::run_with(&fake::Fake { plan }, &args, &mut std::io::stdout());
        std::process::exit(i32::from(code));
    }
}

/// Starts the experiment with a plan and flags in `folder`; `NAME=VALUE` before the flags is a variable of its environment.
fn start(folder: &Path, plan: &str, args: &str) -> Child {
    let variables = args.split_whitespace().map_while(|word| word.split_once('=').filter(|_| !word.starts_with('-')));
    let flags: Vec<&str> = args.split_whitespace().skip(variables.clone().count()).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env("FAKE_PLAN", plan)
        .env("FAKE_ARGS", flags.join(" "))
        .env_remove("REPRODUCE_GIT_REV")
        .envs(variables)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What an invocation did.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

fn finish(child: Child) -> Done {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    // What the test harness says before the experiment starts.
    let stdout = stdout.strip_prefix("\nrunning 1 test\n").map(str::to_string).unwrap_or(stdout);
    Done { code: status.code().unwrap_or(-1), stdout, stderr: String::from_utf8(stderr).unwrap() }
}

fn invoke(folder: &Path, plan: &str, args: &str) -> Done {
    finish(start(folder, plan, args))
}
