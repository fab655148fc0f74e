//! An archive is asked to commit to what it has stored: a delivery has arrived when it says so, and not before.
use std::net::SocketAddr;
use std::time::Duration;

use dawson::pacs::dimse::{Command, Message};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::{
    EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN,
};
use dicom_ul::Pdu;
use dicom_ul::association::Association;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{PDataValue, PDataValueType};
use serde_json::json;

use super::archive::{Archive, CLASSES, EXPLICIT};
use super::filing::{delivery, form, run, send_again, with};
use super::nodes::listen;
use super::support::{Service, ServiceOptions, destinations};

const PUSH: &str = uids::STORAGE_COMMITMENT_PUSH_MODEL;

/// What an archive does that is asked to commit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Commits {
    /// It reports at once, on the association of the request.
    #[default]
    There,
    /// It makes an association with this address, and reports.
    By(SocketAddr),
    /// It says nothing.
    Never,
    /// It answers the request with this status.
    Refuses(u16),
}

/// What an archive was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transaction {
    pub(crate) uid: String,
    /// Class and instance.
    pub(crate) objects: Vec<(String, String)>,
}

/// What an archive says.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    transaction: String,
    committed: Vec<(String, String)>,
    failed: Vec<(String, String)>,
    event: u16,
}

fn text(data: &InMemDicomObject, tag: dicom_core::Tag) -> String {
    let text = data.element(tag).unwrap().to_str().unwrap();
    text.trim_matches('\0').to_owned()
}

fn read(data: &[u8], syntax: &str) -> InMemDicomObject {
    let (explicit, implicit) = (
        EXPLICIT_VR_LITTLE_ENDIAN.erased(),
        IMPLICIT_VR_LITTLE_ENDIAN.erased(),
    );
    let is_explicit = syntax == uids::EXPLICIT_VR_LITTLE_ENDIAN;
    let syntax = if is_explicit { &explicit } else { &implicit };
    InMemDicomObject::read_dataset_with_ts(data, syntax).unwrap()
}

fn written(data: &InMemDicomObject, syntax: &str) -> Vec<u8> {
    let (explicit, implicit) = (
        EXPLICIT_VR_LITTLE_ENDIAN.erased(),
        IMPLICIT_VR_LITTLE_ENDIAN.erased(),
    );
    let is_explicit = syntax == uids::EXPLICIT_VR_LITTLE_ENDIAN;
    let syntax = if is_explicit { &explicit } else { &implicit };
    let mut bytes = Vec::new();
    data.write_dataset_with_ts(&mut bytes, syntax).unwrap();
    bytes
}

impl Transaction {
    pub(crate) fn read(syntax: &str, data: &[u8]) -> Self {
        let data = read(data, syntax);
        let items = data.element(tags::REFERENCED_SOP_SEQUENCE).unwrap();
        let items = items.items().unwrap().iter().map(|item| {
            let class = text(item, tags::REFERENCED_SOP_CLASS_UID);
            (class, text(item, tags::REFERENCED_SOP_INSTANCE_UID))
        });
        Self {
            uid: text(&data, tags::TRANSACTION_UID),
            objects: items.collect(),
        }
    }

    /// What is said of it by an archive that has lost a class.
    pub(crate) fn report(&self, lost: Option<&str>) -> Report {
        let (failed, committed): (Vec<_>, Vec<_>) = self
            .objects
            .clone()
            .into_iter()
            .partition(|(class, _)| lost == Some(class));
        Report {
            transaction: self.uid.clone(),
            event: if failed.is_empty() { 1 } else { 2 },
            committed,
            failed,
        }
    }
}

impl Report {
    fn data(&self, syntax: &str) -> Vec<u8> {
        let uid = |tag, uid: &str| DataElement::new(tag, VR::UI, PrimitiveValue::from(uid));
        let sequence = |tag, objects: &[(String, String)], failed: bool| {
            let items = objects.iter().map(|(class, instance)| {
                let mut item = InMemDicomObject::from_element_iter([
                    uid(tags::REFERENCED_SOP_CLASS_UID, class),
                    uid(tags::REFERENCED_SOP_INSTANCE_UID, instance),
                ]);
                if failed {
                    let reason = PrimitiveValue::from(0x0112_u16);
                    item.put(DataElement::new(tags::FAILURE_REASON, VR::US, reason));
                }
                item
            });
            let items: Vec<_> = items.collect();
            DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
        };
        let mut data = InMemDicomObject::new_empty();
        data.put(uid(tags::TRANSACTION_UID, &self.transaction));
        data.put(sequence(
            tags::REFERENCED_SOP_SEQUENCE,
            &self.committed,
            false,
        ));
        if !self.failed.is_empty() {
            data.put(sequence(tags::FAILED_SOP_SEQUENCE, &self.failed, true));
        }
        written(&data, syntax)
    }

    /// The N-EVENT-REPORT, in as many parts as it has.
    pub(crate) fn values(&self, context: u8, syntax: &str) -> Vec<PDataValue> {
        let command = Command {
            message: Message::NEventReportRq,
            has_data_set: true,
            affected_sop_class_uid: Some(PUSH.to_owned()),
            affected_sop_instance_uid: Some(
                uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE.to_owned(),
            ),
            message_id: Some(7),
            event_type_id: Some(self.event),
            ..Command::default()
        };
        let data = self.data(syntax);
        let mut values = vec![(PDataValueType::Command, command.encode(), true)];
        let pieces = data.chunks(100).map(<[u8]>::to_vec);
        values.extend(pieces.map(|piece| (PDataValueType::Data, piece, false)));
        values.last_mut().unwrap().2 = true;
        let values = values.into_iter();
        let value = |(value_type, data, is_last)| PDataValue {
            presentation_context_id: context,
            value_type,
            is_last,
            data,
        };
        values.map(value).collect()
    }

    /// Reports on an association that is made for it, in the role of the one who provides the service; how it is
    /// answered.
    pub(crate) async fn bring(&self, at: SocketAddr) -> u16 {
        let mut line = ClientAssociationOptions::new()
            .calling_ae_title("ARCHIVE")
            .called_ae_title("DAWSON")
            .with_presentation_context(PUSH, vec![uids::IMPLICIT_VR_LITTLE_ENDIAN])
            .with_role_selection(PUSH, false, true)
            .establish_async(at)
            .await
            .unwrap();
        let roles = line.requestor_roles_for(PUSH);
        assert_eq!((roles.scu, roles.scp), (false, true));
        for value in self.values(1, uids::IMPLICIT_VR_LITTLE_ENDIAN) {
            line.send(&Pdu::PData { data: vec![value] }).await.unwrap();
        }
        let Pdu::PData { data } = line.receive().await.unwrap() else {
            panic!("no response")
        };
        let response = Command::decode(&data[0].data).unwrap();
        assert_eq!(response.message, Message::NEventReportRsp);
        assert_eq!(response.message_id_being_responded_to, Some(7));
        let _parted = line.release().await;
        response.status.unwrap()
    }
}

fn asking(archive: &Archive, wait_s: f64) -> ServiceOptions {
    with(format!(
        "{}commitment = true\ncommitment_wait_s = {wait_s}\n",
        archive.table()
    ))
}

/// Until the archive has had answers to so many reports.
async fn answered(archive: &Archive, reports: usize) -> Vec<u16> {
    let until = async {
        while archive.book().answers.len() < reports {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), until).await;
    waited.expect("the archive is answered");
    archive.book().answers.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_commits_on_the_association_on_which_it_was_asked() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    let service = Service::start(asking(&archive, 600.0)).await;
    let job = run(&service).await;
    let found = delivery(&service, &job, "delivered").await;
    assert_eq!(found["tries"], 1);
    let (asked, stored) = {
        let book = archive.book();
        (book.asked.clone(), book.stored())
    };
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].objects, stored);
    assert_eq!(answered(&archive, 1).await, [0]);
    // Another delivery is another transaction.
    send_again(&service, &job, "pacs").await;
    assert_eq!(answered(&archive, 2).await, [0, 0]);
    delivery(&service, &job, "delivered").await;
    let asked = archive.book().asked.clone();
    assert_ne!(asked[0].uid, asked[1].uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_knows_only_implicit_vr_commits_too() {
    let archive = Archive::start(CLASSES, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]).await;
    let service = Service::start(asking(&archive, 600.0)).await;
    let job = run(&service).await;
    delivery(&service, &job, "delivered").await;
    assert_eq!(archive.book().asked[0].objects.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_commits_later_and_after_a_restart_on_an_association_of_its_own() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    archive.book().commits = Commits::Never;
    let options = asking(&archive, 600.0);
    let first = Service::idle(options.clone()).await;
    let files = first.run_jobs(destinations(&options));
    let job = run(&first).await;
    let found = delivery(&first, &job, "stored").await;
    assert_eq!(
        (&found["tries"], &found["error"]),
        (&json!(1), &json!(null))
    );
    assert!(found["not_before"].is_string() && found["ended_at"].is_null());
    first.jobs.close();
    files.await.unwrap();

    // Another process, which did not ask, hears the report.
    let second = Service::on(first.state.clone(), options.clone()).await;
    second.run_jobs(destinations(&options));
    let at = listen(&second, 4, 64 << 20).await;
    let asked = archive.book().asked[0].clone();
    let guessed = Transaction {
        uid: "2.25.7".to_owned(),
        ..asked.clone()
    };
    // Nobody asked for that; and an event that is none.
    assert_eq!(guessed.report(None).bring(at).await, 0x0115);
    let strange = Report {
        event: 3,
        ..asked.report(None)
    };
    assert_eq!(strange.bring(at).await, 0x0113);
    delivery(&second, &job, "stored").await;
    assert_eq!(asked.report(None).bring(at).await, 0);
    let found = delivery(&second, &job, "delivered").await;
    assert_eq!(found["tries"], 1);
    // Said again, because the answer was lost.
    assert_eq!(asked.report(None).bring(at).await, 0);
    assert_eq!(archive.book().asked.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_has_lost_is_sent_again() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    let service = Service::idle(asking(&archive, 600.0)).await;
    let at = listen(&service, 4, 64 << 20).await;
    archive.book().commits = Commits::By(at);
    archive.book().lost = Some(uids::COMPREHENSIVE3_DSR_STORAGE);
    service.run_jobs(destinations(&asking(&archive, 600.0)));
    let job = run(&service).await;
    // One wait: two tries.
    let found = delivery(&service, &job, "dead").await;
    assert_eq!(found["tries"], 2);
    let error = found["error"].as_str().unwrap();
    assert!(
        error.contains("1 of 4") && error.contains("dicom_sr") && error.contains("0x0112"),
        "{error}"
    );
    assert_eq!(answered(&archive, 2).await, [0, 0]);
    archive.book().lost = None;
    send_again(&service, &job, "pacs").await;
    delivery(&service, &job, "delivered").await;
    assert_eq!(archive.book().stored().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_does_not_list_everything_is_no_commitment_whatever_its_type() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    archive.book().commits = Commits::Never;
    let options = ServiceOptions {
        filing_waits: Vec::new(),
        ..asking(&archive, 600.0)
    };
    let service = Service::start(options).await;
    let at = listen(&service, 4, 64 << 20).await;
    let job = run(&service).await;
    delivery(&service, &job, "stored").await;
    let asked = archive.book().asked[0].clone();
    let part = Transaction {
        objects: asked.objects[1..].to_vec(),
        ..asked
    };
    assert_eq!(part.report(None).bring(at).await, 0);
    let found = delivery(&service, &job, "dead").await;
    assert!(
        found["error"].as_str().unwrap().contains("1 of 4"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_does_not_answer_or_does_not_want_to_is_asked_again_and_given_up() {
    let without = &CLASSES[..3];
    let cases = [
        (Commits::Never, CLASSES, "no report came in time"),
        (Commits::Refuses(0x0110), CLASSES, "status 0x0110"),
        (
            Commits::There,
            without,
            "no presentation context was accepted for storage commitment",
        ),
    ];
    for (commits, classes, words) in cases {
        let archive = Archive::start(classes, EXPLICIT).await;
        archive.book().commits = commits;
        let service = Service::start(asking(&archive, 0.2)).await;
        let job = service
            .run(form(&json!({ "send_to": ["pacs"] })))
            .await
            .json();
        let found = delivery(&service, &job, "dead").await;
        assert_eq!(found["tries"], 2, "{found}");
        assert!(found["error"].as_str().unwrap().contains(words), "{found}");
        assert_eq!(
            archive.book().stored().len(),
            4,
            "stored it is all the same"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dawson_commits_to_nothing_itself() {
    let service = Service::idle(ServiceOptions::default()).await;
    let at = listen(&service, 4, 64 << 20).await;
    let mut line = ClientAssociationOptions::new()
        .calling_ae_title("ARCHIVE")
        .called_ae_title("DAWSON")
        .with_presentation_context(PUSH, vec![uids::EXPLICIT_VR_LITTLE_ENDIAN])
        .establish_async(at)
        .await
        .unwrap();
    let value = |value_type, data: Vec<u8>| Pdu::PData {
        data: vec![PDataValue {
            presentation_context_id: 1,
            value_type,
            is_last: true,
            data,
        }],
    };
    let request = Command::commitment_rq(1).encode();
    line.send(&value(PDataValueType::Command, request))
        .await
        .unwrap();
    line.send(&value(PDataValueType::Data, vec![8, 0, 0, 0]))
        .await
        .unwrap();
    let Pdu::PData { data } = line.receive().await.unwrap() else {
        panic!("no response")
    };
    let response = Command::decode(&data[0].data).unwrap();
    assert_eq!(response.status, Some(0x0211));
}
