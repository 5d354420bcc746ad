//! From flags to an exit code, and the check of a plan.

use crate::Error;
use crate::args::Args;
use crate::experiment::Experiment;
use crate::output::print;
use crate::session::Session;
use clap::{Arg, CommandFactory, FromArgMatches, value_parser};
use report::paper::Item;
use report::plan::{Plan, Row};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The flag of items that stand beside another implementation.
const PEER: &str = "peer";

/// Runs a reproduce binary on the flags of this process; see the crate's table of exit codes.
pub fn run(experiment: &dyn Experiment) -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    ExitCode::from(run_with(experiment, &args, &mut std::io::stdout()))
}

/// The same with the flags given and stdout elsewhere; returns the exit code.
pub fn run_with(experiment: &dyn Experiment, args: &[String], stdout: &mut dyn Write) -> u8 {
    let name = format!("reproduce-{}", experiment.item());
    let done = report::paper::item(experiment.item()).map_err(Error::from).and_then(|item| {
        let mut command = Args::command().name(name.clone()).bin_name(name.clone()).about(item.title.clone());
        if let Some(help) = experiment.peer() {
            let file = value_parser!(PathBuf);
            command =
                command.arg(Arg::new(PEER).long(PEER).value_name("FILE").help(help.to_string()).value_parser(file));
        }
        let typed = std::iter::once(&name).chain(args);
        let parsed = command.try_get_matches_from(typed).and_then(|matches| {
            let peer = experiment.peer().and_then(|_| matches.get_one(PEER).cloned());
            Ok((Args::from_arg_matches(&matches)?, peer))
        });
        match parsed {
            Ok((parsed, peer)) => Session::new(experiment, item, parsed, peer, args)?.go(stdout),
            Err(e) if e.use_stderr() => {
                let _ = e.print();
                Ok(2)
            }
            Err(help) => print(stdout, &help.render().to_string()).map(|()| 0),
        }
    });
    done.unwrap_or_else(|error| {
        let _ = std::io::stderr().write_all(error.text().as_bytes());
        error.exit_code()
    })
}

/// Resolves every row at every scale and refuses what the experiment or the item does not know: for tests.
pub fn check(experiment: &dyn Experiment) -> Result<(), Error> {
    let item = report::paper::item(experiment.item())?;
    let plan = Plan::parse(experiment.plan())?;
    for scale in plan.scales() {
        resolve(experiment, &item, &plan, scale, None)?;
    }
    Ok(())
}

/// The rows at a scale, each known to the item and accepted by the experiment.
pub(crate) fn resolve(
    experiment: &dyn Experiment,
    item: &Item,
    plan: &Plan,
    scale: &str,
    only: Option<&[String]>,
) -> Result<Vec<Row>, Error> {
    let rows = plan.resolve(scale, only)?;
    for row in &rows {
        if item.row(&row.id).is_none_or(|known| known.paper_only) {
            let message = format!("row {} of the plan is no row of paper/{}.toml that can be run", row.id, item.id);
            return Err(Error::config(message).hint("add it there, or name it as there"));
        }
        experiment
            .check(&row.config)
            .map_err(|e| Error { message: format!("row {} at scale {scale}: {}", row.id, e.message), ..e })?;
    }
    Ok(rows)
}
