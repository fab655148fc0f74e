//! A job's life: acknowledged, queued, run, ended, forgotten.
//!
//! A job is a row and a folder (see [`crate::store`]). It is acknowledged once both are on the disk.
//! Workers take jobs from the rows; what a worker writes names its attempt. The async side only
//! keeps books: computing happens on a thread of its own (`runner.rs`).
mod events;
mod runner;
mod sweeper;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dawson_inference::models::{self, Model, Registry};
use dawson_inference::pipeline::{Asked, Cancel, OutOfRange, Segmenter, Settings, model_code};
use dawson_inference::problem::Code;
use dawson_inference::report::Report;
pub use events::{Channel, Event, Kind};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::store::{
    self, Job, JobFiles, JobId, JobStore, NewJob, Page, State, StoredFile, Submitted,
};
use crate::telemetry;

/// The name of the report among a job's artifacts.
const REPORT: &str = "report.json";
/// What a study takes before any was measured.
const FIRST_GUESS_S: u64 = 10;

/// How jobs are kept and run.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// Studies computed at once; they share the engine.
    pub workers: usize,
    /// The most jobs that may wait.
    pub queue: usize,
    /// A worker that writes nothing for so long is thought dead.
    pub lease: Duration,
    /// How often a transient failure is tried again.
    pub retries: i64,
    /// How long results are kept.
    pub results_ttl: Duration,
    /// Whether scans are kept as long as results (else until the job ends).
    pub keep_inputs: bool,
    /// How long running jobs may go on once the service is to stop.
    pub grace: Duration,
}

/// Turns a job's options, as they were sent, into what they ask for.
pub type ReadOptions = fn(&str) -> Result<Asked, String>;

/// Why a request about a job cannot be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such job.
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
    /// The queue is full.
    #[error("{waiting} jobs wait, more are not taken; try again in {retry_after_s} s")]
    Full {
        /// How many wait.
        waiting: i64,
        /// When there should be room.
        retry_after_s: u64,
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
    /// Options that are not understood.
    #[error("options: {0}")]
    Options(String),
    /// An option out of its range.
    #[error(transparent)]
    Settings(OutOfRange),
    /// The store failed.
    #[error(transparent)]
    Store(store::Error),
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::NoArtifact { .. } => Code::NotFound,
            Self::Ended { .. } => Code::JobEnded,
            Self::NotReady { .. } => Code::ArtifactNotReady,
            Self::Full { .. } => Code::QueueFull,
            Self::KeyMismatch => Code::IdempotencyMismatch,
            Self::Closing => Code::ShuttingDown,
            Self::Model(error) => model_code(error),
            Self::Options(_) | Self::Settings(_) => Code::InvalidOptions,
            Self::Store(_) => Code::StorageFailed,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// A study that has arrived.
#[derive(Debug)]
pub struct Submission {
    /// The folder with its files, named by contrast, synced.
    pub upload: PathBuf,
    /// The files.
    pub inputs: Vec<StoredFile>,
    /// The caller's own words.
    pub label: Option<String>,
    /// The model asked for: name or name@version; the service's if none.
    pub model: Option<String>,
    /// The options as they were sent, JSON.
    pub options: String,
    /// The caller's key for this request.
    pub idempotency_key: Option<String>,
}

/// A job, where it stands in the queue, and what came of it.
#[derive(Debug)]
pub struct JobView {
    /// The row.
    pub job: Job,
    /// Jobs before it, and seconds until it should begin, while it waits.
    pub queue: Option<(i64, f64)>,
    /// The report, once it has succeeded.
    pub report: Option<Report>,
}

/// The jobs of this service.
#[derive(Debug)]
pub struct Jobs {
    store: JobStore,
    files: JobFiles,
    segmenter: Arc<Segmenter>,
    registry: Registry,
    default_model: String,
    read_options: ReadOptions,
    config: JobsConfig,
    hub: events::Hub,
    running: Mutex<HashMap<JobId, Arc<Cancel>>>,
    /// A job was queued.
    wake: Notify,
    closing: watch::Sender<bool>,
    /// A moving mean of what a study takes, in milliseconds.
    study_ms: AtomicU64,
    worker: String,
}

/// What jobs need.
#[derive(Debug)]
pub struct Parts {
    /// The rows.
    pub store: JobStore,
    /// The files.
    pub files: JobFiles,
    /// What computes.
    pub segmenter: Segmenter,
    /// The networks.
    pub registry: Registry,
    /// The network for requests that name none.
    pub default_model: String,
    /// How options are read.
    pub read_options: ReadOptions,
    /// How jobs are kept and run.
    pub config: JobsConfig,
}

impl Jobs {
    /// Puts the parts together; nothing runs yet (see [`Jobs::run`]).
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            files,
            segmenter,
            registry,
            default_model,
            read_options,
            config,
        } = parts;
        Self {
            store,
            files,
            segmenter: Arc::new(segmenter),
            registry,
            default_model,
            read_options,
            config,
            hub: events::Hub::default(),
            running: Mutex::new(HashMap::new()),
            wake: Notify::new(),
            closing: watch::Sender::new(false),
            study_ms: AtomicU64::new(FIRST_GUESS_S * 1000),
            worker: JobId::new().to_string(),
        }
    }

    /// The networks.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What computes.
    #[must_use]
    pub fn segmenter(&self) -> &Segmenter {
        &self.segmenter
    }

    /// The model of that name, or the service's.
    ///
    /// # Errors
    /// [`Error::Model`]
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Model>, Error> {
        self.registry
            .get(name.unwrap_or(&self.default_model))
            .map_err(Error::Model)
    }

    /// A folder for a study that arrives.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Store`]
    pub async fn new_upload(&self) -> Result<PathBuf, Error> {
        if self.is_closing() {
            return Err(Error::Closing);
        }
        let files = self.files.clone();
        blocking(move || files.new_upload()).await
    }

    /// Removes a study that came to nothing.
    pub async fn drop_upload(&self, upload: PathBuf) {
        let dropped = blocking(move || {
            JobFiles::drop_upload(&upload);
            Ok(())
        });
        if let Err(error) = dropped.await {
            tracing::error!(%error, "an upload could not be removed");
        }
    }

    /// Turns away at once what would only be turned away after its upload.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Full`], [`Error::Store`]
    pub async fn check_room(&self) -> Result<(), Error> {
        if self.is_closing() {
            return Err(Error::Closing);
        }
        let waiting = self.store.count(State::Queued).await?;
        if waiting >= self.queue_limit() {
            Err(self.full(waiting))
        } else {
            Ok(())
        }
    }

    /// Acknowledges a study: after this it is on the disk, files and row.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Settings`], [`Error::Full`], [`Error::KeyMismatch`],
    /// [`Error::Closing`], [`Error::Store`]; the upload is gone then.
    pub async fn submit(&self, submission: Submission) -> Result<Job, Error> {
        let upload = submission.upload.clone();
        let id = JobId::new();
        let outcome = self.try_submit(id, submission).await;
        if !matches!(outcome, Ok(Submitted::Accepted(_))) {
            self.drop_upload(upload).await;
            self.erase_files(id).await;
        }
        match outcome? {
            Submitted::Accepted(job) => {
                telemetry::job_accepted(job.id, job.inputs.len());
                self.hub
                    .channel(job.id)
                    .push(Kind::State, json!({ "state": "queued" }));
                self.wake.notify_one();
                Ok(job)
            }
            Submitted::Known(job) => Ok(job),
            Submitted::Mismatch => Err(Error::KeyMismatch),
            Submitted::Full { waiting } => Err(self.full(waiting)),
        }
    }

    async fn try_submit(&self, id: JobId, submission: Submission) -> Result<Submitted, Error> {
        if self.is_closing() {
            return Err(Error::Closing);
        }
        let model = self.model(submission.model.as_deref())?;
        // What would fail only once it is run is refused now.
        self.settings(&submission.options, &model)?;
        let fingerprint = fingerprint(&submission, &model);
        let files = self.files.clone();
        let upload = submission.upload.clone();
        blocking(move || files.keep_upload(&upload, id)).await?;
        let new = NewJob {
            id,
            label: submission.label,
            model: model.id(),
            options: submission.options,
            inputs: submission.inputs,
            idempotency_key: submission.idempotency_key,
            fingerprint,
            now: now_ms(),
            queue: self.queue_limit(),
        };
        Ok(self.store.submit(new).await?)
    }

    fn queue_limit(&self) -> i64 {
        i64::try_from(self.config.queue).unwrap_or(i64::MAX)
    }

    fn full(&self, waiting: i64) -> Error {
        // When the first of those that wait has begun, there is room for one more.
        let retry_after_s = self.study_s() / self.config.workers.max(1) as f64;
        Error::Full {
            waiting,
            retry_after_s: (retry_after_s.ceil() as u64).max(1),
        }
    }

    /// A job.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn get(&self, id: JobId) -> Result<JobView, Error> {
        let job = self.row(id).await?;
        let queue = match job.state {
            State::Queued => {
                let ahead = self.store.ahead_of(id).await?;
                let running = self.store.count(State::Running).await?;
                let rounds = (ahead + running) as f64 / self.config.workers.max(1) as f64;
                Some((ahead, rounds * self.study_s()))
            }
            _ => None,
        };
        let report = match job.state {
            State::Succeeded => self.report(&job).await?,
            _ => None,
        };
        Ok(JobView { job, queue, report })
    }

    async fn row(&self, id: JobId) -> Result<Job, Error> {
        self.store.get(id).await?.ok_or(Error::NotFound(id))
    }

    async fn report(&self, job: &Job) -> Result<Option<Report>, Error> {
        let path = self.files.result(job.id, job.attempt, REPORT);
        let read = blocking(move || crate::files::read(&path).map_err(store::Error::File)).await;
        match read {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(Error::Store(store::Error::File(e)))
                if e.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn list(&self, page: Page) -> Result<Vec<Job>, Error> {
        Ok(self.store.list(page).await?)
    }

    /// Returns once the job has ended, or after `patience`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn wait(&self, id: JobId, patience: Duration) -> Result<JobView, Error> {
        let channel = self.watch(id).await?;
        let ended = async {
            let mut seen = 0;
            while !channel.has_ended() {
                channel.wait_after(seen).await;
                seen = channel.after(seen).last().map_or(seen, |e| e.id);
            }
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(patience) => {}
            () = self.closed() => {}
        }
        self.get(id).await
    }

    /// A job's events. Of a job whose events were not seen by this process, its row tells the state.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn watch(&self, id: JobId) -> Result<Arc<Channel>, Error> {
        let job = self.row(id).await?;
        let channel = self.hub.channel(id);
        if channel.after(0).is_empty() {
            channel.push(Kind::State, json!({ "state": job.state.name() }));
        }
        // The row is read again: the job may have ended before the channel was there.
        let job = self.row(id).await?;
        if job.state.has_ended() && !channel.has_ended() {
            channel.push(Kind::End, json!({ "state": job.state.name() }));
        }
        Ok(channel)
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ended`], [`Error::Store`]
    pub async fn cancel(&self, id: JobId) -> Result<JobView, Error> {
        let job = self.row(id).await?;
        if !self.store.cancel(id, now_ms()).await? {
            let state = self.row(id).await?.state;
            return Err(Error::Ended { id, state });
        }
        self.stop(id);
        telemetry::job_cancelled(id);
        let files = self.files.clone();
        blocking(move || {
            files.drop_inputs(id);
            files.drop_results(id, job.attempt);
            Ok(())
        })
        .await?;
        self.hub
            .channel(id)
            .push(Kind::End, json!({ "state": "cancelled" }));
        self.get(id).await
    }

    /// Tells a worker of this process that its job is no longer wanted.
    fn stop(&self, id: JobId) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cancel) = running.get(&id) {
            cancel.cancel();
        }
    }

    /// Cancels a job if need be and erases everything about it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn erase(&self, id: JobId) -> Result<(), Error> {
        if !self.store.erase(id).await? {
            return Err(Error::NotFound(id));
        }
        self.stop(id);
        self.erase_files(id).await;
        self.hub.forget(id, json!({ "state": "erased" }));
        Ok(())
    }

    async fn erase_files(&self, id: JobId) {
        let files = self.files.clone();
        let erased = blocking(move || {
            files.erase(id);
            Ok(())
        });
        if let Err(error) = erased.await {
            tracing::error!(job = %id, %error, "files could not be erased; the sweeper will try again");
        }
    }

    /// The artifacts of a job that has succeeded.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotReady`], [`Error::Store`]
    pub async fn artifacts(&self, id: JobId) -> Result<Vec<(StoredFile, PathBuf)>, Error> {
        let job = self.row(id).await?;
        if job.state != State::Succeeded {
            return Err(Error::NotReady {
                id,
                state: job.state,
            });
        }
        let artifacts = self.store.artifacts(id).await?;
        Ok(artifacts
            .into_iter()
            .map(|artifact| {
                let path = self.files.result(id, job.attempt, &artifact.name);
                (artifact, path)
            })
            .collect())
    }

    /// One artifact of a job that has succeeded.
    ///
    /// # Errors
    /// [`Error::NoArtifact`], and as [`Jobs::artifacts`].
    pub async fn artifact(&self, id: JobId, name: &str) -> Result<(StoredFile, PathBuf), Error> {
        let artifacts = self.artifacts(id).await?;
        let found = artifacts
            .into_iter()
            .find(|(artifact, _)| artifact.name == name);
        found.ok_or_else(|| Error::NoArtifact {
            id,
            name: name.to_owned(),
        })
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.store.ping().await?)
    }

    /// Brings the figures about the queue up to date, for one who is about to read them.
    pub async fn measure(&self) {
        match self.store.waiting().await {
            Ok(waiting) => {
                let since_ms = waiting.since.map_or(0, |since| now_ms() - since);
                telemetry::queue_measured(waiting.jobs, since_ms as f64 / 1000.0);
            }
            Err(error) => telemetry::store_failed("measure", &error),
        }
    }

    /// Whether the service is about to stop.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns once the service is about to stop: who only watches is let go then.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closing = self.closing.subscribe();
        async move {
            // An error means that the sender is gone, and the service with it.
            let _closed = closing.wait_for(|closing| *closing).await;
        }
    }

    /// Takes no more jobs; those that run may go on for the grace time.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    fn study_s(&self) -> f64 {
        self.study_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// A fifth of the newest study goes into the mean.
    fn learn(&self, took: Duration) {
        let old = self.study_ms.load(Ordering::Relaxed);
        let new = (old * 4 + u64::try_from(took.as_millis()).unwrap_or(u64::MAX / 8)) / 5;
        self.study_ms.store(new.max(1), Ordering::Relaxed);
    }

    fn settings(&self, options: &str, model: &Model) -> Result<Settings, Error> {
        let asked = (self.read_options)(options).map_err(Error::Options)?;
        Settings::resolve(&asked, &model.manifest).map_err(Error::Settings)
    }
}

/// Stands for all that makes one request the same as another.
fn fingerprint(submission: &Submission, model: &Model) -> String {
    use sha2::{Digest, Sha256};
    let mut inputs: Vec<String> = submission
        .inputs
        .iter()
        .map(|f| format!("{} {}", f.name, f.sha256))
        .collect();
    inputs.sort();
    let label = submission.label.as_deref().unwrap_or_default();
    let all = format!(
        "{}\n{}\n{label}\n{}",
        inputs.join("\n"),
        submission.options,
        model.id()
    );
    models::hex(&Sha256::digest(all.as_bytes()))
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::Store),
        Err(e) => Err(Error::Store(store::Error::File(std::io::Error::other(e)))),
    }
}

/// Opens the store below `state`.
///
/// # Errors
/// [`store::Error`]
pub async fn open_store(state: &Path) -> Result<(JobStore, JobFiles), store::Error> {
    let files = JobFiles::open(state)?;
    let store = JobStore::open(&state.join("dawson.sqlite")).await?;
    Ok((store, files))
}
