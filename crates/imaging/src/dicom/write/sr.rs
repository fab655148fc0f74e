//! Measurements as a Comprehensive 3D SR by TID 1500, Imaging Measurement Report (PS3.16).
//!
//! One TID 1411 group for all lesions, one for those of each region that has any, one for each
//! lesion. Each refers to its segment of a BINARY segmentation: older readers refuse a whole document
//! for a reference to a label map. Volumes are those of the report, to the last bit: beside the decimal
//! string stands the number itself.
use std::collections::BTreeMap;

use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::codes::{self, ALTERED_STRUCTURE, Code, HYPERINTENSITY, SCHEME};
use super::dataset::DataSet;
use super::modules::{Placed, instances, reference};
use super::{Error, Kind, Object, Uid, Writer};
use crate::lesions::Lesion;
use crate::regions::Region;

const REPORT: Code = Code("126000", "DCM", "Imaging Measurement Report");
const LANGUAGE: Code = Code("121049", "DCM", "Language of Content Item and Descendants");
const ENGLISH: Code = Code("en-US", "RFC5646", "English (United States)");
const OBSERVER_TYPE: Code = Code("121005", "DCM", "Observer Type");
const DEVICE: Code = Code("121007", "DCM", "Device");
const DEVICE_UID: Code = Code("121012", "DCM", "Device Observer UID");
const DEVICE_NAME: Code = Code("121013", "DCM", "Device Observer Name");
const DEVICE_MANUFACTURER: Code = Code("121014", "DCM", "Device Observer Manufacturer");
const DEVICE_MODEL: Code = Code("121015", "DCM", "Device Observer Model Name");
const DEVICE_SERIAL: Code = Code("121016", "DCM", "Device Observer Serial Number");
const PROCEDURE: Code = Code("121058", "DCM", "Procedure reported");
const MRI: Code = Code("113091000", "SCT", "Magnetic resonance imaging");
const MEASUREMENTS: Code = Code("126010", "DCM", "Imaging Measurements");
const GROUP: Code = Code("125007", "DCM", "Measurement Group");
const TRACKING: Code = Code("112039", "DCM", "Tracking Identifier");
const TRACKING_UID: Code = Code("112040", "DCM", "Tracking Unique Identifier");
const CATEGORY: Code = Code("276214006", "SCT", "Finding category");
const FINDING: Code = Code("121071", "DCM", "Finding");
const SITE: Code = Code("363698007", "SCT", "Finding Site");
const TOPOGRAPHICAL: Code = Code("106233006", "SCT", "Topographical modifier");
const ALGORITHM: Code = Code("111001", "DCM", "Algorithm Name");
const ALGORITHM_VERSION: Code = Code("111003", "DCM", "Algorithm Version");
const ALGORITHM_PARAMETERS: Code = Code("111002", "DCM", "Algorithm Parameters");
const VOLUME: Code = Code("118565006", "SCT", "Volume");
const COUNT: Code = Code("LESION_COUNT", SCHEME, "Number of lesions");
const SEGMENT: Code = Code("121191", "DCM", "Referenced Segment");
const SOURCE_SERIES: Code = Code("121232", "DCM", "Source Series for Segmentation");
const COMMENT: Code = Code("121106", "DCM", "Comment");
const MILLILITRE: Code = Code("ml", "UCUM", "milliliter");
const LESIONS: Code = Code("{lesions}", "UCUM", "lesions");

const CONTAINS: &str = "CONTAINS";
const OBSERVED: &str = "HAS OBS CONTEXT";
const MODIFIED: &str = "HAS CONCEPT MOD";

/// What a group measures.
struct Group<'a> {
    tracking: (String, Uid),
    region: Option<Region>,
    volume_ml: f64,
    count: Option<usize>,
    segmentation: &'a Object,
    segment: u16,
}

impl Writer<'_> {
    /// The measurements, which refer to the segments of `burden` and `each_lesion`.
    ///
    /// Both are what [`Writer::burden`] and [`Writer::each_lesion`] gave.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(super) fn measurements(
        &self,
        burden: &Object,
        each_lesion: Option<&Object>,
    ) -> Result<Object, Error> {
        let kind = Kind::Measurements;
        let segmentations: Vec<&Object> = std::iter::once(burden).chain(each_lesion).collect();
        let groups = self.groups(burden, each_lesion);
        let groups = groups.iter().map(|group| self.group(group)).collect();
        let mut content = self.context();
        content.push(container(CONTAINS, MEASUREMENTS, groups));
        content.push(text(CONTAINS, COMMENT, &self.remarks()));
        let template = DataSet::new()
            .text(tags::MAPPING_RESOURCE, VR::CS, "DCMR")
            .text(tags::TEMPLATE_IDENTIFIER, VR::CS, "1500");
        let (current, other) = self.evidence(&segmentations);
        let mut set = self
            .common(kind, Placed::Nowhere)
            .items(
                tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE,
                Vec::new(),
            )
            .items(tags::PERFORMED_PROCEDURE_CODE_SEQUENCE, Vec::new())
            .text(tags::COMPLETION_FLAG, VR::CS, "COMPLETE")
            .text(tags::PRELIMINARY_FLAG, VR::CS, "PRELIMINARY")
            .text(tags::VERIFICATION_FLAG, VR::CS, "UNVERIFIED")
            .items(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, current)
            .text(tags::VALUE_TYPE, VR::CS, "CONTAINER")
            .item(tags::CONCEPT_NAME_CODE_SEQUENCE, REPORT.item())
            .text(tags::CONTINUITY_OF_CONTENT, VR::CS, "SEPARATE")
            .item(tags::CONTENT_TEMPLATE_SEQUENCE, template)
            .items(tags::CONTENT_SEQUENCE, content);
        if !other.is_empty() {
            set = set.items(tags::PERTINENT_OTHER_EVIDENCE_SEQUENCE, other);
        }
        let name = format!("{}.dcm", kind.name());
        Self::with_scheme(set).into_object(kind, self.series(kind), name)
    }

    /// All lesions, those of each region, and each.
    fn groups<'a>(&self, burden: &'a Object, each_lesion: Option<&'a Object>) -> Vec<Group<'a>> {
        let lesions = self.findings.lesions;
        let mut groups = vec![Group {
            tracking: self.tracking_all(None),
            region: None,
            volume_ml: lesions.volume_ml(),
            count: Some(lesions.items.len()),
            segmentation: burden,
            segment: 1,
        }];
        for (segment, region) in (2_u16..).zip(self.regions()) {
            let there = self.of_region(Some(region));
            groups.push(Group {
                tracking: self.tracking_all(Some(region)),
                region: Some(region),
                volume_ml: total_ml(&there),
                count: Some(there.len()),
                segmentation: burden,
                segment,
            });
        }
        if let Some(segmentation) = each_lesion {
            for (segment, lesion) in (1_u16..).zip(&lesions.items) {
                groups.push(Group {
                    tracking: self.tracking(lesion),
                    region: self.region(lesion),
                    volume_ml: lesion.volume_ml,
                    count: None,
                    segmentation,
                    segment,
                });
            }
        }
        groups
    }

    /// Language, who observed (TID 1002, 1004) and what was done.
    fn context(&self) -> Vec<DataSet> {
        let made_by = &self.findings.made_by;
        let device = Uid::of("device", &[made_by.model.sha256.as_bytes()]);
        vec![
            code(MODIFIED, LANGUAGE, ENGLISH),
            code(OBSERVED, OBSERVER_TYPE, DEVICE),
            uid(OBSERVED, DEVICE_UID, device.as_str()),
            text(OBSERVED, DEVICE_NAME, "Dawson"),
            text(OBSERVED, DEVICE_MANUFACTURER, "Dawson"),
            text(OBSERVED, DEVICE_MODEL, "Dawson MS"),
            text(OBSERVED, DEVICE_SERIAL, made_by.model.sha256),
            code(MODIFIED, PROCEDURE, MRI),
        ]
    }

    /// TID 1411, Volumetric ROI Measurements and Qualitative Evaluations.
    fn group(&self, group: &Group<'_>) -> DataSet {
        let (tracking_id, tracking_uid) = &group.tracking;
        let model = &self.findings.made_by.model;
        let mut site = code(MODIFIED, SITE, codes::anatomy(group.region));
        if let Some(region) = group.region {
            let place = code(MODIFIED, TOPOGRAPHICAL, codes::place(region));
            site = site.item(tags::CONTENT_SEQUENCE, place);
        }
        let segment = reference(
            group.segmentation.kind.sop_class_uid(),
            group.segmentation.sop_instance_uid.as_str(),
        )
        .us(tags::REFERENCED_SEGMENT_NUMBER, group.segment);
        let segment =
            named(CONTAINS, "IMAGE", SEGMENT).item(tags::REFERENCED_SOP_SEQUENCE, segment);
        let mut items = vec![
            text(OBSERVED, TRACKING, tracking_id),
            uid(OBSERVED, TRACKING_UID, tracking_uid.as_str()),
            code(CONTAINS, CATEGORY, ALTERED_STRUCTURE),
            code(CONTAINS, FINDING, HYPERINTENSITY),
            segment,
            uid(
                CONTAINS,
                SOURCE_SERIES,
                &self.findings.source.series_instance_uid,
            ),
            site,
            text(MODIFIED, ALGORITHM, model.name),
            text(MODIFIED, ALGORITHM_VERSION, model.version),
            text(MODIFIED, ALGORITHM_PARAMETERS, &self.parameters()),
            number(VOLUME, group.volume_ml, MILLILITRE),
        ];
        if let Some(count) = group.count {
            items.push(number(COUNT, count as f64, LESIONS));
        }
        container(CONTAINS, GROUP, items).item(
            tags::CONTENT_TEMPLATE_SEQUENCE,
            DataSet::new()
                .text(tags::MAPPING_RESOURCE, VR::CS, "DCMR")
                .text(tags::TEMPLATE_IDENTIFIER, VR::CS, "1411"),
        )
    }

    /// All that the document rests on, by study (PS3.3 C.17.2.3): of this study, and of others.
    fn evidence(&self, segmentations: &[&Object]) -> (Vec<DataSet>, Vec<DataSet>) {
        let study = self.findings.source.study_instance_uid.as_str();
        let mut studies = BTreeMap::<&str, Vec<DataSet>>::new();
        let series = |uid: &str, instances: Vec<DataSet>| {
            DataSet::new()
                .text(tags::SERIES_INSTANCE_UID, VR::UI, uid)
                .items(tags::REFERENCED_SOP_SEQUENCE, instances)
        };
        for source in self.sources() {
            studies
                .entry(&source.study_instance_uid)
                .or_default()
                .push(series(&source.series_instance_uid, instances(source)));
        }
        for object in segmentations {
            let instance = reference(
                object.kind.sop_class_uid(),
                object.sop_instance_uid.as_str(),
            );
            studies
                .entry(study)
                .or_default()
                .push(series(object.series_instance_uid.as_str(), vec![instance]));
        }
        let (mut current, mut other) = (Vec::new(), Vec::new());
        for (uid, series) in studies {
            let item = DataSet::new()
                .text(tags::STUDY_INSTANCE_UID, VR::UI, uid)
                .items(tags::REFERENCED_SERIES_SEQUENCE, series);
            if uid == study {
                current.push(item);
            } else {
                other.push(item);
            }
        }
        (current, other)
    }
}

/// Volumes added in the order of the report.
pub(super) fn total_ml(lesions: &[&Lesion]) -> f64 {
    lesions
        .iter()
        .fold(0.0, |sum, lesion| sum + lesion.volume_ml)
}

/// A content item with its name (PS3.3 table C.17-5).
fn named(relation: &str, value_type: &str, name: Code) -> DataSet {
    DataSet::new()
        .text(tags::RELATIONSHIP_TYPE, VR::CS, relation)
        .text(tags::VALUE_TYPE, VR::CS, value_type)
        .item(tags::CONCEPT_NAME_CODE_SEQUENCE, name.item())
}

fn container(relation: &str, name: Code, items: Vec<DataSet>) -> DataSet {
    named(relation, "CONTAINER", name)
        .text(tags::CONTINUITY_OF_CONTENT, VR::CS, "SEPARATE")
        .items(tags::CONTENT_SEQUENCE, items)
}

fn code(relation: &str, name: Code, value: Code) -> DataSet {
    named(relation, "CODE", name).item(tags::CONCEPT_CODE_SEQUENCE, value.item())
}

fn text(relation: &str, name: Code, value: &str) -> DataSet {
    named(relation, "TEXT", name).text(tags::TEXT_VALUE, VR::UT, value)
}

fn uid(relation: &str, name: Code, value: &str) -> DataSet {
    named(relation, "UIDREF", name).text(tags::UID, VR::UI, value)
}

/// A measured number with its unit; the number itself too, where 16 characters cannot say it.
fn number(name: Code, value: f64, unit: Code) -> DataSet {
    let mut measured = DataSet::new()
        .numbers(tags::NUMERIC_VALUE, &[value])
        .item(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, unit.item());
    if super::dataset::decimal(value).parse() != Ok(value) {
        measured = measured.fd(tags::FLOATING_POINT_VALUE, value);
    }
    named(CONTAINS, "NUM", name).item(tags::MEASURED_VALUE_SEQUENCE, measured)
}
