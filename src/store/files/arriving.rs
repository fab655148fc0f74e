//! Studies that arrive image by image: each image is on the disk before it is acknowledged.
//!
//! A folder a study, named by a hash of whose it is, because nothing that came in may become a name. In it an
//! image a file, named by a hash of its SOP Instance UID, and `about.json`, which is there before the first
//! image. The folder outlives the job that it becomes, so that an image that comes late meets the others.
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::folder::{create, entries, name, remove, written};
use super::{Error, JobId, blocking};
use crate::files::{self, Existing};

/// What is known of a study besides its images.
const ABOUT: &str = "about.json";
/// What the names of images end with.
const IMAGE: &str = ".dcm";
/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// What is known of a study that arrives, besides its images.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// (0020,000D).
    pub study_instance_uid: String,
    /// The API key whose study it is; none if it came from a node without one.
    pub owner: Option<String>,
    /// The application entity that sent its first image, if one did.
    pub calling_ae_title: Option<String>,
    /// What it became last.
    pub sent: Option<Sent>,
}

/// What a study became.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    /// The job.
    pub job: String,
    /// Stands for the images that it has.
    pub digest: String,
    /// How often the study became a job, this time included.
    pub revision: u32,
}

/// An image that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptImage {
    /// Bytes of its file.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub sha256: [u8; 32],
}

/// A study as it was found on the disk.
#[derive(Debug)]
pub struct ArrivingStudy {
    /// Its folder's name.
    pub key: String,
    /// What is known of it.
    pub about: About,
    /// Its images by the names of their files.
    pub images: BTreeMap<String, KeptImage>,
    /// When the newest of them came.
    pub newest: SystemTime,
}

/// The studies that arrive.
#[derive(Debug, Clone)]
pub struct ArrivingStudies {
    root: PathBuf,
}

impl ArrivingStudies {
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        create(&root)?;
        Ok(Self { root })
    }

    /// The name of a study's folder.
    #[must_use]
    pub fn key(study_instance_uid: &str, owner: Option<&str>) -> String {
        short_hash(&format!("{}\n{study_instance_uid}", owner.unwrap_or("")))
    }

    /// The name of an image's file.
    #[must_use]
    pub fn image(sop_instance_uid: &str) -> String {
        format!("{}{IMAGE}", short_hash(sop_instance_uid))
    }

    /// Where an image's file is.
    #[must_use]
    pub fn path(&self, key: &str, image: &str) -> PathBuf {
        self.root.join(key).join(image)
    }

    /// Writes down what is known of a study.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn describe(&self, key: &str, about: &About) -> Result<(), Error> {
        let (root, folder) = (self.root.clone(), self.root.join(key));
        let text = serde_json::to_vec(about).map_err(|e| Error::File(io::Error::other(e)))?;
        blocking(move || {
            create(&folder)?;
            files::sync_folder(&root).map_err(Error::File)?;
            files::write(&folder.join(ABOUT), &text, Existing::Replace).map_err(Error::File)
        })
        .await
    }

    /// Takes a file that is synced as an image of a study that was described; it is on the disk after this.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn keep(&self, key: &str, image: &str, from: &Path) -> Result<(), Error> {
        let (from, to) = (from.to_owned(), self.path(key, image));
        blocking(move || files::rename(&from, &to).map_err(Error::File)).await
    }

    /// The studies that are there; what is in a folder without its description is nobody's and is removed.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn found(&self) -> Result<Vec<ArrivingStudy>, Error> {
        let root = self.root.clone();
        blocking(move || {
            let mut studies = Vec::new();
            for folder in entries(&root)? {
                match found(&folder)? {
                    Some(study) => studies.push(study),
                    None => remove(&folder)?,
                }
            }
            Ok(studies)
        })
        .await
    }

    /// Packs images of a study into one archive, synced.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn pack(
        &self,
        key: &str,
        images: &[String],
        archive: &Path,
    ) -> Result<(u64, String), Error> {
        let paths = images.iter().map(|image| self.path(key, image)).collect();
        let archive = archive.to_owned();
        blocking(move || pack(paths, &archive).map_err(Error::File)).await
    }

    /// Removes a study.
    ///
    /// # Errors
    /// [`Error::File`]
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        let folder = self.root.join(key);
        blocking(move || remove(&folder)).await
    }

    /// Removes the study that became a job.
    ///
    /// # Errors
    /// [`Error::File`]
    pub(super) async fn remove_of(&self, job: JobId) -> Result<(), Error> {
        let (root, job) = (self.root.clone(), job.to_string());
        blocking(move || {
            for folder in entries(&root)? {
                let sent = about(&folder)?.and_then(|about| about.sent);
                if sent.is_some_and(|sent| sent.job == job) {
                    remove(&folder)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Packs files into an archive in their order, without compression and always to the same bytes, and syncs it;
/// its size and its SHA-256.
///
/// # Errors
/// What the disk says.
pub fn pack(paths: Vec<PathBuf>, archive: &Path) -> io::Result<(u64, String)> {
    let file = std::fs::File::create(archive)?;
    let mut zip = ZipWriter::new(BufWriter::with_capacity(PIECE, file));
    let stored = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true);
    for (path, number) in paths.into_iter().zip(1..) {
        zip.start_file(format!("{number}"), stored)?;
        io::copy(&mut std::fs::File::open(path)?, &mut zip)?;
    }
    let mut file = zip.finish()?;
    file.flush()?;
    file.get_ref().sync_all()?;
    let packed = kept(archive)?;
    Ok((packed.bytes, hex::encode(packed.sha256)))
}

/// A file's size and hash.
fn kept(path: &Path) -> io::Result<KeptImage> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            let sha256 = hash.finalize().into();
            return Ok(KeptImage { bytes, sha256 });
        }
        hash.update(piece.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

fn about(folder: &Path) -> Result<Option<About>, Error> {
    match files::read(&folder.join(ABOUT)) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::File(e)),
    }
}

fn found(folder: &Path) -> Result<Option<ArrivingStudy>, Error> {
    let Some(about) = about(folder)? else {
        return Ok(None);
    };
    let mut newest = written(folder);
    let mut images = BTreeMap::new();
    for path in entries(folder)? {
        let image = name(&path);
        if image.ends_with(IMAGE) {
            newest = newest.max(written(&path));
            let kept = kept(&path).map_err(|e| Error::File(files::named(&path, &e)))?;
            images.insert(image, kept);
        }
    }
    Ok(Some(ArrivingStudy {
        key: name(folder),
        about,
        images,
        newest,
    }))
}

/// The first 128 bits of SHA-256 in hexadecimal: a name that says nothing.
fn short_hash(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hex::encode(hash.get(..16).unwrap_or_default())
}
