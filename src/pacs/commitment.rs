//! Storage commitment (PS3.4 annex J), the side that asks: what is said, what an archive answers, what follows.
//!
//! An archive that has stored objects may lose them still. One that is asked to commit to them answers by a report,
//! on the association of the request or on one that it makes itself, soon or in hours, maybe to another process
//! than asked. So a transaction stands in the delivery's row before it is said, and whoever hears its report
//! settles the delivery ([`settle`]). Committed is what the report lists, not what its event type says.
use std::collections::BTreeSet;

use dawson_imaging::dicom::{self, Limits, Syntax, is_uid};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::send::{Failed, Object, class_named};
use crate::jobs::{self, DeliveryState, Jobs};
use crate::telemetry;

/// The most bytes of a report; one on a thousand objects has 150,000.
pub(super) const MOST_REPORT: usize = 1 << 20;

/// How much a report may be.
const LIMITS: Limits = Limits {
    max_file_bytes: MOST_REPORT,
    ..Limits::CLINICAL
};

/// Answers to reports (PS3.7 annex C).
pub(super) mod status {
    pub(in crate::pacs) const SUCCESS: u16 = 0x0000;
    pub(in crate::pacs) const PROCESSING_FAILURE: u16 = 0x0110;
    /// Event types other than those of annex J.
    pub(in crate::pacs) const NO_SUCH_EVENT_TYPE: u16 = 0x0113;
    pub(in crate::pacs) const INVALID_ARGUMENT_VALUE: u16 = 0x0115;
    pub(in crate::pacs) const RESOURCE_LIMITATION: u16 = 0x0213;
}

/// A transaction that nobody has used, and nobody else can guess: a version 8 UUID with 74 random bits.
pub(super) fn transaction_uid() -> String {
    // A job's id has 80 random bits after its time.
    let bits = u128::from(ulid::Ulid::generate());
    let bits = (bits & !(0xf << 76)) | (8 << 76);
    let bits = (bits & !(3 << 62)) | (2 << 62);
    format!("2.25.{bits}")
}

/// The data set of a request: which objects the peer is asked to commit to.
pub(super) fn request(transaction_uid: &str, objects: &[Object]) -> InMemDicomObject {
    let items = objects.iter().map(|object| {
        InMemDicomObject::from_element_iter([
            uid(tags::REFERENCED_SOP_CLASS_UID, &object.sop_class_uid),
            uid(tags::REFERENCED_SOP_INSTANCE_UID, &object.sop_instance_uid),
        ])
    });
    let items: Vec<InMemDicomObject> = items.collect();
    InMemDicomObject::from_element_iter([
        uid(tags::TRANSACTION_UID, transaction_uid),
        DataElement::new(
            tags::REFERENCED_SOP_SEQUENCE,
            VR::SQ,
            DataSetSequence::from(items),
        ),
    ])
}

fn uid(tag: Tag, uid: &str) -> InMemElement {
    DataElement::new(tag, VR::UI, PrimitiveValue::from(uid))
}

/// What an archive says of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    transaction_uid: String,
    committed: BTreeSet<String>,
    /// What it does not commit to, and the reason's number if it gives one.
    failed: Vec<(String, Option<u16>)>,
}

impl Report {
    /// Reads the data set of a report; `None` if it is none.
    pub(super) fn read(data_set: &[u8], transfer_syntax: &str) -> Option<Self> {
        let syntax = Syntax::parse(transfer_syntax)?;
        let data = dicom::data_set(data_set, syntax, &LIMITS).ok()?;
        let instances = |sequence| {
            let items = data.get(sequence).and_then(|e| e.items());
            items.into_iter().flatten().filter_map(|item| {
                let reason = item.get(tags::FAILURE_REASON);
                let reason = reason.and_then(|e| e.to_int::<u16>().ok());
                Some((text(item, tags::REFERENCED_SOP_INSTANCE_UID)?, reason))
            })
        };
        Some(Self {
            transaction_uid: text(&data, tags::TRANSACTION_UID)?,
            committed: instances(tags::REFERENCED_SOP_SEQUENCE)
                .map(|(uid, _)| uid)
                .collect(),
            failed: instances(tags::FAILED_SOP_SEQUENCE).collect(),
        })
    }

    /// Whether every object is committed to.
    fn verdict(&self, objects: &[Object]) -> Result<(), Failed> {
        let mut missing = objects.iter().filter(|object| {
            let uid = &object.sop_instance_uid;
            let failed = self.failed.iter().any(|(other, _)| other == uid);
            failed || !self.committed.contains(uid)
        });
        let Some(first) = missing.next() else {
            return Ok(());
        };
        let reasons = self.failed.iter();
        let reason = reasons
            .filter(|(uid, _)| *uid == first.sop_instance_uid)
            .find_map(|(_, reason)| *reason);
        Err(Failed::NotCommitted {
            missing: missing.count() + 1,
            objects: objects.len(),
            class: class_named(&first.sop_class_uid),
            reason,
        })
    }
}

fn text(data: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = data.get(tag)?.to_str().ok()?;
    let text = text.trim_matches(['\0', ' ']);
    is_uid(text).then(|| text.to_owned())
}

/// Writes down what a report says of its delivery; the status that the report is answered with.
pub(super) async fn settle(
    jobs: &Jobs,
    event_type_id: Option<u16>,
    data_set: &[u8],
    transfer_syntax: &str,
) -> u16 {
    // 1: all are committed to; 2: some are not.
    if !matches!(event_type_id, Some(1 | 2)) {
        return status::NO_SUCH_EVENT_TYPE;
    }
    let Some(report) = Report::read(data_set, transfer_syntax) else {
        return status::PROCESSING_FAILURE;
    };
    match settled(jobs, &report).await {
        Ok(true) => status::SUCCESS,
        Ok(false) => {
            tracing::info!("a report of storage commitment speaks of no transaction that is open");
            status::INVALID_ARGUMENT_VALUE
        }
        Err(error) => {
            if let jobs::Error::Store(error) = &error {
                telemetry::store_failed("filing", error);
            }
            // Then the archive says it again.
            status::PROCESSING_FAILURE
        }
    }
}

/// False if nothing was asked in that transaction, or its time is over.
async fn settled(jobs: &Jobs, report: &Report) -> Result<bool, jobs::Error> {
    let Some(delivery) = jobs.delivery_of(&report.transaction_uid).await? else {
        return Ok(false);
    };
    if delivery.state != DeliveryState::Waiting {
        // Said twice: what was answered the first time did not arrive.
        return Ok(true);
    }
    let files = jobs.objects_for(&delivery).await?;
    let objects: Result<Vec<Object>, Failed> = files.into_iter().map(Object::read).collect();
    let outcome = objects.and_then(|objects| report.verdict(&objects));
    let outcome = outcome.map_err(|reason| reason.to_string());
    jobs.delivery_tried(&delivery, outcome).await?;
    Ok(true)
}
