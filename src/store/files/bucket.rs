//! A bucket of an S3-compatible store.
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::{Error, Pieces};
use crate::files;

/// The folder of the jobs in the bucket.
const JOBS: &str = "jobs";

/// A bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
}

impl Bucket {
    /// `s3://bucket/prefix`; keys, region and endpoint come from the usual `AWS_…` variables.
    pub(super) fn open(address: &str) -> Result<Self, Error> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::Unsuitable(format!(
                "files are kept in a folder or in s3://BUCKET/PREFIX: {e}"
            ))
        };
        let url = address.parse::<url::Url>().map_err(|e| wrong(&e))?;
        if url.scheme() != "s3" {
            return Err(wrong(&format!("'{}' is not known", url.scheme())));
        }
        let variables: HashMap<String, String> = std::env::vars()
            .filter(|(name, _)| name.starts_with("AWS_"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let (store, prefix) =
            object_store::parse_url_opts(&url, variables).map_err(|e| wrong(&e))?;
        Ok(Self {
            store: Arc::from(store),
            prefix,
        })
    }

    fn key(&self, key: &str) -> Key {
        Key::from(format!("{}/{JOBS}/{key}", self.prefix))
    }

    /// Copies a file into the bucket.
    pub(super) async fn upload(&self, file: &Path, key: &str) -> Result<(), Error> {
        let mut file = File::open(file)
            .await
            .map_err(|e| Error::File(files::named(file, &e)))?;
        let mut object = BufWriter::new(Arc::clone(&self.store), self.key(key));
        let copied = tokio::io::copy(&mut file, &mut object).await;
        let ended = match copied {
            Ok(_) => object.shutdown().await,
            Err(error) => {
                // Its parts would be kept, and paid for, for ever.
                if let Err(left) = object.abort().await {
                    tracing::error!(error = %left, "a broken upload to the bucket was not taken back");
                }
                Err(error)
            }
        };
        ended.map_err(Error::File)
    }

    pub(super) async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        self.store
            .put(&self.key(key), PutPayload::from_bytes(bytes))
            .await
            .map_err(failed)?;
        Ok(())
    }

    pub(super) async fn read(&self, key: &str) -> Result<Bytes, Error> {
        let object = self.store.get(&self.key(key)).await.map_err(failed)?;
        object.bytes().await.map_err(failed)
    }

    pub(super) async fn stream(
        &self,
        key: &str,
        part: Option<Range<u64>>,
    ) -> Result<Pieces, Error> {
        let options = GetOptions {
            range: part.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let object = self
            .store
            .get_opts(&self.key(key), options)
            .await
            .map_err(failed)?;
        Ok(object.into_stream().map_err(io::Error::from).boxed())
    }

    /// Removes an object, or all below a folder.
    pub(super) async fn remove(&self, key: &str) -> Result<(), Error> {
        let keys = self
            .store
            .list(Some(&self.key(key)))
            .map_ok(|object| object.location)
            .boxed();
        self.store
            .delete_stream(keys)
            .try_for_each(|_| async { Ok(()) })
            .await
            .or_else(|e| match e {
                object_store::Error::NotFound { .. } => Ok(()),
                other => Err(failed(other)),
            })
    }

    /// Every object below the jobs, without what leads to them.
    pub(super) async fn survey(&self) -> Result<Vec<(String, SystemTime)>, Error> {
        let jobs = self.key("");
        self.store
            .list(Some(&jobs))
            .map_ok(|object| {
                let path = object
                    .location
                    .prefix_match(&jobs)
                    .map(|parts| {
                        parts
                            .map(|p| p.as_ref().to_owned())
                            .collect::<Vec<_>>()
                            .join("/")
                    })
                    .unwrap_or_default();
                (path, SystemTime::from(object.last_modified))
            })
            .try_collect()
            .await
            .map_err(failed)
    }
}

fn failed(error: object_store::Error) -> Error {
    Error::File(io::Error::from(error))
}
