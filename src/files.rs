//! Files that are whole or not there.
//!
//! A file gets a temporary name beside its place, is written, synced, and renamed; then the folder
//! is synced. Whoever sees the name sees the whole content, after a power cut too.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that writes and renames files"
)]
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a temporary file's name ends with.
pub const TEMPORARY: &str = ".tmp";

/// Whether a file may take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// What is there is replaced.
    Replace,
    /// What is there is an error of kind [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// The room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this program may still take.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// The room on the disk that a folder lies on.
///
/// # Errors
/// The system's, with the folder's name in its text.
pub fn space(folder: &Path) -> io::Result<Space> {
    let disk = rustix::fs::statvfs(folder).map_err(|e| named(folder, &e.into()))?;
    Ok(Space {
        free: disk.f_bavail.saturating_mul(disk.f_frsize),
        size: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

/// Writes a file that is whole or not there.
///
/// # Errors
/// The system's, with the file's name in its text.
pub fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    write_with(path, bytes, existing, 0o666)
}

/// Writes a file that is whole or not there, and that nobody else may read.
///
/// # Errors
/// The system's, with the file's name in its text.
pub fn write_private(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    write_with(path, bytes, existing, 0o600)
}

fn write_with(path: &Path, bytes: &[u8], existing: Existing, mode: u32) -> io::Result<()> {
    if existing == Existing::Keep && path.exists() {
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, "the file is there already");
        return Err(named(path, &taken));
    }
    let temporary = beside(path);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rename(&temporary, path)
    })();
    written.map_err(|e| {
        // What is left over would only confuse; if it cannot go either, the first error matters.
        let _gone = fs::remove_file(&temporary);
        named(path, &e)
    })
}

/// Renames and syncs the folder, so that the new name is still there after a power cut.
///
/// # Errors
/// The system's, with the new name in its text.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|e| named(to, &e))?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Syncs a folder: the names in it are then on the disk.
///
/// # Errors
/// The system's, with the folder's name in its text.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| named(folder, &e))
}

/// Reads a file.
///
/// # Errors
/// The system's, with the file's name in its text.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|e| named(path, &e))
}

/// An error that says which file it is about.
#[must_use]
pub fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A temporary name in the same folder, not used by another process.
fn beside(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.{}{TEMPORARY}", ulid::Ulid::generate()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_if_that_is_allowed_and_nothing_else_is_left() {
        let folder = std::env::temp_dir().join(format!("dawson-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a");
        write(&path, b"one", Existing::Keep).unwrap();
        let refused = write(&path, b"two", Existing::Keep).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap(), b"one");
        write(&path, b"two", Existing::Replace).unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing() {
        let missing = Path::new("/nonexistent/folder/file");
        let refused = write(missing, b"x", Existing::Replace).unwrap_err();
        assert!(
            refused.to_string().contains("/nonexistent/folder/file"),
            "{refused}"
        );
    }
}
