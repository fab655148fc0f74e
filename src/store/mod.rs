//! What survives a restart: rows about jobs, and their files.
//!
//! Two seams, [`JobStore`] and [`JobFiles`]. The order of writing is the promise: files first (whole,
//! synced), then the row; a file that no row speaks of is nobody's and is swept.
mod database;
mod deliveries;
mod dialect;
mod files;
mod jobs;
mod rows;

use std::fmt;
use std::str::FromStr;

pub use database::{Changes, JobStore};
pub use files::{About, ArrivingStudies, ArrivingStudy, JobFiles, KeptImage, Pieces, Sent, pack};
pub use rows::{
    Callback, Delivery, DeliveryState, Lapsed, Leaving, NewJob, Page, Room, Submitted, Undelivered,
    Waiting,
};

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
    /// A file failed; its name is in the text.
    #[error("{0}")]
    File(std::io::Error),
    /// The address of a database that is not understood, or a database that this version did not make.
    #[error("{0}")]
    Unsuitable(String),
    /// A row holds something that this version did not write.
    #[error("job {id} has a row that is not understood: {reason}")]
    Row {
        /// The job.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A job's name: a ULID, so that names sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(ulid::Ulid);

impl JobId {
    /// A name that nobody has yet.
    #[must_use]
    pub fn new() -> Self {
        Self(ulid::Ulid::generate())
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no job's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job's id: must be 26 letters and digits")]
pub struct NoJobId;

impl FromStr for JobId {
    type Err = NoJobId;

    fn from_str(text: &str) -> Result<Self, NoJobId> {
        // Only the form that is written: no lower case, no look-alikes.
        let id = ulid::Ulid::from_string(text).map_err(|_| NoJobId)?;
        if id.to_string() == text {
            Ok(Self(id))
        } else {
            Err(NoJobId)
        }
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// Is being computed.
    Running,
    /// Has results.
    Succeeded,
    /// Has a problem instead.
    Failed,
    /// Was cancelled.
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name on the wire and in the row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether nothing changes any more.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Which jobs go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Somebody waits for it at this moment.
    Urgent,
    /// The order of the day.
    #[default]
    Routine,
    /// Whenever nothing else is to be done.
    Batch,
}

impl Priority {
    /// Every priority, the first goes first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Routine, Self::Batch];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Routine => "routine",
            Self::Batch => "batch",
        }
    }

    /// Its place in the row: the lowest goes first.
    #[must_use]
    pub fn rank(self) -> i64 {
        match self {
            Self::Urgent => 0,
            Self::Routine => 1,
            Self::Batch => 2,
        }
    }

    /// The priority of that rank.
    #[must_use]
    pub fn of_rank(rank: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.rank() == rank)
    }
}

/// One file of a submission or of a result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredFile {
    /// The contrast, or the artifact's file name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// How far a job has come, as its worker last wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredProgress {
    /// The stage's name.
    pub stage: String,
    /// Patches done.
    pub done: usize,
    /// Patches in all; 0 outside the network.
    pub total: usize,
}

/// What a job is thought to need, known from the headers of its scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Memory while it is computed.
    pub memory_bytes: i64,
    /// Voxels that the network looks at.
    pub voxels: i64,
    /// Disk for its scans.
    pub input_bytes: i64,
}

/// A job as its row tells it. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The API key of its caller, by its id; none where no keys are asked for.
    pub owner: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Whether it goes before others.
    pub priority: Priority,
    /// Not begun after this.
    pub deadline_at: Option<i64>,
    /// What it is thought to need.
    pub cost: Cost,
    /// Where its end is told.
    pub callback_url: Option<String>,
    /// The caller's own words.
    pub label: Option<String>,
    /// The model it was submitted for, `name@version`.
    pub model: String,
    /// The options as they were sent, JSON.
    pub options: String,
    /// The scans that were sent.
    pub inputs: Vec<StoredFile>,
    /// When it was acknowledged.
    pub created_at: i64,
    /// When a worker first took it.
    pub started_at: Option<i64>,
    /// When its latest attempt began.
    pub attempt_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Counts whoever has held it: workers, and who cancels or erases it.
    pub attempt: i64,
    /// How far it is.
    pub progress: Option<StoredProgress>,
    /// Why it failed.
    pub error: Option<dawson_inference::problem::Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_that_is_written_is_a_job_s_id() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "../../etc/passwd",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01arz3ndektsv4rrffq69g5fav",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(NoJobId), "{text}");
        }
    }
}
