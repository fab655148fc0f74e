//! Results are filed at archives: all of them, once in effect, and whoever looks sees what is missing.
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use dawson_imaging::study::Contrast;
use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTable, InMemDicomObject};
use dicom_transfer_syntax_registry::entries::{
    EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::archive::{Archive, CLASSES, EXPLICIT};
use super::dicom::{study, zipped};
use super::support::{Answer, Form, PATIENCE, Service, ServiceOptions, destinations};

pub(crate) const OBJECTS: [&str; 4] = [
    "dicom_pdf.dcm",
    "dicom_seg.dcm",
    "dicom_seg_lesions.dcm",
    "dicom_sr.dcm",
];

pub(crate) fn form(options: &Value) -> Form {
    Form::default()
        .part("study", &zipped(&study(&[Contrast::Flair])))
        .options(options)
}

pub(crate) fn with(table: String) -> ServiceOptions {
    ServiceOptions {
        pacs: table,
        ..ServiceOptions::default()
    }
}

/// A job that is filed at `pacs`, ended.
pub(crate) async fn run(service: &Service) -> Value {
    let job = service
        .run(form(&json!({ "send_to": ["pacs"] })))
        .await
        .json();
    assert_eq!(job["state"], "succeeded", "{job}");
    job
}

/// The job's delivery once it is in that state.
pub(crate) async fn delivery(service: &Service, job: &Value, state: &str) -> Value {
    let path = job["links"]["self"].as_str().unwrap();
    let until = async {
        loop {
            let found = service.get(path).await.json()["deliveries"][0].clone();
            if found["state"] == state {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, until).await;
    found.unwrap_or_else(|_| panic!("no delivery came to be {state}"))
}

/// An artifact's instance UID and data set.
async fn artifact(service: &Service, job: &Value, name: &str) -> (String, Vec<u8>) {
    let path = format!("{}/{name}", job["links"]["artifacts"].as_str().unwrap());
    let file = service.get(&path).await.body;
    let meta = FileMetaTable::from_reader(&file[128..]).unwrap();
    let at = 128 + 4 + 12 + meta.information_group_length as usize;
    (
        meta.media_storage_sop_instance_uid().to_owned(),
        file[at..].to_vec(),
    )
}

pub(crate) async fn send_again(service: &Service, job: &Value, destination: &str) -> Answer {
    let path = format!(
        "{}/deliveries/{destination}",
        job["links"]["self"].as_str().unwrap()
    );
    let request = Request::post(path).body(axum::body::Body::empty());
    service.send(request.unwrap()).await
}

async fn ready(service: &Service) -> String {
    let answer = service.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::OK);
    let checks = answer.json()["checks"].clone();
    let filing = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"] == "filing");
    filing.unwrap()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_stored_as_it_was_written() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    let service = Service::start(with(archive.table())).await;
    // What is filed is made, whatever else is asked for.
    let options = json!({ "send_to": ["pacs"], "outputs": ["lesions"] });
    let job = service.run(form(&options)).await.json();
    let found = delivery(&service, &job, "delivered").await;
    assert_eq!(
        (&found["destination"], &found["tries"]),
        (&json!("pacs"), &json!(1))
    );
    assert!(
        found["error"].is_null() && found["not_before"].is_null() && found["ended_at"].is_string()
    );
    let sent = archive.book().sent.clone();
    assert_eq!(sent.len(), 4);
    for name in OBJECTS {
        let (instance, data_set) = artifact(&service, &job, name).await;
        let one = sent.iter().find(|one| one.instance == instance).unwrap();
        assert_eq!(one.syntax, uids::EXPLICIT_VR_LITTLE_ENDIAN);
        assert!(one.data_set == data_set, "{name} came as other bytes");
    }
    let titles = archive.book().titles.clone();
    assert_eq!(titles, [("DAWSON".to_owned(), "ARCHIVE".to_owned())]);
    assert_eq!(ready(&service).await, "0 deliveries wait, 0 are dead");
    // Sent again by hand, it is there already, which is as good.
    let answer = send_again(&service, &job, "pacs").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(delivery(&service, &job, "delivered").await["tries"], 1);
    assert_eq!(archive.book().sent.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_knows_only_implicit_vr_gets_the_same_object_in_it() {
    let archive = Archive::start(CLASSES, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]).await;
    let service = Service::start(with(archive.table())).await;
    let job = run(&service).await;
    delivery(&service, &job, "delivered").await;
    let sent = archive.book().sent.clone();
    assert_eq!(sent.len(), 4);
    for name in OBJECTS {
        let (instance, explicit) = artifact(&service, &job, name).await;
        let one = sent.iter().find(|one| one.instance == instance).unwrap();
        assert_eq!(one.syntax, uids::IMPLICIT_VR_LITTLE_ENDIAN);
        let read = |bytes: &[u8], syntax| {
            InMemDicomObject::read_dataset_with_ts(bytes, syntax)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (from, to) = (
            EXPLICIT_VR_LITTLE_ENDIAN.erased(),
            IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        );
        let ours = read(&explicit, &from);
        let theirs = read(&one.data_set, &to);
        assert!(one.data_set.len() < explicit.len());
        let same = |data: &InMemDicomObject| {
            let mut bytes = Vec::new();
            data.write_dataset_with_ts(&mut bytes, &to).unwrap();
            bytes
        };
        assert!(same(&ours) == same(&theirs), "{name} is another object");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_refused_is_no_delivery_and_after_the_last_try_it_is_dead() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    archive.book().refused = Some((uids::COMPREHENSIVE3_DSR_STORAGE, 0xA700));
    let service = Service::start(with(archive.table())).await;
    let job = run(&service).await;
    let found = delivery(&service, &job, "dead").await;
    // One wait: two tries.
    assert_eq!(found["tries"], 2);
    let error = found["error"].as_str().unwrap();
    assert!(
        error.contains("1 of 4") && error.contains("dicom_sr") && error.contains("0xA700"),
        "{error}"
    );
    assert_eq!(archive.book().sent.len(), 3, "the others are there");
    assert_eq!(ready(&service).await, "0 deliveries wait, 1 are dead");
    archive.book().refused = None;
    let answer = send_again(&service, &job, "pacs").await.json();
    assert_eq!(answer["deliveries"].as_array().unwrap().len(), 1);
    let found = delivery(&service, &job, "delivered").await;
    assert_eq!(
        (&found["tries"], &found["error"]),
        (&json!(1), &Value::Null)
    );
    let mut instances: Vec<String> = archive
        .book()
        .sent
        .iter()
        .map(|s| s.instance.clone())
        .collect();
    instances.sort();
    instances.dedup();
    assert_eq!((instances.len(), archive.book().sent.len()), (4, 4));
    assert_eq!(ready(&service).await, "0 deliveries wait, 0 are dead");
    for (destination, of) in [
        ("pasc", &job),
        (
            "pacs",
            &json!({ "links": { "self": "/v1/segmentations/01KB0V7Z6N3W7Q1X5F6J8R9T2M" } }),
        ),
    ] {
        let refused = send_again(&service, of, destination).await;
        assert_eq!(refused.problem(), (404, "not_found".to_owned()));
    }
    // A warning is no refusal.
    archive.book().sent.clear();
    archive.book().refused = Some((uids::ENCAPSULATED_PDF_STORAGE, 0xB000));
    send_again(&service, &job, "pacs").await;
    delivery(&service, &job, "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_peer_was_not_reached_is_told_in_our_words() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    // Not DICOM: an archive's address with a web server's port.
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web_address = web.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = web.accept().await {
            let mut some = [0; 64];
            let _read = socket.read(&mut some).await;
            let _said = socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\nX-Patient: Doe^Jane\r\n\r\n")
                .await;
        }
    });
    let archive = Archive::start(
        &[uids::SEGMENTATION_STORAGE, uids::ENCAPSULATED_PDF_STORAGE],
        EXPLICIT,
    )
    .await;
    let none = Archive::start(&[uids::VERIFICATION], EXPLICIT).await;
    let table = |title: &str, address: &str| {
        format!(
            "[[destination]]\nname = \"pacs\"\nae_title = \"{title}\"\naddress = \"{address}\"\n"
        )
    };
    let cases = [
        (table("ARCHIVE", &gone.to_string()), "cannot connect"),
        (table("ARCHIVE", &web_address.to_string()), "no DICOM"),
        (table("OTHER", &archive.address), "rejected"),
        (
            table("ARCHIVE", &archive.address),
            "no presentation context was accepted for dicom_sr",
        ),
        (
            table("ARCHIVE", &none.address),
            "no presentation context was accepted for dicom_",
        ),
    ];
    for (table, word) in cases {
        let options = ServiceOptions {
            filing_waits: Vec::new(),
            ..with(table)
        };
        let service = Service::start(options).await;
        let job = run(&service).await;
        let found = delivery(&service, &job, "dead").await;
        let error = found["error"].as_str().unwrap();
        assert!(
            error.contains(word) && !error.contains("Jane"),
            "{word}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_filed_is_refused_when_it_is_submitted() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    let service = Service::idle(with(archive.table())).await;
    let nowhere = Service::idle(ServiceOptions::default()).await;
    let to = |name: &str| json!({ "send_to": [name] });
    let cases = [
        (
            &service,
            form(&to("pasc")),
            "'pasc' is not a destination; there are: pacs",
        ),
        (
            &service,
            Form::of(&[Contrast::Flair]).options(&to("pacs")),
            "NIfTI",
        ),
        (&nowhere, form(&to("pacs")), "files results nowhere"),
        (&service, form(&json!({ "send_to": "pacs" })), "send_to"),
    ];
    for (service, form, word) in cases {
        let answer = service.send(form.request(&[])).await;
        assert_eq!(answer.problem(), (422, "invalid_options".to_owned()));
        let said = answer.json().to_string();
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_may_ask_for_objects_that_are_not_usual() {
    let archive = Archive::start(
        &[
            uids::LABEL_MAP_SEGMENTATION_STORAGE,
            uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
        ],
        EXPLICIT,
    )
    .await;
    let table = format!(
        "{}objects = [\"dicom_seg_labelmap\", \"dicom_sc\"]\n",
        archive.table()
    );
    let service = Service::start(with(table)).await;
    let job = run(&service).await;
    delivery(&service, &job, "delivered").await;
    let sent = archive.book().sent.clone();
    let of = |class: &str| sent.iter().filter(|one| one.class == class).count();
    assert_eq!(of(uids::LABEL_MAP_SEGMENTATION_STORAGE), 1);
    assert!(
        of(uids::SECONDARY_CAPTURE_IMAGE_STORAGE) > 1,
        "one for each slice with lesions"
    );
    let codes = job["report"]["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| &w["code"]);
    assert!(!codes.into_iter().any(|code| code == "not_dicom"), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_what_waits_and_buries_what_nobody_knows_any_more() {
    let archive = Archive::start(CLASSES, EXPLICIT).await;
    let patient = vec![Duration::from_hours(1)];
    let options = ServiceOptions {
        filing_waits: patient,
        ..with(archive.table())
    };
    // It computes, but files nothing.
    let first = Service::idle(options.clone()).await;
    tokio::spawn(Arc::clone(&first.jobs).run());
    let job = run(&first).await;
    assert_eq!(job["deliveries"][0]["state"], "waiting");
    assert_eq!(ready(&first).await, "1 deliveries wait, 0 are dead");
    let second = Service::on(first.state.clone(), options.clone()).await;
    let files = second.run_jobs(destinations(&options));
    delivery(&second, &job, "delivered").await;
    assert_eq!(archive.book().sent.len(), 4);

    second.jobs.close();
    files.await.unwrap();
    send_again(&first, &job, "pacs").await;
    let renamed = ServiceOptions {
        filing_waits: Vec::new(),
        ..with(archive.table().replace("\"pacs\"", "\"archive\""))
    };
    let third = Service::on(first.state.clone(), renamed.clone()).await;
    third.run_jobs(destinations(&renamed));
    let found = delivery(&third, &job, "dead").await;
    assert!(
        found["error"].as_str().unwrap().contains("configured"),
        "{found}"
    );
}
