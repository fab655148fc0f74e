//! Where a volume came from: what results must name and copy to be filed beside their source.
use std::fmt;

use dicom_object::InMemDicomObject;

/// The series that a volume was made of, its images in the volume's order.
///
/// `images[k]` is the slice `k` of the volume; its rows and columns are the volume's `j` and `i`.
#[derive(Debug, Clone)]
pub struct Source {
    /// (0020,000D).
    pub study_instance_uid: String,
    /// (0020,000E).
    pub series_instance_uid: String,
    /// (0020,0052); some archives drop it.
    pub frame_of_reference_uid: Option<String>,
    /// (0020,1040), empty for most brain scans.
    pub position_reference_indicator: String,
    /// (0020,0037): cosines of the direction of a row (along which `i` counts), then of a column; LPS.
    pub orientation: [f64; 6],
    /// (0028,0030): millimetres between rows, then between columns.
    pub pixel_spacing_mm: [f64; 2],
    /// Millimetres between neighbouring slices, from their positions.
    pub slice_spacing_mm: f64,
    /// (0028,0010).
    pub rows: u16,
    /// (0028,0011).
    pub columns: u16,
    /// The slices, first to last along the normal (row direction × column direction).
    pub images: Vec<SourceImage>,
    /// What says whose images they are.
    pub identity: Identity,
}

/// One slice: a classic image, or a frame of an enhanced one.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceImage {
    /// (0008,0016).
    pub sop_class_uid: String,
    /// (0008,0018).
    pub sop_instance_uid: String,
    /// The frame of an enhanced image, counted from 1; none for a classic image.
    pub frame_number: Option<u32>,
    /// (0020,0032): the centre of the first pixel, LPS millimetres.
    pub position_mm: [f64; 3],
}

/// The attributes of patient and study that results copy, and no others; absent where the source has none.
///
/// They are the patient's, so nothing of them is printed by `Debug` and they are in no report.
#[derive(Clone)]
pub struct Identity(InMemDicomObject);

impl Identity {
    /// Keeps what [`Identity::TAGS`] names of a data set.
    #[must_use]
    pub fn of(object: &InMemDicomObject) -> Self {
        let kept = Self::TAGS
            .iter()
            .filter_map(|&tag| object.get(tag).cloned());
        Self(InMemDicomObject::from_element_iter(kept))
    }

    /// What stands in its place where nobody is to be named.
    pub(super) fn made(attributes: InMemDicomObject) -> Self {
        Self(attributes)
    }

    /// The attributes to copy.
    #[must_use]
    pub fn attributes(&self) -> &InMemDicomObject {
        &self.0
    }

    /// Character set, patient and study, as the General Study and Patient modules (PS3.3 C.7.1.1, C.7.2.1) have them.
    pub const TAGS: [dicom_core::Tag; 11] = {
        use dicom_dictionary_std::tags;
        [
            tags::SPECIFIC_CHARACTER_SET,
            tags::STUDY_DATE,
            tags::STUDY_TIME,
            tags::ACCESSION_NUMBER,
            tags::REFERRING_PHYSICIAN_NAME,
            tags::STUDY_DESCRIPTION,
            tags::PATIENT_NAME,
            tags::PATIENT_ID,
            tags::PATIENT_BIRTH_DATE,
            tags::PATIENT_SEX,
            tags::STUDY_ID,
        ]
    };
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_dictionary_std::tags;

    use super::*;

    #[test]
    fn an_identity_keeps_the_listed_attributes_and_prints_none() {
        let text = |tag, vr, text: &str| DataElement::new(tag, vr, PrimitiveValue::from(text));
        let object = InMemDicomObject::from_element_iter([
            text(tags::PATIENT_NAME, VR::PN, "Doe^Jane"),
            text(tags::INSTITUTION_NAME, VR::LO, "Somewhere"),
        ]);
        let identity = Identity::of(&object);
        let name = identity.attributes().element(tags::PATIENT_NAME).unwrap();
        assert_eq!(name.to_str().unwrap(), "Doe^Jane");
        assert!(identity.attributes().get(tags::INSTITUTION_NAME).is_none());
        assert_eq!(format!("{identity:?}"), "Identity");
    }
}
