//! The walk over a data set: its own stack of sequences and items, and the copy that is handed on.
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::super::{Error, Limits, Syntax};
use super::element::{Bytes, Element, UNDEFINED, number_bytes};
use super::{RawPixels, is_uid, trimmed, within};

const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);
/// Nothing that is wanted of a header is longer.
const LONGEST_KEPT: usize = 64 << 10;

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

/// What has been passed, and what was kept of it.
pub(super) struct Walk<'a> {
    data: &'a [u8],
    syntax: Syntax,
    limits: &'a Limits,
    at: usize,
    count: usize,
    open: Vec<Open>,
    /// What is kept of the data set so far.
    pub(super) header: Vec<u8>,
    pub(super) pixels: RawPixels,
    /// (0020,000E), once it was passed.
    pub(super) series: Option<String>,
}

impl<'a> Walk<'a> {
    /// Before the first element.
    pub(super) fn new(data: &'a [u8], syntax: Syntax, limits: &'a Limits) -> Self {
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
    pub(super) fn step(&mut self) -> Result<bool, Error> {
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
