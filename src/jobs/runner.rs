//! Workers: take a job, compute it on a thread of its own, keep its lease, write down what came of it.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use dawson_imaging::study::Contrast;
use dawson_inference::models::Model;
use dawson_inference::pipeline::{self, Artifact, Cancel, ContrastFile, Progress, Settings};
use dawson_inference::problem::{Class, Code, Problem};
use dawson_inference::report::Report;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::Instrument;

use super::{Error, Jobs, Kind, blocking, now_ms};
use crate::store::{Job, JobId, State, StoredProgress};
use crate::telemetry;

/// How long a worker sleeps if nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// How often progress is written down at the most.
const NOTE: Duration = Duration::from_millis(500);

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
        let sweeper = tokio::spawn(Arc::clone(&self).sweep());
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
                let work = async move {
                    jobs.work(job).await;
                    drop(permit);
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
        sweeper.abort();
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
        for cancel in self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            cancel.cancel();
        }
        // Each worker sees the flag after its patch and releases its job.
        let _all_free = free.acquire_many(all).await;
    }

    async fn take(&self) -> Option<Job> {
        if self.is_closing() {
            return None;
        }
        let now = now_ms();
        match self
            .store
            .lease(&self.worker, now, now + self.lease_ms())
            .await
        {
            Ok(job) => job,
            Err(error) => {
                telemetry::store_failed("lease", &error);
                None
            }
        }
    }

    fn lease_ms(&self) -> i64 {
        i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX / 2)
    }

    async fn work(&self, job: Job) {
        let started = Instant::now();
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
        let cancel = Arc::new(Cancel::default());
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job.id, Arc::clone(&cancel));

        let outcome = match self.compute(&job, &cancel).await {
            Ok((outcome, progress)) => self.attend(&job, outcome, progress, &cancel).await,
            Err(failed) => Some(Err(failed)),
        };
        match outcome {
            Some(Ok((artifacts, report))) => self.publish(&job, artifacts, report).await,
            Some(Err(failed)) => self.give_up(&job, failed).await,
            None => telemetry::lease_lost(job.id, job.attempt),
        }

        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&job.id);
        self.learn(started.elapsed());
        telemetry::job_left(job.id);
    }

    /// Starts the thread that computes a job.
    async fn compute(
        &self,
        job: &Job,
        cancel: &Arc<Cancel>,
    ) -> Result<
        (
            oneshot::Receiver<Outcome>,
            watch::Receiver<Option<Progress>>,
        ),
        Failed,
    > {
        let model = self.model(Some(&job.model)).map_err(|e| ours(&e))?;
        let settings = self.settings(&job.options, &model).map_err(|e| ours(&e))?;
        let files = self.read_inputs(job).await.map_err(|e| ours(&e))?;
        let (done, outcome) = oneshot::channel();
        let (report, progress) = watch::channel(None);
        let task = Task {
            model,
            settings,
            files,
            cancel: Arc::clone(cancel),
        };
        let segmenter = Arc::clone(&self.segmenter);
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name(format!("study-{}", job.id))
            .spawn(move || {
                let _in_the_job = span.enter();
                let outcome = task.run(&segmenter, &report);
                if done.send(outcome).is_err() {
                    tracing::debug!("nobody waits for the study any more");
                }
            });
        thread.map_err(|e| Failed::internal(format!("no thread: {e}")))?;
        Ok((outcome, progress))
    }

    async fn read_inputs(&self, job: &Job) -> Result<Vec<ContrastFile>, Error> {
        let (files, id, inputs) = (self.files.clone(), job.id, job.inputs.clone());
        blocking(move || {
            inputs
                .iter()
                .filter_map(|input| Some((Contrast::parse(&input.name)?, &input.name)))
                .map(|(contrast, name)| {
                    Ok(ContrastFile {
                        contrast,
                        bytes: files.read_input(id, name)?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Waits for the thread, keeps the lease meanwhile; `None` if the lease is lost.
    async fn attend(
        &self,
        job: &Job,
        mut outcome: oneshot::Receiver<Outcome>,
        mut progress: watch::Receiver<Option<Progress>>,
        cancel: &Arc<Cancel>,
    ) -> Option<Outcome> {
        let mut beat = tokio::time::interval(self.config.lease / 3);
        let mut noted = Instant::now();
        let channel = self.hub.channel(job.id);
        loop {
            let write = tokio::select! {
                outcome = &mut outcome => {
                    return Some(outcome.unwrap_or_else(|_| Err(Failed::internal("the study's thread ended without a word"))));
                }
                changed = progress.changed() => {
                    let latest = progress.borrow_and_update().map(stored);
                    if let Some(latest) = &latest {
                        channel.push(Kind::Progress, progress_json(latest));
                    }
                    if changed.is_err() {
                        // The thread is about to end; its outcome follows.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    (noted.elapsed() >= NOTE).then_some(latest).flatten().map(Some)
                }
                _ = beat.tick() => Some(None),
            };
            let Some(write) = write else { continue };
            noted = Instant::now();
            match self
                .store
                .hold(
                    job.id,
                    job.attempt,
                    now_ms() + self.lease_ms(),
                    write.as_ref(),
                )
                .await
            {
                Ok(true) => {}
                Ok(false) => {
                    cancel.cancel();
                    return None;
                }
                // The lease may still be held: the next beat tells.
                Err(error) => telemetry::store_failed("hold", &error),
            }
        }
    }

    async fn publish(&self, job: &Job, artifacts: Vec<Artifact>, report: Report) {
        let (files, id, attempt) = (self.files.clone(), job.id, job.attempt);
        let written = blocking(move || files.write_results(id, attempt, &artifacts)).await;
        let bytes = written
            .iter()
            .flatten()
            .map(|artifact| artifact.bytes)
            .sum();
        let published = match written {
            Ok(stored) => self
                .store
                .succeed(id, attempt, now_ms(), &stored)
                .await
                .map_err(Error::Store),
            Err(error) => Err(error),
        };
        match published {
            Ok(true) => {
                telemetry::job_succeeded(id, &report, bytes);
                self.drop_inputs(job).await;
                let channel = self.hub.channel(id);
                for warning in &report.warnings {
                    channel.push(Kind::Warning, json!({ "code": warning.code, "detail": warning.detail, "contrast": warning.contrast }));
                }
                channel.push(Kind::End, json!({ "state": State::Succeeded.name() }));
            }
            Ok(false) => {
                telemetry::lease_lost(id, attempt);
                self.drop_results(id, attempt).await;
            }
            Err(error) => {
                self.drop_results(id, attempt).await;
                let problem = Box::new(Problem::new(
                    Code::StorageFailed,
                    "the results could not be written",
                ));
                let failed = Failed {
                    problem,
                    code: Code::StorageFailed,
                    stage: None,
                    reason: error.to_string(),
                };
                self.give_up(job, failed).await;
            }
        }
    }

    /// Removes results that do not count.
    async fn drop_results(&self, id: JobId, attempt: i64) {
        let files = self.files.clone();
        let dropped = blocking(move || {
            files.drop_results(id, attempt);
            Ok(())
        });
        if let Err(error) = dropped.await {
            tracing::error!(job = %id, %error, "results that do not count could not be removed");
        }
    }

    async fn drop_inputs(&self, job: &Job) {
        if self.config.keep_inputs {
            return;
        }
        let (files, id) = (self.files.clone(), job.id);
        let dropped = blocking(move || {
            files.drop_inputs(id);
            Ok(())
        });
        if let Err(error) = dropped.await {
            tracing::error!(job = %id, %error, "scans could not be removed; the sweeper will try again");
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
            self.drop_inputs(job).await;
            self.hub
                .channel(job.id)
                .push(Kind::End, json!({ "state": "failed", "error": problem }));
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
    files: Vec<ContrastFile>,
    cancel: Arc<Cancel>,
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
            files,
            cancel,
        } = self;
        let mut stage = None;
        let computed = catch_unwind(AssertUnwindSafe(|| {
            let mut progress = |p: Progress| {
                stage = Some(p.stage.name());
                report.send_replace(Some(p));
            };
            let found = segmenter.segment(files, &model, &settings, &mut progress, &cancel)?;
            Ok((found.artifacts()?, found.report))
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
fn progress_json(progress: &StoredProgress) -> serde_json::Value {
    let fraction = if progress.total == 0 {
        0.0
    } else {
        progress.done as f64 / progress.total as f64
    };
    json!({ "stage": progress.stage, "done": progress.done, "total": progress.total, "fraction": fraction })
}
