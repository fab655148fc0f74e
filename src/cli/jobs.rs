//! `dawson jobs`: the jobs of a service, seen and mended by its operator.
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use dawson_inference::problem::Code;
use serde::Serialize;

use super::say::say;
use super::serve::{ServiceArgs, runtime};
use super::{Failure, print_json};
use crate::jobs::{self, Delivery, Desk, Job, JobId, Page, Places, State, time};

/// What to do with the jobs of a service.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dawson jobs list --only failed\n  dawson jobs show 01KB0V7Z6N3W7Q1X5F6J8R9T2M\n  \
                  dawson jobs list --dead\n  dawson jobs send 01KB0V7Z6N3W7Q1X5F6J8R9T2M --to pacs\n  dawson jobs erase 01KB0V7Z6N3W7Q1X5F6J8R9T2M --state /var/lib/dawson"
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
        /// Only jobs whose results were not filed and are not tried any more
        #[arg(long, conflicts_with = "only")]
        dead: bool,
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
    /// Send the results of a job again to where they have not arrived
    Send {
        /// The job
        id: String,
        /// Only to this destination, also if they have arrived there
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
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
    deliveries: Vec<DeliveryRow>,
}

/// Where results are filed. In lists only what was given up.
#[derive(Serialize)]
struct DeliveryRow {
    destination: String,
    state: &'static str,
    tries: i64,
    error: Option<String>,
    not_before: Option<String>,
    ended_at: Option<String>,
}

impl From<Delivery> for DeliveryRow {
    fn from(delivery: Delivery) -> Self {
        Self {
            not_before: delivery.due_at().map(time),
            state: delivery.stage(),
            destination: delivery.destination,
            tries: delivery.tries,
            error: delivery.error,
            ended_at: delivery.ended_at.map(time),
        }
    }
}

impl Row {
    fn of(job: Job, deliveries: Vec<Delivery>) -> Self {
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
            deliveries: deliveries.into_iter().map(DeliveryRow::from).collect(),
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
            Action::List {
                only,
                dead,
                limit,
                json,
            } => {
                let state = only.as_deref().map(known_state).transpose()?;
                let rows = if *dead {
                    dead_rows(&desk, *limit).await?
                } else {
                    rows(&desk, state, *limit).await?
                };
                list(rows, *json)
            }
            Action::Show { id } => {
                let job = desk.get(parse(id)?).await?;
                let deliveries = desk.deliveries(job.id).await?;
                print_json(&Row::of(job, deliveries))
            }
            Action::Send { id, to } => {
                let count = desk.send(parse(id)?, to.as_deref()).await?;
                say!("{count} deliveries are tried again");
                Ok(())
            }
            Action::Retry { id } => Ok(desk.retry(parse(id)?).await?),
            Action::Erase { id } => Ok(desk.erase(parse(id)?).await?),
        }
    })
}

fn parse(id: &str) -> Result<JobId, Failure> {
    id.parse()
        .map_err(|_| Failure::new(Code::NotFound, format!("'{id}' is not a job's id")))
}

fn known_state(name: &str) -> Result<State, Failure> {
    State::parse(name)
        .ok_or_else(|| Failure::new(Code::InvalidOptions, format!("state '{name}' is not known")))
}

/// The newest jobs, each with what was given up of it.
async fn rows(desk: &Desk, state: Option<State>, limit: i64) -> Result<Vec<Row>, Failure> {
    let page = Page {
        state,
        limit,
        ..Page::default()
    };
    let mut dead = desk.dead_deliveries(i64::MAX).await?;
    let jobs = desk.list(page).await?.into_iter();
    let rows = jobs.map(|job| {
        let of_it = dead
            .extract_if(.., |delivery| delivery.job == job.id)
            .collect();
        Row::of(job, of_it)
    });
    Ok(rows.collect())
}

/// The newest jobs of which something was given up.
async fn dead_rows(desk: &Desk, limit: i64) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let dead = desk.dead_deliveries(i64::MAX).await?;
    let of_a_job = dead.chunk_by(|a, b| a.job == b.job);
    for deliveries in of_a_job.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        let Some(first) = deliveries.first() else {
            continue;
        };
        match desk.get(first.job).await {
            Ok(job) => rows.push(Row::of(job, deliveries.to_vec())),
            // It is being erased.
            Err(jobs::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rows)
}

fn list(rows: Vec<Row>, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&rows);
    }
    for row in rows {
        let why = row
            .error
            .map_or_else(String::new, |e| format!("  {}: {}", e.code, e.detail));
        let not_filed: Vec<String> = row
            .deliveries
            .into_iter()
            .map(|d| {
                format!(
                    "  not filed at {}: {}",
                    d.destination,
                    d.error.unwrap_or_default()
                )
            })
            .collect();
        say!(
            "{}  {:<9}  {}  {}{why}{}",
            row.id,
            row.state,
            row.created_at,
            row.model,
            not_filed.concat()
        );
    }
    Ok(())
}
