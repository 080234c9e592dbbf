//! The command line: reads what was typed, runs it, and turns what went wrong into words and an exit code.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 bad state or config, 4 timeout. The verbs talk to a running
//! gateway through its socket; nothing here holds state of its own.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

pub mod args;
mod ca;
mod client;
mod config;
mod demo;
mod join;
pub mod k8s;
mod output;
mod peer;
mod reference;
mod render;
mod run;
mod verbs;

#[cfg(test)]
mod tests;

pub use client::state_folder;
pub use reference::reference_page;

use self::{
    args::{Cli, Output, SharedArgs, Verb},
    output::Printer,
};
use crate::model::code::{Code, Problem};

/// Threads of the runtime the commands run on; the data path of a gateway has its own.
const CONTROL_THREADS: usize = 2;

/// Runs the program with these arguments, its own name first.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misused(&args, &error),
    };
    let printer = Printer::new(&cli.shared);
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build();
    let done = match built {
        Ok(runtime) => {
            let done = runtime.block_on(dispatch(cli, printer));
            // A thread that still reads standard input must not hold up the end.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Problem::new(Code::PART_FAILED, format!("no threads could be started: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            printer.problem(&problem);
            ExitCode::from(problem.code.exit_code())
        }
    }
}

async fn dispatch(cli: Cli, printer: Printer) -> Result<(), Problem> {
    let shared = &cli.shared;
    match cli.verb {
        Verb::Run(args) => run::run(&args, shared).await,
        Verb::Config(verb) => config::run(&verb),
        Verb::K8s(verb) => k8s::run(verb, shared, printer).await,
        Verb::Demo(args) => demo::run(&args, printer).await,
        Verb::Token(verb) => verbs::token(verb, shared, printer).await,
        Verb::Join(args) => join::run(&args, shared, printer).await,
        Verb::Status => verbs::status(shared, printer).await,
        Verb::Peers { name } => verbs::peers(name.as_ref(), shared, printer).await,
        Verb::Peer(verb) => peer::run(&verb, shared, printer).await,
        Verb::Authz(args::AuthzVerb::Explain { from, to }) => peer::authz(&from, &to, shared, printer).await,
        Verb::Ca(verb) => ca::run(verb, shared, printer).await,
        Verb::Services { name } => verbs::services(name.as_deref(), shared, printer).await,
        Verb::Export(args) => verbs::export(&args, shared, printer).await,
        Verb::Unexport(args) => verbs::unexport(&args, shared, printer).await,
        Verb::Drain => verbs::drain(shared, printer).await,
        Verb::Resolve { name } => verbs::resolve(&name, shared, printer).await,
        Verb::Explain { subject } => verbs::explain(&subject, shared, printer).await,
        Verb::Version => verbs::version(shared, printer).await,
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tombolo", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

/// Answers a command line that is not one: help and version as asked for, else a problem.
fn misused(args: &[OsString], error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reads it when standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            let wants_json =
                args.windows(2).any(|pair| pair[1] == "json" && (pair[0] == "-o" || pair[0] == "--output"))
                    || args.iter().any(|arg| arg == "-ojson" || arg == "--output=json");
            let form = if wants_json { Output::Json } else { Output::Table };
            let shared = SharedArgs { output: form, ..SharedArgs::default() };
            Printer::new(&shared).problem(&usage_problem(&error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// Clap's words as a problem: what is wrong, and its tip or usage as the thing to try.
fn usage_problem(rendered: &str) -> Problem {
    let paragraph: Vec<&str> =
        rendered.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let message = paragraph.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end_matches('.');
    let problem = Problem::new(Code::FLAG_INVALID, message);
    let after =
        |prefix: &str| rendered.lines().find_map(|line| line.trim().strip_prefix(prefix).map(str::trim));
    match (after("tip: "), after("Usage: ")) {
        (Some(tip), _) => problem.with_fix(tip),
        (None, Some(usage)) => problem.with_fix(format!("`{usage}`, or `--help`")),
        (None, None) => problem,
    }
}
