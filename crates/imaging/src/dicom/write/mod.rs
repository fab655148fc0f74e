//! What was found, as DICOM objects: segmentations, measurements, a page to read, and pictures.
//!
//! Values in, the bytes of Part 10 files out: no clock and no file, so that a repeated job gives the same
//! bytes under the same identifiers. Everything lies on the slices of the source FLAIR and names them, the
//! network and its SHA-256. The objects and their rules:
//!
//! - [`Kind::Burden`]: BINARY Segmentation (PS3.3 A.51), one segment for all lesions and one for each
//!   region that has any;
//! - [`Kind::EachLesion`]: the same with one segment per lesion;
//! - [`Kind::LabelMap`]: Label Map Segmentation, for archives that take it;
//! - [`Kind::Measurements`]: Comprehensive 3D SR by TID 1500 (PS3.16);
//! - [`Kind::Document`]: Encapsulated PDF (PS3.3 A.45.1), one page;
//! - [`Kind::Capture`]: Secondary Capture images (PS3.3 A.8.1) with the outlines drawn in.
//!
//! Nothing here reads what it did not write: the bytes from outside end in the rooms beside this one.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "all sizes come from a grid that was checked when it was made, none from a file"
)]

mod capture;
mod codes;
mod dataset;
mod findings;
mod modules;
mod page;
mod pdf;
mod place;
mod seg;
mod sr;
mod uid;

use dicom_dictionary_std::uids;
use sha2::{Digest, Sha256};

use crate::grid::{Grid, GridError};
use crate::lesions::Lesion;
use crate::preview;
use crate::regions::Region;
use crate::volume::Volume;

use place::{grid_of, on_grid};

pub use capture::Captured;
pub(super) use dataset::meta;
pub use findings::{Findings, Flag, MadeBy, Model, Moment};
pub(super) use modules::TYPE_2;
pub use uid::Uid;

/// Stands on every page and picture, and in every segmentation and report.
pub const NOTICE: &str = "Research software. Not for diagnostic use.";

/// Why an object was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source describes no grid.
    #[error("the source series makes no grid: {0}")]
    SourceGrid(GridError),
    /// A slice does not lie where an even stack has it.
    #[error("slice {slice} of the source lies {off_mm:.3} mm from its place in an even stack")]
    SourceSlice {
        /// From 0, in the source's order.
        slice: usize,
        /// How far away.
        off_mm: f64,
    },
    /// Volumes are not on the source's voxels.
    #[error("the {what} is not on the source's grid: {found:?} voxels, its box {off_mm:.3} mm off")]
    Grid {
        /// `lesions` or `FLAIR`.
        what: &'static str,
        /// The shape of what was given.
        found: [usize; 3],
        /// How far a corner of its box is from the source's.
        off_mm: f64,
    },
    /// As many places as lesions, or none, must be given.
    #[error("{places} places for {lesions} lesions")]
    Places {
        /// Given.
        places: usize,
        /// Found.
        lesions: usize,
    },
    /// A segment's number is 16 bits.
    #[error("{lesions} lesions are more than the {most} segments of an object")]
    TooManyLesions {
        /// Found.
        lesions: usize,
        /// The most that can be numbered.
        most: usize,
    },
    /// Not a date and time of day.
    #[error("{text:?} is not a moment as YYYYMMDDHHMMSS")]
    Moment {
        /// What was given.
        text: String,
    },
    /// A picture could not be drawn.
    #[error("no picture: {0}")]
    Picture(preview::Error),
    /// The encoder refused the object.
    #[error("{kind:?} could not be encoded: {what}")]
    Encode {
        /// Which object.
        kind: Kind,
        /// What the encoder says.
        what: String,
    },
}

/// Which object of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Segmentation of all lesions, and of those of each region.
    Burden,
    /// Segmentation with a segment for each lesion.
    EachLesion,
    /// Label map with a label for each lesion.
    LabelMap,
    /// Measurements.
    Measurements,
    /// A page to read.
    Document,
    /// A slice with outlines.
    Capture,
}

impl Kind {
    /// Every kind, in the order of their series' numbers.
    pub const ALL: [Self; 6] = [
        Self::Burden,
        Self::EachLesion,
        Self::LabelMap,
        Self::Measurements,
        Self::Document,
        Self::Capture,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Burden => "dicom_seg",
            Self::EachLesion => "dicom_seg_lesions",
            Self::LabelMap => "dicom_seg_labelmap",
            Self::Measurements => "dicom_sr",
            Self::Document => "dicom_pdf",
            Self::Capture => "dicom_sc",
        }
    }

    /// SOP Class UID (PS3.4 B.5).
    #[must_use]
    pub fn sop_class_uid(self) -> &'static str {
        match self {
            Self::Burden | Self::EachLesion => uids::SEGMENTATION_STORAGE,
            Self::LabelMap => uids::LABEL_MAP_SEGMENTATION_STORAGE,
            Self::Measurements => uids::COMPREHENSIVE3_DSR_STORAGE,
            Self::Document => uids::ENCAPSULATED_PDF_STORAGE,
            Self::Capture => uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
        }
    }

    /// Modality (PS3.3 C.7.3.1.1.1).
    #[must_use]
    pub fn modality(self) -> &'static str {
        match self {
            Self::Burden | Self::EachLesion | Self::LabelMap => "SEG",
            Self::Measurements => "SR",
            Self::Document => "DOC",
            Self::Capture => "MR",
        }
    }

    /// Series Number; high, so that results stand behind what the scanner made.
    #[must_use]
    pub fn series_number(self) -> usize {
        901 + self as usize
    }

    /// Series Description.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Burden => "Dawson MS lesions",
            Self::EachLesion => "Dawson MS lesions, one segment each",
            Self::LabelMap => "Dawson MS lesions, label map",
            Self::Measurements => "Dawson MS lesion measurements",
            Self::Document => "Dawson MS lesion report",
            Self::Capture => "Dawson MS lesions, outlines on FLAIR",
        }
    }
}

/// One DICOM object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which one.
    pub kind: Kind,
    /// A name for its file, ending in `.dcm`.
    pub name: String,
    /// SOP Instance UID.
    pub sop_instance_uid: Uid,
    /// Series Instance UID.
    pub series_instance_uid: Uid,
    /// The bytes of the file (PS3.10 section 7), Explicit VR Little Endian.
    pub file: Vec<u8>,
}

/// Makes the objects of one result.
#[derive(Debug)]
pub struct Writer<'a> {
    findings: Findings<'a>,
    grid: Grid,
    /// Lesion ids on the source's grid: columns, rows, slices.
    ids: Volume<u32>,
    flair: Volume<f32>,
    /// SHA-256 over the voxels of each lesion, in their order.
    voxels: Vec<[u8; 32]>,
    /// SHA-256 over all that shaped the result.
    digest: [u8; 32],
}

impl<'a> Writer<'a> {
    /// Checks that what was found lies on the source's slices.
    ///
    /// # Errors
    /// [`Error::SourceGrid`], [`Error::SourceSlice`], [`Error::Grid`], [`Error::Places`],
    /// [`Error::TooManyLesions`].
    pub fn new(findings: Findings<'a>) -> Result<Self, Error> {
        let grid = grid_of(findings.source)?;
        let lesions = findings.lesions.items.len();
        let places = findings.places.len();
        if places != 0 && places != lesions {
            return Err(Error::Places { places, lesions });
        }
        // Segments 1 to 65535 can be numbered.
        let most = usize::from(u16::MAX);
        if lesions > most {
            return Err(Error::TooManyLesions { lesions, most });
        }
        let ids = on_grid("lesions", &findings.lesions.instances, &grid, 0)?;
        let flair = on_grid("FLAIR", findings.flair, &grid, 0.0)?;
        let voxels = voxels_of(&ids, lesions);
        let digest = digest_of(&findings, &voxels);
        Ok(Self {
            findings,
            grid,
            ids,
            flair,
            voxels,
            digest,
        })
    }

    /// The objects asked for, in the order of [`Kind::ALL`], captures slice by slice.
    ///
    /// Measurements bring the segmentations that they refer to along. There is no [`Kind::EachLesion`]
    /// without a lesion.
    ///
    /// # Errors
    /// [`Error::Picture`] if a plane cannot be laid through the scan, [`Error::Encode`].
    pub fn objects(&self, kinds: &[Kind], captured: Captured) -> Result<Vec<Object>, Error> {
        let wanted = |kind| {
            let refers = matches!(kind, Kind::Burden | Kind::EachLesion);
            kinds.contains(&kind) || refers && kinds.contains(&Kind::Measurements)
        };
        let mut objects = Vec::new();
        let burden = wanted(Kind::Burden).then(|| self.burden()).transpose()?;
        let each = if wanted(Kind::EachLesion) {
            self.each_lesion()?
        } else {
            None
        };
        let measurements = burden
            .as_ref()
            .filter(|_| wanted(Kind::Measurements))
            .map(|burden| self.measurements(burden, each.as_ref()))
            .transpose()?;
        objects.extend(burden);
        objects.extend(each);
        if wanted(Kind::LabelMap) {
            objects.push(self.label_map()?);
        }
        objects.extend(measurements);
        if wanted(Kind::Document) {
            objects.push(self.document()?);
        }
        if wanted(Kind::Capture) {
            objects.extend(self.captures(captured)?);
        }
        Ok(objects)
    }

    /// The Tracking Identifier and Tracking Unique Identifier of a lesion, equal in SEG and SR.
    ///
    /// The identifier says the lesion's number in the report. The UID follows from the lesion's voxels, the
    /// source and the network, so that a repetition tracks the same lesion.
    #[must_use]
    pub fn tracking(&self, lesion: &Lesion) -> (String, Uid) {
        let voxels = (lesion.id as usize).checked_sub(1);
        let voxels = voxels.and_then(|n| self.voxels.get(n));
        let uid = self.uid("lesion", voxels.map_or(&[], |v| v.as_slice()));
        (format!("Lesion {}", lesion.id), uid)
    }

    /// The same of all lesions together, or of those of a region.
    #[must_use]
    fn tracking_all(&self, region: Option<Region>) -> (String, Uid) {
        let name = region.map_or("all", Region::name);
        let uid = self.uid("lesions", name.as_bytes());
        (label_of(region), uid)
    }

    fn uid(&self, kind: &str, part: &[u8]) -> Uid {
        let source = self.findings.source;
        let parts = [
            source.study_instance_uid.as_bytes(),
            source.series_instance_uid.as_bytes(),
            self.findings.made_by.model.sha256.as_bytes(),
            part,
        ];
        Uid::of(kind, &parts)
    }

    fn series(&self, kind: Kind) -> Uid {
        self.uid(kind.name(), &self.digest)
    }

    fn region(&self, lesion: &Lesion) -> Option<Region> {
        let place = (lesion.id as usize).checked_sub(1)?;
        Some(self.findings.places.get(place)?.region)
    }

    /// The lesions of a region, or all.
    fn of_region(&self, region: Option<Region>) -> Vec<&'a Lesion> {
        let all = self.findings.lesions.items.iter();
        all.filter(|lesion| region.is_none() || self.region(lesion) == region)
            .collect()
    }

    /// The regions that have lesions.
    fn regions(&self) -> Vec<Region> {
        let mut regions = Region::ALL.to_vec();
        regions.retain(|&region| !self.of_region(Some(region)).is_empty());
        regions
    }
}

/// What a segment of lesions is called.
fn label_of(region: Option<Region>) -> String {
    format!("{} lesions", region.map_or("MS", spelled))
}

/// A region in words, as a line begins with it.
fn spelled(region: Region) -> &'static str {
    match region {
        Region::Periventricular => "Periventricular",
        Region::Juxtacortical => "Juxtacortical",
        Region::Infratentorial => "Infratentorial",
        Region::DeepWhiteMatter => "Deep white matter",
    }
}

/// The digest of each lesion's voxels, by their places on the source's grid.
fn voxels_of(ids: &Volume<u32>, lesions: usize) -> Vec<[u8; 32]> {
    let mut hashes = vec![Sha256::new(); lesions];
    for (offset, &id) in ids.samples().iter().enumerate() {
        let lesion = (id as usize).checked_sub(1);
        if let Some(hash) = lesion.and_then(|n| hashes.get_mut(n)) {
            hash.update((offset as u64).to_be_bytes());
        }
    }
    hashes
        .into_iter()
        .map(|hash| hash.finalize().into())
        .collect()
}

fn digest_of(findings: &Findings<'_>, voxels: &[[u8; 32]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    let made_by = &findings.made_by;
    part(made_by.version.as_bytes());
    for model in std::iter::once(made_by.model).chain(made_by.anatomy) {
        part(model.sha256.as_bytes());
    }
    part(made_by.method.as_bytes());
    for flag in findings.flags {
        part(flag.code.as_bytes());
        part(flag.detail.as_bytes());
    }
    for place in findings.places {
        part(place.region.name().as_bytes());
    }
    part(findings.computed.date.as_bytes());
    part(findings.computed.time.as_bytes());
    for lesion in voxels {
        part(lesion);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
