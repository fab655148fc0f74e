//! Where the two databases differ: their schema, how an older one becomes it, and four turns of phrase.
use sqlx::AssertSqlSafe;

use super::Error;

/// The version of the schema that this program reads and writes.
pub(super) const VERSION: i64 = 3;

/// A database that rows are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// One process, one file.
    Sqlite,
    /// Several processes share one server.
    Postgres,
}

impl Dialect {
    /// What an address such as `sqlite:…` or `postgres://…` speaks.
    pub(super) fn of(address: &str) -> Result<Self, Error> {
        match address.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            _ => Err(Error::Unsuitable(
                "a database is given as sqlite:FILE or postgres://USER:PASSWORD@HOST/NAME"
                    .to_owned(),
            )),
        }
    }

    /// Begins a transaction that nobody else's writing can come between.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Makes submissions wait for one another, so that a full queue takes no more; none where
    /// [`Dialect::begin`] does that.
    pub(super) fn one_at_a_time(self) -> Option<&'static str> {
        // The key is arbitrary, but must be the same in every process.
        (self == Self::Postgres).then_some("SELECT 1 FROM pg_advisory_xact_lock(7306089)")
    }

    /// Passes over rows that another process is about to take.
    fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }

    /// Takes the next job: `$1` worker, `$2` lease, `$3` now, `$4` room in bytes, `$5` all the room there is.
    ///
    /// The first in order is taken or none: what is small does not go round what is large for ever.
    pub(super) fn lease(self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!(
            "UPDATE jobs SET state = 'running', worker = $1, lease_until = $2, attempt = attempt + 1,
                             started_at = coalesce(started_at, $3), attempt_at = $3, progress = NULL
             WHERE id = (SELECT id FROM jobs
                         WHERE state = 'queued' AND leaving IS NULL AND not_before <= $3 AND memory_bytes <= $5
                               AND (deadline_at IS NULL OR deadline_at > $3)
                         ORDER BY priority, id LIMIT 1 {})
                   AND memory_bytes <= $4
             RETURNING *",
            self.skip_locked()
        ))
    }

    /// Takes an end that was not told yet: `$1` now, `$2` when it may be given out again.
    pub(super) fn next_callback(self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!(
            "UPDATE jobs SET callback_tries = callback_tries + 1, callback_not_before = $2
             WHERE id = (SELECT id FROM jobs
                         WHERE callback_url IS NOT NULL AND callback_done_at IS NULL AND ended_at IS NOT NULL
                               AND leaving IS NULL AND callback_not_before <= $1
                         ORDER BY callback_not_before LIMIT 1 {})
             RETURNING *",
            self.skip_locked()
        ))
    }

    /// Takes a delivery that is due: `$1` destination, `$2` now, `$3` when it may be given out again. One that was
    /// to be committed to by now is the same try still.
    pub(super) fn next_delivery(self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!(
            "UPDATE deliveries SET tries = tries + CASE WHEN transaction_uid IS NULL THEN 1 ELSE 0 END, not_before = $3
             WHERE destination = $1 AND job = (SELECT job FROM deliveries
                         WHERE destination = $1 AND state = 'waiting' AND not_before <= $2
                               AND job IN (SELECT id FROM jobs WHERE leaving IS NULL)
                         ORDER BY not_before, job LIMIT 1 {})
             RETURNING *",
            self.skip_locked()
        ))
    }

    fn strict(self) -> &'static str {
        match self {
            Self::Sqlite => "STRICT",
            Self::Postgres => "",
        }
    }

    fn int(self) -> &'static str {
        match self {
            Self::Sqlite => "INTEGER",
            Self::Postgres => "BIGINT",
        }
    }

    /// Makes the table that says which schema a database has.
    pub(super) fn versions(self) -> AssertSqlSafe<String> {
        let (int, strict) = (self.int(), self.strict());
        AssertSqlSafe(format!(
            "CREATE TABLE IF NOT EXISTS dawson_schema (version {int} NOT NULL) {strict}"
        ))
    }

    /// Makes of a database of version `from` one of the next version; none if that is not known.
    pub(super) fn migration(self, from: i64) -> Option<AssertSqlSafe<String>> {
        match from {
            1 => Some(AssertSqlSafe(self.deliveries())),
            2 => Some(AssertSqlSafe(TRANSACTIONS.to_owned())),
            _ => None,
        }
    }

    /// What is to be filed where (since version 2).
    fn deliveries(self) -> String {
        let (int, strict) = (self.int(), self.strict());
        format!(
            "CREATE TABLE deliveries (
                 job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
                 destination TEXT NOT NULL,
                 state TEXT NOT NULL,
                 tries {int} NOT NULL DEFAULT 0,
                 not_before {int} NOT NULL DEFAULT 0,
                 error TEXT,
                 created_at {int} NOT NULL,
                 ended_at {int},
                 PRIMARY KEY (job, destination)
             ) {strict};
             CREATE INDEX deliveries_in_order ON deliveries (state, destination, not_before);"
        )
    }

    /// Makes every table of the newest version.
    pub(super) fn schema(self) -> AssertSqlSafe<String> {
        let (int, strict, deliveries) = (self.int(), self.strict(), self.deliveries());
        let notify = match self {
            Self::Sqlite => "",
            Self::Postgres => NOTIFY,
        };
        AssertSqlSafe(format!(
            "CREATE TABLE jobs (
                 id TEXT PRIMARY KEY NOT NULL,
                 owner TEXT,
                 state TEXT NOT NULL,
                 priority {int} NOT NULL,
                 deadline_at {int},
                 memory_bytes {int} NOT NULL,
                 voxels {int} NOT NULL,
                 input_bytes {int} NOT NULL,
                 label TEXT,
                 model TEXT NOT NULL,
                 options TEXT NOT NULL,
                 inputs TEXT NOT NULL,
                 idempotency_key TEXT,
                 fingerprint TEXT NOT NULL,
                 created_at {int} NOT NULL,
                 started_at {int},
                 attempt_at {int},
                 ended_at {int},
                 not_before {int} NOT NULL DEFAULT 0,
                 attempt {int} NOT NULL DEFAULT 0,
                 retries {int} NOT NULL DEFAULT 0,
                 crashes {int} NOT NULL DEFAULT 0,
                 worker TEXT,
                 lease_until {int},
                 leaving TEXT,
                 progress TEXT,
                 error TEXT,
                 callback_url TEXT,
                 callback_tries {int} NOT NULL DEFAULT 0,
                 callback_not_before {int} NOT NULL DEFAULT 0,
                 callback_done_at {int}
             ) {strict};
             CREATE INDEX jobs_in_order ON jobs (state, priority, id);
             CREATE INDEX jobs_by_end ON jobs (ended_at);
             CREATE UNIQUE INDEX jobs_by_key ON jobs (coalesce(owner, ''), idempotency_key);
             CREATE TABLE artifacts (
                 job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
                 name TEXT NOT NULL,
                 media_type TEXT NOT NULL,
                 bytes {int} NOT NULL,
                 sha256 TEXT NOT NULL,
                 PRIMARY KEY (job, name)
             ) {strict};
             {deliveries}
             {TRANSACTIONS}
             {notify}"
        ))
    }
}

/// What a destination was asked to commit to (since version 3).
const TRANSACTIONS: &str = "ALTER TABLE deliveries ADD COLUMN transaction_uid TEXT;
             CREATE UNIQUE INDEX deliveries_by_transaction ON deliveries (transaction_uid);";

/// The channel that changed jobs are told on.
pub(super) const CHANNEL: &str = "dawson_jobs";

/// Tells every process which job has changed; by a trigger, so that no statement can forget it.
const NOTIFY: &str = "
CREATE OR REPLACE FUNCTION dawson_job_changed() RETURNS trigger AS $$
BEGIN
    PERFORM pg_notify('dawson_jobs', coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE OR REPLACE TRIGGER dawson_job_changed
    AFTER INSERT OR DELETE OR UPDATE OF state, leaving, progress ON jobs
    FOR EACH ROW EXECUTE FUNCTION dawson_job_changed();
";
