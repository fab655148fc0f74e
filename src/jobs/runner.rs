//! Workers: take a job, compute it on a thread of its own, keep its lease, write down what came of it.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dawson_imaging::study::Contrast;
use dawson_inference::models::Model;
use dawson_inference::pipeline::{self, Artifact, Cancel, ContrastFile, Input, Progress, Settings};
use dawson_inference::problem::{Class, Code, Problem};
use dawson_inference::report::Report;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use super::{Advance, Error, Jobs, Kind, Running, STUDY, end_json, now_ms};
use crate::store::{Job, JobId, State, StoredFile, StoredProgress};
use crate::telemetry;

/// How long a worker sleeps if nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// How often those who watch hear that time passes.
const TICK: Duration = Duration::from_secs(1);
/// How often progress is written down at the most.
const NOTE: Duration = Duration::from_millis(500);

/// The longest that reading a job's scans may take, and writing its results.
const LONGEST: Duration = Duration::from_mins(10);

/// What a thread computed.
type Outcome = Result<(Vec<Artifact>, Report), Failed>;

/// Why it did not.
#[derive(Debug)]
struct Failed {
    problem: Box<Problem>,
    code: Code,
    stage: Option<&'static str>,
    /// For the log: the whole truth.
    reason: String,
}

impl Jobs {
    /// Runs jobs until [`Jobs::close`]; returns once every worker has let go of its job.
    pub async fn run(self: Arc<Self>) {
        let mut beside = JoinSet::new();
        beside.spawn(Arc::clone(&self).sweep());
        beside.spawn(Arc::clone(&self).tell_ends());
        beside.spawn(Arc::clone(&self).hear_changes());
        let free = Arc::new(Semaphore::new(self.config.workers.max(1)));
        let mut closing = self.closing.subscribe();
        while !self.is_closing() {
            let permit = tokio::select! {
                permit = Arc::clone(&free).acquire_owned() => permit,
                _closed = closing.wait_for(|closing| *closing) => break,
            };
            let Ok(permit) = permit else { break };
            if let Some(job) = self.take().await {
                let jobs = Arc::clone(&self);
                let span = telemetry::job_span(job.id, job.attempt);
                // Before the next one is taken: its memory counts from now on.
                let cancel = self.enter(&job);
                let work = async move {
                    jobs.work(job, &cancel).await;
                    drop(permit);
                    // What did not fit beside it may fit now.
                    jobs.wake.notify_one();
                };
                tokio::spawn(work.instrument(span));
                continue;
            }
            drop(permit);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
                // The sender lives as long as `self`.
                _closed = closing.wait_for(|closing| *closing) => {}
            }
        }
        self.wind_down(&free).await;
        beside.shutdown().await;
    }

    /// Lets running jobs go on for the grace time, then gives them back to the queue.
    async fn wind_down(&self, free: &Semaphore) {
        let all = u32::try_from(self.config.workers.max(1)).unwrap_or(u32::MAX);
        if tokio::time::timeout(self.config.grace, free.acquire_many(all))
            .await
            .is_ok()
        {
            return;
        }
        for attempt in self.running().values() {
            attempt.cancel.cancel();
        }
        // Each worker sees the flag after its patch, or once its files are read or written, and releases its job.
        let _all_free = free.acquire_many(all).await;
    }

    /// Hears what other processes do to jobs, until it is aborted; ends at once if there are none.
    async fn hear_changes(self: Arc<Self>) {
        loop {
            match self.store.changes().await {
                Ok(None) => return,
                Ok(Some(mut changes)) => loop {
                    match changes.next().await {
                        Ok(Some(id)) => {
                            if let Err(Error::Store(error)) = self.refresh(id).await {
                                telemetry::store_failed("refresh", &error);
                            }
                        }
                        Ok(None) => {
                            // The connection was lost for a while: look at all that somebody watches.
                            for id in self.hub.watched() {
                                if let Err(Error::Store(error)) = self.refresh(id).await {
                                    telemetry::store_failed("refresh", &error);
                                }
                            }
                            self.wake.notify_one();
                        }
                        Err(error) => {
                            telemetry::store_failed("listen", &error);
                            break;
                        }
                    }
                },
                Err(error) => telemetry::store_failed("listen", &error),
            }
            tokio::time::sleep(IDLE).await;
        }
    }

    /// Tells those who watch a job here what its row says, and stops what is no longer wanted.
    async fn refresh(&self, id: JobId) -> Result<(), Error> {
        let Some(job) = self.store.get(id).await? else {
            self.stop(id);
            self.hub.forget(id, json!({ "state": "erased" }));
            return Ok(());
        };
        let mut here = false;
        for ((running, attempt), work) in self.running().iter() {
            if *running == id {
                if *attempt == job.attempt {
                    here = true;
                } else {
                    work.cancel.cancel();
                }
            }
        }
        if job.state == State::Queued {
            self.wake.notify_one();
        }
        if job.state.has_ended() {
            self.told.notify_one();
        }
        if let Some(channel) = self.hub.existing(id).filter(|_| !here) {
            match job.state {
                State::Running if job.progress.is_some() => {
                    channel.push(
                        Kind::Progress,
                        advance_json(&self.pace.advance(&job, now_ms())),
                    );
                }
                state if state.has_ended() => channel.push(Kind::End, end_json(&job)),
                state => channel.push(
                    Kind::State,
                    json!({ "state": state.name(), "attempt": job.attempt }),
                ),
            }
        }
        Ok(())
    }

    async fn take(&self) -> Option<Job> {
        if self.is_closing() {
            return None;
        }
        if let Err(error) = self.check_disk(0) {
            // What cannot be written down is not begun; it waits until there is room.
            telemetry::disk_full(&error);
            return None;
        }
        let now = now_ms();
        let budget = i64::try_from(self.config.memory_budget).unwrap_or(i64::MAX);
        let taken: i64 = self.running().values().map(|r| r.memory_bytes).sum();
        let leased = self
            .store
            .lease(
                &self.worker,
                now,
                now + self.lease_ms(),
                budget.saturating_sub(taken),
                budget,
            )
            .await;
        leased.unwrap_or_else(|error| {
            telemetry::store_failed("lease", &error);
            None
        })
    }

    pub(super) fn lease_ms(&self) -> i64 {
        i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX / 2)
    }

    /// Seconds until the first of the studies that run here should end; 0 if there is a free worker.
    pub(super) fn seconds_until_room(&self) -> f64 {
        let running = self.running();
        if running.len() < self.config.workers.max(1) {
            return 0.0;
        }
        running
            .values()
            .map(|r| self.pace.seconds(r.voxels) - r.begun.elapsed().as_secs_f64())
            .fold(f64::INFINITY, f64::min)
            .max(0.0)
    }

    /// Writes down that this process computes the job; the flag that stops it.
    fn enter(&self, job: &Job) -> Arc<Cancel> {
        let cancel = Arc::new(Cancel::default());
        let running = Running {
            cancel: Arc::clone(&cancel),
            begun: Instant::now(),
            memory_bytes: job.cost.memory_bytes,
            voxels: job.cost.voxels,
        };
        self.running().insert((job.id, job.attempt), running);
        cancel
    }

    async fn work(&self, job: Job, cancel: &Arc<Cancel>) {
        telemetry::job_started(
            job.id,
            job.attempt,
            (now_ms() - job.created_at) as f64 / 1000.0,
        );
        let channel = self.hub.channel(job.id);
        channel.push(
            Kind::State,
            json!({ "state": "running", "attempt": job.attempt }),
        );

        let (told, progress) = watch::channel(None);
        let mut ending = std::pin::pin!(self.compute_and_write(&job, cancel, told));
        let ended = tokio::select! {
            ended = &mut ending => ended,
            () = self.keep_lease(&job, progress) => {
                cancel.cancel();
                // The slot is free once the thread is, and the files are; what they hold no longer matters.
                if let Some(Ok(_)) = ending.await {
                    self.drop_results(job.id, job.attempt).await;
                }
                None
            }
        };
        match ended {
            Some(Ok((stored, report))) => self.publish(&job, &stored, &report).await,
            Some(Err(failed)) => self.give_up(&job, failed).await,
            None => telemetry::lease_lost(job.id, job.attempt),
        }

        self.running().remove(&(job.id, job.attempt));
        telemetry::job_left(job.id);
    }

    /// Computes a job and writes its results, which count once the row says so; `None` if the lease is lost.
    async fn compute_and_write(
        &self,
        job: &Job,
        cancel: &Arc<Cancel>,
        told: watch::Sender<Option<Progress>>,
    ) -> Option<Result<(Vec<StoredFile>, Report), Failed>> {
        let started = Instant::now();
        let (artifacts, report) = match self.compute(job, cancel, told).await {
            Ok(found) => found,
            Err(failed) => return Some(Err(failed)),
        };
        self.pace
            .learn(job.cost.voxels, started.elapsed().as_secs_f64());
        let until = now_ms() + self.lease_ms();
        match self.store.hold(job.id, job.attempt, until, None).await {
            Ok(true) => {}
            // A result that is known not to count is not written at all.
            Ok(false) => return None,
            Err(error) => telemetry::store_failed("hold", &error),
        }
        let written = in_time(self.write(job, artifacts)).await;
        Some(
            written
                .map(|stored| (stored, report))
                .map_err(|e| unwritten(&e)),
        )
    }

    /// Writes all results of an attempt, or none.
    async fn write(
        &self,
        job: &Job,
        artifacts: Vec<Artifact>,
    ) -> Result<Vec<StoredFile>, crate::store::Error> {
        let (id, attempt) = (job.id, job.attempt);
        let written = self.files.write_results(id, attempt, artifacts).await;
        if written.is_err() {
            self.drop_results(id, attempt).await;
        }
        written
    }

    /// Reads a job's scans and waits for the thread that computes it.
    async fn compute(
        &self,
        job: &Job,
        cancel: &Arc<Cancel>,
        told: watch::Sender<Option<Progress>>,
    ) -> Outcome {
        let networks = self.networks();
        let model = networks.registry.get(&job.model);
        let model = model.map_err(|e| ours(&Error::Model(e)))?;
        let settings = self.settings(&job.options, &model).map_err(|e| ours(&e))?;
        let input = in_time(self.read_inputs(job)).await;
        let input = input.map_err(|e| ours(&Error::Store(e)))?;
        let (done, outcome) = oneshot::channel();
        let task = Task {
            model,
            settings,
            input,
            cancel: Arc::clone(cancel),
            computed_ms: job.created_at,
        };
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name(format!("study-{}", job.id))
            .spawn(move || {
                let _in_the_job = span.enter();
                let outcome = task.run(&networks.segmenter, &told);
                if done.send(outcome).is_err() {
                    tracing::debug!("nobody waits for the study any more");
                }
            });
        thread.map_err(|e| Failed::internal(format!("no thread: {e}")))?;
        outcome
            .await
            .unwrap_or_else(|_| Err(Failed::internal("the study's thread ended without a word")))
    }

    async fn read_inputs(&self, job: &Job) -> Result<Input, crate::store::Error> {
        if job.inputs.iter().any(|input| input.name == STUDY) {
            let zip = self.files.read_input(job.id, STUDY).await?;
            return Ok(Input::DicomZip(zip.into()));
        }
        let mut files = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            if let Some(contrast) = Contrast::parse(&input.name) {
                let bytes = self.files.read_input(job.id, &input.name).await?;
                files.push(ContrastFile {
                    contrast,
                    bytes: bytes.into(),
                });
            }
        }
        Ok(files.into())
    }

    /// Keeps the lease, from the reading of the scans to the last byte of the results, and tells how far the
    /// job is; returns once the lease is lost.
    async fn keep_lease(&self, job: &Job, mut progress: watch::Receiver<Option<Progress>>) {
        let mut beat = tokio::time::interval(self.config.lease / 3);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(TICK);
        let mut noted = Instant::now();
        let mut thread_reports = true;
        let mut job = job.clone();
        let channel = self.hub.channel(job.id);
        loop {
            let write = tokio::select! {
                changed = progress.changed(), if thread_reports => {
                    // Without a sender the thread has ended, and what it may have found is written.
                    thread_reports = changed.is_ok();
                    let latest = progress.borrow_and_update().map(stored);
                    let Some(latest) = latest else { continue };
                    job.progress = Some(latest.clone());
                    channel.push(Kind::Progress, advance_json(&self.pace.advance(&job, now_ms())));
                    if noted.elapsed() < NOTE {
                        continue;
                    }
                    Some(latest)
                }
                _ = tick.tick() => {
                    // One look at the whole brain tells nothing until it is done.
                    if job.progress.is_some() {
                        channel.push(Kind::Progress, advance_json(&self.pace.advance(&job, now_ms())));
                    }
                    continue;
                }
                _ = beat.tick() => None,
            };
            noted = Instant::now();
            let until = now_ms() + self.lease_ms();
            let held = self
                .store
                .hold(job.id, job.attempt, until, write.as_ref())
                .await;
            match held {
                Ok(true) => {}
                Ok(false) => return,
                // The lease may still be held: the next beat tells.
                Err(error) => telemetry::store_failed("hold", &error),
            }
        }
    }

    async fn publish(&self, job: &Job, stored: &[StoredFile], report: &Report) {
        let (id, attempt) = (job.id, job.attempt);
        match self.try_publish(job, stored).await {
            Ok(true) => {
                let bytes = stored.iter().map(|file| file.bytes).sum();
                telemetry::job_succeeded(id, report, bytes);
                self.drop_inputs(id).await;
                self.drop_results_before(id, attempt).await;
                let channel = self.hub.channel(id);
                for warning in &report.warnings {
                    channel.push(Kind::Warning, json!({ "code": warning.code, "detail": warning.detail, "contrast": warning.contrast }));
                }
                self.ended(id, json!({ "state": State::Succeeded.name() }));
            }
            Ok(false) => {
                telemetry::lease_lost(id, attempt);
                self.drop_results(id, attempt).await;
            }
            Err(error) => {
                // Whether the row was written is not known if the answer was lost: then nothing is
                // removed that it may speak of.
                let unpublished = self.store.get(id).await;
                // Nobody keeps the lease any more: first it is given up.
                self.give_up(job, unwritten(&error)).await;
                if unpublished.is_ok_and(|row| row.is_none_or(|row| row.state != State::Succeeded))
                {
                    self.drop_results(id, attempt).await;
                }
            }
        }
    }

    /// Says in the row that results count; false if the lease is lost.
    async fn try_publish(
        &self,
        job: &Job,
        stored: &[StoredFile],
    ) -> Result<bool, crate::store::Error> {
        let (id, attempt) = (job.id, job.attempt);
        let destinations = self.destinations_of(id, &job.options)?;
        let counted = self
            .store
            .succeed(id, attempt, now_ms(), stored, &destinations)
            .await;
        match counted {
            Ok(counted) => Ok(counted),
            // It may have been written although the answer was lost.
            Err(error) => match self.store.get(id).await {
                Ok(Some(row)) if row.state == State::Succeeded && row.attempt == attempt => {
                    Ok(true)
                }
                _ => Err(error),
            },
        }
    }

    /// Removes results that do not count.
    pub(super) async fn drop_results(&self, id: JobId, attempt: i64) {
        if let Err(error) = self.files.drop_results(id, attempt).await {
            self.left(id, "results that do not count", &error);
        }
    }

    /// Removes what earlier attempts may have left, of which some were killed while they wrote.
    async fn drop_results_before(&self, id: JobId, attempt: i64) {
        for of in 1..attempt {
            self.drop_results(id, of).await;
        }
    }

    /// Removes the scans of a job that has ended.
    pub(super) async fn drop_inputs(&self, id: JobId) {
        if self.config.keep_inputs {
            return;
        }
        if let Err(error) = self.files.drop_inputs(id).await {
            self.left(id, "scans", &error);
        }
    }

    /// Tries a job again if that may help, else ends it.
    async fn give_up(&self, job: &Job, failed: Failed) {
        let Failed {
            mut problem,
            code,
            stage,
            reason,
        } = failed;
        problem.stage = stage.map(str::to_owned);
        let written = if code == Code::Cancelled {
            // Its row says so already, unless the service stops: then another one goes on.
            self.store.release(job.id, job.attempt).await.map(|_| ())
        } else {
            self.retry_or_fail(job, code, &problem, &reason).await
        };
        if let Err(error) = written {
            // The lease lapses, and the job is found again.
            telemetry::store_failed("fail", &error);
        }
    }

    async fn retry_or_fail(
        &self,
        job: &Job,
        code: Code,
        problem: &Problem,
        reason: &str,
    ) -> Result<(), crate::store::Error> {
        if code.class() == Class::Transient {
            let wait_ms = 1000_i64 << job.attempt.clamp(0, 6);
            if self
                .store
                .retry(job.id, job.attempt, now_ms() + wait_ms, self.config.retries)
                .await?
            {
                telemetry::job_retried(job.id, code, reason);
                self.hub.channel(job.id).push(
                    Kind::State,
                    json!({ "state": "queued", "because": code.name() }),
                );
                return Ok(());
            }
        }
        if self
            .store
            .fail(job.id, job.attempt, now_ms(), problem)
            .await?
        {
            telemetry::job_failed(job.id, code, reason);
            self.drop_inputs(job.id).await;
            self.drop_results_before(job.id, job.attempt + 1).await;
            self.ended(job.id, json!({ "state": "failed", "error": problem }));
        } else {
            telemetry::lease_lost(job.id, job.attempt);
        }
        Ok(())
    }
}

/// What a thread needs.
struct Task {
    model: Arc<Model>,
    settings: Settings,
    input: Input,
    cancel: Arc<Cancel>,
    /// When the job was acknowledged: results say so, and an attempt more gives the same ones.
    computed_ms: i64,
}

impl Task {
    fn run(
        self,
        segmenter: &pipeline::Segmenter,
        report: &watch::Sender<Option<Progress>>,
    ) -> Outcome {
        let Self {
            model,
            settings,
            input,
            cancel,
            computed_ms,
        } = self;
        let mut stage = None;
        let computed = catch_unwind(AssertUnwindSafe(|| {
            let mut progress = |p: Progress| {
                stage = Some(p.stage.name());
                report.send_replace(Some(p));
            };
            let found = segmenter.segment(input, &model, &settings, &mut progress, &cancel)?;
            Ok((found.artifacts(computed_ms)?, found.report))
        }));
        match computed {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                let error: pipeline::Error = error;
                Err(Failed {
                    problem: Box::new(error.problem()),
                    code: error.code(),
                    stage,
                    reason: error.to_string(),
                })
            }
            Err(panic) => {
                let words = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(Failed {
                    stage,
                    ..Failed::internal(format!("panic: {}", words.unwrap_or_default()))
                })
            }
        }
    }
}

impl Failed {
    fn internal(reason: impl Into<String>) -> Self {
        let detail = "the study could not be computed because of a fault in Dawson";
        let problem = Box::new(Problem::new(Code::Internal, detail));
        Self {
            problem,
            code: Code::Internal,
            stage: None,
            reason: reason.into(),
        }
    }
}

/// What a disk or a bucket does in [`LONGEST`]; what hangs has failed.
async fn in_time<T>(
    files: impl Future<Output = Result<T, crate::store::Error>>,
) -> Result<T, crate::store::Error> {
    tokio::time::timeout(LONGEST, files)
        .await
        .unwrap_or_else(|_| {
            let late = format!("its files took longer than {} s", LONGEST.as_secs());
            let late = std::io::Error::new(std::io::ErrorKind::TimedOut, late);
            Err(crate::store::Error::File(late))
        })
}

/// A failure once the study was computed.
fn unwritten(error: &crate::store::Error) -> Failed {
    let detail = "the results could not be written";
    Failed {
        problem: Box::new(Problem::new(Code::StorageFailed, detail)),
        code: Code::StorageFailed,
        stage: None,
        reason: error.to_string(),
    }
}

/// A failure before the study began. What the client need not know stays in the log.
fn ours(error: &Error) -> Failed {
    let code = error.code();
    let detail = match error {
        Error::Store(_) => "the scans could not be read".to_owned(),
        other => other.to_string(),
    };
    Failed {
        problem: Box::new(Problem::new(code, detail)),
        code,
        stage: None,
        reason: error.to_string(),
    }
}

fn stored(progress: Progress) -> StoredProgress {
    StoredProgress {
        stage: progress.stage.name().to_owned(),
        done: progress.done,
        total: progress.total,
    }
}

/// Progress on the wire.
fn advance_json(advance: &Advance) -> serde_json::Value {
    json!({
        "stage": advance.stage,
        "done": advance.done,
        "total": advance.total,
        "fraction": advance.fraction,
        "eta_s": advance.eta_s,
    })
}
