//! A study as a zip archive: its members' bytes, and nothing else of it; and images packed into one.
//!
//! Names are not read, so none can lead out of a folder or tell whose images they are. What the directory
//! promises is held against the limits before anything is unpacked, and every member against its promise.
use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::{Error, Limits};

/// The most bytes unpacked for one packed, counted over the whole archive.
const MAX_RATIO: usize = 100;

/// Below this, an archive may be packed however well: air packs a thousandfold.
const FREE_BYTES: usize = 64 << 20;

/// The members of an archive, in its order; folders and empty files are left out. [`Limits::max_files`] counts
/// folders among the members.
///
/// # Errors
/// [`Error::TooMuch`], [`Error::Archive`] for a damaged or encrypted archive and for one within another.
pub fn members(zip: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>, Error> {
    let damaged = Error::Archive {
        reason: "it is damaged",
    };
    let opened = super::caught("zip reader", || {
        ZipArchive::new(Cursor::new(zip)).map_err(|_| damaged.clone())
    });
    let mut archive = opened?;
    let max = limits.max_files;
    if archive.len() > max {
        return Err(Error::TooMuch {
            what: "members of the zip archive",
            found: archive.len() as u64,
            max: max as u64,
        });
    }
    let most = zip
        .len()
        .saturating_mul(MAX_RATIO)
        .max(FREE_BYTES)
        .min(limits.max_study_bytes);
    let mut left = most;
    let mut all = Vec::new();
    for n in 0..archive.len() {
        let member = super::caught("zip reader", || member(&mut archive, n, left))?;
        let Some(member) = member else {
            return Err(Error::TooMuch {
                what: "bytes that the zip archive unpacks to",
                found: (most as u64).saturating_add(1),
                max: most as u64,
            });
        };
        left = left.saturating_sub(member.len());
        if member.starts_with(b"PK\x03\x04") {
            let reason = "it holds another archive";
            return Err(Error::Archive { reason });
        }
        if !member.is_empty() {
            all.push(member);
        }
    }
    Ok(all)
}

/// The bytes of a member; none if they are more than `most`.
fn member(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    n: usize,
    most: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let reason = "a member is damaged, encrypted or packed in a way that is not read";
    let damaged = |_| Error::Archive { reason };
    let member = archive.by_index(n).map_err(|_| Error::Archive { reason })?;
    if member.is_dir() {
        return Ok(Some(Vec::new()));
    }
    if member.size() > most as u64 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let one_more = (most as u64).saturating_add(1);
    member
        .take(one_more)
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    Ok((bytes.len() <= most).then_some(bytes))
}

/// An archive of members, each with its name: the same bytes for the same members.
///
/// # Errors
/// [`Error::Fault`] if it cannot be written: names twice, or more than a zip holds.
pub fn packed<N: AsRef<str>, B: AsRef<[u8]>>(
    members: impl IntoIterator<Item = (N, B)>,
) -> Result<Vec<u8>, Error> {
    // The moment of a member is left at the format's first one.
    let options = SimpleFileOptions::default();
    let write = || -> zip::result::ZipResult<Vec<u8>> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            writer.start_file(name.as_ref(), options)?;
            writer.write_all(bytes.as_ref())?;
        }
        Ok(writer.finish()?.into_inner())
    };
    write().map_err(|_| Error::Fault { part: "zip writer" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
        super::packed(members.iter().copied()).unwrap()
    }

    #[test]
    fn names_do_not_matter_and_empty_members_are_left_out() {
        let zip = packed(&[("../../etc/passwd", b"one"), ("a/", b""), ("b", b"two")]);
        let found = members(&zip, &Limits::CLINICAL).unwrap();
        assert_eq!(found, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn an_archive_within_an_archive_is_refused() {
        let inner = packed(&[("x", b"y")]);
        let found = members(&packed(&[("inner", &inner)]), &Limits::CLINICAL);
        assert!(matches!(found, Err(Error::Archive { reason }) if reason.contains("another")));
    }

    #[test]
    fn more_members_or_bytes_than_the_limits_are_refused() {
        let zip = packed(&[("a", &[0; 1000]), ("b", &[0; 1000])]);
        let limits = |max_files, max_study_bytes| Limits {
            max_files,
            max_study_bytes,
            ..Limits::CLINICAL
        };
        assert_eq!(members(&zip, &limits(2, 2000)).unwrap().len(), 2);
        let too_much =
            |found: Result<Vec<Vec<u8>>, Error>| matches!(found, Err(Error::TooMuch { .. }));
        assert!(too_much(members(&zip, &limits(1, 2000))));
        assert!(too_much(members(&zip, &limits(2, 1999))));
    }

    #[test]
    fn a_bomb_is_refused_by_its_ratio() {
        let zip = packed(&[("bomb", &vec![0; 80 << 20])]);
        assert!(zip.len() < 1 << 20);
        let found = members(&zip, &Limits::CLINICAL);
        assert!(matches!(found, Err(Error::TooMuch { .. })));
    }
}
