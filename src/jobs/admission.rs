//! What is taken: a study that has arrived becomes a job, or is turned away with a reason.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dawson_imaging::nifti::Header;
use dawson_imaging::study::Contrast;
use dawson_inference::models::Model;
use dawson_inference::pipeline::{Needs, ScanSize, Settings};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Error, Jobs, Kind, STUDY, now_ms, to_the_end};
use crate::files;
use crate::store::{
    self, Cost, Job, JobFiles, JobId, NewJob, Priority, Room, State, StoredFile, Submitted, Waiting,
};
use crate::telemetry;

/// A folder for a study that arrives; gone with this value, unless it became a job's.
#[derive(Debug)]
pub struct Upload {
    folder: PathBuf,
    files: JobFiles,
    /// Of a study that was promised room.
    arriving: Option<Arriving>,
}

impl Upload {
    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes what is left of it, and returns once it is gone.
    pub async fn discard(mut self) {
        let folder = std::mem::take(&mut self.folder);
        remove(&self.files, &folder).await;
    }
}

async fn remove(files: &JobFiles, folder: &Path) {
    if let Err(error) = files.drop_upload(folder).await {
        tracing::error!(%error, "an upload could not be removed; the sweeper will try again");
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (files, folder) = (self.files.clone(), std::mem::take(&mut self.folder));
        if folder.as_os_str().is_empty() {
            return; // It was discarded.
        }
        // Whoever sent it may have gone, and dropped what was being done for it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove(&files, &folder).await });
        }
    }
}

/// Counts as a study that arrives until it is dropped.
#[derive(Debug)]
struct Arriving(Arc<AtomicI64>);

impl Arriving {
    fn one_more(count: &Arc<AtomicI64>, most: i64) -> Option<Self> {
        let more = |now: i64| (now < most).then_some(now + 1);
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A study that has arrived.
#[derive(Debug)]
pub struct Submission {
    /// The folder with its files, named by contrast or [`STUDY`], synced.
    pub upload: Upload,
    /// The files.
    pub inputs: Vec<StoredFile>,
    /// Their headers; a DICOM study's are looked at when it is submitted.
    pub headers: Vec<(Contrast, Header)>,
    /// The API key of its caller.
    pub owner: Option<String>,
    /// Whether it goes before others.
    pub priority: Priority,
    /// It is not begun later than this after it was acknowledged.
    pub deadline: Option<Duration>,
    /// Where its end is told.
    pub callback_url: Option<String>,
    /// The caller's own words.
    pub label: Option<String>,
    /// The model asked for: name or name@version; the service's if none.
    pub model: Option<String>,
    /// The options as they were sent, JSON.
    pub options: String,
    /// The caller's key for this request.
    pub idempotency_key: Option<String>,
}

impl Jobs {
    /// A folder for a study that arrives.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Store`]
    pub async fn new_upload(&self) -> Result<Upload, Error> {
        if self.is_closing() {
            return Err(Error::Closing);
        }
        Ok(Upload {
            folder: self.files.new_upload().await?,
            files: self.files.clone(),
            arriving: None,
        })
    }

    /// The same for a study of `bytes`, turned away at once if it would probably be turned away after its upload. As
    /// many may arrive together as twice the places that are free, since some will turn out to be no study.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::DiskFull`], [`Error::Full`], [`Error::Store`]
    pub async fn new_upload_with_room(&self, bytes: u64) -> Result<Upload, Error> {
        let arriving = self.check_room(bytes).await?;
        let mut upload = self.new_upload().await?;
        upload.arriving = Some(arriving);
        Ok(upload)
    }

    async fn check_room(&self, bytes: u64) -> Result<Arriving, Error> {
        if self.is_closing() {
            return Err(Error::Closing);
        }
        self.check_disk(bytes)?;
        let waiting = self.waiting_now().await?;
        let room = self.room();
        let bytes = waiting.bytes.saturating_add_unsigned(bytes);
        if waiting.jobs > 0 && bytes > room.bytes {
            return Err(self.full(waiting));
        }
        let most = 2 * (room.jobs - waiting.jobs);
        Arriving::one_more(&self.arriving, most).ok_or_else(|| self.full(waiting))
    }

    /// What waits. Those who ask at one time share one answer, which is never older than their question: a storm of
    /// studies costs the database a few statements.
    async fn waiting_now(&self) -> Result<Waiting, Error> {
        let asked = Instant::now();
        let mut waited = self.waited.subscribe();
        let told = async {
            let is_new = |told: &Option<(Instant, _)>| told.is_some_and(|(at, _)| at >= asked);
            let told = waited.wait_for(is_new).await.ok()?;
            told.map(|(_, waiting)| waiting)
        };
        tokio::select! {
            biased;
            Some(waiting) = told => Ok(waiting),
            _asking = self.asking.lock() => {
                let at = Instant::now();
                let waiting = self.store.waiting().await?;
                self.waited.send_replace(Some((at, waiting)));
                Ok(waiting)
            }
        }
    }

    /// Whether there is disk enough to begin anything, and for `bytes` more.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Store`]
    pub fn check_disk(&self, bytes: u64) -> Result<(), Error> {
        let free = self.files.free_bytes()?;
        let wanted = self.config.min_free_bytes;
        if free < wanted.saturating_add(bytes) {
            return Err(Error::DiskFull {
                free_mb: free >> 20,
                wanted_mb: wanted.saturating_add(bytes) >> 20,
            });
        }
        Ok(())
    }

    /// Acknowledges a study: after this it is on the disk, files and row. It is done to its end even
    /// if nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Options`], [`Error::Settings`], [`Error::Study`], [`Error::TooLarge`], [`Error::Full`],
    /// [`Error::KeyMismatch`], [`Error::Store`]; the upload is gone then.
    pub async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Job, Error> {
        let jobs = Arc::clone(self);
        to_the_end(async move {
            let id = JobId::new();
            let mut outcome = jobs.try_submit(id, &submission).await;
            submission.upload.discard().await;
            let mut is_known = true;
            if matches!(outcome, Err(Error::Store(_))) {
                // The row may be there although the answer was lost: then the study was taken. If that
                // cannot be told either, the files stay until the sweeper knows.
                match jobs.store.get(id).await {
                    Ok(Some(job)) => outcome = Ok(Submitted::Accepted(job)),
                    Ok(None) => {}
                    Err(_) => is_known = false,
                }
            }
            if is_known
                && !matches!(outcome, Ok(Submitted::Accepted(_)))
                && let Err(error) = jobs.files.erase(id).await
            {
                jobs.left(id, "scans of what was not taken", &error);
            }
            match outcome? {
                Submitted::Accepted(job) => {
                    telemetry::job_accepted(job.id, job.inputs.len());
                    jobs.hub
                        .channel(job.id)
                        .push(Kind::State, json!({ "state": State::Queued.name() }));
                    jobs.wake.notify_one();
                    Ok(job)
                }
                Submitted::Known(job) => Ok(job),
                Submitted::Mismatch => Err(Error::KeyMismatch),
                Submitted::Full(waiting) => Err(jobs.full(waiting)),
            }
        })
        .await
    }

    /// A study whose upload began before the service was to stop is still taken: it waits on the disk.
    async fn try_submit(&self, id: JobId, submission: &Submission) -> Result<Submitted, Error> {
        let model = self.model(submission.model.as_deref())?;
        // What would fail only once it is run is refused now.
        let settings = self.settings(&submission.options, &model)?;
        let send_to = self.destinations_of(id, &submission.options)?;
        self.config.filing.check(&send_to, &submission.inputs)?;
        if let Some(url) = &submission.callback_url {
            self.config.callbacks.check(url).map_err(Error::Options)?;
        }
        let scans = self.scans(submission, &settings).await?;
        let cost = self.cost(submission, &scans, &model, &settings)?;
        let fingerprint = fingerprint(submission, &model, &settings, &send_to);
        self.files
            .keep_upload(submission.upload.folder(), id, &submission.inputs)
            .await?;
        let now = now_ms();
        let deadline_at = submission
            .deadline
            .map(|d| now.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)));
        let new = NewJob {
            id,
            owner: submission.owner.clone(),
            priority: submission.priority,
            deadline_at,
            cost,
            callback_url: submission.callback_url.clone(),
            label: submission.label.clone(),
            model: model.id(),
            options: submission.options.clone(),
            inputs: submission.inputs.clone(),
            idempotency_key: submission.idempotency_key.clone(),
            fingerprint,
            now,
            room: self.room(),
        };
        Ok(self.store.submit(new).await?)
    }

    /// What the scans unpack to. A DICOM study is read and its series are chosen, so that what would fail only
    /// once it is run is refused now; one study at a time, because all its files are held in memory.
    async fn scans(
        &self,
        submission: &Submission,
        settings: &Settings,
    ) -> Result<Vec<ScanSize>, Error> {
        if submission.inputs.iter().any(|input| input.name == STUDY) {
            let _one_at_a_time = self.looking.lock().await;
            let path = submission.upload.folder().join(STUDY);
            let (networks, settings) = (self.networks(), settings.clone());
            let look = move || {
                let zip = files::read(&path).map_err(store::Error::File)?;
                let chosen = networks.segmenter.select(&zip, &settings);
                let selection = chosen.map_err(Error::Study)?;
                Ok(selection.scans())
            };
            let looked = tokio::task::spawn_blocking(look).await;
            return looked
                .unwrap_or_else(|e| Err(store::Error::File(std::io::Error::other(e)).into()));
        }
        let bytes_of = |contrast: Contrast| {
            let input = submission.inputs.iter().find(|i| i.name == contrast.name());
            input.map_or(0, |i| i.bytes)
        };
        let headers = submission.headers.iter();
        Ok(headers
            .map(|(contrast, header)| ScanSize::of_header(*contrast, header, bytes_of(*contrast)))
            .collect())
    }

    fn cost(
        &self,
        submission: &Submission,
        scans: &[ScanSize],
        model: &Model,
        settings: &Settings,
    ) -> Result<Cost, Error> {
        let networks = self.networks();
        let anatomy = networks.registry.anatomy().map(|model| &model.manifest);
        let needs = Needs::of(scans, &model.manifest, anatomy, settings);
        if needs.memory_bytes > self.config.memory_budget {
            return Err(Error::TooLarge {
                needs_mb: needs.memory_bytes >> 20,
                budget_mb: self.config.memory_budget >> 20,
            });
        }
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(Cost {
            memory_bytes: signed(needs.memory_bytes),
            voxels: signed(needs.voxels),
            input_bytes: signed(submission.inputs.iter().map(|i| i.bytes).sum()),
        })
    }

    fn room(&self) -> Room {
        Room {
            jobs: i64::try_from(self.config.queue).unwrap_or(i64::MAX),
            bytes: i64::try_from(self.config.queue_bytes).unwrap_or(i64::MAX),
        }
    }

    fn full(&self, waiting: Waiting) -> Error {
        Error::Full {
            jobs: waiting.jobs,
            bytes: waiting.bytes,
            arriving: self.arriving.load(Ordering::Acquire),
            // When the first of those that run has ended, there is room for one more.
            retry_after_s: (self.seconds_until_room().ceil() as u64).max(1),
        }
    }
}

/// Stands for all that makes one request the same as another: what is in the files and what is to be
/// done with them, not how it was written.
fn fingerprint(
    submission: &Submission,
    model: &Model,
    settings: &Settings,
    send_to: &[String],
) -> String {
    let mut inputs: Vec<String> = submission
        .inputs
        .iter()
        .map(|f| format!("{} {}", f.name, f.sha256))
        .collect();
    inputs.sort();
    // Nothing is added for what is filed nowhere: it is the same request as before there were destinations.
    let filed = match send_to {
        [] => String::new(),
        names => format!(" {names:?}"),
    };
    let all = format!(
        "{}\n{}\n{settings:?}\n{:?} {:?} {:?} {:?}{filed}",
        inputs.join("\n"),
        model.id(),
        submission.label,
        submission.priority,
        submission.deadline,
        submission.callback_url,
    );
    hex::encode(Sha256::digest(all.as_bytes()))
}
