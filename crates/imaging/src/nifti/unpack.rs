//! gzip, with a bound on what comes out.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that unpacks, with its bounds beside it"
)]
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::{Error, Header, Limits};
use crate::nifti::Version;
use crate::volume::TOGETHER;

/// Bytes that may follow the voxels: some writers pad to a block.
const MAX_TRAILING_BYTES: usize = 1 << 20;

/// How a file's bytes are packed, told by its first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

pub(super) fn packing(file: &[u8]) -> Packing {
    if file.starts_with(&[0x1f, 0x8b]) {
        Packing::Gzip
    } else {
        Packing::Plain
    }
}

/// The first `wanted` unpacked bytes of a gzip file, or fewer if there are fewer.
pub(super) fn first_bytes(file: &[u8], wanted: usize) -> Result<Vec<u8>, Error> {
    let mut start = vec![0; wanted];
    // Only the head of the file may be here, so a stream that ends early is no error yet.
    let found =
        fill(&mut MultiGzDecoder::new(file), &mut start).or_else(|failed| match failed {
            Stopped {
                after,
                kind: std::io::ErrorKind::UnexpectedEof,
                ..
            } => Ok(after),
            Stopped { reason, .. } => Err(Error::Gzip { reason }),
        })?;
    start.truncate(found);
    Ok(start)
}

/// The voxels of a file whose header was read, as the bytes that they are stored in.
pub(super) struct Voxels<'a> {
    source: Box<dyn Read + 'a>,
    needed: usize,
    found: usize,
}

/// Reads the header; the voxels are still to come.
pub(super) fn open(file: &[u8], limits: Limits) -> Result<(Header, Voxels<'_>), Error> {
    let mut source: Box<dyn Read + '_> = match packing(file) {
        Packing::Plain => Box::new(file),
        Packing::Gzip => Box::new(MultiGzDecoder::new(file)),
    };
    let mut start = vec![0; Version::One.bytes_with_flag()];
    let mut found = fill(&mut source, &mut start).map_err(damaged)?;
    if found == start.len() && is_version_two(&start) {
        start.resize(Version::Two.bytes_with_flag(), 0);
        found = found.saturating_add(
            fill(&mut source, start.get_mut(found..).unwrap_or_default()).map_err(damaged)?,
        );
    }
    start.truncate(found);
    let header = Header::parse(&start, limits)?;
    let extension = header.data_offset.saturating_sub(found);
    let needed = header.data_bytes();
    if skip(&mut source, extension)? < extension as u64 {
        return Err(Error::DataTruncated { found: 0, needed });
    }
    let voxels = Voxels {
        source,
        needed,
        found: 0,
    };
    Ok((header, voxels))
}

impl Voxels<'_> {
    /// The next bytes, `most` or as many as are left of what the header promises; none once all were given and the file
    /// was seen to end there.
    pub(super) fn next(&mut self, most: usize) -> Result<Vec<u8>, Error> {
        let (needed, left) = (self.needed, self.needed.saturating_sub(self.found));
        let wanted = most.min(left);
        if wanted == 0 {
            // To the end, so that the checksum is seen too.
            let max = MAX_TRAILING_BYTES;
            return match skip(&mut self.source, max.saturating_add(1))? {
                trailing if trailing > max as u64 => Err(Error::TrailingData { max }),
                _ => Ok(Vec::new()),
            };
        }
        let mut bytes = vec![0; wanted];
        let found = fill(&mut self.source, &mut bytes).map_err(damaged)?;
        self.found = self.found.saturating_add(found);
        if found < wanted {
            let found = self.found;
            return Err(Error::DataTruncated { found, needed });
        }
        Ok(bytes)
    }

    /// All bytes that are left; memory is taken as they come.
    pub(super) fn all(mut self) -> Result<Vec<u8>, Error> {
        let mut data = reserved(self.needed.saturating_sub(self.found))?;
        loop {
            let bytes = self.next(TOGETHER)?;
            if bytes.is_empty() {
                return Ok(data);
            }
            data.extend_from_slice(&bytes);
        }
    }
}

/// Room for so many values. It costs nothing until they come: a header's promise alone takes no memory.
pub(super) fn reserved<T>(count: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| Error::OutOfMemory {
            bytes: count.saturating_mul(size_of::<T>()),
        })?;
    Ok(values)
}

/// Reads on over so many bytes, or fewer if there are fewer; returns how many.
fn skip(source: &mut impl Read, bytes: usize) -> Result<u64, Error> {
    let mut skipped = source.take(bytes as u64);
    std::io::copy(&mut skipped, &mut std::io::sink()).map_err(|e| Error::Gzip {
        reason: e.to_string(),
    })
}

fn damaged(stopped: Stopped) -> Error {
    Error::Gzip {
        reason: stopped.reason,
    }
}

fn is_version_two(start: &[u8]) -> bool {
    start.get(4..8) == Some(b"n+2\0".as_slice())
}

/// A read that failed after so many bytes.
struct Stopped {
    after: usize,
    kind: std::io::ErrorKind,
    reason: String,
}

/// Reads until `out` is full or the source ends; returns how much was read.
fn fill(source: &mut impl Read, out: &mut [u8]) -> Result<usize, Stopped> {
    let mut after: usize = 0;
    while let Some(rest) = out.get_mut(after..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(n) => after = after.saturating_add(n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Stopped {
                    after,
                    kind: e.kind(),
                    reason: e.to_string(),
                });
            }
        }
    }
    Ok(after)
}
