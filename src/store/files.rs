//! The files of jobs, in a folder.
//!
//! `incoming/<upload>/` while a study arrives, `jobs/<id>/inputs/` once it is acknowledged,
//! `jobs/<id>/results-<attempt>/` while and after an attempt writes them: they count once the row says
//! so. Uploads are renamed whole.
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dawson_inference::models::hex;
use dawson_inference::pipeline::Artifact;
use sha2::{Digest, Sha256};

use super::{Error, JobId, StoredFile};
use crate::files::{self, Existing};

/// The folder of all jobs' files. Its methods block.
#[derive(Debug, Clone)]
pub struct JobFiles {
    root: PathBuf,
}

impl JobFiles {
    /// Makes the folders below `root` if they are not there.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn open(root: &Path) -> Result<Self, Error> {
        for folder in ["incoming", "jobs"] {
            create(&root.join(folder))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// A new folder for a study that arrives.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn new_upload(&self) -> Result<PathBuf, Error> {
        let folder = self.root.join("incoming").join(JobId::new().to_string());
        create(&folder)?;
        Ok(folder)
    }

    /// Makes an upload (whose files are synced) the inputs of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn keep_upload(&self, upload: &Path, id: JobId) -> Result<(), Error> {
        files::sync_folder(upload).map_err(Error::File)?;
        create(&self.job(id))?;
        files::rename(upload, &self.inputs(id)).map_err(Error::File)?;
        files::sync_folder(&self.root.join("jobs")).map_err(Error::File)
    }

    /// Removes an upload that came to nothing.
    pub fn drop_upload(upload: &Path) {
        remove(upload);
    }

    /// Reads an input of a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn read_input(&self, id: JobId, name: &str) -> Result<Vec<u8>, Error> {
        files::read(&self.inputs(id).join(name)).map_err(Error::File)
    }

    /// Writes the results of an attempt; they count once the row says so.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn write_results(
        &self,
        id: JobId,
        attempt: i64,
        artifacts: &[Artifact],
    ) -> Result<Vec<StoredFile>, Error> {
        let folder = self.results(id, attempt);
        remove(&folder); // Of the same attempt there can only be rests.
        create(&folder)?;
        files::sync_folder(&self.job(id)).map_err(Error::File)?;
        artifacts
            .iter()
            .map(|artifact| {
                files::write(&folder.join(artifact.name), &artifact.bytes, Existing::Keep)
                    .map_err(Error::File)?;
                Ok(StoredFile {
                    name: artifact.name.to_owned(),
                    media_type: artifact.media_type.name().to_owned(),
                    bytes: artifact.bytes.len() as u64,
                    sha256: hex(&Sha256::digest(&artifact.bytes)),
                })
            })
            .collect()
    }

    /// Where a result lies.
    #[must_use]
    pub fn result(&self, id: JobId, attempt: i64, name: &str) -> PathBuf {
        self.results(id, attempt).join(name)
    }

    /// Removes the results of an attempt that does not count.
    pub fn drop_results(&self, id: JobId, attempt: i64) {
        remove(&self.results(id, attempt));
    }

    /// Removes the scans of a job.
    pub fn drop_inputs(&self, id: JobId) {
        remove(&self.inputs(id));
    }

    /// Removes every file of a job.
    pub fn erase(&self, id: JobId) {
        remove(&self.job(id));
    }

    /// The jobs that have files, and uploads and folders older than `age` that are no job's.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn survey(&self, age: Duration) -> Result<Survey, Error> {
        let mut survey = Survey {
            jobs: Vec::new(),
            strays: Vec::new(),
        };
        for path in entries(&self.root.join("jobs"))? {
            match name(&path).parse() {
                Ok(id) if older(&path, age) => survey.jobs.push(id),
                Ok(_) => {}
                Err(_) => survey.strays.push(path),
            }
        }
        survey.strays.extend(
            entries(&self.root.join("incoming"))?
                .into_iter()
                .filter(|path| older(path, age)),
        );
        Ok(survey)
    }

    fn job(&self, id: JobId) -> PathBuf {
        self.root.join("jobs").join(id.to_string())
    }

    fn inputs(&self, id: JobId) -> PathBuf {
        self.job(id).join("inputs")
    }

    fn results(&self, id: JobId, attempt: i64) -> PathBuf {
        self.job(id).join(format!("results-{attempt}"))
    }
}

/// What lies in the folders.
#[derive(Debug)]
pub struct Survey {
    /// Jobs with files, older than was asked for.
    pub jobs: Vec<JobId>,
    /// What belongs to no job.
    pub strays: Vec<PathBuf>,
}

impl Survey {
    /// Removes the strays.
    pub fn sweep(&self) {
        for stray in &self.strays {
            tracing::info!("an upload that came to nothing was swept");
            remove(stray);
        }
    }
}

fn create(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|e| Error::File(files::named(folder, &e)))
}

/// Removes a file or folder; what is gone already is gone, what stays is found by the next sweep.
fn remove(path: &Path) {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(%error, "files could not be removed; the sweeper will try again");
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e: io::Error| Error::File(files::named(folder, &e));
    std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()).map_err(failed))
        .collect()
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn older(path: &Path, age: Duration) -> bool {
    let changed = std::fs::metadata(path).and_then(|m| m.modified());
    changed.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|passed| passed >= age)
    })
}
