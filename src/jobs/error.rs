//! Why a request about a job cannot be met.
use dawson_inference::models;
use dawson_inference::pipeline::{self, OutOfRange, model_code};
use dawson_inference::problem::Code;

use crate::store::{self, JobId, State};

/// Why a request about a job cannot be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such job, or another's: that is not told.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The job has ended.
    #[error("job {id} has {}", state.name())]
    Ended {
        /// The job.
        id: JobId,
        /// How.
        state: State,
    },
    /// The job has no results yet.
    #[error("job {id} is {}: it has no results yet", state.name())]
    NotReady {
        /// The job.
        id: JobId,
        /// Where it is.
        state: State,
    },
    /// No such artifact.
    #[error("job {id} has no artifact '{name}'")]
    NoArtifact {
        /// The job.
        id: JobId,
        /// What was asked for.
        name: String,
    },
    /// The results of a job do not go there.
    #[error("the results of job {id} are not sent to '{destination}'")]
    NoDelivery {
        /// The job.
        id: JobId,
        /// What was asked for.
        destination: String,
    },
    /// The queue is full.
    #[error(
        "{jobs} jobs with {bytes} bytes wait, {arriving} are arriving, more are not taken; try again in {retry_after_s} s"
    )]
    Full {
        /// How many jobs wait.
        jobs: i64,
        /// How large they are.
        bytes: i64,
        /// How many are on their way.
        arriving: i64,
        /// When there should be room.
        retry_after_s: u64,
    },
    /// The study needs more memory than all studies together may take.
    #[error(
        "the study needs about {needs_mb} MB of memory, and {budget_mb} MB are all that studies may take here"
    )]
    TooLarge {
        /// What it needs.
        needs_mb: u64,
        /// What there is.
        budget_mb: u64,
    },
    /// The disk is nearly full.
    #[error("{free_mb} MB of disk are free, studies are taken again from {wanted_mb} MB on")]
    DiskFull {
        /// What is free.
        free_mb: u64,
        /// What must be free.
        wanted_mb: u64,
    },
    /// A job that cannot be tried again.
    #[error("job {id} is not tried again: {reason}")]
    NotRetried {
        /// The job.
        id: JobId,
        /// Why not.
        reason: String,
    },
    /// A key that was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyMismatch,
    /// The service stops.
    #[error("the server is stopping")]
    Closing,
    /// No such model.
    #[error(transparent)]
    Model(models::Error),
    /// The networks could not be read again.
    #[error("the networks were not exchanged: {0}")]
    Reload(String),
    /// Options that are not understood.
    #[error("options: {0}")]
    Options(String),
    /// An option out of its range.
    #[error(transparent)]
    Settings(OutOfRange),
    /// A DICOM study that cannot be taken.
    #[error(transparent)]
    Study(pipeline::Error),
    /// The store failed.
    #[error(transparent)]
    Store(store::Error),
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::NoArtifact { .. } | Self::NoDelivery { .. } => Code::NotFound,
            Self::Ended { .. } | Self::NotRetried { .. } => Code::JobEnded,
            Self::NotReady { .. } => Code::ArtifactNotReady,
            Self::Full { .. } => Code::QueueFull,
            Self::TooLarge { .. } => Code::StudyTooLarge,
            Self::KeyMismatch => Code::IdempotencyMismatch,
            Self::Closing => Code::ShuttingDown,
            Self::Model(error) => model_code(error),
            Self::Reload(_) => Code::ModelInvalid,
            Self::Options(_) | Self::Settings(_) => Code::InvalidOptions,
            Self::Study(error) => error.code(),
            Self::Store(_) | Self::DiskFull { .. } => Code::StorageFailed,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}
