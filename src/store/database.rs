//! The database that holds the rows: opened, made ready, listened to, closed.
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sqlx::any::AnyPoolOptions;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool};
use sqlx::{AnyPool, Connection};

use super::dialect::{CHANNEL, Dialect, VERSION};
use super::{Error, JobId};

/// Connections of a process to its database.
const CONNECTIONS: u32 = 8;
/// A database that does not answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a path may not hold in an address.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b'?').add(b'#').add(b'%').add(b' ');

/// The rows.
#[derive(Debug, Clone)]
pub struct JobStore {
    pub(super) pool: AnyPool,
    pub(super) dialect: Dialect,
    /// Who is told of changes by other processes.
    listen_at: Option<PgConnectOptions>,
}

impl JobStore {
    /// Opens a database file, made if it is not there. One process at a time may have it open for work.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Unsuitable`]
    pub async fn open_file(path: &Path) -> Result<Self, Error> {
        let text = path.to_string_lossy();
        let path = utf8_percent_encode(&text, NOT_IN_A_PATH);
        Self::open(&format!("sqlite:{path}?mode=rwc")).await
    }

    /// Opens a database by its address, `sqlite:FILE` or `postgres://…`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Unsuitable`]
    pub async fn open(address: &str) -> Result<Self, Error> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let dialect = Dialect::of(address)?;
        let listen_at = match dialect {
            Dialect::Sqlite => None,
            Dialect::Postgres => Some(address.parse::<PgConnectOptions>()?),
        };
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if dialect == Dialect::Sqlite {
                        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                                       PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000;";
                        sqlx::raw_sql(pragmas).execute(&mut *connection).await?;
                        // Where a file cannot be opened for writing, as on a full disk, SQLite opens it for
                        // reading and says nothing, and never tries again: then this fails.
                        let writes = "BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK;";
                        sqlx::raw_sql(writes).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    // Where a commit has failed, a rollback may fail too, and the connection thinks for
                    // ever that it is in a transaction. The ping waits for a rollback under way.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect(address)
            .await?;
        let store = Self {
            pool,
            dialect,
            listen_at,
        };
        store.make_tables().await?;
        Ok(store)
    }

    /// Makes the tables of a new database, or of an older one what this program reads: all of it or nothing.
    async fn make_tables(&self) -> Result<(), Error> {
        let mut transaction = self.pool.begin_with(self.dialect.begin()).await?;
        if let Some(lock) = self.dialect.one_at_a_time() {
            sqlx::query(lock).execute(&mut *transaction).await?;
        }
        sqlx::raw_sql(self.dialect.versions())
            .execute(&mut *transaction)
            .await?;
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM dawson_schema")
            .fetch_one(&mut *transaction)
            .await?;
        let unsuitable = |version: i64| {
            Error::Unsuitable(format!(
                "the database has schema version {version}, this program reads {VERSION}"
            ))
        };
        match found {
            None => {
                sqlx::raw_sql(self.dialect.schema())
                    .execute(&mut *transaction)
                    .await?;
                sqlx::query("INSERT INTO dawson_schema (version) VALUES ($1)")
                    .bind(VERSION)
                    .execute(&mut *transaction)
                    .await?;
            }
            Some(found) if found > VERSION => return Err(unsuitable(found)),
            Some(found) => {
                for version in found..VERSION {
                    let step = self.dialect.migration(version);
                    sqlx::raw_sql(step.ok_or_else(|| unsuitable(found))?)
                        .execute(&mut *transaction)
                        .await?;
                }
                if found < VERSION {
                    sqlx::query("UPDATE dawson_schema SET version = $1")
                        .bind(VERSION)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Whether other processes may work on the same rows.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// Who tells of jobs that any process has changed; `None` if there is only this process.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn changes(&self) -> Result<Option<Changes>, Error> {
        let Some(options) = &self.listen_at else {
            return Ok(None);
        };
        let pool = PgPool::connect_with(options.clone()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(Changes { listener }))
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

/// Tells of jobs that have changed.
#[derive(Debug)]
pub struct Changes {
    listener: PgListener,
}

impl Changes {
    /// The next job that has changed; `None` if some may have been missed because the connection was
    /// lost. It is made again by itself.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn next(&mut self) -> Result<Option<JobId>, Error> {
        let told = self.listener.try_recv().await?;
        Ok(told.and_then(|n| n.payload().parse().ok()))
    }
}
