//! A job's life: acknowledged, queued, run, ended, forgotten.
//!
//! A job is a row and some files (see [`crate::store`]). It is acknowledged once both are on the disk.
//! Workers take jobs from the rows; what a worker writes names its attempt. The async side only
//! keeps books: computing happens on a thread of its own (`runner.rs`).
mod admission;
mod callbacks;
mod desk;
mod error;
mod events;
mod leaving;
mod networks;
mod outbox;
mod pace;
mod runner;
mod sweeper;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

pub use admission::{Submission, Upload};
pub use callbacks::{CallbackConfig, Secret};
use dawson_inference::models::Model;
use dawson_inference::pipeline::{Cancel, Settings};
use dawson_inference::report::Report;
pub use desk::Desk;
pub use error::Error;
pub use events::{Channel, Event, Kind};
pub use networks::Networks;
pub use outbox::{FilingConfig, Wanted, Wants};
pub use pace::Advance;
use pace::Pace;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tracing::Instrument;

use crate::store::{self, ArrivingStudies, JobFiles, JobStore, Pieces, StoredFile, Waiting};
pub use crate::store::{Delivery, DeliveryState, Job, JobId, Page, State};
use crate::telemetry;

/// The name of the report among a job's artifacts.
const REPORT: &str = "report.json";

/// How jobs are kept and run.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// Studies computed at once; they share the engine.
    pub workers: usize,
    /// The most jobs that may wait.
    pub queue: usize,
    /// The most bytes of scans that may wait.
    pub queue_bytes: u64,
    /// The memory that studies computed at once may take, by what they are thought to need.
    pub memory_budget: u64,
    /// With less disk than this, nothing is taken and nothing begun.
    pub min_free_bytes: u64,
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
    /// Who may be told of a job's end.
    pub callbacks: CallbackConfig,
    /// Where results may be filed.
    pub filing: FilingConfig,
}

/// Turns a job's options, as they were sent, into what they ask for.
pub type ReadOptions = fn(&str) -> Result<Wanted, String>;

/// Whose jobs a caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sees {
    /// Everybody's.
    All,
    /// Those of one API key, by its id.
    Own(String),
}

impl Sees {
    /// Whether what belongs to that key, if to one, is seen.
    #[must_use]
    pub fn what_is_of(&self, owner: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Own(own) => owner == Some(own),
        }
    }

    fn job(&self, job: &Job) -> bool {
        self.what_is_of(job.owner.as_deref())
    }
}

/// A job, where it stands in the queue, and what came of it.
#[derive(Debug)]
pub struct JobView {
    /// The row.
    pub job: Job,
    /// Jobs before it, and seconds until it should begin, while it waits.
    pub queue: Option<(i64, f64)>,
    /// How far it is, while it runs.
    pub advance: Option<Advance>,
    /// The report, once it has succeeded.
    pub report: Option<Report>,
    /// Where its results are filed, and what came of it.
    pub deliveries: Vec<Delivery>,
}

/// An attempt that this process computes.
#[derive(Debug)]
struct Running {
    cancel: Arc<Cancel>,
    begun: Instant,
    memory_bytes: i64,
    voxels: i64,
}

/// The input of a job that is a DICOM study, as a zip: its part in the form and its file on the disk.
pub const STUDY: &str = "study";

/// The jobs of this service.
#[derive(Debug)]
pub struct Jobs {
    store: JobStore,
    files: JobFiles,
    networks: RwLock<Arc<Networks>>,
    reloading: tokio::sync::Mutex<()>,
    default_model: String,
    read_options: ReadOptions,
    config: JobsConfig,
    hub: events::Hub,
    running: Mutex<HashMap<(JobId, i64), Running>>,
    /// Studies that are on their way.
    arriving: Arc<AtomicI64>,
    /// What waited when the database was last asked for a study that arrives, and when that was.
    waited: watch::Sender<Option<(Instant, Waiting)>>,
    /// Held while it is asked.
    asking: tokio::sync::Mutex<()>,
    /// Held while a DICOM study that arrives is looked at.
    looking: tokio::sync::Mutex<()>,
    /// A job was queued.
    wake: Notify,
    /// A job with a callback has ended.
    told: Notify,
    /// There is something to deliver.
    due: Notify,
    /// Files could not be removed: they are looked for.
    survey_soon: AtomicBool,
    closing: watch::Sender<bool>,
    pace: Pace,
    worker: String,
}

/// What jobs need.
#[derive(Debug)]
pub struct Parts {
    /// The rows.
    pub store: JobStore,
    /// The files.
    pub files: JobFiles,
    /// The networks, and what computes with them.
    pub networks: Networks,
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
            networks,
            default_model,
            read_options,
            config,
        } = parts;
        Self {
            store,
            files,
            networks: RwLock::new(Arc::new(networks)),
            reloading: tokio::sync::Mutex::default(),
            default_model,
            read_options,
            config,
            hub: events::Hub::default(),
            running: Mutex::new(HashMap::new()),
            arriving: Arc::default(),
            waited: watch::Sender::default(),
            asking: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            told: Notify::new(),
            due: Notify::new(),
            survey_soon: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            pace: Pace::default(),
            worker: JobId::new().to_string(),
        }
    }

    /// The model of that name, or the service's.
    ///
    /// # Errors
    /// [`Error::Model`]
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Model>, Error> {
        self.networks()
            .registry
            .get(name.unwrap_or(&self.default_model))
            .map_err(Error::Model)
    }

    /// A job.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn get(&self, sees: &Sees, id: JobId) -> Result<JobView, Error> {
        let job = self.row(sees, id).await?;
        let queue = match job.state {
            State::Queued => {
                let ahead = self.store.ahead_of(&job).await?;
                let eta_s = self.seconds_until_room()
                    + self.pace.seconds(ahead.voxels) / self.config.workers.max(1) as f64;
                Some((ahead.jobs, eta_s))
            }
            _ => None,
        };
        let advance = match job.state {
            State::Running => Some(self.pace.advance(&job, now_ms())),
            _ => None,
        };
        let report = match job.state {
            State::Succeeded => Some(self.report(&job).await?),
            _ => None,
        };
        let deliveries = match job.state {
            State::Succeeded => self.store.deliveries(id).await?,
            _ => Vec::new(),
        };
        Ok(JobView {
            job,
            queue,
            advance,
            report,
            deliveries,
        })
    }

    async fn row(&self, sees: &Sees, id: JobId) -> Result<Job, Error> {
        let row = self.store.get(id).await?;
        row.filter(|job| sees.job(job)).ok_or(Error::NotFound(id))
    }

    async fn report(&self, job: &Job) -> Result<Report, Error> {
        let bytes = self.files.read_result(job.id, job.attempt, REPORT).await;
        match bytes {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::Store(store::Error::Row {
                    id: job.id.to_string(),
                    reason: format!("its report: {e}"),
                })
            }),
            Err(store::Error::File(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                // Erased between the row and the file.
                Err(Error::NotFound(job.id))
            }
            Err(e) => Err(Error::Store(e)),
        }
    }

    /// Where a job is; none if it is not there.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn state(&self, id: JobId) -> Result<Option<State>, Error> {
        Ok(self.store.get(id).await?.map(|job| job.state))
    }

    /// The studies that arrive image by image.
    #[must_use]
    pub fn arriving(&self) -> &ArrivingStudies {
        self.files.arriving()
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn list(&self, sees: &Sees, page: Page) -> Result<Vec<Job>, Error> {
        let owner = match sees {
            Sees::All => page.owner,
            Sees::Own(owner) => Some(owner.clone()),
        };
        Ok(self.store.list(Page { owner, ..page }).await?)
    }

    /// Returns once the job has ended, or after `patience`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn wait(&self, sees: &Sees, id: JobId, patience: Duration) -> Result<JobView, Error> {
        let channel = self.watch(sees, id).await?;
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
        self.get(sees, id).await
    }

    /// A job's events. Of a job whose events were not seen by this process, its row tells the state.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn watch(&self, sees: &Sees, id: JobId) -> Result<Arc<Channel>, Error> {
        let job = self.row(sees, id).await?;
        let channel = self.hub.channel(id);
        if channel.after(0).is_empty() {
            channel.push(Kind::State, json!({ "state": job.state.name() }));
        }
        // The row is read again: the job may have ended before the channel was there.
        let job = self.row(sees, id).await?;
        if job.state.has_ended() && !channel.has_ended() {
            channel.push(Kind::End, end_json(&job));
        }
        Ok(channel)
    }

    /// Tells those who watch a job that it has ended.
    fn ended(&self, id: JobId, end: serde_json::Value) {
        self.hub.channel(id).push(Kind::End, end);
        self.told.notify_one();
        self.due.notify_waiters();
    }

    /// Files of a job could not be removed: the sweeper looks for them soon.
    fn left(&self, id: JobId, what: &'static str, error: &store::Error) {
        tracing::error!(job = %id, what, %error, "files stay; the sweeper will remove them");
        self.survey_soon.store(true, Ordering::Relaxed);
    }

    /// Tells the workers of this process that a job is no longer wanted.
    fn stop(&self, id: JobId) {
        for ((running, _), attempt) in self.running().iter() {
            if *running == id {
                attempt.cancel.cancel();
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<(JobId, i64), Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The artifacts of a job that has succeeded, and the attempt that made them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotReady`], [`Error::Store`]
    pub async fn artifacts(&self, sees: &Sees, id: JobId) -> Result<(Vec<StoredFile>, i64), Error> {
        let job = self.row(sees, id).await?;
        if job.state != State::Succeeded {
            return Err(Error::NotReady {
                id,
                state: job.state,
            });
        }
        Ok((self.store.artifacts(id).await?, job.attempt))
    }

    /// One artifact of a job that has succeeded, and the attempt that made it.
    ///
    /// # Errors
    /// [`Error::NoArtifact`], and as [`Jobs::artifacts`].
    pub async fn artifact(
        &self,
        sees: &Sees,
        id: JobId,
        name: &str,
    ) -> Result<(StoredFile, i64), Error> {
        let (artifacts, attempt) = self.artifacts(sees, id).await?;
        let found = artifacts.into_iter().find(|artifact| artifact.name == name);
        found
            .map(|artifact| (artifact, attempt))
            .ok_or_else(|| Error::NoArtifact {
                id,
                name: name.to_owned(),
            })
    }

    /// An artifact, or a part of it.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn read_artifact(
        &self,
        id: JobId,
        attempt: i64,
        name: &str,
        part: Option<Range<u64>>,
    ) -> Result<Pieces, Error> {
        Ok(self.files.stream_result(id, attempt, name, part).await?)
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
        match self.store.undelivered().await {
            Ok(undelivered) => telemetry::deliveries_measured(undelivered),
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

    fn settings(&self, options: &str, model: &Model) -> Result<Settings, Error> {
        let Wanted { asked, send_to } = (self.read_options)(options).map_err(Error::Options)?;
        let mut settings = Settings::resolve(&asked, &model.manifest).map_err(Error::Settings)?;
        self.config.filing.extend(&mut settings, &send_to);
        Ok(settings)
    }
}

/// What is told of a job's end.
fn end_json(job: &Job) -> serde_json::Value {
    match &job.error {
        Some(error) => json!({ "state": job.state.name(), "error": error }),
        None => json!({ "state": job.state.name() }),
    }
}

/// A time of a row as clients read it: RFC 3339, UTC.
#[must_use]
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| t.to_string())
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs work that must not stop half-way because whoever asked for it has gone.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done,
        Err(e) => Err(Error::Store(store::Error::File(std::io::Error::other(e)))),
    }
}

/// Where jobs are kept.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// A database's address; a file below the state folder if none.
    pub database: Option<String>,
    /// A bucket's address; folders below the state folder if none.
    pub artifacts: Option<String>,
}

/// Opens the store of the service whose folder is `state`.
///
/// # Errors
/// [`store::Error`]
pub async fn open_store(
    state: &Path,
    places: &Places,
) -> Result<(JobStore, JobFiles), store::Error> {
    let files = match &places.artifacts {
        Some(address) => JobFiles::open_bucket(state, address)?,
        None => JobFiles::open(state)?,
    };
    let store = match &places.database {
        Some(address) => JobStore::open(address).await?,
        None => JobStore::open_file(&state.join("dawson.sqlite")).await?,
    };
    Ok((store, files))
}
