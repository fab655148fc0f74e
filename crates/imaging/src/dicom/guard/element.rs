//! The header of one element: what it says, read from bytes of one order.
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::super::Error;

/// A length that is not told.
pub(super) const UNDEFINED: u32 = 0xffff_ffff;

/// Bytes in one order.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) data: &'a [u8],
    pub(super) big: bool,
}

/// An element's header.
pub(super) struct Element {
    pub(super) tag: Tag,
    pub(super) vr: VR,
    pub(super) length: u32,
    /// Where its value starts.
    pub(super) value: usize,
}

impl Element {
    /// Where its value ends, which must be within `bound`.
    pub(super) fn end(&self, bound: usize) -> Result<usize, Error> {
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

    pub(super) fn tag(self, at: usize) -> Option<Tag> {
        Some(Tag(self.u16(at)?, self.u16(at.checked_add(2)?)?))
    }

    /// The header at `at`, which must end within `bound`.
    pub(super) fn element(self, at: usize, implicit: bool, bound: usize) -> Result<Element, Error> {
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
pub(super) fn is_long(vr: VR) -> bool {
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
pub(super) fn number_bytes(vr: VR) -> u32 {
    match vr {
        VR::OW | VR::SS | VR::US => 2,
        VR::AT | VR::FL | VR::OF | VR::OL | VR::SL | VR::UL => 4,
        VR::FD | VR::OD | VR::OV | VR::SV | VR::UV => 8,
        _ => 1,
    }
}
