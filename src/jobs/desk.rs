//! What an operator does to jobs from outside: the service need not run, and may.
use std::path::Path;

use super::{Error, Places, now_ms, open_store};
use crate::store::{Delivery, Job, JobFiles, JobId, JobStore, Leaving, Page, State};

/// An erasure that is not done within this is done by the service's sweeper.
const LEASE_MS: i64 = 60_000;

/// The rows and files of a service.
#[derive(Debug)]
pub struct Desk {
    store: JobStore,
    files: JobFiles,
}

impl Desk {
    /// The desk of the service whose folder is `state`.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn open(state: &Path, places: &Places) -> Result<Self, Error> {
        let (store, files) = open_store(state, places).await?;
        Ok(Self { store, files })
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn list(&self, page: Page) -> Result<Vec<Job>, Error> {
        Ok(self.store.list(page).await?)
    }

    /// A job.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn get(&self, id: JobId) -> Result<Job, Error> {
        self.store.get(id).await?.ok_or(Error::NotFound(id))
    }

    /// Where the results of a job are filed, and what came of it.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn deliveries(&self, id: JobId) -> Result<Vec<Delivery>, Error> {
        Ok(self.store.deliveries(id).await?)
    }

    /// Deliveries that were given up, those of the newest jobs first.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn dead_deliveries(&self, limit: i64) -> Result<Vec<Delivery>, Error> {
        Ok(self.store.dead_deliveries(limit).await?)
    }

    /// Sends the results of a job again: to one destination whatever came of it before, or to all that they have
    /// not arrived at; how many that are. A running service does it within seconds.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoDelivery`], [`Error::Store`]
    pub async fn send(&self, id: JobId, destination: Option<&str>) -> Result<u64, Error> {
        self.get(id).await?;
        let count = self.store.send_again(id, destination).await?;
        match destination {
            Some(destination) if count == 0 => Err(Error::NoDelivery {
                id,
                destination: destination.to_owned(),
            }),
            _ => Ok(count),
        }
    }

    /// Puts a failed job back into the queue. A running service takes it within a second.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotRetried`] if it has not failed, or if its scans are gone;
    /// [`Error::Store`]
    pub async fn retry(&self, id: JobId) -> Result<(), Error> {
        let job = self.get(id).await?;
        let refuse = |reason: &str| Error::NotRetried {
            id,
            reason: reason.to_owned(),
        };
        if job.state != State::Failed {
            return Err(refuse(&format!("it is {}", job.state.name())));
        }
        if !self
            .files
            .survey()
            .await?
            .get(&id)
            .is_some_and(|f| f.inputs)
        {
            return Err(refuse(
                "its scans are gone: they are kept after a job's end only with keep_inputs",
            ));
        }
        if self.store.revive(id).await? {
            Ok(())
        } else {
            Err(refuse("somebody else has just changed it"))
        }
    }

    /// Cancels a job if need be and erases everything about it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`]
    pub async fn erase(&self, id: JobId) -> Result<(), Error> {
        let until = now_ms() + LEASE_MS;
        let taken = self.store.leave(id, Leaving::Erase, "desk", until).await?;
        if taken.is_none() {
            return Err(Error::NotFound(id));
        }
        self.files.erase(id).await?;
        self.store.erase(id).await?;
        Ok(())
    }
}
