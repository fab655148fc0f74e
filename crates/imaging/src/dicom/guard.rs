//! The guard: one walk over a file's bytes, before anything else is done with them.
//!
//! It keeps its own stack, so that no nesting can exhaust the thread's, and allocates only by bytes that are
//! there. What it hands on is a copy of the data set without what can harm or is not wanted: private groups,
//! elements of VR UN (one of undefined length holds implicit little endian items, CP-246, which `dicom-object`
//! misreads), numbers that are cut off (it takes what is left of them for the next element, and what stands there
//! for a length of gigabytes), overlays, anything longer than 64 KiB and the pixels, which are returned apart.
//! Sequences and items of the copy have undefined length.
use std::io::Read;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::{Error, Limits, Syntax};

const UNDEFINED: u32 = 0xffff_ffff;
const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);
/// Nothing that is wanted of a header is longer.
const LONGEST_KEPT: usize = 64 << 10;
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
    if syntax == Syntax::Deflated {
        walk(&inflate(data, limits)?, syntax, limits)
    } else {
        walk(data, syntax, limits)
    }
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
    let plain = |text: &String| uid("", text).is_ok();
    class
        .zip(instance)
        .filter(|(class, instance)| plain(class) && plain(instance))
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

/// Bytes in one order.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    data: &'a [u8],
    big: bool,
}

/// An element's header.
struct Element {
    tag: Tag,
    vr: VR,
    length: u32,
    /// Where its value starts.
    value: usize,
}

impl Element {
    /// Where its value ends, which must be within `bound`.
    fn end(&self, bound: usize) -> Result<usize, Error> {
        let at = self.value;
        let end = usize::try_from(self.length)
            .ok()
            .and_then(|n| at.checked_add(n))
            .filter(|&end| end <= bound && self.length != UNDEFINED);
        let reason = "a length reaches beyond what holds the element";
        end.ok_or(Error::Structure { at, reason })
    }
}

impl Bytes<'_> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.data.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(self, at: usize) -> Option<u16> {
        let bytes = self.array(at)?;
        Some(if self.big {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn u32(self, at: usize) -> Option<u32> {
        let bytes = self.array(at)?;
        Some(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn tag(self, at: usize) -> Option<Tag> {
        Some(Tag(self.u16(at)?, self.u16(at.checked_add(2)?)?))
    }

    /// The header at `at`, which must end within `bound`.
    fn element(self, at: usize, implicit: bool, bound: usize) -> Result<Element, Error> {
        let short = Error::Structure {
            at,
            reason: "an element's header is cut off",
        };
        let header = || -> Option<Result<Element, Error>> {
            let tag = self.tag(at)?;
            let fourth = at.checked_add(4)?;
            if implicit || tag.group() == 0xfffe {
                let (length, value) = (self.u32(fourth)?, at.checked_add(8)?);
                let vr = implicit_vr(tag, length);
                return Some(Ok(Element {
                    tag,
                    vr,
                    length,
                    value,
                }));
            }
            let letters: [u8; 2] = self.array(fourth)?;
            let Some(vr) = VR::from_binary(letters) else {
                let reason = "an element has no known value representation";
                return Some(Err(Error::Structure { at, reason }));
            };
            let (length, value) = if is_long(vr) {
                (self.u32(at.checked_add(8)?)?, at.checked_add(12)?)
            } else {
                (u32::from(self.u16(at.checked_add(6)?)?), at.checked_add(8)?)
            };
            Some(Ok(Element {
                tag,
                vr,
                length,
                value,
            }))
        };
        match header() {
            Some(Ok(element)) if element.value <= bound => Ok(element),
            Some(Err(error)) => Err(error),
            _ => Err(short),
        }
    }
}

/// The VR that the standard's dictionary gives a tag; what it does not know and has no length is a sequence.
fn implicit_vr(tag: Tag, length: u32) -> VR {
    let known = StandardDataDictionary
        .by_tag(tag)
        .map(DataDictionaryEntry::vr);
    match known {
        Some(VirtualVr::Exact(vr)) => vr,
        Some(_) => VR::OW,
        None if length == UNDEFINED => VR::SQ,
        None => VR::UN,
    }
}

/// Explicit VRs with a length of 32 bits (PS3.5 table 7.1-1).
fn is_long(vr: VR) -> bool {
    matches!(
        vr,
        VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV
    )
}

/// Bytes of one number of a VR (PS3.5 table 6.2-1); 1 for text and bytes.
fn number_bytes(vr: VR) -> u32 {
    match vr {
        VR::OW | VR::SS | VR::US => 2,
        VR::AT | VR::FL | VR::OF | VR::OL | VR::SL | VR::UL => 4,
        VR::FD | VR::OD | VR::OV | VR::SV | VR::UV => 8,
        _ => 1,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Item,
}

/// A sequence or item that has begun.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the encoding by itself"
)]
#[derive(Clone, Copy)]
struct Open {
    kind: Kind,
    /// Where it ends, or the latest where it can.
    bound: usize,
    /// Whether its length is known: then it ends at `bound`, else at a delimiter.
    defined: bool,
    implicit: bool,
    big: bool,
    /// Whether it goes into the copy.
    kept: bool,
}

/// The series that a damaged file is of, if it says so before its damage.
pub(super) fn series(file: &[u8], limits: &Limits) -> Option<String> {
    let (syntax, start) = meta(file).ok()?;
    let inflated;
    let mut data = file.get(start..)?;
    if syntax == Syntax::Deflated {
        inflated = inflate(data, limits).ok()?;
        data = &inflated;
    }
    let mut walk = Walk::new(data, syntax, limits);
    while walk.series.is_none() && matches!(walk.step(), Ok(true)) {}
    walk.series
}

fn walk(data: &[u8], syntax: Syntax, limits: &Limits) -> Result<Checked, Error> {
    let mut walk = Walk::new(data, syntax, limits);
    while walk.step()? {}
    Ok(Checked {
        syntax,
        header: walk.header,
        pixels: walk.pixels,
    })
}

struct Walk<'a> {
    data: &'a [u8],
    syntax: Syntax,
    limits: &'a Limits,
    at: usize,
    count: usize,
    open: Vec<Open>,
    header: Vec<u8>,
    pixels: RawPixels,
    /// (0020,000E), once it was passed.
    series: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(data: &'a [u8], syntax: Syntax, limits: &'a Limits) -> Self {
        Self {
            data,
            syntax,
            limits,
            at: 0,
            count: 0,
            open: Vec::new(),
            header: Vec::new(),
            pixels: RawPixels::None,
            series: None,
        }
    }

    fn wrong<T>(&self, reason: &'static str) -> Result<T, Error> {
        Err(Error::Structure {
            at: self.at,
            reason,
        })
    }

    /// The next element, item or delimiter; false at the end.
    fn step(&mut self) -> Result<bool, Error> {
        let root = Open {
            kind: Kind::Item,
            bound: self.data.len(),
            defined: true,
            implicit: self.syntax.is_implicit(),
            big: self.syntax.is_big(),
            kept: true,
        };
        let top = self.open.last().copied();
        let within_what = top.unwrap_or(root);
        if within_what.defined && self.at == within_what.bound {
            if top.is_none() {
                return Ok(false);
            }
            self.close(within_what);
            return Ok(true);
        }
        self.count = self.count.saturating_add(1);
        within("elements and items", self.count, self.limits.max_elements)?;
        let bytes = Bytes {
            data: self.data,
            big: within_what.big,
        };
        let element = bytes.element(self.at, within_what.implicit, within_what.bound)?;
        match (element.tag, within_what.kind, top.is_some()) {
            (ITEM, Kind::Sequence, _) => self.begin(Kind::Item, &element, within_what)?,
            (SEQUENCE_END, Kind::Sequence, true) | (ITEM_END, Kind::Item, true) => {
                if within_what.defined || element.length != 0 {
                    return self.wrong("a delimiter where none may be");
                }
                self.at = element.value;
                self.close(within_what);
            }
            (Tag(0xfffe, _), ..) => return self.wrong("a delimiter or item where none may be"),
            (_, Kind::Sequence, _) => return self.wrong("an element between items"),
            (_, Kind::Item, _) => self.element(&element, within_what, top.is_none())?,
        }
        Ok(true)
    }

    fn element(&mut self, element: &Element, inside: Open, at_root: bool) -> Result<(), Error> {
        if element.tag == tags::PIXEL_DATA && at_root {
            return self.pixel_data(element, inside);
        }
        let private = element.tag.group() & 1 == 1;
        let wanted = inside.kept && !private && element.vr != VR::UN;
        if element.vr == VR::SQ || (element.vr == VR::UN && element.length == UNDEFINED) {
            let mut child = inside;
            child.kept = wanted;
            if element.vr == VR::UN {
                // CP-246: what was written by one who did not know the VR is implicit little endian.
                (child.implicit, child.big) = (true, false);
            }
            if wanted {
                self.copy(element.tag, Some(VR::SQ), inside);
            }
            return self.begin(Kind::Sequence, element, child);
        }
        let end = element.end(inside.bound)?;
        if element.tag == tags::SERIES_INSTANCE_UID && at_root {
            let text = trimmed(self.data.get(element.value..end).unwrap_or_default());
            self.series = is_uid(&text).then_some(text);
        }
        let short = end.saturating_sub(self.at) <= LONGEST_KEPT;
        let whole_numbers = element.length.is_multiple_of(number_bytes(element.vr));
        let overlay = (0x5000..0x7fe0).contains(&element.tag.group());
        if wanted && short && whole_numbers && !overlay && element.tag != tags::PIXEL_DATA {
            let whole = self.data.get(self.at..end).unwrap_or_default();
            self.header.extend_from_slice(whole);
        }
        self.at = end;
        Ok(())
    }

    fn begin(&mut self, kind: Kind, element: &Element, parent: Open) -> Result<(), Error> {
        // A sequence and its item are one level.
        let depth = (self.open.len() / 2).saturating_add(1);
        within("sequences within one another", depth, self.limits.max_depth)?;
        let defined = element.length != UNDEFINED;
        let bound = if defined {
            element.end(parent.bound)?
        } else {
            parent.bound
        };
        if kind == Kind::Item && parent.kept {
            self.copy(ITEM, None, parent);
        }
        self.open.push(Open {
            kind,
            bound,
            defined,
            ..parent
        });
        self.at = element.value;
        Ok(())
    }

    fn close(&mut self, ended: Open) {
        self.open.pop();
        if ended.kept {
            let (tag, length) = match ended.kind {
                Kind::Sequence => (SEQUENCE_END, 0),
                Kind::Item => (ITEM_END, 0),
            };
            self.tag(tag, ended.big);
            self.number(length, ended.big);
        }
    }

    /// The header of a sequence or item of undefined length.
    fn copy(&mut self, tag: Tag, vr: Option<VR>, inside: Open) {
        self.tag(tag, inside.big);
        if let (Some(vr), false) = (vr, inside.implicit) {
            self.header.extend_from_slice(vr.to_string().as_bytes());
            self.header.extend_from_slice(&[0, 0]);
        }
        self.number(UNDEFINED, inside.big);
    }

    fn tag(&mut self, tag: Tag, big: bool) {
        for half in [tag.group(), tag.element()] {
            let bytes = if big {
                half.to_be_bytes()
            } else {
                half.to_le_bytes()
            };
            self.header.extend_from_slice(&bytes);
        }
    }

    fn number(&mut self, number: u32, big: bool) {
        let bytes = if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        };
        self.header.extend_from_slice(&bytes);
    }

    fn pixel_data(&mut self, element: &Element, inside: Open) -> Result<(), Error> {
        if self.pixels != RawPixels::None {
            return self.wrong("pixel data for a second time");
        }
        if element.vr != VR::OB && element.vr != VR::OW {
            return self.wrong("pixel data of another kind than OB and OW");
        }
        if element.length != UNDEFINED {
            let end = element.end(inside.bound)?;
            let bytes = self.data.get(element.value..end).unwrap_or_default();
            self.pixels = RawPixels::Native(bytes.to_vec());
            self.at = end;
            return Ok(());
        }
        if !self.syntax.is_encapsulated() {
            return self.wrong("pixel data of undefined length in a syntax without fragments");
        }
        self.at = element.value;
        self.pixels = self.fragments()?;
        Ok(())
    }

    fn fragments(&mut self) -> Result<RawPixels, Error> {
        let bytes = Bytes {
            data: self.data,
            big: false,
        };
        let mut offsets = None;
        let mut fragments = Vec::new();
        loop {
            let item = bytes.element(self.at, true, self.data.len())?;
            if item.tag == SEQUENCE_END && item.length == 0 {
                self.at = item.value;
                let offsets = offsets.unwrap_or_default();
                return Ok(RawPixels::Fragments { offsets, fragments });
            }
            if item.tag != ITEM {
                return self.wrong("something else than a fragment among fragments");
            }
            let end = item.end(self.data.len())?;
            let value = self.data.get(item.value..end).unwrap_or_default();
            if offsets.is_none() {
                let words = value.chunks_exact(4).take(self.limits.max_fragments);
                let word = |w: &[u8]| w.try_into().map_or(0, u32::from_le_bytes);
                offsets = Some(words.map(word).collect::<Vec<u32>>());
            } else {
                fragments.push(value.to_vec());
            }
            within("fragments", fragments.len(), self.limits.max_fragments)?;
            self.at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
