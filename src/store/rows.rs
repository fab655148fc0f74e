//! What goes into rows about jobs and what comes out of them.
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Cost, Error, Job, JobId, Priority, State, StoredFile};

/// A job to be acknowledged.
#[derive(Debug)]
pub struct NewJob {
    /// Its name; its inputs are stored under it already.
    pub id: JobId,
    /// The API key of its caller.
    pub owner: Option<String>,
    /// Whether it goes before others.
    pub priority: Priority,
    /// Not begun after this.
    pub deadline_at: Option<i64>,
    /// What it is thought to need.
    pub cost: Cost,
    /// Where its end is told.
    pub callback_url: Option<String>,
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
    /// What may wait.
    pub room: Room,
}

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Jobs.
    pub jobs: i64,
    /// Bytes of their scans.
    pub bytes: i64,
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Jobs.
    pub jobs: i64,
    /// Bytes of their scans.
    pub bytes: i64,
    /// Voxels that the network has to look at for them.
    pub voxels: i64,
    /// When the one that has waited longest was acknowledged.
    pub since: Option<i64>,
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
    /// As much waits as may wait.
    Full(Waiting),
}

/// How a job leaves before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It ends without results.
    Cancel,
    /// Nothing of it stays.
    Erase,
}

impl Leaving {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Erase => "erase",
        }
    }
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
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Only those of this caller.
    pub owner: Option<String>,
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those before this one, which was the last of the page before.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: i64,
}

/// A job's end that its caller has not been told yet.
#[derive(Debug)]
pub struct Callback {
    /// The job.
    pub job: Job,
    /// How often it was tried, this time included.
    pub tries: i64,
}

/// Where a delivery is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Waits for its next try, or is tried.
    Waiting,
    /// The destination has confirmed every object.
    Delivered,
    /// Given up: an operator has to send it again.
    Dead,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Delivered, Self::Dead];

    /// The name on the wire and in the row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// The results of a job on their way to a destination. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The job.
    pub job: JobId,
    /// The destination's name.
    pub destination: String,
    /// Where it is in its life.
    pub state: DeliveryState,
    /// How often it was tried, this time included.
    pub tries: i64,
    /// Not tried before this, while it waits.
    pub not_before: i64,
    /// The transaction in which the destination was asked to commit to the objects, which are stored there: while the
    /// delivery waits, the answer is still to come.
    pub transaction_uid: Option<String>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When the results were there.
    pub created_at: i64,
    /// When it was delivered or given up.
    pub ended_at: Option<i64>,
}

impl Delivery {
    /// Where it is, as it is told: `stored` while it waits for the destination's commitment.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match (self.state, &self.transaction_uid) {
            (DeliveryState::Waiting, Some(_)) => "stored",
            (state, _) => state.name(),
        }
    }

    /// When it is tried next, while it waits; what was never put off is due from the moment on when it was there.
    #[must_use]
    pub fn due_at(&self) -> Option<i64> {
        let waits = self.state == DeliveryState::Waiting;
        waits.then(|| self.not_before.max(self.created_at))
    }
}

/// Deliveries that have not arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Those that are tried.
    pub waiting: i64,
    /// Those that were given up.
    pub dead: i64,
}

pub(super) fn delivery(row: &AnyRow) -> Result<Delivery, Error> {
    let job: String = row.try_get("job")?;
    let wrong = |reason: &str| Error::Row {
        id: job.clone(),
        reason: reason.to_owned(),
    };
    let state: String = row.try_get("state")?;
    let known = DeliveryState::ALL.into_iter().find(|s| s.name() == state);
    Ok(Delivery {
        job: job.parse().map_err(|_| wrong("its id"))?,
        destination: row.try_get("destination")?,
        state: known.ok_or_else(|| wrong("a delivery's state"))?,
        tries: row.try_get("tries")?,
        not_before: row.try_get("not_before")?,
        transaction_uid: row.try_get("transaction_uid")?,
        error: row.try_get("error")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

pub(super) const WAITING: &str = "SELECT count(*) AS jobs, CAST(coalesce(sum(input_bytes), 0) AS BIGINT) AS bytes,
                              CAST(coalesce(sum(voxels), 0) AS BIGINT) AS voxels, min(created_at) AS since
                       FROM jobs WHERE state = 'queued' AND leaving IS NULL";

pub(super) fn waiting(row: &AnyRow) -> Result<Waiting, Error> {
    Ok(Waiting {
        jobs: row.try_get("jobs")?,
        bytes: row.try_get("bytes")?,
        voxels: row.try_get("voxels")?,
        since: row.try_get("since")?,
    })
}

/// Our own types always have a JSON form.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn id_of(row: &AnyRow) -> Result<JobId, Error> {
    let id: String = row.try_get("id")?;
    id.parse().map_err(|_| Error::Row {
        id,
        reason: "its id".to_owned(),
    })
}

pub(super) fn state_of(row: &AnyRow, id: JobId) -> Result<State, Error> {
    State::parse(&row.try_get::<String, _>("state")?).ok_or_else(|| Error::Row {
        id: id.to_string(),
        reason: "its state".to_owned(),
    })
}

pub(super) fn job(row: &AnyRow) -> Result<Job, Error> {
    let id = id_of(row)?;
    let wrong = |reason: &str| Error::Row {
        id: id.to_string(),
        reason: reason.to_owned(),
    };
    let inputs: String = row.try_get("inputs")?;
    let progress: Option<String> = row.try_get("progress")?;
    let error: Option<String> = row.try_get("error")?;
    Ok(Job {
        id,
        owner: row.try_get("owner")?,
        state: state_of(row, id)?,
        priority: Priority::of_rank(row.try_get("priority")?)
            .ok_or_else(|| wrong("its priority"))?,
        deadline_at: row.try_get("deadline_at")?,
        cost: Cost {
            memory_bytes: row.try_get("memory_bytes")?,
            voxels: row.try_get("voxels")?,
            input_bytes: row.try_get("input_bytes")?,
        },
        callback_url: row.try_get("callback_url")?,
        label: row.try_get("label")?,
        model: row.try_get("model")?,
        options: row.try_get("options")?,
        inputs: serde_json::from_str(&inputs).map_err(|_| wrong("its inputs"))?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        attempt_at: row.try_get("attempt_at")?,
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
