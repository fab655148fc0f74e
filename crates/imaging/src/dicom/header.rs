//! A file that passed the guard, to an image: what it shows, how it lies, whose it is.
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries;

use super::guard::{self, Checked, RawPixels};
use super::pixels::Cells;
use super::protocol::{Protocol, item, items, number, numbers, text, whole};
use super::{Error, Identity, Limits, Syntax, caught};

/// The classes of MR images: classic, enhanced, legacy converted enhanced.
const MR: [&str; 3] = [
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
];

/// One file.
pub(super) struct Image {
    pub(super) sop_class: String,
    pub(super) sop_instance: String,
    pub(super) study: String,
    pub(super) series: String,
    pub(super) frame_of_reference: Option<String>,
    pub(super) position_reference: String,
    pub(super) body_part: String,
    pub(super) series_number: Option<i64>,
    pub(super) identity: Identity,
    pub(super) syntax: Syntax,
    pub(super) cells: Cells,
    pub(super) pixels: RawPixels,
    pub(super) frames: Vec<Frame>,
    /// All that the guard let through, if it was to be kept: bytes, since attributes take many times as much.
    pub(super) header: Option<Vec<u8>>,
}

/// One plane of a file.
#[derive(Clone)]
pub(super) struct Frame {
    /// From 1 in an enhanced image, none in a classic one.
    pub(super) number: Option<u32>,
    pub(super) position: Option<[f64; 3]>,
    pub(super) orientation: Option<[f64; 6]>,
    pub(super) spacing: Option<[f64; 2]>,
    pub(super) slope: f64,
    pub(super) intercept: f64,
    pub(super) protocol: Protocol,
}

impl Image {
    /// The same, and keeps all its attributes.
    pub(super) fn read_whole(file: &[u8], limits: &Limits) -> Result<Self, Error> {
        Self::read_with(file, limits, true)
    }

    /// Reads a file: guard, header, and whether its pixels are all there; nothing is decoded.
    pub(super) fn read(file: &[u8], limits: &Limits) -> Result<Self, Error> {
        Self::read_with(file, limits, false)
    }

    fn read_with(file: &[u8], limits: &Limits, keep_header: bool) -> Result<Self, Error> {
        let Checked {
            syntax,
            header,
            pixels,
        } = guard::check(file, limits)?;
        let object = parse(&header, syntax)?;
        let unique = |name, tag| {
            let found = text(&object, tag).ok_or(Error::Missing { name })?;
            guard::uid(name, &found).map(|()| found)
        };
        let sop_class = unique("SOPClassUID", tags::SOP_CLASS_UID)?;
        mr_class(&sop_class)?;
        let sop_instance = unique("SOPInstanceUID", tags::SOP_INSTANCE_UID)?;
        let study = unique("StudyInstanceUID", tags::STUDY_INSTANCE_UID)?;
        let series = unique("SeriesInstanceUID", tags::SERIES_INSTANCE_UID)?;
        let cells = cells(&object, limits)?;
        cells.check(&pixels, syntax)?;
        let frame_of_reference =
            text(&object, tags::FRAME_OF_REFERENCE_UID).filter(|found| guard::is_uid(found));
        let frames = if sop_class == MR[0] {
            vec![classic(&object)]
        } else {
            enhanced(&object, cells.frames)?
        };
        if frames.len() != cells.frames {
            return Err(Error::Attribute {
                name: "NumberOfFrames",
                found: cells.frames as i64,
                rule: "1 in a classic image, and the items of PerFrameFunctionalGroupsSequence in an enhanced one",
            });
        }
        Ok(Self {
            sop_class,
            sop_instance,
            study,
            series,
            frame_of_reference,
            position_reference: text(&object, tags::POSITION_REFERENCE_INDICATOR)
                .unwrap_or_default(),
            body_part: text(&object, tags::BODY_PART_EXAMINED).unwrap_or_default(),
            series_number: whole(&object, tags::SERIES_NUMBER),
            identity: Identity::of(&object),
            syntax,
            cells,
            pixels,
            frames,
            header: keep_header.then_some(header),
        })
    }

    /// All its attributes, if they were to be kept.
    pub(super) fn attributes(&self) -> Result<InMemDicomObject, Error> {
        let header = self.header.as_ref().ok_or(Error::Parse)?;
        parse(header, self.syntax)
    }

    /// The values of a frame, counted from 0: columns run fastest.
    pub(super) fn values(&self, frame: usize, into: &mut Vec<f32>) -> Result<(), Error> {
        let cells = self.cells.decode(&self.pixels, self.syntax, frame)?;
        if let Some(Frame {
            slope, intercept, ..
        }) = self.frames.get(frame)
        {
            self.cells.values(&cells, *slope, *intercept, into);
        }
        Ok(())
    }

    /// Bytes of its pixels as they stand in the file.
    pub(super) fn packed_bytes(&self) -> usize {
        match &self.pixels {
            RawPixels::None => 0,
            RawPixels::Native(bytes) => bytes.len(),
            RawPixels::Fragments { fragments, .. } => fragments
                .iter()
                .fold(0, |sum: usize, f| sum.saturating_add(f.len())),
        }
    }
}

/// Refuses other classes than those of MR images.
pub(super) fn mr_class(uid: &str) -> Result<(), Error> {
    if MR.contains(&uid) {
        return Ok(());
    }
    Err(Error::SopClass {
        uid: uid.to_owned(),
    })
}

/// The cleaned data set that the guard gave.
pub(super) fn parse(header: &[u8], syntax: Syntax) -> Result<InMemDicomObject, Error> {
    let encoding = match syntax {
        Syntax::ImplicitLittle => entries::IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        Syntax::ExplicitBig => entries::EXPLICIT_VR_BIG_ENDIAN.erased(),
        _ => entries::EXPLICIT_VR_LITTLE_ENDIAN.erased(),
    };
    caught("DICOM parser", || {
        InMemDicomObject::read_dataset_with_ts(header, &encoding).map_err(|_| Error::Parse)
    })
}

fn cells(object: &InMemDicomObject, limits: &Limits) -> Result<Cells, Error> {
    let axis = i64::try_from(limits.max_axis).unwrap_or(i64::MAX);
    let count = |name, tag, default: Option<i64>, max: i64, rule| {
        let found = match object.get(tag) {
            Some(_) => whole(object, tag).ok_or(Error::Missing { name })?,
            None => default.ok_or(Error::Missing { name })?,
        };
        if (1..=max).contains(&found) {
            return Ok(found);
        }
        Err(Error::Attribute { name, found, rule })
    };
    let side = "1 to 4096";
    let rows = count("Rows", tags::ROWS, None, axis, side)? as usize;
    let columns = count("Columns", tags::COLUMNS, None, axis, side)? as usize;
    let frames = count(
        "NumberOfFrames",
        tags::NUMBER_OF_FRAMES,
        Some(1),
        axis,
        side,
    )? as usize;
    count(
        "SamplesPerPixel",
        tags::SAMPLES_PER_PIXEL,
        Some(1),
        1,
        "1: colour is not read",
    )?;
    let allocated = count(
        "BitsAllocated",
        tags::BITS_ALLOCATED,
        None,
        32,
        "8, 16 or 32",
    )?;
    if ![8, 16, 32].contains(&allocated) {
        return Err(Error::Attribute {
            name: "BitsAllocated",
            found: allocated,
            rule: "8, 16 or 32",
        });
    }
    let stored = count(
        "BitsStored",
        tags::BITS_STORED,
        None,
        allocated,
        "1 to BitsAllocated",
    )?;
    let last = whole(object, tags::HIGH_BIT).unwrap_or_else(|| stored.saturating_sub(1));
    if !(stored.saturating_sub(1)..allocated).contains(&last) {
        return Err(Error::Attribute {
            name: "HighBit",
            found: last,
            rule: "BitsStored - 1 to BitsAllocated - 1",
        });
    }
    let signed = whole(object, tags::PIXEL_REPRESENTATION).unwrap_or(0);
    if ![0, 1].contains(&signed) {
        return Err(Error::Attribute {
            name: "PixelRepresentation",
            found: signed,
            rule: "0 or 1",
        });
    }
    let grey = text(object, tags::PHOTOMETRIC_INTERPRETATION);
    if !matches!(grey.as_deref(), Some("MONOCHROME1" | "MONOCHROME2")) {
        let name = "PhotometricInterpretation of one grey channel";
        return Err(Error::Missing { name });
    }
    let samples = rows.saturating_mul(columns).saturating_mul(frames);
    if samples > limits.max_samples {
        return Err(Error::TooMuch {
            what: "samples",
            found: samples as u64,
            max: limits.max_samples as u64,
        });
    }
    Ok(Cells {
        rows,
        columns,
        frames,
        allocated: allocated as u32,
        stored: stored as u32,
        high_bit: last as u32,
        signed: signed == 1,
    })
}

fn vector<const N: usize>(object: &InMemDicomObject, tag: Tag) -> Option<[f64; N]> {
    numbers(object, tag)?.try_into().ok()
}

fn classic(object: &InMemDicomObject) -> Frame {
    Frame {
        number: None,
        position: vector(object, tags::IMAGE_POSITION_PATIENT),
        orientation: vector(object, tags::IMAGE_ORIENTATION_PATIENT),
        spacing: vector(object, tags::PIXEL_SPACING),
        slope: number(object, tags::RESCALE_SLOPE).unwrap_or(1.0),
        intercept: number(object, tags::RESCALE_INTERCEPT).unwrap_or(0.0),
        protocol: Protocol::of(object),
    }
}

/// Each functional group is looked for in the frame, then among the shared (PS3.3 C.7.6.16).
fn enhanced(object: &InMemDicomObject, frames: usize) -> Result<Vec<Frame>, Error> {
    let shared = item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    let own = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if own.is_empty() {
        let name = "PerFrameFunctionalGroupsSequence";
        return Err(Error::Missing { name });
    }
    let mut common = Protocol::of(object);
    if let Some(shared) = shared {
        common.refine(shared);
    }
    let frame = |(n, own): (usize, &InMemDicomObject)| {
        let group = |tag| item(own, tag).or_else(|| item(shared?, tag));
        let measures = group(tags::PIXEL_MEASURES_SEQUENCE);
        let place = group(tags::PLANE_POSITION_SEQUENCE);
        let plane = group(tags::PLANE_ORIENTATION_SEQUENCE);
        let transform = group(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
        let rescale = |tag| transform.and_then(|transform| number(transform, tag));
        let mut protocol = common.clone();
        protocol.refine(own);
        // The frames' order is not that of the slices, so no gap can be seen in it.
        protocol.instance = None;
        Frame {
            number: u32::try_from(n.saturating_add(1)).ok(),
            position: place.and_then(|place| vector(place, tags::IMAGE_POSITION_PATIENT)),
            orientation: plane.and_then(|plane| vector(plane, tags::IMAGE_ORIENTATION_PATIENT)),
            spacing: measures.and_then(|measures| vector(measures, tags::PIXEL_SPACING)),
            slope: rescale(tags::RESCALE_SLOPE).unwrap_or(1.0),
            intercept: rescale(tags::RESCALE_INTERCEPT).unwrap_or(0.0),
            protocol,
        }
    };
    Ok(own
        .iter()
        .take(frames.saturating_add(1))
        .enumerate()
        .map(frame)
        .collect())
}
