//! Results are filed by the web protocols of DICOM: what counts is what an answer lists.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State as AppState};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use dicom_object::FileMetaTable;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::filing::{OBJECTS, delivery, run, send_again, with};
use super::support::{Service, ServiceOptions};

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
