//! The guard: one walk over a file's bytes, before anything else is done with them.
//!
//! It keeps its own stack, so that no nesting can exhaust the thread's, and allocates only by bytes that are
//! there. What it hands on is a copy of the data set without what can harm or is not wanted: private groups,
//! elements of VR UN (one of undefined length holds implicit little endian items, CP-246, which `dicom-object`
//! misreads), numbers that are cut off (it takes what is left of them for the next element, and what stands there
//! for a length of gigabytes), overlays, anything longer than 64 KiB and the pixels, which are returned apart.
//! Sequences and items of the copy have undefined length.
mod element;
mod walk;

use std::borrow::Cow;
use std::io::Read;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::{Error, Limits, Syntax};
use element::Bytes;
use walk::Walk;

/// Below this, a deflated data set may be packed however well.
const FREE_INFLATED_BYTES: usize = 16 << 20;
/// The most that deflate packs what is no bomb.
const MAX_RATIO: usize = 200;

/// A file that passed.
pub(super) struct Checked {
    pub(super) syntax: Syntax,
    /// The cleaned data set, in the byte order and VR encoding of `syntax`, never deflated.
    pub(super) header: Vec<u8>,
    pub(super) pixels: RawPixels,
}

/// Pixel data as they stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RawPixels {
    None,
    Native(Vec<u8>),
    Fragments {
        /// The basic offset table, often empty.
        offsets: Vec<u32>,
        fragments: Vec<Vec<u8>>,
    },
}

pub(super) fn check(file: &[u8], limits: &Limits) -> Result<Checked, Error> {
    within("bytes of the file", file.len(), limits.max_file_bytes)?;
    let not_dicom = Error::NotDicom { bytes: file.len() };
    if file.get(128..132) != Some(b"DICM") {
        return Err(not_dicom);
    }
    let (syntax, start) = meta(file)?;
    clean(file.get(start..).unwrap_or_default(), syntax, limits)
}

/// A data set by itself, without a file around it.
pub(super) fn clean(data: &[u8], syntax: Syntax, limits: &Limits) -> Result<Checked, Error> {
    within("bytes of the data set", data.len(), limits.max_file_bytes)?;
    let data = unpacked(data, syntax, limits)?;
    let mut walk = Walk::new(&data, syntax, limits);
    while walk.step()? {}
    Ok(Checked {
        syntax,
        header: walk.header,
        pixels: walk.pixels,
    })
}

/// The series that a damaged file is of, if it says so before its damage.
pub(super) fn series(file: &[u8], limits: &Limits) -> Option<String> {
    let (syntax, start) = meta(file).ok()?;
    let data = unpacked(file.get(start..)?, syntax, limits).ok()?;
    let mut walk = Walk::new(&data, syntax, limits);
    while walk.series.is_none() && matches!(walk.step(), Ok(true)) {}
    walk.series
}

fn within(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
    if found > max {
        let (found, max) = (found as u64, max as u64);
        return Err(Error::TooMuch { what, found, max });
    }
    Ok(())
}

/// The transfer syntax, and where the data set starts.
fn meta(file: &[u8]) -> Result<(Syntax, usize), Error> {
    let mut syntax = None;
    let start = meta_elements(file, |tag, value| {
        match tag {
            tags::TRANSFER_SYNTAX_UID => syntax = Some(trimmed(value)),
            tags::MEDIA_STORAGE_SOP_CLASS_UID => {
                let class = trimmed(value);
                uid("MediaStorageSOPClassUID", &class)?;
                // What is of no use need not be readable.
                super::header::mr_class(&class)?;
            }
            tags::MEDIA_STORAGE_SOP_INSTANCE_UID => {
                uid("MediaStorageSOPInstanceUID", &trimmed(value))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let name = "TransferSyntaxUID";
    let text = syntax.ok_or(Error::Missing { name })?;
    uid(name, &text)?;
    let syntax = Syntax::parse(&text).ok_or(Error::Syntax { uid: text })?;
    Ok((syntax, start))
}

/// Shows each element of the file meta information, and says where it ends: explicit little endian, up to the
/// first element of another group, whatever (0002,0000) says.
fn meta_elements(
    file: &[u8],
    mut see: impl FnMut(Tag, &[u8]) -> Result<(), Error>,
) -> Result<usize, Error> {
    let mut at = 132;
    let bytes = Bytes {
        data: file,
        big: false,
    };
    while bytes.tag(at).is_some_and(|tag| tag.group() == 2) {
        let element = bytes.element(at, false, file.len())?;
        let end = element.end(file.len())?;
        see(
            element.tag,
            file.get(element.value..end).unwrap_or_default(),
        )?;
        at = end;
    }
    Ok(at)
}

/// The class and the instance that a file's meta information names.
pub(super) fn announced(file: &[u8]) -> Option<(String, String)> {
    if file.get(128..132) != Some(b"DICM") {
        return None;
    }
    let (mut class, mut instance) = (None, None);
    // A file that is cut off behind its names still has them.
    let _end = meta_elements(file, |tag, value| {
        let text = trimmed(value);
        match tag {
            tags::MEDIA_STORAGE_SOP_CLASS_UID => class = Some(text),
            tags::MEDIA_STORAGE_SOP_INSTANCE_UID => instance = Some(text),
            _ => {}
        }
        Ok(())
    });
    class
        .zip(instance)
        .filter(|(class, instance)| is_uid(class) && is_uid(instance))
}

/// Text without its padding.
fn trimmed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value.get(..value.len().min(256)).unwrap_or_default());
    text.trim_matches(['\0', ' ']).to_owned()
}

/// Whether a text can be a UID: digits and dots, 1 to 64 (PS3.5 section 9.1).
#[must_use]
pub fn is_uid(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_digit() || b == b'.';
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

pub(super) fn uid(name: &'static str, text: &str) -> Result<(), Error> {
    if is_uid(text) {
        return Ok(());
    }
    Err(Error::Uid { name })
}

/// A data set that is not deflated, or no more.
fn unpacked<'a>(data: &'a [u8], syntax: Syntax, limits: &Limits) -> Result<Cow<'a, [u8]>, Error> {
    if syntax == Syntax::Deflated {
        inflate(data, limits).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(data))
    }
}

fn inflate(packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Error> {
    let mut reader = flate2::read::DeflateDecoder::new(packed);
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let most = packed
        .len()
        .saturating_mul(MAX_RATIO)
        .max(FREE_INFLATED_BYTES)
        .min(limits.max_file_bytes);
    loop {
        let read = reader.read(&mut chunk).map_err(|_| Error::Deflate)?;
        if read == 0 {
            return Ok(all);
        }
        all.extend_from_slice(chunk.get(..read).unwrap_or_default());
        within("bytes that the data set inflates to", all.len(), most)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::element::is_long;
    use super::*;
    use crate::dicom::synthetic::{EXPLICIT, Slice, element, file, text};

    fn checked(data: &[u8]) -> Result<Checked, Error> {
        check(&file(EXPLICIT, data), &Limits::CLINICAL)
    }

    /// A sequence or item of undefined length around `inside`, without its end.
    fn open(tag: [u8; 4], vr: &[u8]) -> Vec<u8> {
        [&tag[..], vr, &[0xff; 4]].concat()
    }

    const SQ: [u8; 4] = [0x40, 0, 0x30, 0xa7];
    const ITEM: [u8; 4] = [0xfe, 0xff, 0, 0xe0];
    const ENDS: [u8; 16] = [
        0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
    ];

    fn nested(depth: usize) -> Vec<u8> {
        let begin = [open(SQ, b"SQ\0\0"), open(ITEM, b"")].concat();
        [begin.repeat(depth), ENDS.repeat(depth)].concat()
    }

    #[test]
    fn depth_is_counted_up_to_its_limit() {
        assert!(checked(&nested(16)).is_ok());
        assert!(matches!(
            checked(&nested(17)),
            Err(Error::TooMuch {
                found: 17,
                max: 16,
                ..
            })
        ));
        let open = &nested(5)[..12];
        assert!(matches!(checked(open), Err(Error::Structure { .. })));
    }

    #[test]
    fn private_elements_and_unknown_ones_are_left_out_of_the_copy() {
        let kept = text((0x10, 0x10), b"PN", "Doe^Jane");
        let private = element((0x9, 0x1001), b"LO", b"secret");
        let unknown = element((0x8, 0x9999), b"UN", b"what");
        // CP-246: implicit little endian items within.
        let item = [
            &open(ITEM, b"")[..],
            &[9, 0, 2, 0x10, 4, 0, 0, 0],
            b"abcd",
            &ENDS,
        ]
        .concat();
        let undefined = [open([9, 0, 1, 0x10], b"UN\0\0"), item].concat();
        let data = [undefined, private, unknown, kept.clone()].concat();
        assert_eq!(checked(&data).unwrap().header, kept);
    }

    #[test]
    fn numbers_that_are_cut_off_are_left_out_of_the_copy() {
        let kept = [
            element((0x18, 0x1271), b"FD", &[0; 16]),
            text((0x20, 0xd), b"UI", "1.2"),
        ]
        .concat();
        for (vr, length) in [
            ("US", 3_u16),
            ("SS", 1),
            ("OW", 5),
            ("FL", 6),
            ("AT", 2),
            ("SL", 7),
            ("UL", 10),
            ("OF", 6),
            ("OL", 2),
            ("FD", 12),
            ("OD", 4),
            ("OV", 6),
            ("SV", 9),
            ("UV", 20),
        ] {
            let mut cut = [&[0x18, 0, 0x72, 0x12], vr.as_bytes()].concat();
            if is_long(vr.parse().unwrap()) {
                cut.extend_from_slice(&[0, 0]);
                cut.extend_from_slice(&u32::from(length).to_le_bytes());
            } else {
                cut.extend_from_slice(&length.to_le_bytes());
            }
            cut.resize(cut.len() + usize::from(length), b'A');
            let header = checked(&[&cut[..], &kept].concat()).unwrap().header;
            assert_eq!(header, kept, "{vr}");
        }
    }

    #[test]
    fn sequences_of_known_length_are_copied_with_delimiters() {
        let inner = text((0x8, 0x1150), b"UI", "1.2");
        let item = [&ITEM[..], &(inner.len() as u32).to_le_bytes(), &inner].concat();
        let found = checked(&element((0x40, 0xa730), b"SQ", &item))
            .unwrap()
            .header;
        let wanted = [open(SQ, b"SQ\0\0"), open(ITEM, b""), inner, ENDS.to_vec()].concat();
        assert_eq!(found, wanted);
    }

    #[test]
    fn uids_are_digits_and_dots() {
        assert!(uid("x", "1.2.840").is_ok());
        for wrong in ["", "../../etc", "1.2 ", &"1".repeat(65)] {
            assert_eq!(uid("x", wrong), Err(Error::Uid { name: "x" }), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_length_that_lies_is_seen_wherever_it_stands(at in 0_usize..30, more in 1_u16..60000) {
            let parts: Vec<Vec<u8>> = (0..30).map(|n| text((8, 0x100 + n), b"LO", "text")).collect();
            let mut data = parts.concat();
            let lie = 12 * at + 6;
            let left = data.len() - 12 * at - 8;
            let length = left as u16 + more;
            data[lie..lie + 2].copy_from_slice(&length.to_le_bytes());
            let refused = matches!(checked(&data), Err(Error::Structure { .. }));
            prop_assert!(refused);
        }

        #[test]
        fn no_bytes_panic(changes in prop::collection::vec((132_usize..900, any::<u8>()), 1..12)) {
            let mut bytes = Slice::at(1).file();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let _image = crate::dicom::header::Image::read(&bytes, &Limits::CLINICAL);
        }
    }
}
