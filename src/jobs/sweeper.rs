//! What happens by the clock: lost workers are found, deadlines kept, what somebody began to remove is
//! removed, results whose time is over are erased, files that no row speaks of too.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dawson_inference::problem::{Code, Problem};
use serde_json::json;

use super::{Error, Jobs, Kind, Sees, end_json, now_ms};
use crate::store::{Leaving, State};
use crate::telemetry;

/// How often rows are looked through.
const LOOK: Duration = Duration::from_secs(2);
/// How often files are looked through.
const SURVEY: Duration = Duration::from_mins(10);
/// A file without a row is left alone for so long: its row may be about to be written.
const GRACE: Duration = Duration::from_hours(1);
/// The most results that are erased at once.
const MOST_ERASED: i64 = 100;

impl Jobs {
    /// Runs until it is aborted.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        let mut surveyed: Option<Instant> = None;
        loop {
            look.tick().await;
            if let Err(Error::Store(error)) = self.sweep_rows().await {
                telemetry::store_failed("sweep", &error);
            }
            self.hub.sweep();
            telemetry::upkeep();
            let asked = self.survey_soon.swap(false, Ordering::Relaxed);
            if asked || surveyed.is_none_or(|at| at.elapsed() >= SURVEY) {
                surveyed = Some(Instant::now());
                if let Err(Error::Store(error)) = self.sweep_files(GRACE).await {
                    telemetry::store_failed("survey", &error);
                    self.survey_soon.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    async fn sweep_rows(self: &Arc<Self>) -> Result<(), Error> {
        self.reclaim().await?;
        self.keep_deadlines().await?;
        for (id, how) in self.store.left_behind(now_ms()).await? {
            match how {
                Leaving::Cancel => self.finish_cancel(id).await?,
                Leaving::Erase => self.finish_erase(id).await?,
            }
        }
        self.erase_old().await
    }

    async fn sweep_files(&self, grace: Duration) -> Result<(), Error> {
        let swept = self.files.sweep_uploads(grace).await?;
        // Files first, then rows: what gets its row in between is not taken for a stray.
        let found = self.files.survey().await?;
        let rows = self.store.states().await?;
        let mut strays = 0;
        for (id, files) in found {
            let Some(&(state, attempt)) = rows.get(&id) else {
                if files.newest.elapsed().is_ok_and(|age| age >= grace) {
                    self.files.erase(id).await?;
                    strays += 1;
                }
                continue;
            };
            if !state.has_ended() {
                continue;
            }
            if files.inputs {
                self.drop_inputs(id).await;
            }
            for of in files.results {
                if state != State::Succeeded || of != attempt {
                    self.drop_results(id, of).await;
                }
            }
        }
        if swept + strays > 0 {
            telemetry::strays_swept(swept, strays);
        }
        Ok(())
    }

    /// Queues the jobs of workers that fell silent.
    ///
    /// # Errors
    /// [`Error::Store`]
    async fn reclaim(&self) -> Result<(), Error> {
        let problem = Problem::new(
            Code::Crashed,
            "the server stopped three times while it computed this study",
        );
        let lapsed = self.store.reclaim(now_ms(), &problem).await?;
        if lapsed.queued.is_empty() && lapsed.crashed.is_empty() {
            return Ok(());
        }
        telemetry::jobs_reclaimed(lapsed.queued.len(), lapsed.crashed.len());
        for id in lapsed.queued {
            self.stop(id);
            self.hub.channel(id).push(
                Kind::State,
                json!({ "state": "queued", "because": "the worker fell silent" }),
            );
            self.wake.notify_one();
        }
        for id in lapsed.crashed {
            self.stop(id);
            self.drop_inputs(id).await;
            telemetry::job_failed(id, Code::Crashed, "three times");
            self.ended(id, json!({ "state": "failed", "error": problem }));
        }
        Ok(())
    }

    /// Ends what nobody began in time.
    async fn keep_deadlines(&self) -> Result<(), Error> {
        let problem = Problem::new(
            Code::Expired,
            "no worker was free before the deadline, so the study was not begun",
        );
        for job in self.store.expire_waiting(now_ms(), &problem).await? {
            self.drop_inputs(job.id).await;
            telemetry::job_failed(job.id, Code::Expired, "its deadline passed");
            self.ended(job.id, end_json(&job));
        }
        Ok(())
    }

    /// Takes up what an earlier process left: if rows are not shared, none of its workers is alive.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        if !self.store.is_shared() {
            self.store.expire_leases().await?;
        }
        self.sweep_rows().await
    }

    async fn erase_old(self: &Arc<Self>) -> Result<(), Error> {
        let ttl = i64::try_from(self.config.results_ttl.as_millis()).unwrap_or(i64::MAX / 2);
        let over = self.store.ended_before(now_ms() - ttl, MOST_ERASED).await?;
        for id in &over {
            match self.erase(&Sees::All, *id).await {
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !over.is_empty() {
            telemetry::jobs_expired(over.len());
        }
        Ok(())
    }
}
