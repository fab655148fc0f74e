//! The command line: one file a command.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 engine or
//! device, 141 nobody reads what is printed, 1 anything else. Progress bars are drawn on a terminal only.

mod completions;
mod dicom;
mod doctor;
mod edge;
mod engine;
mod evaluate;
mod health;
mod jobs;
mod keys;
mod models;
mod openapi;
mod pacs;
mod phantom;
mod say;
mod segment;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use dawson_inference::problem::Code;
use say::{say, say_aside};

/// Finds multiple-sclerosis lesions in multi-contrast brain MRI. Research use only, not for diagnosis.
#[derive(Debug, Parser)]
#[command(
    name = "dawson",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the HTTP interface
    Serve(serve::Args),
    /// Find the lesions of one study, or of a table of studies
    Segment(Box<segment::Args>),
    /// Hold a mask against a truth: every figure, for one case or two folders of cases
    Evaluate(evaluate::Args),
    /// List, check or describe the installed networks
    Models(models::Args),
    /// Look at, retry or erase the jobs of a service
    Jobs(jobs::Args),
    /// Make, list and revoke the keys of a service
    Keys(keys::Args),
    /// Make a synthetic head with known lesions
    Phantom(phantom::Args),
    /// Say what is there, what is missing, and how to mend it
    Doctor(doctor::Args),
    /// Ask a running service whether it takes work
    Health(health::Args),
    /// Print the OpenAPI description of the HTTP interface
    Openapi,
    /// Print shell completions
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
}

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    detail: String,
}

impl Failure {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// A file of the user that cannot be read or written.
    fn file(error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull => Code::StorageFailed,
            _ => Code::MalformedRequest,
        };
        Self::new(code, error.to_string())
    }
}

impl From<dawson_inference::pipeline::Error> for Failure {
    fn from(error: dawson_inference::pipeline::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<dawson_inference::engine::Error> for Failure {
    fn from(error: dawson_inference::engine::Error) -> Self {
        Self::new(
            dawson_inference::pipeline::engine_code(&error),
            error.to_string(),
        )
    }
}

impl From<dawson_inference::models::Error> for Failure {
    fn from(error: dawson_inference::models::Error) -> Self {
        Self::new(
            dawson_inference::pipeline::model_code(&error),
            error.to_string(),
        )
    }
}

/// Runs the program: reads the arguments, does what they say, returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Segment(args) => segment::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Jobs(args) => jobs::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Phantom(args) => phantom::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Openapi => openapi::run(),
        Command::Completions(args) => {
            completions::run(&args, &mut Cli::command());
            Ok(())
        }
        Command::Man(args) => completions::man(&args, &Cli::command()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, detail }) => {
            say_aside!("error: {detail}");
            ExitCode::from(code.exit())
        }
    }
}

/// Prints one JSON document on stdout.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(Code::Internal, format!("no JSON: {e}")))?;
    say!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
