//! `dawson keys`: who may call the service.
use std::path::Path;

use clap::{Args as ClapArgs, Subcommand};
use dawson_inference::problem::Code;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::edge::keys_file;
use super::say::{say, say_aside};
use super::serve::ServiceArgs;
use super::{Failure, print_json};
use crate::keys::{self, Key, Keys, NewKey, Scope};
use crate::telemetry;

/// Make, list and revoke the keys of a service.
#[derive(Debug, ClapArgs)]
#[command(after_help = "A running server sees changes within seconds.\n\n\
                  Examples:\n  dawson keys new --name pacs --state /var/lib/dawson\n  \
                  dawson keys new --name research --scope read --expires-days 90\n  \
                  dawson keys list\n  dawson keys revoke pacs")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    service: ServiceArgs,
    /// The file of keys [default: keys.toml in the service's folder]
    #[arg(long, global = true, value_name = "FILE")]
    keys_file: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it, this once
    New {
        /// Whose it is
        #[arg(long)]
        name: String,
        /// What it may do: submit, urgent, read, admin
        #[arg(long, value_name = "SCOPE", default_values = ["submit", "read"], value_delimiter = ',')]
        scope: Vec<Scope>,
        /// Days until it is no longer taken [default: no end]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=36_500))]
        expires_days: Option<i64>,
    },
    /// One line for each key, the keys themselves are not kept
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a key back
    Revoke {
        /// Its id or its name
        key: String,
    },
}

impl From<keys::Error> for Failure {
    fn from(error: keys::Error) -> Self {
        let code = match error {
            keys::Error::Random(_) => Code::Internal,
            _ => Code::MalformedRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// A key without its hash.
#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    state: &'static str,
    scopes: Vec<Scope>,
    created: String,
    expires: Option<String>,
}

impl Row {
    fn of(key: &Key, now: Timestamp) -> Self {
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            state: key.state(now).name(),
            scopes: key.scopes.iter().copied().collect(),
            created: key.created.to_string(),
            expires: key.expires.map(|at| at.to_string()),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.service.settings(&[("keys_file", &args.keys_file)])?;
    let path = keys_file(&settings)?;
    let now = Timestamp::now();
    match &args.action {
        Action::New {
            name,
            scope,
            expires_days,
        } => {
            let expires = expires_days
                .map(|days| now.checked_add(SignedDuration::from_hours(24 * days)))
                .transpose()
                .map_err(|e| Failure::new(Code::MalformedRequest, e.to_string()))?;
            let new = NewKey {
                name: name.clone(),
                scopes: scope.iter().copied().collect(),
                expires,
            };
            let (secret, key) = keys::create(&path, new, now)?;
            audit("key_made", &key);
            say_aside!("key {} for {}, shown this once:", key.id, key.name);
            say!("{secret}");
            Ok(())
        }
        Action::List { json } => list(&path, now, *json),
        Action::Revoke { key } => {
            let key = keys::revoke(&path, key, now)?;
            audit("key_revoked", &key);
            say_aside!("key {} for {} is revoked", key.id, key.name);
            Ok(())
        }
    }
}

/// The audit's line, on stderr like a server's.
fn audit(what: &'static str, key: &Key) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    tracing::subscriber::with_default(log.finish(), || telemetry::key_changed(what, &key.id));
}

fn list(path: &Path, now: Timestamp, json: bool) -> Result<(), Failure> {
    let keys = Keys::read(path)?.unwrap_or_default();
    let rows: Vec<Row> = keys.all().iter().map(|key| Row::of(key, now)).collect();
    if json {
        return print_json(&rows);
    }
    for row in rows {
        let scopes: Vec<&str> = row.scopes.iter().map(|s| s.name()).collect();
        let expires = row.expires.as_deref().unwrap_or("never");
        say!(
            "{}  {:<8}  {:<24}  {}  made {}, expires {expires}",
            row.id,
            row.state,
            scopes.join(","),
            row.name,
            row.created
        );
    }
    Ok(())
}
