//! `dawson jobs`: the jobs of a service, seen and mended by its operator.
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use dawson_inference::problem::Code;
use serde::Serialize;

use super::serve::{ServiceArgs, runtime};
use super::{Failure, print_json};
use crate::jobs::{self, Desk, Job, JobId, Page, Places, State, time};

/// What to do with the jobs of a service.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dawson jobs list --only failed\n  dawson jobs show 01KB0V7Z6N3W7Q1X5F6J8R9T2M\n  \
                  dawson jobs erase 01KB0V7Z6N3W7Q1X5F6J8R9T2M --state /var/lib/dawson"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each job, newest first
    List {
        /// Only queued, running, succeeded, failed or cancelled jobs
        #[arg(long, value_name = "STATE")]
        only: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Everything that is known about a job, as JSON
    Show {
        /// The job
        id: String,
    },
    /// Put a failed job back into the queue
    Retry {
        /// The job
        id: String,
    },
    /// Cancel a job if need be and erase everything about it
    Erase {
        /// The job
        id: String,
    },
}

#[derive(Serialize)]
struct Row {
    id: String,
    state: &'static str,
    priority: &'static str,
    owner: Option<String>,
    model: String,
    created_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    attempt: i64,
    memory_bytes: i64,
    input_bytes: i64,
    error: Option<dawson_inference::problem::Problem>,
}

impl From<Job> for Row {
    fn from(job: Job) -> Self {
        Self {
            id: job.id.to_string(),
            state: job.state.name(),
            priority: job.priority.name(),
            owner: job.owner,
            model: job.model,
            created_at: time(job.created_at),
            started_at: job.started_at.map(time),
            ended_at: job.ended_at.map(time),
            attempt: job.attempt,
            memory_bytes: job.cost.memory_bytes,
            input_bytes: job.cost.input_bytes,
            error: job.error,
        }
    }
}

impl From<jobs::Error> for Failure {
    fn from(error: jobs::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.service.settings(&[])?;
    let state: PathBuf = settings.get("state")?;
    let places = Places::of(&settings)?;
    if places.database.is_none() && !state.is_dir() {
        let detail = format!("{} is no folder of a service", state.display());
        return Err(Failure::new(Code::NotFound, detail));
    }
    runtime()?.block_on(async {
        let desk = Desk::open(&state, &places).await?;
        match &args.action {
            Action::List { only, limit, json } => list(&desk, only.as_deref(), *limit, *json).await,
            Action::Show { id } => print_json(&Row::from(desk.get(parse(id)?).await?)),
            Action::Retry { id } => Ok(desk.retry(parse(id)?).await?),
            Action::Erase { id } => Ok(desk.erase(parse(id)?).await?),
        }
    })
}

fn parse(id: &str) -> Result<JobId, Failure> {
    id.parse()
        .map_err(|_| Failure::new(Code::NotFound, format!("'{id}' is not a job's id")))
}

async fn list(desk: &Desk, only: Option<&str>, limit: i64, json: bool) -> Result<(), Failure> {
    let state = only
        .map(|name| {
            State::parse(name).ok_or_else(|| {
                Failure::new(Code::InvalidOptions, format!("state '{name}' is not known"))
            })
        })
        .transpose()?;
    let page = Page {
        state,
        limit,
        ..Page::default()
    };
    let rows: Vec<Row> = desk.list(page).await?.into_iter().map(Row::from).collect();
    if json {
        return print_json(&rows);
    }
    for row in rows {
        let why = row
            .error
            .map_or_else(String::new, |e| format!("  {}: {}", e.code, e.detail));
        println!(
            "{}  {:<9}  {}  {}{why}",
            row.id, row.state, row.created_at, row.model
        );
    }
    Ok(())
}
