//! Rows about jobs, in SQLite (WAL, every commit synced) or PostgreSQL.
//!
//! One text of every statement serves both; where they differ stands in `dialect.rs`; how they are opened in
//! `database.rs`.
//!
//! A worker holds a *lease*: every write of a worker names the job and the attempt, and changes
//! nothing if another attempt has begun or the job has ended. So a worker that was thought dead can
//! neither report progress nor publish. Results become visible by one transaction. Who cancels or
//! erases a job takes it over in the same way, and its state changes only once its files are gone.
//!
//! A statement that changes rows and returns them is always read to its end: only there SQLite commits,
//! and who stops at the first row never learns that the commit failed.
use std::collections::HashMap;

use dawson_inference::problem::Problem;
use sqlx::Row;

use super::database::JobStore;
use super::rows::{
    Callback, Lapsed, Leaving, NewJob, Page, Submitted, WAITING, Waiting, id_of, job, json,
    state_of, waiting,
};
use super::{Error, Job, JobId, State, StoredFile, StoredProgress};

/// A job that stopped the server this often is not tried again.
const MOST_CRASHES: i64 = 3;

impl JobStore {
    /// Writes a job's row, if its key and the queue allow it.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, Error> {
        let mut transaction = self.pool.begin_with(self.dialect.begin()).await?;
        if let Some(lock) = self.dialect.one_at_a_time() {
            sqlx::query(lock).execute(&mut *transaction).await?;
        }
        if let Some(key) = &new.idempotency_key {
            let known = sqlx::query(
                "SELECT * FROM jobs WHERE idempotency_key = $1 AND coalesce(owner, '') = $2",
            )
            .bind(key.clone())
            .bind(new.owner.clone().unwrap_or_default())
            .fetch_optional(&mut *transaction)
            .await?;
            if let Some(row) = known {
                let same = row.try_get::<String, _>("fingerprint")? == new.fingerprint;
                return if same {
                    Ok(Submitted::Known(job(&row)?))
                } else {
                    Ok(Submitted::Mismatch)
                };
            }
        }
        let waiting = waiting(&sqlx::query(WAITING).fetch_one(&mut *transaction).await?)?;
        let bytes = waiting.bytes.saturating_add(new.cost.input_bytes);
        // One alone is always taken: what could never wait is refused before.
        if waiting.jobs >= new.room.jobs || (waiting.jobs > 0 && bytes > new.room.bytes) {
            return Ok(Submitted::Full(waiting));
        }
        let row = sqlx::query(
            "INSERT INTO jobs (id, owner, state, priority, deadline_at, memory_bytes, voxels, input_bytes, label,
                               model, options, inputs, idempotency_key, fingerprint, created_at, callback_url)
             VALUES ($1, $2, 'queued', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(new.owner)
        .bind(new.priority.rank())
        .bind(new.deadline_at)
        .bind(new.cost.memory_bytes)
        .bind(new.cost.voxels)
        .bind(new.cost.input_bytes)
        .bind(new.label)
        .bind(new.model)
        .bind(new.options)
        .bind(json(&new.inputs))
        .bind(new.idempotency_key)
        .bind(new.fingerprint)
        .bind(new.now)
        .bind(new.callback_url)
        .fetch_one(&mut *transaction)
        .await?;
        let accepted = job(&row)?;
        transaction.commit().await?;
        Ok(Submitted::Accepted(accepted))
    }

    /// A job's row.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn get(&self, id: JobId) -> Result<Option<Job>, Error> {
        let row = sqlx::query(
            "SELECT * FROM jobs WHERE id = $1 AND (leaving IS NULL OR leaving <> 'erase')",
        )
        .bind(id.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| job(&row)).transpose()
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn list(&self, page: Page) -> Result<Vec<Job>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM jobs
             WHERE ($1 = '' OR owner = $1) AND ($2 = '' OR state = $2) AND ($3 = '' OR id < $3)
                   AND (leaving IS NULL OR leaving <> 'erase')
             ORDER BY id DESC LIMIT $4",
        )
        .bind(page.owner.unwrap_or_default())
        .bind(page.state.map_or("", State::name))
        .bind(page.before.map(|id| id.to_string()).unwrap_or_default())
        .bind(page.limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job).collect()
    }

    /// How many jobs are in a state.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn count(&self, state: State) -> Result<i64, Error> {
        let count =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = $1").bind(state.name());
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// What waits.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn waiting(&self) -> Result<Waiting, Error> {
        waiting(&sqlx::query(WAITING).fetch_one(&self.pool).await?)
    }

    /// What waits before this job.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn ahead_of(&self, job: &Job) -> Result<Waiting, Error> {
        let row = sqlx::query(
            "SELECT count(*) AS jobs, CAST(coalesce(sum(input_bytes), 0) AS BIGINT) AS bytes,
                    CAST(coalesce(sum(voxels), 0) AS BIGINT) AS voxels, min(created_at) AS since
             FROM jobs WHERE state = 'queued' AND leaving IS NULL
                             AND (priority < $1 OR (priority = $1 AND id < $2))",
        )
        .bind(job.priority.rank())
        .bind(job.id.to_string())
        .fetch_one(&self.pool)
        .await?;
        waiting(&row)
    }

    /// Takes the job that is next, for a worker that must write before `until`, if it fits into
    /// `room` bytes; what does not fit into `budget` bytes is for another process.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn lease(
        &self,
        worker: &str,
        now: i64,
        until: i64,
        room: i64,
        budget: i64,
    ) -> Result<Option<Job>, Error> {
        let changed = sqlx::query(self.dialect.lease())
            .bind(worker.to_owned())
            .bind(until)
            .bind(now)
            .bind(room)
            .bind(budget)
            .fetch_all(&self.pool)
            .await?;
        changed.first().map(job).transpose()
    }

    /// Holds the lease until `until` and writes progress down; false if it is lost.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn hold(
        &self,
        id: JobId,
        attempt: i64,
        until: i64,
        progress: Option<&StoredProgress>,
    ) -> Result<bool, Error> {
        // Without progress only the lease is written: nobody is told of that.
        let held = match progress {
            Some(progress) => sqlx::query(
                "UPDATE jobs SET lease_until = $3, progress = $4
                 WHERE id = $1 AND attempt = $2 AND state = 'running'",
            )
            .bind(id.to_string())
            .bind(attempt)
            .bind(until)
            .bind(json(progress)),
            None => sqlx::query(
                "UPDATE jobs SET lease_until = $3 WHERE id = $1 AND attempt = $2 AND state = 'running'",
            )
            .bind(id.to_string())
            .bind(attempt)
            .bind(until),
        };
        Ok(held.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Publishes an attempt's results, to be delivered to `destinations`; false if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn succeed(
        &self,
        id: JobId,
        attempt: i64,
        now: i64,
        artifacts: &[StoredFile],
        destinations: &[String],
    ) -> Result<bool, Error> {
        let mut transaction = self.pool.begin_with(self.dialect.begin()).await?;
        let ended = sqlx::query(
            "UPDATE jobs SET state = 'succeeded', ended_at = $3, worker = NULL, lease_until = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running'",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() != 1 {
            return Ok(false);
        }
        for artifact in artifacts {
            sqlx::query("INSERT INTO artifacts (job, name, media_type, bytes, sha256) VALUES ($1, $2, $3, $4, $5)")
                .bind(id.to_string())
                .bind(artifact.name.clone())
                .bind(artifact.media_type.clone())
                .bind(i64::try_from(artifact.bytes).unwrap_or(i64::MAX))
                .bind(artifact.sha256.clone())
                .execute(&mut *transaction)
                .await?;
        }
        for destination in destinations {
            let waits = sqlx::query(
                "INSERT INTO deliveries (job, destination, state, created_at) VALUES ($1, $2, 'waiting', $3)",
            );
            waits
                .bind(id.to_string())
                .bind(destination.clone())
                .bind(now)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends an attempt's job with a problem; false if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn fail(
        &self,
        id: JobId,
        attempt: i64,
        now: i64,
        problem: &Problem,
    ) -> Result<bool, Error> {
        let ended = sqlx::query(
            "UPDATE jobs SET state = 'failed', ended_at = $3, error = $4, worker = NULL, lease_until = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running'",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(now)
        .bind(json(problem))
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Puts an attempt's job back into the queue, not to be taken before `not_before`, if it has been
    /// put back less than `most` times; false if not, or if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn retry(
        &self,
        id: JobId,
        attempt: i64,
        not_before: i64,
        most: i64,
    ) -> Result<bool, Error> {
        let queued = sqlx::query(
            "UPDATE jobs SET state = 'queued', not_before = $3, retries = retries + 1, worker = NULL,
                             lease_until = NULL, progress = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running' AND retries < $4",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(not_before)
        .bind(most)
        .execute(&self.pool)
        .await?;
        Ok(queued.rows_affected() == 1)
    }

    /// Gives a job back to the queue that its worker will not end; it counts against nothing.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn release(&self, id: JobId, attempt: i64) -> Result<bool, Error> {
        let queued = sqlx::query(
            "UPDATE jobs SET state = 'queued', worker = NULL, lease_until = NULL, progress = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running'",
        )
        .bind(id.to_string())
        .bind(attempt)
        .execute(&self.pool)
        .await?;
        Ok(queued.rows_affected() == 1)
    }

    /// Takes a job over, to cancel it (if it has not ended) or to erase it. Whoever held it has lost it
    /// then; nobody else takes it before `until`. `None` if there is nothing to take.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn leave(
        &self,
        id: JobId,
        how: Leaving,
        worker: &str,
        until: i64,
    ) -> Result<Option<Job>, Error> {
        let changed = sqlx::query(
            "UPDATE jobs SET leaving = $2, worker = $3, lease_until = $4, attempt = attempt + 1
             WHERE id = $1 AND ((leaving IS NULL AND state IN ('queued', 'running'))
                                OR ($2 = 'erase' AND (leaving IS NULL OR leaving = 'cancel')))
             RETURNING *",
        )
        .bind(id.to_string())
        .bind(how.name())
        .bind(worker.to_owned())
        .bind(until)
        .fetch_all(&self.pool)
        .await?;
        changed.first().map(job).transpose()
    }

    /// Ends a job that leaves by [`Leaving::Cancel`]; false if it does not.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn cancel(&self, id: JobId, now: i64) -> Result<bool, Error> {
        let ended = sqlx::query(
            "UPDATE jobs SET state = 'cancelled', ended_at = $2, leaving = NULL, worker = NULL, lease_until = NULL
             WHERE id = $1 AND leaving = 'cancel'",
        )
        .bind(id.to_string())
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Erases the row of a job that leaves by [`Leaving::Erase`]; false if it does not.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn erase(&self, id: JobId) -> Result<bool, Error> {
        let erased = sqlx::query("DELETE FROM jobs WHERE id = $1 AND leaving = 'erase'")
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(erased.rows_affected() == 1)
    }

    /// Jobs that somebody began to cancel or erase and did not get to the end of.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn left_behind(&self, now: i64) -> Result<Vec<(JobId, Leaving)>, Error> {
        let rows = sqlx::query(
            "SELECT id, leaving FROM jobs WHERE leaving IS NOT NULL AND lease_until < $1",
        )
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let how = match row.try_get::<String, _>("leaving")?.as_str() {
                    "cancel" => Leaving::Cancel,
                    _ => Leaving::Erase,
                };
                Ok((id_of(row)?, how))
            })
            .collect()
    }

    /// Finds running jobs whose lease has lapsed and queues them again, or ends those that have
    /// crashed too often with `problem`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn reclaim(&self, now: i64, problem: &Problem) -> Result<Lapsed, Error> {
        let rows = sqlx::query(
            "UPDATE jobs SET crashes = crashes + 1, worker = NULL, lease_until = NULL, progress = NULL,
                    state = CASE WHEN crashes + 1 >= $2 THEN 'failed' ELSE 'queued' END,
                    ended_at = CASE WHEN crashes + 1 >= $2 THEN $1 END,
                    error = CASE WHEN crashes + 1 >= $2 THEN $3 END
             WHERE state = 'running' AND leaving IS NULL AND lease_until < $1 RETURNING *",
        )
        .bind(now)
        .bind(MOST_CRASHES)
        .bind(json(problem))
        .fetch_all(&self.pool)
        .await?;
        let mut lapsed = Lapsed::default();
        for row in &rows {
            let job = job(row)?;
            let list = if job.state == State::Failed {
                &mut lapsed.crashed
            } else {
                &mut lapsed.queued
            };
            list.push(job.id);
        }
        Ok(lapsed)
    }

    /// Ends jobs whose deadline passed while they waited, with `problem`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn expire_waiting(&self, now: i64, problem: &Problem) -> Result<Vec<Job>, Error> {
        let rows = sqlx::query(
            "UPDATE jobs SET state = 'failed', ended_at = $1, error = $2
             WHERE state = 'queued' AND leaving IS NULL AND deadline_at <= $1 RETURNING *",
        )
        .bind(now)
        .bind(json(problem))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job).collect()
    }

    /// Puts a job that failed back into the queue, as if it had never been tried; false if it has not
    /// failed.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn revive(&self, id: JobId) -> Result<bool, Error> {
        let queued = sqlx::query(
            "UPDATE jobs SET state = 'queued', ended_at = NULL, error = NULL, crashes = 0, retries = 0,
                             not_before = 0, deadline_at = NULL, callback_done_at = NULL, callback_tries = 0
             WHERE id = $1 AND state = 'failed' AND leaving IS NULL",
        )
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(queued.rows_affected() == 1)
    }

    /// Ends the leases of workers that are known to be gone, so that [`JobStore::reclaim`] and
    /// [`JobStore::left_behind`] find their jobs.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn expire_leases(&self) -> Result<u64, Error> {
        let lapsed = sqlx::query("UPDATE jobs SET lease_until = 0 WHERE lease_until IS NOT NULL")
            .execute(&self.pool)
            .await?;
        Ok(lapsed.rows_affected())
    }

    /// The artifacts of a job.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn artifacts(&self, id: JobId) -> Result<Vec<StoredFile>, Error> {
        let rows = sqlx::query("SELECT * FROM artifacts WHERE job = $1 ORDER BY name")
            .bind(id.to_string())
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredFile {
                    name: row.try_get("name")?,
                    media_type: row.try_get("media_type")?,
                    bytes: u64::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or(0),
                    sha256: row.try_get("sha256")?,
                })
            })
            .collect()
    }

    /// Jobs that ended before a time, the oldest first, at most `limit`. A job whose results are to be delivered
    /// ends with its last delivery.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn ended_before(&self, time: i64, limit: i64) -> Result<Vec<JobId>, Error> {
        let rows = sqlx::query(
            "SELECT id FROM jobs
             WHERE ended_at < $1 AND leaving IS NULL
                   AND NOT EXISTS (SELECT 1 FROM deliveries
                                   WHERE job = jobs.id AND (state <> 'delivered' OR ended_at >= $1))
             ORDER BY ended_at LIMIT $2",
        )
        .bind(time)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(id_of).collect()
    }

    /// Every job's state and attempt.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn states(&self) -> Result<HashMap<JobId, (State, i64)>, Error> {
        let rows = sqlx::query("SELECT id, state, attempt FROM jobs")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let id = id_of(row)?;
                let state = state_of(row, id)?;
                Ok((id, (state, row.try_get("attempt")?)))
            })
            .collect()
    }

    /// Takes an end that a caller has not been told yet; it is not given out again before `again_at`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn next_callback(&self, now: i64, again_at: i64) -> Result<Option<Callback>, Error> {
        let changed = sqlx::query(self.dialect.next_callback())
            .bind(now)
            .bind(again_at)
            .fetch_all(&self.pool)
            .await?;
        changed
            .first()
            .map(|row| {
                Ok(Callback {
                    job: job(row)?,
                    tries: row.try_get("callback_tries")?,
                })
            })
            .transpose()
    }

    /// Writes down when an end that was not told is tried again.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn callback_again(&self, id: JobId, at: i64) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET callback_not_before = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes down that a job's end was told, or that nobody will try again.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn callback_done(&self, id: JobId, now: i64) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET callback_done_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
