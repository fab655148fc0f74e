//! Jobs that leave before their time: cancelled, or erased with everything about them.
use std::sync::Arc;

use serde_json::json;

use super::{Error, JobView, Jobs, Sees, now_ms, to_the_end};
use crate::store::{JobId, Leaving};
use crate::telemetry;

impl Jobs {
    /// Cancels a job. It is done to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ended`], [`Error::Store`]
    pub async fn cancel(self: &Arc<Self>, sees: &Sees, id: JobId) -> Result<JobView, Error> {
        let (jobs, seen_by) = (Arc::clone(self), sees.clone());
        to_the_end(async move {
            jobs.row(&seen_by, id).await?;
            if !jobs.take_over(id, Leaving::Cancel).await? {
                // It has ended, or somebody else ends it at this moment.
                let state = jobs.row(&seen_by, id).await?.state;
                return if state.has_ended() {
                    Err(Error::Ended { id, state })
                } else {
                    jobs.get(&seen_by, id).await
                };
            }
            jobs.finish_cancel(id).await?;
            jobs.get(&seen_by, id).await
        })
        .await
    }

    /// Cancels a job if need be and erases everything about it, even if nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn erase(self: &Arc<Self>, sees: &Sees, id: JobId) -> Result<(), Error> {
        let (jobs, seen_by) = (Arc::clone(self), sees.clone());
        to_the_end(async move {
            jobs.row(&seen_by, id).await?;
            if !jobs.take_over(id, Leaving::Erase).await? {
                return Err(Error::NotFound(id));
            }
            jobs.finish_erase(id).await
        })
        .await
    }

    /// Fences off whoever holds a job; false if there is nothing to take over.
    pub(super) async fn take_over(&self, id: JobId, how: Leaving) -> Result<bool, Error> {
        let until = now_ms() + self.lease_ms();
        let taken = self.store.leave(id, how, &self.worker, until).await?;
        if taken.is_some() {
            self.stop(id);
        }
        Ok(taken.is_some())
    }

    /// What is left to do once a job was taken over to be cancelled. If it fails, the sweeper does it.
    pub(super) async fn finish_cancel(&self, id: JobId) -> Result<(), Error> {
        self.files.erase(id).await?;
        if self.store.cancel(id, now_ms()).await? {
            telemetry::job_cancelled(id);
            self.ended(id, json!({ "state": "cancelled" }));
        }
        Ok(())
    }

    /// What is left to do once a job was taken over to be erased. If it fails, the sweeper does it.
    pub(super) async fn finish_erase(&self, id: JobId) -> Result<(), Error> {
        self.files.erase(id).await?;
        if self.store.erase(id).await? {
            telemetry::job_erased(id);
        }
        self.hub.forget(id, json!({ "state": "erased" }));
        Ok(())
    }
}
