//! Studies that DICOM nodes send image by image, and what nodes may not do.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dawson::jobs::Sees;
use dawson::pacs::dimse::Command;
use dawson::pacs::{AeTitle, Receiver, ReceiverConfig, Stage};
use dawson::tls::Tls;
use dawson_imaging::dicom::Limits;
use dawson_imaging::study::Contrast;
use dicom_ul::Pdu;
use dicom_ul::association::client::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::dicom::{ALL, study};
use super::support::{Form, Service, ServiceOptions};

const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
const SR: &str = "1.2.840.10008.5.1.4.1.1.88.34";
const ECHO: &str = "1.2.840.10008.1.1";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const STUDY: &str = "1.2.840.99";

/// A service that listens to nodes.
async fn listening(options: ServiceOptions) -> (Service, SocketAddr) {
    let service = Service::start(options).await;
    let at = listen(&service, 4, 64 << 20).await;
    (service, at)
}

pub(crate) async fn listen(service: &Service, associations: usize, bytes: u64) -> SocketAddr {
    listen_by(service, associations, bytes, None).await
}

pub(crate) async fn listen_by(
    service: &Service,
    associations: usize,
    bytes: u64,
    tls: Option<Arc<Tls>>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let config = ReceiverConfig {
        ae_title: AeTitle::parse("DAWSON").unwrap(),
        max_associations: associations,
        max_association_bytes: bytes,
        silence: Duration::from_secs(5),
        tls,
    };
    let receiver = Receiver::new(Arc::clone(&service.inbox), config);
    tokio::spawn(receiver.serve(listener, service.jobs.closed()));
    at
}

/// A node with an association.
struct Node {
    association: AsyncClientAssociation<TcpStream>,
    sent: u16,
}

impl Node {
    async fn call(at: SocketAddr, calling: &str, called: &str) -> Result<Self, String> {
        let association = ClientAssociationOptions::new()
            .calling_ae_title(calling.to_owned())
            .called_ae_title(called.to_owned())
            .with_presentation_context(ECHO, vec![EXPLICIT])
            .with_presentation_context(MR, vec![EXPLICIT])
            .with_presentation_context(SR, vec![EXPLICIT])
            .establish_async(at)
            .await
            .map_err(|e| format!("{e:?}"))?;
        Ok(Self {
            association,
            sent: 0,
        })
    }

    async fn to(at: SocketAddr) -> Self {
        Self::call(at, "MR1", "DAWSON").await.unwrap()
    }

    /// The status of a request, with its data set.
    async fn ask(&mut self, class: &str, command: &Command, data: Option<&[u8]>) -> Option<u16> {
        let contexts = self.association.presentation_contexts();
        let context = contexts
            .iter()
            .find(|c| c.abstract_syntax == class)
            .unwrap();
        let id = context.id;
        let value = |value_type, is_last, data: &[u8]| Pdu::PData {
            data: vec![PDataValue {
                presentation_context_id: id,
                value_type,
                is_last,
                data: data.to_vec(),
            }],
        };
        let command = value(PDataValueType::Command, true, &command.encode());
        self.association.send(&command).await.ok()?;
        let pieces: Vec<&[u8]> = data.map(|d| d.chunks(8000).collect()).unwrap_or_default();
        for (n, piece) in pieces.iter().enumerate() {
            let is_last = n + 1 == pieces.len();
            let sent = value(PDataValueType::Data, is_last, piece);
            if self.association.send(&sent).await.is_err() {
                break;
            }
        }
        let Ok(Pdu::PData { data }) = self.association.receive().await else {
            return None;
        };
        Command::decode(&data[0].data).unwrap().status
    }

    async fn echo(&mut self) -> Option<u16> {
        self.ask(ECHO, &Command::c_echo_rq(1), None).await
    }

    /// The status of a C-STORE of a file, as the class and instance it says it is.
    async fn store(&mut self, file: &[u8]) -> Option<u16> {
        let instance = instance_of(file);
        self.store_as(MR, &instance, file).await
    }

    async fn store_as(&mut self, class: &str, instance: &str, file: &[u8]) -> Option<u16> {
        self.sent += 1;
        let command = Command::c_store_rq(self.sent, class, instance);
        // The test's files have one element of meta information: 28 bytes.
        let data = file.get(132 + 28..).unwrap_or_default().to_vec();
        self.ask(class, &command, Some(&data)).await
    }

    async fn store_all(&mut self, files: &[Vec<u8>]) {
        for file in files {
            assert_eq!(self.store(file).await, Some(0));
        }
    }

    async fn release(self) {
        self.association.release().await.unwrap();
    }
}

/// (0008,0018) of a file that `tests/it/dicom.rs` wrote.
fn instance_of(file: &[u8]) -> String {
    let tag = [8, 0, 0x18, 0, b'U', b'I'];
    let at = file.windows(6).position(|w| w == tag).unwrap();
    let length = usize::from(file[at + 6]);
    let value = &file[at + 8..at + 8 + length];
    String::from_utf8_lossy(value).trim_matches('\0').to_owned()
}

/// Waits until what arrives fulfils a condition.
async fn until(service: &Service, what: impl Fn(&[dawson::pacs::Arrival]) -> bool) {
    let begun = Instant::now();
    loop {
        let arrivals = service.inbox.list(&Sees::All);
        if what(&arrivals) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{arrivals:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn sent(arrivals: &[dawson::pacs::Arrival]) -> bool {
    matches!(arrivals, [one] if matches!(one.stage, Stage::Sent(_)))
}

async fn jobs(service: &Service) -> Vec<serde_json::Value> {
    let listed = service.get("/v1/segmentations").await.json();
    listed["jobs"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_becomes_one_job_once_it_is_quiet_and_its_senders_have_gone() {
    let (service, at) = listening(ServiceOptions::default()).await;
    let files = study(&ALL);
    let mut node = Node::to(at).await;
    assert_eq!(node.echo().await, Some(0));
    node.store_all(&files).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    // It is quiet, but its sender is there.
    assert!(jobs(&service).await.is_empty());
    node.release().await;
    until(&service, sent).await;
    let all = jobs(&service).await;
    assert_eq!(all.len(), 1);
    let path = all[0]["links"]["self"].as_str().unwrap();
    let request = axum::http::Request::get(path).header("prefer", "wait=60");
    let request = request.body(axum::body::Body::empty()).unwrap();
    let job = service.send(request).await.json();
    assert_eq!(job["state"], "succeeded", "{job}");
    let series = job["report"]["study"]["series"].as_array().unwrap();
    assert_eq!(series.len(), 3);

    // The same study again makes no second job, by another order and another association.
    let mut node = Node::to(at).await;
    let again: Vec<Vec<u8>> = files.iter().rev().cloned().collect();
    node.store_all(&again).await;
    node.release().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(jobs(&service).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_comes_late_makes_a_new_revision_of_the_whole_study() {
    let (service, at) = listening(ServiceOptions::default()).await;
    let (flair, t1w) = (study(&[Contrast::Flair]), study(&[Contrast::T1w]));
    let mut node = Node::to(at).await;
    node.store_all(&flair).await;
    node.release().await;
    until(&service, sent).await;
    let mut node = Node::to(at).await;
    node.store_all(&t1w).await;
    node.release().await;
    until(&service, |a| sent(a) && a[0].revision == 2).await;
    let whole = flair.len() + t1w.len();
    until(&service, |a| a[0].images == whole).await;
    assert_eq!(jobs(&service).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_object_of_a_uid_is_not_kept_and_that_is_said() {
    let (service, at) = listening(ServiceOptions::default()).await;
    let files = study(&[Contrast::Flair]);
    let mut node = Node::to(at).await;
    assert_eq!(node.store(&files[0]).await, Some(0));
    let mut other = files[0].clone();
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(node.store(&other).await, Some(0xb000));
    assert_eq!(node.store(&files[0]).await, Some(0));
    let arrival = &service.inbox.list(&Sees::All)[0];
    assert_eq!((arrival.images, arrival.conflicts), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_does_not_end_the_association() {
    let options = ServiceOptions {
        dicom_limits: Limits {
            max_file_bytes: 1 << 20,
            ..Limits::CLINICAL
        },
        ..ServiceOptions::default()
    };
    let (service, at) = listening(options).await;
    let files = study(&[Contrast::Flair]);
    let mut node = Node::to(at).await;
    // Not an image: taken, not kept, and that is said.
    assert_eq!(node.store_as(SR, "1.2.3", &files[0]).await, Some(0xb006));
    // Damaged.
    let cut = &files[0][..files[0].len() - 40];
    assert_eq!(node.store(cut).await, Some(0xc000));
    // Another instance than was announced.
    assert_eq!(node.store_as(MR, "1.2.3", &files[0]).await, Some(0xa900));
    // A request that is not served, with and without a data set.
    let find = Command {
        message: dawson::pacs::dimse::Message::Other(0x20),
        has_data_set: true,
        ..Command::c_echo_rq(9)
    };
    assert_eq!(node.ask(MR, &find, Some(b"xx")).await, Some(0x0211));
    assert_eq!(node.store(&files[0]).await, Some(0));
    assert_eq!(service.inbox.list(&Sees::All)[0].images, 1);
    // More than an object may have: said, and the association ends.
    let endless = vec![0; 3 << 20];
    assert_eq!(node.store_as(MR, "1.2.4", &endless).await, Some(0xa700));
    assert_eq!(node.echo().await, None);
    // A name that leads elsewhere is no UID, and a command set without one is none.
    let mut node = Node::to(at).await;
    assert_eq!(node.store_as(MR, "../../x", &files[0]).await, None);
    assert_eq!(service.inbox.list(&Sees::All)[0].images, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_nodes_may_send_and_only_to_this_title() {
    let rules = "[[calling]]\nae_title='MR1'\naddresses=['127.0.0.0/8']\nowner='k1'";
    let options = ServiceOptions {
        pacs: rules.to_owned(),
        ..ServiceOptions::default()
    };
    let (service, at) = listening(options).await;
    let reason = Node::call(at, "MR2", "DAWSON").await.err().unwrap();
    assert!(reason.contains("CallingAETitleNotRecognized"), "{reason}");
    let reason = Node::call(at, "MR1", "OTHER").await.err().unwrap();
    assert!(reason.contains("CalledAETitleNotRecognized"), "{reason}");
    let files = study(&[Contrast::Flair]);
    let mut node = Node::to(at).await;
    assert_eq!(node.store(&files[0]).await, Some(0));
    // The study is its owner's.
    assert_eq!(service.inbox.list(&Sees::Own("k1".to_owned())).len(), 1);
    assert!(service.inbox.list(&Sees::Own("k2".to_owned())).is_empty());
    assert!(
        service
            .inbox
            .start(&Sees::Own("k2".to_owned()), STUDY, None)
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out_and_too_many_associations_are_told_so() {
    let service = Service::start(ServiceOptions::default()).await;
    let at = listen(&service, 2, 64 << 20).await;
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    let mut nodes = vec![Node::to(at).await, Node::to(at).await];
    let reason = Node::call(at, "MR1", "DAWSON").await.err().unwrap();
    assert!(reason.contains("LocalLimitExceeded"), "{reason}");
    for node in &mut nodes {
        assert_eq!(node.echo().await, Some(0));
    }
    nodes.pop().unwrap().release().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(Node::to(at).await.echo().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_dicom_is_cut_off_at_once() {
    let service = Service::start(ServiceOptions::default()).await;
    let at = listen(&service, 2, 64 << 20).await;
    let four_gib = [&[1, 0, 0xff, 0xff, 0xff, 0xf0][..], &[b'x'; 100]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &four_gib] {
        let mut socket = TcpStream::connect(at).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(3), socket.read_to_end(&mut answer));
        // Closed or reset, but not kept waiting.
        assert!(read.await.is_ok(), "{bytes:?}");
    }
    assert_eq!(Node::to(at).await.echo().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart_and_gone_after_an_erasure() {
    let options = ServiceOptions {
        quiet: Duration::from_mins(10),
        ..ServiceOptions::default()
    };
    let (service, at) = listening(options).await;
    let files = study(&ALL);
    let mut node = Node::to(at).await;
    node.store_all(&files[..10]).await;
    let state = service.state.clone();
    // It stays, as a process that was stopped in the middle of everything, until its folder may go.
    let (before, _node) = (service, node);

    let service = Service::on(state.clone(), ServiceOptions::default()).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].images, 10);
    tokio::spawn(Arc::clone(&service.jobs).run());
    tokio::spawn(Arc::clone(&service.inbox).run());
    let at = listen(&service, 2, 64 << 20).await;
    let mut node = Node::to(at).await;
    node.store_all(&files[10..]).await;
    node.release().await;
    until(&service, |a| sent(a) && a[0].images == files.len()).await;
    let job = jobs(&service).await.remove(0);
    let path = job["links"]["self"].as_str().unwrap();
    let erase = axum::http::Request::delete(path);
    let answer = service
        .send(erase.body(axum::body::Body::empty()).unwrap())
        .await;
    assert_eq!(answer.status.as_u16(), 204);
    assert_eq!(
        std::fs::read_dir(state.join("arriving")).unwrap().count(),
        0
    );
    until(&service, <[_]>::is_empty).await;
    drop(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_what_is_run_and_somebody_may_say_that_a_study_is_whole() {
    let rules = "[[route]]\nseries_description='somewhere else'";
    let options = ServiceOptions {
        pacs: rules.to_owned(),
        quiet: Duration::from_mins(10),
        late: Duration::from_secs(2),
        ..ServiceOptions::default()
    };
    let (service, at) = listening(options).await;
    let files = study(&[Contrast::Flair]);
    let mut node = Node::to(at).await;
    node.store_all(&files).await;
    node.release().await;
    assert!(service.inbox.start(&Sees::All, "1.2.3", None).is_none());
    assert!(service.inbox.start(&Sees::All, STUDY, None).is_some());
    until(
        &service,
        |a| matches!(a, [one] if one.stage == Stage::NotRouted),
    )
    .await;
    assert!(jobs(&service).await.is_empty());
    // Nobody will ask for it any more.
    until(&service, <[_]>::is_empty).await;
}

/// Far from quiet: only a number takes a study.
fn never_quiet() -> ServiceOptions {
    ServiceOptions {
        quiet: Duration::from_mins(10),
        ..ServiceOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_taken_with_as_many_images_as_its_route_states() {
    let flair = study(&[Contrast::Flair]);
    let options = ServiceOptions {
        pacs: format!("[[route]]\nimages={}", flair.len()),
        ..never_quiet()
    };
    let (service, at) = listening(options).await;
    let mut node = Node::to(at).await;
    node.store_all(&flair[1..]).await;
    // A second copy is no image more.
    node.store_all(&flair[1..2]).await;
    let arrival = &service.inbox.list(&Sees::All)[0];
    let counts = (arrival.images, arrival.images_stated);
    assert_eq!(counts, (flair.len() - 1, Some(flair.len())));
    // The node is still there.
    node.store_all(&flair[..1]).await;
    until(&service, sent).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].revision, 1);
    assert_eq!(jobs(&service).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_taken_with_as_many_images_as_somebody_states() {
    let (service, at) = listening(never_quiet()).await;
    let (flair, t1w) = (study(&[Contrast::Flair]), study(&[Contrast::T1w]));
    let state = |images: usize| {
        let images = std::num::NonZeroUsize::new(images);
        service.inbox.start(&Sees::All, STUDY, images).unwrap()
    };
    let mut node = Node::to(at).await;
    node.store_all(&flair[1..]).await;
    assert_eq!(state(flair.len()).images_stated, Some(flair.len()));
    node.store_all(&flair[..1]).await;
    until(&service, sent).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].revision, 1);
    // The same number changes nothing, a larger one makes the next revision.
    assert!(matches!(state(flair.len()).stage, Stage::Sent(_)));
    let whole = flair.len() + t1w.len();
    assert!(matches!(state(whole).stage, Stage::Sent(_)));
    node.store_all(&t1w).await;
    until(&service, |a| sent(a) && a[0].revision == 2).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].images, whole);
    assert_eq!(jobs(&service).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_study_is_looked_at_again_with_the_image_that_was_stated() {
    let (service, at) = listening(never_quiet()).await;
    let (flair, t1w) = (study(&[Contrast::Flair]), study(&[Contrast::T1w]));
    let mut node = Node::to(at).await;
    node.store_all(&t1w).await;
    assert!(service.inbox.start(&Sees::All, STUDY, None).is_some());
    let refused = |a: &[dawson::pacs::Arrival]| matches!(a[0].stage, Stage::Refused(..));
    until(&service, refused).await;
    let whole = std::num::NonZeroUsize::new(flair.len() + t1w.len());
    let told = service.inbox.start(&Sees::All, STUDY, whole).unwrap();
    assert!(refused(std::slice::from_ref(&told)), "{told:?}");
    node.store_all(&flair).await;
    until(&service, sent).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].revision, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_finds_no_room_is_kept_until_there_is() {
    let options = ServiceOptions {
        queue: 1,
        ..never_quiet()
    };
    let service = Service::idle(options).await;
    let at = listen(&service, 4, 64 << 20).await;
    let waiting = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    let mut node = Node::to(at).await;
    node.store_all(&study(&[Contrast::Flair])).await;
    assert!(service.inbox.start(&Sees::All, STUDY, None).is_some());
    // It is tried while nothing else can be taken.
    let looks = Arc::clone(&service.inbox).run();
    let _looked = tokio::time::timeout(Duration::from_secs(3), looks).await;
    assert_eq!(service.inbox.list(&Sees::All)[0].stage, Stage::Arriving);
    tokio::spawn(Arc::clone(&service.inbox).run());
    let erase = axum::http::Request::delete(waiting.header("location"));
    let erase = erase.body(axum::body::Body::empty()).unwrap();
    assert!(service.send(erase).await.status.is_success());
    until(&service, sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_cannot_be_run_says_why() {
    let (service, at) = listening(ServiceOptions::default()).await;
    let files = study(&[Contrast::T1w]);
    let mut node = Node::to(at).await;
    node.store_all(&files).await;
    node.release().await;
    let refused =
        |stage: &Stage| matches!(stage, Stage::Refused(code, _) if code.name() == "missing_flair");
    until(&service, |a| matches!(a, [one] if refused(&one.stage))).await;
}
