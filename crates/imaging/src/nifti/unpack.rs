//! gzip, with a bound on what comes out.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that unpacks, with its bounds beside it"
)]
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::{Error, Header, Limits};
use crate::nifti::Version;

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

/// Reads header and voxels; returns exactly the bytes of the voxels that the header promises.
pub(super) fn header_and_data(file: &[u8], limits: Limits) -> Result<(Header, Vec<u8>), Error> {
    match packing(file) {
        Packing::Plain => read_all(file, limits),
        Packing::Gzip => read_all(MultiGzDecoder::new(file), limits),
    }
}

fn read_all(mut source: impl Read, limits: Limits) -> Result<(Header, Vec<u8>), Error> {
    let gzip = |stopped: Stopped| Error::Gzip {
        reason: stopped.reason,
    };
    let mut start = vec![0; Version::One.bytes_with_flag()];
    let mut found = fill(&mut source, &mut start).map_err(gzip)?;
    if found == start.len() && is_version_two(&start) {
        start.resize(Version::Two.bytes_with_flag(), 0);
        found = found.saturating_add(
            fill(&mut source, start.get_mut(found..).unwrap_or_default()).map_err(gzip)?,
        );
    }
    start.truncate(found);
    let header = Header::parse(&start, limits)?;
    let extension = header.data_offset.saturating_sub(found);
    let skipped = std::io::copy(
        &mut source.by_ref().take(extension as u64),
        &mut std::io::sink(),
    )
    .map_err(|e| Error::Gzip {
        reason: e.to_string(),
    })?;
    let needed = header.data_bytes();
    if skipped < extension as u64 {
        return Err(Error::DataTruncated { found: 0, needed });
    }
    let mut data = Vec::new();
    data.try_reserve_exact(needed)
        .map_err(|_| Error::OutOfMemory { bytes: needed })?;
    // Memory that is reserved costs nothing until bytes come: a header's promise alone takes none.
    let found = source
        .by_ref()
        .take(needed as u64)
        .read_to_end(&mut data)
        .map_err(|e| Error::Gzip {
            reason: e.to_string(),
        })?;
    if found < needed {
        return Err(Error::DataTruncated { found, needed });
    }
    // To the end, so that the checksum is seen too.
    let trailing = std::io::copy(
        &mut source
            .by_ref()
            .take((MAX_TRAILING_BYTES as u64).saturating_add(1)),
        &mut std::io::sink(),
    )
    .map_err(|e| Error::Gzip {
        reason: e.to_string(),
    })?;
    if trailing > MAX_TRAILING_BYTES as u64 {
        return Err(Error::TrailingData {
            max: MAX_TRAILING_BYTES,
        });
    }
    Ok((header, data))
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
