//! Segmentations: BINARY, as every viewer and archive reads them, and label maps.
//!
//! Frames lie on the source's own slices: the pixels of a frame are the voxels of a slice, nothing is
//! interpolated. Frames without a lesion are left out, but a segmentation without any lesion has one
//! empty frame for each slice, so that viewers show that nothing was found.
use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::codes::{self, ALTERED_STRUCTURE, BACKGROUND, HYPERINTENSITY};
use super::dataset::DataSet;
use super::modules::{Placed, derivation};
use super::{Error, Kind, Object, Uid, Writer, label_of};
use crate::regions::Region;

/// One segment while it is written.
struct Segment {
    label: String,
    tracking: (String, Uid),
    region: Option<Region>,
    /// For each lesion id from 0, whether its voxels belong here.
    holds: Vec<bool>,
}

/// One frame: a segment on a slice.
struct Frame {
    /// From 1; none in a label map.
    segment: Option<u16>,
    slice: usize,
}

impl Writer<'_> {
    /// All lesions as one segment, and those of each region that has any as one more (PS3.3 A.51).
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(super) fn burden(&self) -> Result<Object, Error> {
        let regions = self.regions().into_iter().map(Some);
        let segments: Vec<Segment> = std::iter::once(None)
            .chain(regions)
            .map(|region| {
                let mut holds = vec![false; self.findings.lesions.items.len() + 1];
                for lesion in self.of_region(region) {
                    holds[lesion.id as usize] = true;
                }
                Segment {
                    label: label_of(region),
                    tracking: self.tracking_all(region),
                    region,
                    holds,
                }
            })
            .collect();
        self.binary(Kind::Burden, &segments)
    }

    /// A segment for each lesion, numbered as in the report; none if there is no lesion.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(super) fn each_lesion(&self) -> Result<Option<Object>, Error> {
        let segments = self.segment_of_each();
        if segments.is_empty() {
            return Ok(None);
        }
        self.binary(Kind::EachLesion, &segments).map(Some)
    }

    /// One label map with the lesions' numbers as labels (PS3.3 A.51 with SOP Class …66.7).
    ///
    /// Not every archive takes it; the measurements therefore refer to the BINARY objects.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(super) fn label_map(&self) -> Result<Object, Error> {
        let segments = self.segment_of_each();
        let slices = self.grid.shape()[2];
        let frames: Vec<Frame> = (0..slices)
            .map(|slice| Frame {
                segment: None,
                slice,
            })
            .collect();
        let ids = self.ids.samples();
        let set = if u8::try_from(segments.len()).is_ok() {
            self.pixels(8)
                .bytes(tags::PIXEL_DATA, ids.iter().map(|&id| id as u8).collect())
        } else {
            self.pixels(16)
                .words(tags::PIXEL_DATA, ids.iter().map(|&id| id as u16).collect())
        };
        let background = DataSet::new()
            .us(tags::SEGMENT_NUMBER, 0)
            .text(tags::SEGMENT_LABEL, VR::LO, "Background")
            .text(tags::SEGMENT_ALGORITHM_TYPE, VR::CS, "AUTOMATIC")
            .text(
                tags::SEGMENT_ALGORITHM_NAME,
                VR::LO,
                self.findings.made_by.model.name,
            )
            .item(
                tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE,
                BACKGROUND.item(),
            )
            .item(
                tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE,
                BACKGROUND.item(),
            );
        let set = set
            .us(tags::PIXEL_PADDING_VALUE, 0)
            .text(tags::SEGMENTATION_TYPE, VR::CS, "LABELMAP")
            .text(tags::PRESENTATION_LUT_SHAPE, VR::CS, "IDENTITY");
        self.segmentation(Kind::LabelMap, set, vec![background], &segments, &frames)
    }

    fn segment_of_each(&self) -> Vec<Segment> {
        let lesions = &self.findings.lesions.items;
        let segments = lesions.iter().map(|lesion| {
            let mut holds = vec![false; lesions.len() + 1];
            holds[lesion.id as usize] = true;
            let region = self.region(lesion);
            let place = region.map_or_else(String::new, |r| {
                format!(" ({})", r.name().replace('_', " "))
            });
            Segment {
                label: format!("Lesion {}{place}", lesion.id),
                tracking: self.tracking(lesion),
                region,
                holds,
            }
        });
        segments.collect()
    }

    fn binary(&self, kind: Kind, segments: &[Segment]) -> Result<Object, Error> {
        let [columns, rows, slices] = self.grid.shape();
        let of_slice =
            |slice: usize| &self.ids.samples()[slice * rows * columns..][..rows * columns];
        let mut frames = Vec::new();
        let mut bits = Bits::default();
        // Which ids a slice has, so that only the segments with voxels there are looked at again.
        let present: Vec<Vec<u32>> = (0..slices)
            .map(|slice| {
                let mut ids = of_slice(slice).to_vec();
                ids.sort_unstable();
                ids.dedup();
                ids
            })
            .collect();
        for (n, segment) in segments.iter().enumerate() {
            let empty = segments.len() == 1 && !segment.holds.contains(&true);
            for slice in 0..slices {
                if empty || present[slice].iter().any(|&id| segment.holds[id as usize]) {
                    bits.push(of_slice(slice).iter().map(|&id| segment.holds[id as usize]));
                    frames.push(Frame {
                        segment: Some(n as u16 + 1),
                        slice,
                    });
                }
            }
        }
        let overlap = if kind == Kind::Burden && segments.len() > 1 {
            "YES"
        } else {
            "NO"
        };
        let set = self
            .pixels(1)
            .bytes(tags::PIXEL_DATA, bits.bytes)
            .text(tags::SEGMENTATION_TYPE, VR::CS, "BINARY")
            .text(tags::SEGMENTS_OVERLAP, VR::CS, overlap);
        self.segmentation(kind, set, Vec::new(), segments, &frames)
    }

    /// Image Pixel (PS3.3 C.7.6.3) and what of Segmentation Image (C.8.20.2) follows from the depth.
    fn pixels(&self, depth: u16) -> DataSet {
        let source = self.findings.source;
        DataSet::new()
            .us(tags::SAMPLES_PER_PIXEL, 1)
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2")
            .us(tags::ROWS, source.rows)
            .us(tags::COLUMNS, source.columns)
            .us(tags::BITS_ALLOCATED, depth)
            .us(tags::BITS_STORED, depth)
            .us(tags::HIGH_BIT, depth - 1)
            .us(tags::PIXEL_REPRESENTATION, 0)
            .text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00")
    }

    fn segmentation(
        &self,
        kind: Kind,
        pixels: DataSet,
        mut items: Vec<DataSet>,
        segments: &[Segment],
        frames: &[Frame],
    ) -> Result<Object, Error> {
        let numbers = 1_u16..;
        items.extend(numbers.zip(segments).map(|(n, s)| self.segment(n, s)));
        // The rank of a slice among those that have a frame (PS3.3 C.7.6.17.1.1).
        let mut ranks = vec![0_u32; self.grid.shape()[2]];
        for frame in frames {
            ranks[frame.slice] = 1;
        }
        let mut rank = 0;
        for slice in &mut ranks {
            rank += *slice;
            *slice = rank;
        }
        let per_frame = frames.iter().map(|frame| self.frame(frame, &ranks));
        let mut set = self
            .common(kind, Placed::InSpace)
            .with(pixels)
            .with(self.references())
            .texts(tags::IMAGE_TYPE, VR::CS, &["DERIVED", "PRIMARY"])
            .text(tags::CONTENT_LABEL, VR::CS, "MS_LESIONS")
            .text(
                tags::CONTENT_DESCRIPTION,
                VR::LO,
                "MS lesions, automatic. Not for diagnostic use.",
            )
            .text(tags::CONTENT_CREATOR_NAME, VR::PN, "Dawson^MS")
            .text(tags::IMAGE_COMMENTS, VR::LT, &self.remarks())
            .integer(tags::NUMBER_OF_FRAMES, frames.len())
            .items(tags::SEGMENT_SEQUENCE, items)
            .with(self.dimensions(kind))
            .item(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, self.shared())
            .items(
                tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
                per_frame.collect(),
            );
        if segments.iter().any(|segment| segment.region.is_some()) {
            set = Self::with_scheme(set);
        }
        let name = format!("{}.dcm", kind.name());
        set.into_object(kind, self.series(kind), name)
    }

    /// An item of the Segment Sequence (PS3.3 table C.8.20-4).
    fn segment(&self, number: u16, segment: &Segment) -> DataSet {
        let (tracking_id, tracking_uid) = &segment.tracking;
        let mut anatomy = codes::anatomy(segment.region).item();
        if let Some(region) = segment.region {
            anatomy = anatomy.item(
                tags::ANATOMIC_REGION_MODIFIER_SEQUENCE,
                codes::place(region).item(),
            );
        }
        DataSet::new()
            .us(tags::SEGMENT_NUMBER, number)
            .text(tags::SEGMENT_LABEL, VR::LO, &segment.label)
            .text(tags::SEGMENT_ALGORITHM_TYPE, VR::CS, "AUTOMATIC")
            .text(
                tags::SEGMENT_ALGORITHM_NAME,
                VR::LO,
                self.findings.made_by.model.name,
            )
            .item(
                tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE,
                self.algorithm(),
            )
            .item(
                tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE,
                ALTERED_STRUCTURE.item(),
            )
            .item(
                tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE,
                HYPERINTENSITY.item(),
            )
            .item(tags::ANATOMIC_REGION_SEQUENCE, anatomy)
            .text(tags::TRACKING_ID, VR::UT, tracking_id)
            .text(tags::TRACKING_UID, VR::UI, tracking_uid.as_str())
            .uss(
                tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE,
                &colour_of(segment.region),
            )
    }

    /// Multi-frame Dimension (PS3.3 C.7.6.17): the segment, then the place.
    fn dimensions(&self, kind: Kind) -> DataSet {
        let organisation = self.uid("dimensions", kind.name().as_bytes());
        let index = |pointer, group, label: &str| {
            DataSet::new()
                .text(
                    tags::DIMENSION_ORGANIZATION_UID,
                    VR::UI,
                    organisation.as_str(),
                )
                .pointer(tags::DIMENSION_INDEX_POINTER, pointer)
                .pointer(tags::FUNCTIONAL_GROUP_POINTER, group)
                .text(tags::DIMENSION_DESCRIPTION_LABEL, VR::LO, label)
        };
        let segment = index(
            tags::REFERENCED_SEGMENT_NUMBER,
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            "Referenced Segment Number",
        );
        let place = index(
            tags::IMAGE_POSITION_PATIENT,
            tags::PLANE_POSITION_SEQUENCE,
            "Image Position Patient",
        );
        let indices = if kind == Kind::LabelMap {
            vec![place]
        } else {
            vec![segment, place]
        };
        let organisation = DataSet::new().text(
            tags::DIMENSION_ORGANIZATION_UID,
            VR::UI,
            organisation.as_str(),
        );
        let set = DataSet::new()
            .item(tags::DIMENSION_ORGANIZATION_SEQUENCE, organisation)
            .items(tags::DIMENSION_INDEX_SEQUENCE, indices);
        if kind == Kind::LabelMap {
            set.text(tags::DIMENSION_ORGANIZATION_TYPE, VR::CS, "3D")
        } else {
            set
        }
    }

    /// What all frames share: spacing and orientation (PS3.3 C.7.6.16.2.1, C.7.6.16.2.4).
    fn shared(&self) -> DataSet {
        let source = self.findings.source;
        let between_slices = self.grid.spacing_mm()[2];
        let measures = DataSet::new()
            .numbers(tags::SLICE_THICKNESS, &[between_slices])
            .numbers(tags::SPACING_BETWEEN_SLICES, &[between_slices])
            .numbers(tags::PIXEL_SPACING, &source.pixel_spacing_mm);
        let orientation =
            DataSet::new().numbers(tags::IMAGE_ORIENTATION_PATIENT, &source.orientation);
        DataSet::new()
            .item(tags::PIXEL_MEASURES_SEQUENCE, measures)
            .item(tags::PLANE_ORIENTATION_SEQUENCE, orientation)
    }

    /// What is a frame's own: its place, its source slice and its segment.
    fn frame(&self, frame: &Frame, ranks: &[u32]) -> DataSet {
        let image = &self.findings.source.images[frame.slice];
        let rank = ranks[frame.slice];
        let index = match frame.segment {
            Some(segment) => vec![u32::from(segment), rank],
            None => vec![rank],
        };
        let content = DataSet::new().uls(tags::DIMENSION_INDEX_VALUES, &index);
        let place = DataSet::new().numbers(tags::IMAGE_POSITION_PATIENT, &image.position_mm);
        let mut set = DataSet::new()
            .item(tags::FRAME_CONTENT_SEQUENCE, content)
            .item(tags::PLANE_POSITION_SEQUENCE, place)
            .item(tags::DERIVATION_IMAGE_SEQUENCE, derivation(image));
        if let Some(segment) = frame.segment {
            let segment = DataSet::new().us(tags::REFERENCED_SEGMENT_NUMBER, segment);
            set = set.item(tags::SEGMENT_IDENTIFICATION_SEQUENCE, segment);
        }
        set
    }
}

/// Pixels of one bit, packed from the lowest bit up and over frames without a gap (PS3.5 8.1.1).
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    fn push(&mut self, bits: impl Iterator<Item = bool>) {
        for bit in bits {
            if self.len.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from(bit) << (self.len % 8);
            }
            self.len += 1;
        }
    }
}

/// The colour of a segment as `CIELab` (PS3.3 C.10.7.1.1), those of the preview's outlines.
fn colour_of(region: Option<Region>) -> [u16; 3] {
    let [r, g, b] = crate::preview::outline_rgb(region).map(|value| {
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    // sRGB (IEC 61966-2-1) to XYZ under D65, adapted to D50 after Bradford.
    let xyz = [
        (0.436_074_7 * r + 0.385_064_9 * g + 0.143_080_4 * b) / 0.964_22,
        0.222_504_5 * r + 0.716_878_6 * g + 0.060_616_9 * b,
        (0.013_932_2 * r + 0.097_104_5 * g + 0.714_173_3 * b) / 0.825_21,
    ];
    let [x, y, z] = xyz.map(|t: f64| {
        if t > 216.0 / 24389.0 {
            t.cbrt()
        } else {
            (24389.0 / 27.0 * t + 16.0) / 116.0
        }
    });
    let (l, a, b) = (116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z));
    let scaled = |value: f64| value.round().clamp(0.0, 65_535.0) as u16;
    [
        scaled(l / 100.0 * 65_535.0),
        scaled((a + 128.0) / 255.0 * 65_535.0),
        scaled((b + 128.0) / 255.0 * 65_535.0),
    ]
}
