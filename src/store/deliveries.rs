//! Rows about results that are to be filed elsewhere: an outbox, written in the transaction that publishes them.
//!
//! Who tries a delivery has taken it for a while and holds it, by its number of tries; whoever was killed loses it
//! after that while, and another one tries. So it is tried at least once, and the destination knows an object that
//! it has by its identifier.
use sqlx::Row;

use super::database::JobStore;
use super::rows::{Delivery, Undelivered, delivery};
use super::{Error, JobId};

impl JobStore {
    /// Takes a delivery to `destination` that is due; it is not given out again before `until`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn next_delivery(
        &self,
        destination: &str,
        now: i64,
        until: i64,
    ) -> Result<Option<Delivery>, Error> {
        let changed = sqlx::query(self.dialect.next_delivery())
            .bind(destination.to_owned())
            .bind(now)
            .bind(until)
            .fetch_all(&self.pool)
            .await?;
        changed.first().map(delivery).transpose()
    }

    /// Holds a delivery that is tried until `until` at least; false if it is no longer this try's.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn hold_delivery(&self, tried: &Delivery, until: i64) -> Result<bool, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET not_before = CASE WHEN not_before < $4 THEN $4 ELSE not_before END
             WHERE job = $1 AND destination = $2 AND tries = $3 AND state = 'waiting'",
        )
        .bind(tried.job.to_string())
        .bind(tried.destination.clone())
        .bind(tried.tries)
        .bind(until)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Writes down that all objects are stored and that the destination is asked in this transaction to commit to
    /// them, and is given time until `until`; false if it is no longer this try's.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn await_commitment(
        &self,
        tried: &Delivery,
        transaction_uid: &str,
        until: i64,
    ) -> Result<bool, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET transaction_uid = $4, not_before = $5
             WHERE job = $1 AND destination = $2 AND tries = $3 AND state = 'waiting'",
        )
        .bind(tried.job.to_string())
        .bind(tried.destination.clone())
        .bind(tried.tries)
        .bind(transaction_uid.to_owned())
        .bind(until)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// The delivery of a transaction that is not over, or in which it was delivered.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn delivery_of(&self, transaction_uid: &str) -> Result<Option<Delivery>, Error> {
        let found = sqlx::query("SELECT * FROM deliveries WHERE transaction_uid = $1")
            .bind(transaction_uid.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        found.as_ref().map(delivery).transpose()
    }

    /// Writes down that a try has failed and when the next one is; false if it is no longer this try's.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn delivery_again(
        &self,
        tried: &Delivery,
        at: i64,
        error: &str,
    ) -> Result<bool, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET not_before = $4, error = $5, transaction_uid = NULL
             WHERE job = $1 AND destination = $2 AND tries = $3 AND state = 'waiting'",
        )
        .bind(tried.job.to_string())
        .bind(tried.destination.clone())
        .bind(tried.tries)
        .bind(at)
        .bind(error.to_owned())
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Writes down that a try has arrived; false if it is no longer this try's.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn delivered(&self, tried: &Delivery, now: i64) -> Result<bool, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET state = 'delivered', error = NULL, ended_at = $4
             WHERE job = $1 AND destination = $2 AND tries = $3 AND state = 'waiting'",
        )
        .bind(tried.job.to_string())
        .bind(tried.destination.clone())
        .bind(tried.tries)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Gives a delivery up; false if it is no longer this try's.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn bury_delivery(
        &self,
        tried: &Delivery,
        now: i64,
        error: &str,
    ) -> Result<bool, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET state = 'dead', error = $5, ended_at = $4, transaction_uid = NULL
             WHERE job = $1 AND destination = $2 AND tries = $3 AND state = 'waiting'",
        )
        .bind(tried.job.to_string())
        .bind(tried.destination.clone())
        .bind(tried.tries)
        .bind(now)
        .bind(error.to_owned())
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Sends the results of a job again, as if that had never been tried: to one destination whatever came of it
    /// before, or to all that they have not arrived at. How many deliveries that is.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn send_again(&self, id: JobId, destination: Option<&str>) -> Result<u64, Error> {
        let changed = sqlx::query(
            "UPDATE deliveries SET state = 'waiting', tries = 0, not_before = 0, error = NULL, ended_at = NULL,
                                   transaction_uid = NULL
             WHERE job = $1 AND (destination = $2 OR ($2 = '' AND state <> 'delivered'))",
        )
        .bind(id.to_string())
        .bind(destination.unwrap_or_default().to_owned())
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected())
    }

    /// The deliveries of a job, by destination.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn deliveries(&self, id: JobId) -> Result<Vec<Delivery>, Error> {
        let rows = sqlx::query("SELECT * FROM deliveries WHERE job = $1 ORDER BY destination")
            .bind(id.to_string())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(delivery).collect()
    }

    /// Deliveries that were given up, those of the newest jobs first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`]
    pub async fn dead_deliveries(&self, limit: i64) -> Result<Vec<Delivery>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM deliveries WHERE state = 'dead' ORDER BY job DESC, destination LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(delivery).collect()
    }

    /// How many deliveries have not arrived.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn undelivered(&self) -> Result<Undelivered, Error> {
        let row = sqlx::query(
            "SELECT CAST(coalesce(sum(CASE WHEN state = 'waiting' THEN 1 ELSE 0 END), 0) AS BIGINT) AS waiting,
                    CAST(coalesce(sum(CASE WHEN state = 'dead' THEN 1 ELSE 0 END), 0) AS BIGINT) AS dead
             FROM deliveries WHERE state IN ('waiting', 'dead')",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Undelivered {
            waiting: row.try_get("waiting")?,
            dead: row.try_get("dead")?,
        })
    }

    /// The destinations that something waits for.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn awaited_destinations(&self) -> Result<Vec<String>, Error> {
        let names = sqlx::query_scalar(
            "SELECT DISTINCT destination FROM deliveries WHERE state = 'waiting' ORDER BY 1",
        );
        Ok(names.fetch_all(&self.pool).await?)
    }
}
