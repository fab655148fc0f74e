//! The modules that all objects of a result share.
use std::collections::BTreeMap;

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::codes::{self, ARTIFICIAL_INTELLIGENCE, SEGMENTATION, SOURCE_OF_PROCESSING};
use super::dataset::DataSet;
use super::{Kind, Model, NOTICE, Uid, Writer};
use crate::dicom::{Source, SourceImage};

const MANUFACTURER: &str = "Dawson";
const DEVICE: &str = "Dawson MS";

/// Attributes of patient and study that every object has, if only empty (PS3.3 C.7.1.1, C.7.2.1: type 2).
pub(in crate::dicom) const TYPE_2: [(Tag, VR); 9] = [
    (tags::STUDY_DATE, VR::DA),
    (tags::STUDY_TIME, VR::TM),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    (tags::PATIENT_NAME, VR::PN),
    (tags::PATIENT_ID, VR::LO),
    (tags::PATIENT_BIRTH_DATE, VR::DA),
    (tags::PATIENT_SEX, VR::CS),
    (tags::STUDY_ID, VR::SH),
];

/// Whether an object has pixels, and so a frame of reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// In the frame of reference of the source.
    InSpace,
    /// Nowhere.
    Nowhere,
}

impl Writer<'_> {
    /// SOP Common, Patient, General Study, General Series, (Enhanced) General Equipment and, for what is
    /// placed, Frame of Reference (PS3.3 C.12.1, C.7.1.1, C.7.2.1, C.7.3.1, C.7.5.1, C.7.5.2, C.7.4.1).
    pub(super) fn common(&self, kind: Kind, placed: Placed) -> DataSet {
        let source = self.findings.source;
        let computed = self.findings.computed;
        let made_by = &self.findings.made_by;
        let mut set = DataSet::of(source.identity.attributes());
        for (tag, vr) in TYPE_2 {
            if !set.has(tag) {
                set = set.text(tag, vr, "");
            }
        }
        let mut set = set
            .text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192")
            .text(tags::SOP_CLASS_UID, VR::UI, kind.sop_class_uid())
            .text(tags::INSTANCE_CREATION_DATE, VR::DA, &computed.date)
            .text(tags::INSTANCE_CREATION_TIME, VR::TM, &computed.time)
            .text(tags::STUDY_INSTANCE_UID, VR::UI, &source.study_instance_uid)
            .text(tags::MODALITY, VR::CS, kind.modality())
            .text(
                tags::SERIES_INSTANCE_UID,
                VR::UI,
                self.series(kind).as_str(),
            )
            .integer(tags::SERIES_NUMBER, kind.series_number())
            .text(tags::SERIES_DATE, VR::DA, &computed.date)
            .text(tags::SERIES_TIME, VR::TM, &computed.time)
            .text(tags::CONTENT_DATE, VR::DA, &computed.date)
            .text(tags::CONTENT_TIME, VR::TM, &computed.time)
            .text(tags::SERIES_DESCRIPTION, VR::LO, kind.description())
            .integer(tags::INSTANCE_NUMBER, 1)
            .text(tags::MANUFACTURER, VR::LO, MANUFACTURER)
            .text(tags::MANUFACTURER_MODEL_NAME, VR::LO, DEVICE)
            // A program has no number of its own: the network's digest says which one it was.
            .text(tags::DEVICE_SERIAL_NUMBER, VR::LO, made_by.model.sha256)
            .texts(tags::SOFTWARE_VERSIONS, VR::LO, &self.versions());
        if placed == Placed::InSpace {
            let frame = self.frame_of_reference();
            set = set.text(tags::FRAME_OF_REFERENCE_UID, VR::UI, &frame).text(
                tags::POSITION_REFERENCE_INDICATOR,
                VR::LO,
                &source.position_reference_indicator,
            );
        }
        set
    }

    /// The source's frame of reference; where it has none, one that follows from the source series.
    fn frame_of_reference(&self) -> String {
        let source = self.findings.source;
        source.frame_of_reference_uid.clone().unwrap_or_else(|| {
            let series = source.series_instance_uid.as_bytes();
            Uid::of("frame of reference", &[series]).as_str().to_owned()
        })
    }

    /// Networks, their digests and the program, each a value of Software Versions.
    ///
    /// The program is last: what pads the values to an even length then makes no digest longer than the
    /// 64 characters of a value.
    pub(super) fn versions(&self) -> Vec<String> {
        let made_by = &self.findings.made_by;
        let mut versions = Vec::new();
        for model in std::iter::once(made_by.model).chain(made_by.anatomy) {
            versions.push(format!("{} {}", model.name, model.version));
            versions.push(model.sha256.to_owned());
        }
        versions.push(format!("dawson {}", made_by.version));
        versions
    }

    /// What ran, in a sentence.
    pub(super) fn parameters(&self) -> String {
        let made_by = &self.findings.made_by;
        let mut text = String::new();
        for (part, model) in [
            ("lesions", Some(made_by.model)),
            ("anatomy", made_by.anatomy),
        ] {
            if let Some(Model {
                name,
                version,
                sha256,
            }) = model
            {
                text.extend([part, ": ", name, " ", version, ", SHA-256 ", sha256, "; "]);
            }
        }
        text + made_by.method
    }

    /// Algorithm Identification Macro (PS3.3 table 10-19).
    pub(super) fn algorithm(&self) -> DataSet {
        let made_by = &self.findings.made_by;
        DataSet::new()
            .item(
                tags::ALGORITHM_FAMILY_CODE_SEQUENCE,
                ARTIFICIAL_INTELLIGENCE.item(),
            )
            .text(tags::ALGORITHM_NAME, VR::LO, made_by.model.name)
            .text(tags::ALGORITHM_VERSION, VR::LO, made_by.model.version)
            .text(tags::ALGORITHM_PARAMETERS, VR::LT, &self.parameters())
            .text(tags::ALGORITHM_SOURCE, VR::LO, MANUFACTURER)
    }

    /// What to know of a result before believing it.
    pub(super) fn remarks(&self) -> String {
        let mut text = NOTICE.to_owned();
        for flag in self.findings.flags {
            text.extend([" ", flag.code, ": ", flag.detail, "."]);
        }
        text
    }

    /// Every series that the network saw, the FLAIR first.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(self.findings.source).chain(self.findings.also_seen.iter().copied())
    }

    /// Common Instance Reference Module (PS3.3 C.12.2): the series and instances that were used.
    ///
    /// Series of the same study, and by study those of others.
    pub(super) fn references(&self) -> DataSet {
        let study = &self.findings.source.study_instance_uid;
        let mut set = DataSet::new();
        let (mut here, mut elsewhere) = (Vec::new(), BTreeMap::<&str, Vec<DataSet>>::new());
        for source in self.sources() {
            let series = DataSet::new()
                .text(
                    tags::SERIES_INSTANCE_UID,
                    VR::UI,
                    &source.series_instance_uid,
                )
                .items(tags::REFERENCED_INSTANCE_SEQUENCE, instances(source));
            if source.study_instance_uid == *study {
                here.push(series);
            } else {
                elsewhere
                    .entry(&source.study_instance_uid)
                    .or_default()
                    .push(series);
            }
        }
        set = set.items(tags::REFERENCED_SERIES_SEQUENCE, here);
        if !elsewhere.is_empty() {
            let studies = elsewhere.into_iter().map(|(study, series)| {
                DataSet::new()
                    .text(tags::STUDY_INSTANCE_UID, VR::UI, study)
                    .items(tags::REFERENCED_SERIES_SEQUENCE, series)
            });
            set = set.items(
                tags::STUDIES_CONTAINING_OTHER_REFERENCED_INSTANCES_SEQUENCE,
                studies.collect(),
            );
        }
        set
    }

    /// Declares our own codes, where an object has some (PS3.3 table C.12-1).
    pub(super) fn with_scheme(set: DataSet) -> DataSet {
        set.item(
            tags::CODING_SCHEME_IDENTIFICATION_SEQUENCE,
            codes::declaration(),
        )
    }
}

/// Each instance of a series once, in the order of its slices.
pub(super) fn instances(source: &Source) -> Vec<DataSet> {
    let mut seen = std::collections::BTreeSet::new();
    let images = source.images.iter();
    images
        .filter(|image| seen.insert(&image.sop_instance_uid))
        .map(instance)
        .collect()
}

/// SOP Instance Reference Macro (PS3.3 table 10-11).
pub(super) fn reference(class: &str, instance: &str) -> DataSet {
    DataSet::new()
        .text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, class)
        .text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, instance)
}

fn instance(image: &SourceImage) -> DataSet {
    reference(&image.sop_class_uid, &image.sop_instance_uid)
}

/// One slice as the source of another image: Image SOP Instance Reference Macro (PS3.3 table 10-3).
fn slice(image: &SourceImage) -> DataSet {
    let mut set = instance(image);
    if let Some(frame) = image.frame_number {
        set = set.integer(tags::REFERENCED_FRAME_NUMBER, frame as usize);
    }
    set.item(
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        SOURCE_OF_PROCESSING.item(),
    )
}

/// Derivation Image Functional Group Macro (PS3.3 C.7.6.16.2.6) of a frame drawn on a slice.
pub(super) fn derivation(image: &SourceImage) -> DataSet {
    DataSet::new()
        .item(tags::DERIVATION_CODE_SEQUENCE, SEGMENTATION.item())
        .item(tags::SOURCE_IMAGE_SEQUENCE, slice(image))
}

/// A slice as the source of a picture of it.
pub(super) fn drawn_on(image: &SourceImage) -> DataSet {
    DataSet::new().item(tags::SOURCE_IMAGE_SEQUENCE, slice(image))
}
