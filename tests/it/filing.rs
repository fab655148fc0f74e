//! Results are filed at archives: all of them, once in effect, and whoever looks sees what is missing.
//!
//! The archives here are small, and speak by the same library from its other side; those of other makers are in
//! `tests/pacs`.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State as AppState};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::{get, post};
use dawson::pacs::dimse::{Command, Message};
use dawson_imaging::study::Contrast;
use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTable, InMemDicomObject};
use dicom_transfer_syntax_registry::entries::{
    EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN,
};
use dicom_ul::Pdu;
use dicom_ul::association::{Association, ServerAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::commitment::{Commits, Report, Transaction};
use super::dicom::{study, zipped};
use super::support::{Answer, Form, PATIENCE, Service, ServiceOptions, destinations};

/// What an archive was sent: class, instance, syntax, data set.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    class: String,
    instance: String,
    syntax: String,
    data_set: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Book {
    sent: Vec<Sent>,
    /// Who called whom.
    titles: Vec<(String, String)>,
    /// The status of a class's objects, while it is there.
    refused: Option<(&'static str, u16)>,
    /// What it does when it is asked to commit.
    pub(crate) commits: Commits,
    /// The class that it has lost when it is asked.
    pub(crate) lost: Option<&'static str>,
    /// What it was asked to commit to.
    pub(crate) asked: Vec<Transaction>,
    /// How its reports were answered.
    pub(crate) answers: Vec<u16>,
}

impl Book {
    /// Class and instance of what is stored.
    pub(crate) fn stored(&self) -> Vec<(String, String)> {
        let sent = self.sent.iter();
        sent.map(|one| (one.class.clone(), one.instance.clone()))
            .collect()
    }
}

/// An archive that takes C-STORE, and commits to what it has stored.
#[derive(Clone)]
pub(crate) struct Archive {
    pub(crate) address: String,
    book: Arc<Mutex<Book>>,
}

impl Archive {
    pub(crate) async fn start(
        classes: &'static [&'static str],
        syntaxes: &'static [&'static str],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let archive = Self {
            address: listener.local_addr().unwrap().to_string(),
            book: Arc::default(),
        };
        let serving = archive.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let archive = serving.clone();
                tokio::spawn(archive.associate(socket, classes, syntaxes));
            }
        });
        archive
    }

    pub(crate) fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn associate(
        self,
        socket: TcpStream,
        classes: &[&'static str],
        syntaxes: &[&'static str],
    ) {
        socket.set_nodelay(true).unwrap();
        let mut options = ServerAssociationOptions::new()
            .ae_title("ARCHIVE")
            .accept_called_ae_title();
        for class in classes {
            options = options.with_abstract_syntax(*class);
        }
        for syntax in syntaxes {
            options = options.with_transfer_syntax(*syntax);
        }
        let Ok(mut line) = options.establish_async(socket).await else {
            return;
        };
        let titles = (
            line.peer_ae_title().to_owned(),
            line.called_ae_title().to_owned(),
        );
        self.book().titles.push(titles);
        let (mut command, mut data_set) = (Vec::new(), Vec::new());
        loop {
            match line.receive().await {
                Ok(Pdu::PData { data }) => {
                    for value in data {
                        let (whole, context) = (value.is_last, value.presentation_context_id);
                        let into = match value.value_type {
                            PDataValueType::Command => &mut command,
                            PDataValueType::Data => &mut data_set,
                        };
                        into.extend_from_slice(&value.data);
                        if !whole {
                            continue;
                        }
                        if value.value_type == PDataValueType::Command {
                            let said = Command::decode(&command).unwrap();
                            if said.message.is_response() {
                                self.book().answers.push(said.status.unwrap());
                                command.clear();
                            }
                            continue;
                        }
                        let contexts = line.presentation_contexts();
                        let chosen = contexts.iter().find(|c| c.id == context).unwrap();
                        let syntax = chosen.transfer_syntax.clone();
                        let request = Command::decode(&std::mem::take(&mut command)).unwrap();
                        let data_set = std::mem::take(&mut data_set);
                        let (status, report) = if request.message == Message::NActionRq {
                            self.asked(&request, &syntax, &data_set)
                        } else {
                            (self.store(&request, syntax.clone(), data_set), None)
                        };
                        let response = request.response(status).encode();
                        // In two pieces, as some do.
                        for (data, is_last) in [(&response[..20], false), (&response[20..], true)] {
                            let value = PDataValue {
                                presentation_context_id: context,
                                value_type: PDataValueType::Command,
                                is_last,
                                data: data.to_vec(),
                            };
                            line.send(&Pdu::PData { data: vec![value] }).await.unwrap();
                        }
                        let Some(report) = report else { continue };
                        for value in report.values(context, &syntax) {
                            line.send(&Pdu::PData { data: vec![value] }).await.unwrap();
                        }
                    }
                }
                Ok(Pdu::ReleaseRQ) => {
                    let _parted = line.send(&Pdu::ReleaseRP).await;
                    return;
                }
                _ => return,
            }
        }
    }

    fn store(&self, request: &Command, syntax: String, data_set: Vec<u8>) -> u16 {
        assert_eq!(request.message, Message::CStoreRq);
        let class = request.affected_sop_class_uid.clone().unwrap();
        let mut book = self.book();
        if let Some((refused, status)) = book.refused
            && refused == class
        {
            return status;
        }
        let sent = Sent {
            class,
            instance: request.affected_sop_instance_uid.clone().unwrap(),
            syntax,
            data_set,
        };
        // What is there already is told so, as some do.
        if book.sent.iter().any(|one| one.instance == sent.instance) {
            assert!(
                book.sent.contains(&sent),
                "the same object is the same bytes"
            );
            return 0x0111;
        }
        book.sent.push(sent);
        0
    }

    /// The status of a request to commit, and the report that follows on the same association.
    fn asked(&self, request: &Command, syntax: &str, data: &[u8]) -> (u16, Option<Report>) {
        let of = (
            request.requested_sop_class_uid.as_deref(),
            request.requested_sop_instance_uid.as_deref(),
        );
        let push = (
            Some(uids::STORAGE_COMMITMENT_PUSH_MODEL),
            Some(uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE),
        );
        assert_eq!((of, request.action_type_id), (push, Some(1)));
        let mut book = self.book();
        let transaction = Transaction::read(syntax, data);
        book.asked.push(transaction.clone());
        let report = transaction.report(book.lost);
        match book.commits {
            Commits::There => (0, Some(report)),
            Commits::By(at) => {
                let archive = self.clone();
                tokio::spawn(async move {
                    let status = report.bring(at).await;
                    archive.book().answers.push(status);
                });
                (0, None)
            }
            Commits::Never => (0, None),
            Commits::Refuses(status) => (status, None),
        }
    }

    pub(crate) fn table(&self) -> String {
        let address = &self.address;
        format!(
            "[[destination]]\nname = \"pacs\"\nae_title = \"ARCHIVE\"\naddress = \"{address}\"\n"
        )
    }
}

pub(crate) const CLASSES: &[&str] = &[
    uids::SEGMENTATION_STORAGE,
    uids::COMPREHENSIVE3_DSR_STORAGE,
    uids::ENCAPSULATED_PDF_STORAGE,
    uids::STORAGE_COMMITMENT_PUSH_MODEL,
];
pub(crate) const EXPLICIT: &[&str] = &[
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
];
const OBJECTS: [&str; 4] = [
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

/// What a server of the web protocols was sent, and how it answers.
#[derive(Default)]
struct Web {
    answers: Mutex<Vec<(u16, Value)>>,
    bodies: Mutex<Vec<(HeaderMap, Bytes)>>,
    there: Mutex<Vec<String>>,
}

impl Web {
    /// Answers once by each of these, then by the last for ever.
    async fn start(self: &Arc<Self>) -> String {
        let router = Router::new()
            .route("/dicom-web/studies", post(stow))
            .route("/dicom-web/instances", get(qido))
            .with_state(Arc::clone(self));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("[[destination]]\nname = \"pacs\"\nstow = \"http://{address}/dicom-web\"\n")
    }
}

async fn stow(
    AppState(web): AppState<Arc<Web>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let instances = parts(&headers, &body)
        .iter()
        .map(|file| instance(file))
        .collect::<Vec<_>>();
    web.bodies.lock().unwrap().push((headers, body));
    let mut answers = web.answers.lock().unwrap();
    let (status, answer) = if answers.len() > 1 {
        answers.remove(0)
    } else {
        answers[0].clone()
    };
    // `*` stands for all that came.
    let text = answer.to_string();
    let items: Vec<Value> = instances.iter().map(|uid| json!({ "00081155": { "vr": "UI", "Value": [uid] }, "00081197": { "vr": "US", "Value": [45070] } })).collect();
    let text = text.replace("[\"*\"]", &Value::from(items).to_string());
    (StatusCode::from_u16(status).unwrap(), text)
}

async fn qido(
    AppState(web): AppState<Arc<Web>>,
    Query(asked): Query<std::collections::HashMap<String, String>>,
) -> String {
    let uid = &asked["SOPInstanceUID"];
    let there = web.there.lock().unwrap();
    let found: Vec<Value> = there
        .iter()
        .filter(|one| *one == uid || *one == "*")
        .map(|_| json!({ "00080018": { "vr": "UI", "Value": [uid] } }))
        .collect();
    Value::from(found).to_string()
}

/// The parts of a multipart body, read by hand.
fn parts(headers: &HeaderMap, body: &[u8]) -> Vec<Vec<u8>> {
    let kind = headers["content-type"].to_str().unwrap();
    assert!(
        kind.starts_with("multipart/related; type=\"application/dicom\"; boundary="),
        "{kind}"
    );
    let boundary = kind.rsplit_once('=').unwrap().1;
    let mark = format!("--{boundary}");
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(next) = body[at..]
        .windows(mark.len())
        .position(|w| w == mark.as_bytes())
    {
        starts.push(at + next);
        at += next + mark.len();
    }
    assert!(body.ends_with(format!("\r\n{mark}--\r\n").as_bytes()));
    let head = "\r\nContent-Type: application/dicom\r\n\r\n";
    starts
        .windows(2)
        .map(|pair| {
            let part = &body[pair[0] + mark.len()..pair[1] - 2];
            part.strip_prefix(head.as_bytes()).unwrap().to_vec()
        })
        .collect()
}

fn instance(file: &[u8]) -> String {
    let meta = FileMetaTable::from_reader(&file[128..]).unwrap();
    meta.media_storage_sop_instance_uid().to_owned()
}

fn listed(tag: &str) -> Value {
    json!({ tag: { "vr": "SQ", "Value": ["*"] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_s_status_proves_nothing_and_its_list_does() {
    let stored = listed("00081199");
    let web = Arc::new(Web::default());
    // Nothing stored with 200; an empty answer; a page of a proxy; all stored with 409.
    *web.answers.lock().unwrap() = vec![
        (200, json!({ "00081199": { "vr": "SQ", "Value": [] } })),
        (200, json!({})),
        (502, json!("<html>")),
        (409, stored),
    ];
    let options = ServiceOptions {
        filing_waits: vec![Duration::ZERO; 3],
        ..with(web.start().await)
    };
    let service = Service::start(options).await;
    let job = run(&service).await;
    let found = delivery(&service, &job, "delivered").await;
    assert_eq!(found["tries"], 4);
    let bodies = web.bodies.lock().unwrap().clone();
    assert_eq!(bodies.len(), 4);
    for (headers, body) in &bodies {
        assert_eq!(headers["accept"], "application/dicom+json");
        assert!(headers.get("authorization").is_none());
        let parts = parts(headers, body);
        assert_eq!(parts.len(), 4);
    }
    let (headers, body) = &bodies[3];
    for name in OBJECTS {
        let path = format!("{}/{name}", job["links"]["artifacts"].as_str().unwrap());
        let file = service.get(&path).await.body;
        assert!(
            parts(headers, body).iter().any(|part| *part == file),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_web_server_says_is_there_already_is_looked_for() {
    let web = Arc::new(Web::default());
    *web.answers.lock().unwrap() = vec![(409, listed("00081198"))];
    let options = ServiceOptions {
        filing_waits: Vec::new(),
        ..with(web.start().await)
    };
    let service = Service::start(options).await;
    let job = run(&service).await;
    let found = delivery(&service, &job, "dead").await;
    let error = found["error"].as_str().unwrap();
    assert!(
        error.contains("4 of 4") && error.contains("409") && error.contains("0xB00E"),
        "{error}"
    );
    web.there.lock().unwrap().push("*".to_owned());
    send_again(&service, &job, "pacs").await;
    delivery(&service, &job, "delivered").await;
}
