//! What happens by the clock: lost workers are found, results whose time is over are erased, files
//! that no row speaks of are removed.
use std::sync::Arc;
use std::time::Duration;

use dawson_inference::problem::{Code, Problem};
use serde_json::json;

use super::{Error, Jobs, Kind, blocking, now_ms};
use crate::telemetry;

/// How often lost workers are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// A file without a row is left alone for so long: its row may be about to be written.
const GRACE: Duration = Duration::from_hours(1);

impl Jobs {
    /// Runs until it is aborted.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if let Err(Error::Store(error)) = self.sweep_once(GRACE).await {
                telemetry::store_failed("sweep", &error);
            }
        }
    }

    async fn sweep_once(&self, grace: Duration) -> Result<(), Error> {
        self.reclaim().await?;
        self.expire().await?;
        self.hub.sweep();
        telemetry::upkeep();
        let files = self.files.clone();
        let survey = blocking(move || {
            let survey = files.survey(grace)?;
            survey.sweep();
            Ok(survey)
        })
        .await?;
        for id in survey.jobs {
            match self.store.get(id).await? {
                None => self.erase_files(id).await,
                Some(job) if job.state.has_ended() => self.drop_inputs_of(&job).await,
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn drop_inputs_of(&self, job: &crate::store::Job) {
        if !self.config.keep_inputs {
            let (files, id) = (self.files.clone(), job.id);
            let dropped = blocking(move || {
                files.drop_inputs(id);
                Ok(())
            });
            if let Err(error) = dropped.await {
                tracing::error!(job = %id, %error, "scans could not be removed");
            }
        }
    }

    /// Queues the jobs of workers that fell silent.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn reclaim(&self) -> Result<(), Error> {
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
            if let Some(job) = self.store.get(id).await? {
                self.drop_inputs_of(&job).await;
            }
            telemetry::job_failed(id, Code::Crashed, "three times");
            self.hub
                .channel(id)
                .push(Kind::End, json!({ "state": "failed", "error": problem }));
        }
        Ok(())
    }

    /// Says that no worker of an earlier process is alive: with one folder there is one process.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn recover(&self) -> Result<(), Error> {
        self.store.expire_leases().await?;
        self.reclaim().await
    }

    async fn expire(&self) -> Result<(), Error> {
        let ttl = i64::try_from(self.config.results_ttl.as_millis()).unwrap_or(i64::MAX / 2);
        let over = self.store.ended_before(now_ms() - ttl).await?;
        for id in &over {
            match self.erase(*id).await {
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
