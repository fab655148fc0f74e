//! Rows about jobs, in SQLite (WAL, every commit synced).
//!
//! A worker holds a *lease*: every write of a worker names the job and the attempt, and changes
//! nothing if another attempt has begun or the job has ended. So a worker that was thought dead can
//! neither report progress nor publish. Results become visible by one transaction.
use std::path::Path;
use std::time::Duration;

use dawson_inference::problem::Problem;
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};

use super::{Error, Job, JobId, State, StoredFile, StoredProgress};

/// A job that stopped the server this often is not tried again.
const MOST_CRASHES: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY NOT NULL,
    state TEXT NOT NULL,
    label TEXT,
    model TEXT NOT NULL,
    options TEXT NOT NULL,
    inputs TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    fingerprint TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    not_before INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until INTEGER,
    progress TEXT,
    error TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, id);
CREATE TABLE IF NOT EXISTS artifacts (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (job, name)
) STRICT;
";

/// The rows.
#[derive(Debug, Clone)]
pub struct JobStore {
    pool: SqlitePool,
}

/// A job to be acknowledged.
#[derive(Debug)]
pub struct NewJob {
    /// Its name; its inputs are stored under it already.
    pub id: JobId,
    /// The caller's own words.
    pub label: Option<String>,
    /// `name@version`
    pub model: String,
    /// The options as they were sent, JSON.
    pub options: String,
    /// The scans.
    pub inputs: Vec<StoredFile>,
    /// The caller's key for this request.
    pub idempotency_key: Option<String>,
    /// Stands for scans and options: the same request has the same one.
    pub fingerprint: String,
    /// Milliseconds since 1970.
    pub now: i64,
    /// The most jobs that may wait.
    pub queue: i64,
}

/// What became of a [`NewJob`].
#[derive(Debug)]
pub enum Submitted {
    /// It has a row now.
    Accepted(Job),
    /// A job of the same key and the same request is there already.
    Known(Job),
    /// A job of the same key and another request is there already.
    Mismatch,
    /// As many jobs wait as may wait.
    Full {
        /// How many wait.
        waiting: i64,
    },
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Jobs.
    pub jobs: i64,
    /// When the one that has waited longest was acknowledged.
    pub since: Option<i64>,
}

/// What became of jobs whose worker fell silent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lapsed {
    /// Waiting again.
    pub queued: Vec<JobId>,
    /// Given up.
    pub crashed: Vec<JobId>,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those before this one, which was the last of the page before.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: i64,
}

impl JobStore {
    /// Opens the database file, made if it is not there.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool })
    }

    /// Writes a job's row, if its key and the queue allow it.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(key) = &new.idempotency_key {
            let known = sqlx::query("SELECT * FROM jobs WHERE idempotency_key = ?")
                .bind(key)
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
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued'")
            .fetch_one(&mut *transaction)
            .await?;
        if waiting >= new.queue {
            return Ok(Submitted::Full { waiting });
        }
        let row = sqlx::query(
            "INSERT INTO jobs (id, state, label, model, options, inputs, idempotency_key, fingerprint, created_at)
             VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(&new.label)
        .bind(&new.model)
        .bind(&new.options)
        .bind(json(&new.inputs))
        .bind(&new.idempotency_key)
        .bind(&new.fingerprint)
        .bind(new.now)
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
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ?")
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
            "SELECT * FROM jobs WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR id < ?2)
             ORDER BY id DESC LIMIT ?3",
        )
        .bind(page.state.map(State::name))
        .bind(page.before.map(|id| id.to_string()))
        .bind(page.limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job).collect()
    }

    /// How many jobs are in each state.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn count(&self, state: State) -> Result<i64, Error> {
        let count =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = ?").bind(state.name());
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// What waits.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn waiting(&self) -> Result<Waiting, Error> {
        let row = sqlx::query(
            "SELECT count(*) AS jobs, min(created_at) AS since FROM jobs WHERE state = 'queued'",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Waiting {
            jobs: row.try_get("jobs")?,
            since: row.try_get("since")?,
        })
    }

    /// How many jobs wait before this one.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn ahead_of(&self, id: JobId) -> Result<i64, Error> {
        let ahead =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND id < ?")
                .bind(id.to_string());
        Ok(ahead.fetch_one(&self.pool).await?)
    }

    /// Takes the job that has waited longest, for a worker that must write before `until`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn lease(&self, worker: &str, now: i64, until: i64) -> Result<Option<Job>, Error> {
        let row = sqlx::query(
            "UPDATE jobs SET state = 'running', worker = ?1, lease_until = ?2, attempt = attempt + 1,
                             started_at = coalesce(started_at, ?3), progress = NULL
             WHERE id = (SELECT id FROM jobs WHERE state = 'queued' AND not_before <= ?3 ORDER BY id LIMIT 1)
             RETURNING *",
        )
        .bind(worker)
        .bind(until)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| job(&row)).transpose()
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
        let held = sqlx::query(
            "UPDATE jobs SET lease_until = ?3, progress = coalesce(?4, progress)
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(until)
        .bind(progress.map(json))
        .execute(&self.pool)
        .await?;
        Ok(held.rows_affected() == 1)
    }

    /// Publishes an attempt's results; false if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn succeed(
        &self,
        id: JobId,
        attempt: i64,
        now: i64,
        artifacts: &[StoredFile],
    ) -> Result<bool, Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let ended = sqlx::query(
            "UPDATE jobs SET state = 'succeeded', ended_at = ?3, worker = NULL, lease_until = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
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
            sqlx::query("INSERT INTO artifacts (job, name, media_type, bytes, sha256) VALUES (?, ?, ?, ?, ?)")
                .bind(id.to_string())
                .bind(&artifact.name)
                .bind(&artifact.media_type)
                .bind(i64::try_from(artifact.bytes).unwrap_or(i64::MAX))
                .bind(&artifact.sha256)
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
            "UPDATE jobs SET state = 'failed', ended_at = ?3, error = ?4, worker = NULL, lease_until = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
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
            "UPDATE jobs SET state = 'queued', not_before = ?3, retries = retries + 1, worker = NULL,
                             lease_until = NULL, progress = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'running' AND retries < ?4",
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
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
        )
        .bind(id.to_string())
        .bind(attempt)
        .execute(&self.pool)
        .await?;
        Ok(queued.rows_affected() == 1)
    }

    /// Cancels a job that has not ended; false if it has.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn cancel(&self, id: JobId, now: i64) -> Result<bool, Error> {
        let ended = sqlx::query(
            "UPDATE jobs SET state = 'cancelled', ended_at = ?2, worker = NULL, lease_until = NULL
             WHERE id = ?1 AND state IN ('queued', 'running')",
        )
        .bind(id.to_string())
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Finds running jobs whose lease has lapsed and queues them again, or ends those that have
    /// crashed too often with `problem`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn reclaim(&self, now: i64, problem: &Problem) -> Result<Lapsed, Error> {
        let rows = sqlx::query(
            "UPDATE jobs SET crashes = crashes + 1, worker = NULL, lease_until = NULL, progress = NULL,
                    state = CASE WHEN crashes + 1 >= ?2 THEN 'failed' ELSE 'queued' END,
                    ended_at = CASE WHEN crashes + 1 >= ?2 THEN ?1 END,
                    error = CASE WHEN crashes + 1 >= ?2 THEN ?3 END
             WHERE state = 'running' AND lease_until < ?1 RETURNING *",
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

    /// Ends the leases of a worker that is known to be gone, so that [`JobStore::reclaim`] finds them.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn expire_leases(&self) -> Result<u64, Error> {
        let lapsed = sqlx::query("UPDATE jobs SET lease_until = 0 WHERE state = 'running'")
            .execute(&self.pool)
            .await?;
        Ok(lapsed.rows_affected())
    }

    /// The artifacts of a job.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn artifacts(&self, id: JobId) -> Result<Vec<StoredFile>, Error> {
        let rows = sqlx::query("SELECT * FROM artifacts WHERE job = ? ORDER BY name")
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

    /// Erases a job's row; false if there was none.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn erase(&self, id: JobId) -> Result<bool, Error> {
        let erased = sqlx::query("DELETE FROM jobs WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(erased.rows_affected() == 1)
    }

    /// Jobs that ended before a time.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn ended_before(&self, time: i64) -> Result<Vec<JobId>, Error> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE ended_at < ?")
            .bind(time)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(job(row)?.id)).collect()
    }

    /// Answers if the database answers.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Our own types always have a JSON form.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn job(row: &SqliteRow) -> Result<Job, Error> {
    let id: String = row.try_get("id")?;
    let wrong = |reason: &str| Error::Row {
        id: id.clone(),
        reason: reason.to_owned(),
    };
    let state: String = row.try_get("state")?;
    let inputs: String = row.try_get("inputs")?;
    let progress: Option<String> = row.try_get("progress")?;
    let error: Option<String> = row.try_get("error")?;
    Ok(Job {
        id: id.parse().map_err(|_| wrong("its id"))?,
        state: State::parse(&state).ok_or_else(|| wrong("its state"))?,
        label: row.try_get("label")?,
        model: row.try_get("model")?,
        options: row.try_get("options")?,
        inputs: serde_json::from_str(&inputs).map_err(|_| wrong("its inputs"))?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        attempt: row.try_get("attempt")?,
        progress: progress
            .map(|p| serde_json::from_str(&p))
            .transpose()
            .map_err(|_| wrong("its progress"))?,
        error: error
            .map(|e| serde_json::from_str(&e))
            .transpose()
            .map_err(|_| wrong("its error"))?,
    })
}

#[cfg(test)]
mod tests {
    use dawson_inference::problem::Code;

    use super::*;

    async fn store() -> (JobStore, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("dawson-store-{}.sqlite", JobId::new()));
        (JobStore::open(&path).await.unwrap(), path)
    }

    fn new(key: Option<&str>, fingerprint: &str) -> NewJob {
        NewJob {
            id: JobId::new(),
            label: None,
            model: "m@1".to_owned(),
            options: "{}".to_owned(),
            inputs: Vec::new(),
            idempotency_key: key.map(str::to_owned),
            fingerprint: fingerprint.to_owned(),
            now: 1000,
            queue: 3,
        }
    }

    async fn accepted(store: &JobStore) -> JobId {
        match store.submit(new(None, "f")).await.unwrap() {
            Submitted::Accepted(job) => job.id,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_full_queue_takes_no_more_and_a_known_key_gives_the_same_job() {
        let (store, path) = store().await;
        let Submitted::Accepted(first) = store.submit(new(Some("k"), "f")).await.unwrap() else {
            panic!()
        };
        let Submitted::Known(same) = store.submit(new(Some("k"), "f")).await.unwrap() else {
            panic!()
        };
        assert_eq!(first.id, same.id);
        assert!(matches!(
            store.submit(new(Some("k"), "other")).await.unwrap(),
            Submitted::Mismatch
        ));
        accepted(&store).await;
        accepted(&store).await;
        assert!(matches!(
            store.submit(new(None, "f")).await.unwrap(),
            Submitted::Full { waiting: 3 }
        ));
        store.close().await;
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn an_attempt_that_lost_its_lease_can_neither_report_nor_publish() {
        let (store, path) = store().await;
        let id = accepted(&store).await;
        let first = store.lease("a", 2000, 3000).await.unwrap().unwrap();
        assert_eq!((first.id, first.attempt), (id, 1));
        assert!(store.lease("b", 2000, 3000).await.unwrap().is_none());
        assert!(store.hold(id, 1, 4000, None).await.unwrap());
        let problem = Problem::new(Code::Crashed, "three times");
        assert_eq!(store.reclaim(4001, &problem).await.unwrap().queued, [id]);
        let second = store.lease("b", 5000, 6000).await.unwrap().unwrap();
        assert_eq!(second.attempt, 2);
        assert!(!store.hold(id, 1, 9000, None).await.unwrap());
        assert!(!store.succeed(id, 1, 5500, &[]).await.unwrap());
        assert!(!store.fail(id, 1, 5500, &problem).await.unwrap());
        assert!(store.succeed(id, 2, 5500, &[]).await.unwrap());
        assert_eq!(
            store.get(id).await.unwrap().unwrap().state,
            State::Succeeded
        );
        assert!(!store.cancel(id, 6000).await.unwrap());
        store.close().await;
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn the_third_crash_ends_a_job() {
        let (store, path) = store().await;
        let id = accepted(&store).await;
        let problem = Problem::new(Code::Crashed, "three times");
        for crash in 1..=3 {
            store.lease("a", 2000, 3000).await.unwrap().unwrap();
            let lapsed = store.reclaim(3001, &problem).await.unwrap();
            assert_eq!(lapsed.crashed.len(), usize::from(crash == 3));
        }
        let job = store.get(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.error), (State::Failed, Some(problem)));
        store.close().await;
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn erasing_a_job_erases_its_artifacts() {
        let (store, path) = store().await;
        let id = accepted(&store).await;
        store.lease("a", 2000, 3000).await.unwrap().unwrap();
        let file = StoredFile {
            name: "a".into(),
            media_type: "b".into(),
            bytes: 3,
            sha256: "c".into(),
        };
        assert!(
            store
                .succeed(id, 1, 2500, std::slice::from_ref(&file))
                .await
                .unwrap()
        );
        assert_eq!(store.artifacts(id).await.unwrap(), [file]);
        assert!(store.erase(id).await.unwrap());
        assert!(store.artifacts(id).await.unwrap().is_empty() && !store.erase(id).await.unwrap());
        store.close().await;
        std::fs::remove_file(path).unwrap();
    }
}
