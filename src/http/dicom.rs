//! The files of a DICOM study that arrive one by one: kept until the form ends, then packed into the one archive
//! that a job has as its input.
//!
//! Names that the client gives are not read. Nothing is parsed here: the service looks at the study once it is
//! there, off the async side.
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Where the part with that number is kept, from 1.
pub(super) fn place(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("dicom-{number}"))
}

/// Packs the parts 1 to `count` of a folder into `archive`, without compression and always to the same bytes,
/// and removes them.
///
/// # Errors
/// What the disk says.
pub(super) fn pack(folder: &Path, count: usize, archive: &Path) -> io::Result<()> {
    let mut zip = ZipWriter::new(BufWriter::new(File::create(archive)?));
    let stored = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true);
    for number in 1..=count {
        let path = place(folder, number);
        zip.start_file(format!("{number}"), stored)?;
        io::copy(&mut File::open(&path)?, &mut zip)?;
        std::fs::remove_file(&path)?;
    }
    let mut file = zip.finish()?;
    file.flush()?;
    file.get_ref().sync_all()
}
