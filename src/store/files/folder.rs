//! A folder of folders, every change synced. Its methods block, but for [`Folder::stream`].
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Error, Pieces};
use crate::files::{self, Existing};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// A folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        create(&root)?;
        Ok(Self { root })
    }

    /// A new folder in it.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.root.join(name);
        create(&folder)?;
        Ok(folder)
    }

    /// Renames another folder to `name/inner`.
    pub(super) fn adopt(&self, other: &Path, name: &str, inner: &str) -> Result<(), Error> {
        files::sync_folder(other).map_err(Error::File)?;
        let folder = self.make(name)?;
        files::rename(other, &folder.join(inner)).map_err(Error::File)?;
        files::sync_folder(&self.root).map_err(Error::File)
    }

    /// Writes files into `name/inner`, which holds nothing else then.
    pub(super) fn write_all<'a>(
        &self,
        name: &str,
        inner: &str,
        files: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), Error> {
        let folder = self.root.join(name).join(inner);
        remove(&folder)?;
        create(&folder)?;
        files::sync_folder(&self.root.join(name)).map_err(Error::File)?;
        for (name, bytes) in files {
            files::write(&folder.join(name), bytes, Existing::Keep).map_err(Error::File)?;
        }
        Ok(())
    }

    pub(super) fn read(&self, key: &str) -> Result<Bytes, Error> {
        let read = files::read(&self.root.join(key)).map_err(Error::File)?;
        Ok(Bytes::from(read))
    }

    pub(super) async fn stream(
        &self,
        key: &str,
        part: Option<Range<u64>>,
    ) -> Result<Pieces, Error> {
        let path = self.root.join(key);
        let failed = |e: io::Error| Error::File(files::named(&path, &e));
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let Some(part) = part else {
            return Ok(ReaderStream::with_capacity(file, PIECE).boxed());
        };
        file.seek(SeekFrom::Start(part.start))
            .await
            .map_err(failed)?;
        let bytes = part.end.saturating_sub(part.start);
        Ok(ReaderStream::with_capacity(file.take(bytes), PIECE).boxed())
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), Error> {
        remove(&self.root.join(key))
    }

    /// Every file and folder two levels down, as `name/inner`, and when it was written; a folder with
    /// nothing in it as `name`.
    pub(super) fn survey(&self) -> Result<Vec<(String, SystemTime)>, Error> {
        let mut found = Vec::new();
        for outer in entries(&self.root)? {
            found.push((name(&outer), written(&outer)));
            for inner in entries(&outer)? {
                found.push((
                    format!("{}/{}", name(&outer), name(&inner)),
                    written(&inner),
                ));
            }
        }
        Ok(found)
    }

    /// Removes the folders in it that nothing has been written to for `age`.
    pub(super) fn sweep(&self, age: Duration) -> Result<usize, Error> {
        let mut swept = 0;
        for outer in entries(&self.root)? {
            // A large scan arrives slowly: the folder is old, the file in it is not.
            let newest = entries(&outer)?
                .iter()
                .map(|inner| written(inner))
                .fold(written(&outer), SystemTime::max);
            if newest.elapsed().is_ok_and(|passed| passed >= age) {
                remove(&outer)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    pub(super) fn free_bytes(&self) -> Result<u64, Error> {
        let space = files::space(&self.root).map_err(Error::File)?;
        Ok(space.free)
    }
}

pub(super) fn create(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|e| Error::File(files::named(folder, &e)))
}

/// Removes a file or folder; what is gone already is gone.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File(files::named(path, &error)))
        }
        _ => Ok(()),
    }
}

/// What is in a folder; nothing, if it is gone or no folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e: io::Error| Error::File(files::named(folder, &e));
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()).map_err(failed))
            .collect(),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(e) => Err(failed(e)),
    }
}

pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// When it was written; now, if that cannot be told: what is new is left alone.
pub(super) fn written(path: &Path) -> SystemTime {
    std::fs::metadata(path)
        .and_then(|m| m.modified())
        .unwrap_or_else(|_| SystemTime::now())
}
