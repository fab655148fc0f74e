//! The coded concepts that results use.
//!
//! Codes of PS3.16 where there is one. No code is published there for periventricular, juxtacortical,
//! infratentorial or deep white matter, nor for a number of lesions: those are our own, in a private
//! scheme that every object which uses it declares.
use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::dataset::DataSet;
use crate::regions::Region;

/// A code, the scheme that defines it and its meaning (PS3.3 table 8.8-1a).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) &'static str,
);

/// The scheme of our own codes (PS3.16 section 8: private schemes begin with 99).
pub(super) const SCHEME: &str = "99DAWSON";

pub(super) const ARTIFICIAL_INTELLIGENCE: Code = Code("123110", "DCM", "Artificial Intelligence");
pub(super) const BACKGROUND: Code = Code("125040", "DCM", "Background");
pub(super) const BRAIN: Code = Code("12738006", "SCT", "Brain");
pub(super) const CEREBRAL_WHITE_MATTER: Code = Code("68523003", "SCT", "Cerebral White Matter");
pub(super) const DIAGNOSTIC_REPORT: Code = Code("18748-4", "LN", "Diagnostic imaging report");
/// CID 7150, Segmentation Property Category.
pub(super) const ALTERED_STRUCTURE: Code =
    Code("49755003", "SCT", "Morphologically Altered Structure");
/// CID 7140, Brain Structure for Volumetric Measurement.
pub(super) const HYPERINTENSITY: Code = Code("110702", "DCM", "White Matter T2 Hyperintensity");
/// CID 7203, Image Derivation.
pub(super) const SEGMENTATION: Code = Code("113076", "DCM", "Segmentation");
/// CID 7202, Source Image Purpose of Reference.
pub(super) const SOURCE_OF_PROCESSING: Code = Code(
    "121322",
    "DCM",
    "Source image for image processing operation",
);

/// The anatomy that a segment lies in.
pub(super) fn anatomy(region: Option<Region>) -> Code {
    match region {
        None | Some(Region::Infratentorial) => BRAIN,
        Some(Region::Periventricular | Region::Juxtacortical | Region::DeepWhiteMatter) => {
            CEREBRAL_WHITE_MATTER
        }
    }
}

/// The place that diagnosis asks for, in our own scheme.
pub(super) fn place(region: Region) -> Code {
    match region {
        Region::Periventricular => Code("PERIVENTRICULAR", SCHEME, "Periventricular"),
        Region::Juxtacortical => Code("JUXTACORTICAL", SCHEME, "Juxtacortical or cortical"),
        Region::Infratentorial => Code("INFRATENTORIAL", SCHEME, "Infratentorial"),
        Region::DeepWhiteMatter => Code("DEEP_WM", SCHEME, "Deep white matter"),
    }
}

impl Code {
    /// The code as an item of a code sequence.
    pub(super) fn item(self) -> DataSet {
        DataSet::new()
            .text(tags::CODE_VALUE, VR::SH, self.0)
            .text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, self.1)
            .text(tags::CODE_MEANING, VR::LO, self.2)
    }
}

/// What our scheme is, for the SOP Common module (PS3.3 C.12.1.1.3).
pub(super) fn declaration() -> DataSet {
    DataSet::new()
        .text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, SCHEME)
        .text(tags::CODING_SCHEME_NAME, VR::ST, "Dawson private codes")
        .text(
            tags::CODING_SCHEME_RESPONSIBLE_ORGANIZATION,
            VR::ST,
            "Dawson",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fit_their_fields() {
        let all = Region::ALL.map(place);
        for Code(value, scheme, meaning) in all.into_iter().chain([HYPERINTENSITY, BRAIN]) {
            assert!(value.len() <= 16 && scheme.len() <= 16 && meaning.len() <= 64);
        }
    }
}
