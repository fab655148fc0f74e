//! `dawson health`: whether a running service takes work, for those who start and watch it.
//!
//! An image without a shell or curl still needs something that its HEALTHCHECK can call.
use std::time::Duration;

use clap::Args as ClapArgs;
use dawson_inference::problem::Code;

use super::Failure;
use super::say::say;

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  dawson health --url http://127.0.0.1:8080/readyz")]
pub(super) struct Args {
    /// What to ask: /readyz (takes work) or /healthz (answers)
    #[arg(
        long,
        env = "DAWSON_HEALTH_URL",
        default_value = "http://127.0.0.1:8080/readyz"
    )]
    url: String,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 5)]
    timeout_s: u64,
}

/// Prints what the service answers; any other status than 200, or no answer, is a failure.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let gone =
        |e: reqwest::Error| Failure::new(Code::Internal, format!("no answer: {}", chain(&e)));
    let client = reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(args.timeout_s))
        .build()
        .map_err(gone)?;
    let answer = client.get(&args.url).send().map_err(gone)?;
    let status = answer.status();
    let text = answer.text().map_err(gone)?;
    if status == reqwest::StatusCode::OK {
        say!("{text}");
        return Ok(());
    }
    Err(Failure::new(Code::Internal, format!("{status}: {text}")))
}

/// An error with its causes, of which the last says most.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
