//! The files of jobs, in a folder or in a bucket.
//!
//! `incoming/<upload>/` on this machine while a study arrives, `arriving/<study>/` while it arrives image by
//! image, `jobs/<id>/inputs/` once it is
//! acknowledged, `jobs/<id>/results-<attempt>/` while and after an attempt writes them: they count once
//! the row says so. Files are whole or not there, in both places.
mod arriving;
mod bucket;
mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use arriving::{About, ArrivingStudies, ArrivingStudy, KeptImage, Sent, pack};
use bucket::Bucket;
use bytes::Bytes;
use dawson_inference::pipeline::Artifact;
use folder::Folder;
use futures_util::stream::BoxStream;
use sha2::{Digest, Sha256};

use super::{Error, JobId, StoredFile};

/// The name of the scans among a job's files.
const INPUTS: &str = "inputs";
/// What the names of the results of an attempt begin with.
const RESULTS: &str = "results-";

/// The files of all jobs.
#[derive(Debug, Clone)]
pub struct JobFiles {
    incoming: Folder,
    arriving: ArrivingStudies,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(Folder),
    Bucket(Bucket),
}

/// A file's content, piece by piece.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// A job's files, as they lie.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whether its scans are there.
    pub inputs: bool,
    /// The attempts whose results are there.
    pub results: BTreeSet<i64>,
    /// When the newest of them was written.
    pub newest: SystemTime,
}

impl JobFiles {
    /// Files in folders below `state`, which are made if they are not there.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn open(state: &Path) -> Result<Self, Error> {
        Ok(Self {
            incoming: Folder::open(state.join("incoming"))?,
            arriving: ArrivingStudies::open(state.join("arriving"))?,
            place: Place::Folder(Folder::open(state.join("jobs"))?),
        })
    }

    /// Files in a bucket such as `s3://bucket/prefix`, configured by the usual `AWS_…` variables; what
    /// arrives waits in a folder below `state` until it is whole.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Unsuitable`]
    pub fn open_bucket(state: &Path, address: &str) -> Result<Self, Error> {
        Ok(Self {
            incoming: Folder::open(state.join("incoming"))?,
            arriving: ArrivingStudies::open(state.join("arriving"))?,
            place: Place::Bucket(Bucket::open(address)?),
        })
    }

    /// A new folder for a study that arrives.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn new_upload(&self) -> Result<PathBuf, Error> {
        let incoming = self.incoming.clone();
        blocking(move || incoming.make(&JobId::new().to_string())).await
    }

    /// Makes an upload (whose files are synced) the inputs of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn keep_upload(
        &self,
        upload: &Path,
        id: JobId,
        inputs: &[StoredFile],
    ) -> Result<(), Error> {
        match &self.place {
            Place::Folder(folder) => {
                let (folder, upload) = (folder.clone(), upload.to_owned());
                blocking(move || folder.adopt(&upload, &id.to_string(), INPUTS)).await
            }
            Place::Bucket(bucket) => {
                for input in inputs {
                    bucket
                        .upload(&upload.join(&input.name), &key(id, INPUTS, &input.name))
                        .await?;
                }
                self.drop_upload(upload).await
            }
        }
    }

    /// Removes an upload that came to nothing.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn drop_upload(&self, upload: &Path) -> Result<(), Error> {
        let upload = upload.to_owned();
        blocking(move || folder::remove(&upload)).await
    }

    /// Reads a scan of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn read_input(&self, id: JobId, name: &str) -> Result<Bytes, Error> {
        self.read(key(id, INPUTS, name)).await
    }

    /// Writes the results of an attempt; they count once the row says so.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn write_results(
        &self,
        id: JobId,
        attempt: i64,
        artifacts: Vec<Artifact>,
    ) -> Result<Vec<StoredFile>, Error> {
        let stored = artifacts
            .iter()
            .map(|artifact| StoredFile {
                name: artifact.name.clone(),
                media_type: artifact.media_type.name().to_owned(),
                bytes: artifact.bytes.len() as u64,
                sha256: hex::encode(Sha256::digest(&artifact.bytes)),
            })
            .collect();
        match &self.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || {
                    let files = artifacts
                        .iter()
                        .map(|a| (a.name.as_str(), a.bytes.as_slice()));
                    folder.write_all(&id.to_string(), &results(attempt), files)
                })
                .await?;
            }
            Place::Bucket(bucket) => {
                for artifact in artifacts {
                    let key = key(id, &results(attempt), &artifact.name);
                    bucket.put(&key, Bytes::from(artifact.bytes)).await?;
                }
            }
        }
        Ok(stored)
    }

    /// Reads a result.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn read_result(&self, id: JobId, attempt: i64, name: &str) -> Result<Bytes, Error> {
        self.read(key(id, &results(attempt), name)).await
    }

    /// A result, or a part of it, as it is read. An error that comes later is in the stream.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn stream_result(
        &self,
        id: JobId,
        attempt: i64,
        name: &str,
        part: Option<Range<u64>>,
    ) -> Result<Pieces, Error> {
        let key = key(id, &results(attempt), name);
        match &self.place {
            Place::Folder(folder) => folder.stream(&key, part).await,
            Place::Bucket(bucket) => bucket.stream(&key, part).await,
        }
    }

    /// Removes the results of an attempt that does not count.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn drop_results(&self, id: JobId, attempt: i64) -> Result<(), Error> {
        self.remove(format!("{id}/{}", results(attempt))).await
    }

    /// Removes the scans of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn drop_inputs(&self, id: JobId) -> Result<(), Error> {
        self.remove(format!("{id}/{INPUTS}")).await
    }

    /// Removes every file of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn erase(&self, id: JobId) -> Result<(), Error> {
        self.arriving.remove_of(id).await?;
        self.remove(id.to_string()).await
    }

    /// The studies that arrive image by image, at this process.
    #[must_use]
    pub fn arriving(&self) -> &ArrivingStudies {
        &self.arriving
    }

    /// The jobs that have files.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn survey(&self) -> Result<BTreeMap<JobId, Found>, Error> {
        let files = match &self.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.survey()).await?
            }
            Place::Bucket(bucket) => bucket.survey().await?,
        };
        let mut jobs: BTreeMap<JobId, Found> = BTreeMap::new();
        for (path, written) in files {
            let mut parts = path.split('/');
            let Some(id) = parts.next().and_then(|id| id.parse().ok()) else {
                continue;
            };
            let found = jobs.entry(id).or_insert(Found {
                inputs: false,
                results: BTreeSet::new(),
                newest: written,
            });
            let folder = parts.next().unwrap_or_default();
            found.inputs |= folder == INPUTS;
            found.results.extend(
                folder
                    .strip_prefix(RESULTS)
                    .and_then(|n| n.parse::<i64>().ok()),
            );
            found.newest = found.newest.max(written);
        }
        Ok(jobs)
    }

    /// Removes uploads that nothing has been written to for `age`; tells how many.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn sweep_uploads(&self, age: Duration) -> Result<usize, Error> {
        let incoming = self.incoming.clone();
        blocking(move || incoming.sweep(age)).await
    }

    /// Bytes that are free where studies arrive.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn free_bytes(&self) -> Result<u64, Error> {
        self.incoming.free_bytes()
    }

    async fn read(&self, key: String) -> Result<Bytes, Error> {
        match &self.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.read(&key)).await
            }
            Place::Bucket(bucket) => bucket.read(&key).await,
        }
    }

    async fn remove(&self, key: String) -> Result<(), Error> {
        match &self.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.remove(&key)).await
            }
            Place::Bucket(bucket) => bucket.remove(&key).await,
        }
    }
}

fn key(id: JobId, folder: &str, name: &str) -> String {
    format!("{id}/{folder}/{name}")
}

fn results(attempt: i64) -> String {
    format!("{RESULTS}{attempt}")
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::File(io::Error::other(e)))?
}
