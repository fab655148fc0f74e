//! Who may do what.
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use dawson::http::{AccessConfig, MetricsAccess};
use dawson::keys::{self, KeyFile, NewKey, Scope};
use dawson_imaging::study::Contrast;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::support::{
    Answer, Form, Listening, PATIENCE, Service, ServiceOptions, open_to_all, patient,
};

/// A file of keys that a service reads.
pub(super) struct Ring {
    folder: PathBuf,
    file: Arc<KeyFile>,
}

impl Ring {
    pub(super) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("dawson-ring-{}", ulid::Ulid::generate()));
        let file = Arc::new(KeyFile::open(folder.join("keys.toml")).unwrap());
        Self { folder, file }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("keys.toml")
    }

    /// A new key's text and id.
    pub(super) fn key(&self, name: &str, scopes: &[Scope]) -> (String, String) {
        let new = NewKey {
            name: name.to_owned(),
            scopes: scopes.iter().copied().collect(),
            expires: None,
        };
        let (secret, key) = keys::create(&self.path(), new, Timestamp::now()).unwrap();
        self.file.reload().unwrap();
        (secret, key.id)
    }

    pub(super) fn access(&self) -> AccessConfig {
        AccessConfig {
            keys: Some(Arc::clone(&self.file)),
            ..open_to_all()
        }
    }

    async fn service(&self) -> Service {
        with(self.access()).await
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) async fn with(access: AccessConfig) -> Service {
    Service::idle(ServiceOptions {
        access,
        ..ServiceOptions::default()
    })
    .await
}

fn request(method: &Method, path: &str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(Body::empty()).unwrap()
}

async fn get(service: &Service, path: &str, key: &str) -> Answer {
    service.send(request(&Method::GET, path, Some(key))).await
}

async fn submit(service: &Service, key: &str, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(more);
    service
        .send(Form::of(&[Contrast::Flair]).request(&headers))
        .await
}

const JOB: &str = "/v1/segmentations/01KB0V7Z6N3W7Q1X5F6J8R9T2M";

/// Addresses of studies that arrive and of DICOMweb, and who may ask there.
fn hospital_routes() -> Vec<(Method, String, &'static [Scope])> {
    use Scope::{Admin, Read, Submit};
    let web = |rest: &str| format!("/dicom-web{rest}");
    let mut matrix = vec![
        (Method::GET, "/v1/studies".to_owned(), &[Read, Admin][..]),
        (
            Method::POST,
            "/v1/studies/1.2/start".to_owned(),
            &[Submit, Admin],
        ),
        (Method::POST, web("/studies"), &[Submit, Admin]),
        (Method::POST, web("/studies/1.2"), &[Submit, Admin]),
    ];
    for path in [
        "/studies",
        "/series",
        "/instances",
        "/studies/1.2",
        "/studies/1.2/metadata",
        "/studies/1.2/series",
        "/studies/1.2/instances",
        "/studies/1.2/series/1.3",
        "/studies/1.2/series/1.3/metadata",
        "/studies/1.2/series/1.3/instances",
        "/studies/1.2/series/1.3/instances/1.4",
        "/studies/1.2/series/1.3/instances/1.4/metadata",
    ] {
        matrix.push((Method::GET, web(path), &[Read, Admin]));
    }
    matrix
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_opens_its_routes_and_no_others() {
    use Scope::{Admin, Read, Submit};
    let ring = Ring::new();
    let keys: Vec<(Scope, String)> = Scope::ALL
        .iter()
        .map(|&scope| (scope, ring.key(scope.name(), &[scope]).0))
        .collect();
    let service = ring.service().await;
    let job = |rest: &str| format!("{JOB}{rest}");
    let v1 = "/v1/segmentations".to_owned();
    let mut matrix: Vec<(Method, String, &[Scope])> = vec![
        (Method::POST, v1.clone(), &[Submit, Admin]),
        (Method::GET, v1, &[Read, Admin]),
        (Method::GET, job(""), &[Read, Admin]),
        (Method::DELETE, job(""), &[Submit, Admin]),
        (Method::POST, job("/cancel"), &[Submit, Admin]),
        (Method::POST, job("/deliveries/pacs"), &[Submit, Admin]),
        (Method::GET, job("/events"), &[Read, Admin]),
        (Method::GET, job("/artifacts"), &[Read, Admin]),
        (
            Method::GET,
            job("/artifacts/lesions.nii.gz"),
            &[Read, Admin],
        ),
        (Method::GET, job("/bundle.zip"), &[Read, Admin]),
        (Method::GET, "/v1/models".to_owned(), &[Submit, Read, Admin]),
        (Method::POST, "/v1/models/reload".to_owned(), &[Admin]),
        (
            Method::GET,
            "/v1/models/tiny-lesion".to_owned(),
            &[Submit, Read, Admin],
        ),
    ];
    matrix.extend(hospital_routes());
    for (method, path, allowed) in &matrix {
        let methods = if *method == Method::GET {
            vec![Method::GET, Method::HEAD]
        } else {
            vec![method.clone()]
        };
        for method in methods {
            for key in [None, Some(""), Some("dawson_00"), Some("x y")] {
                let answer = service.send(request(&method, path, key)).await;
                assert_eq!(answer.status, 401, "{method} {path} {key:?}");
                assert!(answer.header("www-authenticate").starts_with("Bearer"));
            }
            for (scope, key) in &keys {
                let answer = service.send(request(&method, path, Some(key))).await;
                let refused = answer.status == 403;
                assert_ne!(answer.status, 401, "{method} {path} {scope}");
                assert_eq!(refused, !allowed.contains(scope), "{method} {path} {scope}");
                if refused && method != Method::HEAD {
                    assert_eq!(answer.problem().1, "forbidden");
                    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                    assert!(detail.contains(allowed[0].name()), "{detail}");
                }
            }
        }
    }
    // The table above is whole, and what it leaves out is open.
    let described = service.get("/openapi.json").await.json();
    let known: BTreeSet<(String, String)> = matrix
        .iter()
        .map(|(method, path, _)| {
            let path = path
                .replace("01KB0V7Z6N3W7Q1X5F6J8R9T2M", "{id}")
                .replace("lesions.nii.gz", "{name}")
                .replace("pacs", "{destination}")
                .replace("tiny-lesion", "{name}")
                .replace("1.2", "{study}")
                .replace("1.3", "{series}")
                .replace("1.4", "{instance}");
            (method.as_str().to_ascii_lowercase(), path)
        })
        .collect();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let is_known = known.contains(&(method.clone(), path.clone()));
            let guarded = path.starts_with("/v1/") || path.starts_with("/dicom-web/");
            assert_eq!(is_known, guarded, "{method} {path}");
            let told = operation["responses"].as_object().unwrap();
            assert_eq!(told.contains_key("401"), is_known, "{method} {path}");
        }
    }
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs/",
        "/openapi.json",
        "/problems/forbidden",
    ] {
        assert!(service.get(path).await.status.is_success(), "{path}");
    }
    // What is no route is no secret either.
    assert_eq!(service.get("/nowhere").await.problem().0, 404);
    let wrong = service.send(request(&Method::PUT, "/healthz", None)).await;
    assert_eq!(wrong.problem().0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_key_is_not_there() {
    let ring = Ring::new();
    let (mine, _) = ring.key("mine", &[Scope::Submit, Scope::Read]);
    let (other, _) = ring.key("other", &[Scope::Submit, Scope::Read]);
    let (admin, _) = ring.key("admin", &[Scope::Admin]);
    let service = ring.service().await;
    let same = [("idempotency-key", "one")];
    let job = submit(&service, &mine, &same).await;
    assert_eq!(job.status, 202);
    let id = job.json()["id"].as_str().unwrap().to_owned();
    // Another's idempotency keys are not mine.
    let theirs = submit(&service, &other, &same).await.json();
    assert_ne!(theirs["id"], id.as_str());
    let path = format!("/v1/segmentations/{id}");
    for rest in [
        "",
        "/events",
        "/artifacts",
        "/artifacts/report.json",
        "/bundle.zip",
    ] {
        let hidden = get(&service, &format!("{path}{rest}"), &other).await;
        assert_eq!(hidden.problem(), (404, "not_found".to_owned()), "{rest}");
        let never = get(&service, &format!("{JOB}{rest}"), &other).await;
        let (hidden, never) = (hidden.json(), never.json());
        assert_eq!(hidden["title"], never["title"]);
    }
    let cancel = format!("{path}/cancel");
    let deliver = format!("{path}/deliveries/pacs");
    for (method, path) in [
        (Method::POST, &cancel),
        (Method::POST, &deliver),
        (Method::DELETE, &path),
    ] {
        let hidden = service.send(request(&method, path, Some(&other))).await;
        assert_eq!(hidden.problem().0, 404);
    }
    let count = |list: Value| list["jobs"].as_array().unwrap().len();
    assert_eq!(
        count(get(&service, "/v1/segmentations", &other).await.json()),
        1
    );
    assert_eq!(
        count(get(&service, "/v1/segmentations", &admin).await.json()),
        2
    );
    for key in [&mine, &admin] {
        assert_eq!(get(&service, &path, key).await.status, 200);
    }
    let erased = service
        .send(request(&Method::DELETE, &path, Some(&mine)))
        .await;
    assert_eq!(erased.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expired_or_was_revoked_is_not_taken() {
    let ring = Ring::new();
    let (kept, _) = ring.key("kept", &[Scope::Read]);
    let (taken, id) = ring.key("taken", &[Scope::Read]);
    let past = |hours| Timestamp::now() - SignedDuration::from_hours(hours);
    let timed = NewKey {
        name: "timed".to_owned(),
        scopes: [Scope::Read].into(),
        expires: Some(past(1)),
    };
    let (timed, _) = keys::create(&ring.path(), timed, past(2)).unwrap();
    ring.file.reload().unwrap();
    let service = ring.service().await;
    let list = "/v1/segmentations";
    assert_eq!(get(&service, list, &kept).await.status, 200);
    assert_eq!(get(&service, list, &taken).await.status, 200);
    let expired = get(&service, list, &timed).await;
    assert_eq!(expired.problem(), (401, "unauthorized".to_owned()));
    assert!(
        expired.json()["detail"]
            .as_str()
            .unwrap()
            .contains("expired")
    );
    keys::revoke(&ring.path(), &id, Timestamp::now()).unwrap();
    ring.file.reload().unwrap();
    let revoked = get(&service, list, &taken).await;
    assert!(
        revoked.json()["detail"]
            .as_str()
            .unwrap()
            .contains("revoked")
    );
    assert_eq!(get(&service, list, &kept).await.status, 200);
    // A key says nothing about itself in the answers.
    assert!(!String::from_utf8_lossy(&revoked.body).contains(&taken[7..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_needs_its_own_scope() {
    let ring = Ring::new();
    let (calm, _) = ring.key("calm", &[Scope::Submit]);
    let (hasty, _) = ring.key("hasty", &[Scope::Submit, Scope::Urgent]);
    let service = ring.service().await;
    for (key, status) in [(calm, 403), (hasty, 202)] {
        let bearer = format!("Bearer {key}");
        let form = Form::of(&[Contrast::Flair]).options(&json!({ "priority": "urgent" }));
        let answer = service
            .send(form.request(&[("authorization", &bearer)]))
            .await;
        assert_eq!(answer.status, status);
    }
    let incoming = service.state.join("incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_submit_is_told_before_the_body_comes() {
    let ring = Ring::new();
    let (reader, _) = ring.key("reader", &[Scope::Read]);
    let service = ring.service().await;
    let server = Listening::start(&service, patient()).await;
    for (header, status) in [
        (String::new(), 401),
        (format!("Authorization: Bearer {reader}\r\n"), 403),
    ] {
        let mut line = server
            .send(format!(
                "POST /v1/segmentations HTTP/1.1\r\nHost: x\r\n{header}\
                 Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\
                 Expect: 100-continue\r\n\r\n"
            ))
            .await;
        let answer = line.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_too_often_is_told_when_to_come_again() {
    let ring = Ring::new();
    let (busy, _) = ring.key("busy", &[Scope::Read]);
    let (calm, _) = ring.key("calm", &[Scope::Read]);
    let service = with(AccessConfig {
        key_rate_per_s: NonZeroU32::MIN,
        key_burst: NonZeroU32::new(3).unwrap(),
        ..ring.access()
    })
    .await;
    let mut refused = None;
    for _ in 0..100 {
        let answer = get(&service, "/v1/models", &busy).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.problem().1, "too_many_requests");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(get(&service, "/v1/models", &calm).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_only_so_many_requests_under_way() {
    let ring = Ring::new();
    let (key, _) = ring.key("one", &[Scope::Submit, Scope::Read]);
    let service = with(AccessConfig {
        key_requests: 1,
        ..ring.access()
    })
    .await;
    let job = submit(&service, &key, &[]).await.json();
    let server = Listening::start(&service, patient()).await;
    let events = job["links"]["events"].as_str().unwrap();
    let mut watching = server
        .send(format!(
            "GET {events} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        ))
        .await;
    watching.until("event: state").await;
    let second = get(&service, "/v1/models", &key).await;
    assert_eq!(second.problem(), (429, "too_many_requests".to_owned()));
    drop(watching);
    let free = async {
        while get(&service, "/v1/models", &key).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_be_closed_and_names_can_be_listed() {
    let ring = Ring::new();
    let (reader, _) = ring.key("reader", &[Scope::Read]);
    let service = with(AccessConfig {
        metrics: MetricsAccess::NeedKey,
        hosts: vec!["scans.example".to_owned()],
        ..ring.access()
    })
    .await;
    let from = |host: &str, path: &str| {
        let bearer = format!("Bearer {reader}");
        Request::get(path)
            .header("host", host)
            .header("authorization", bearer)
            .body(Body::empty())
            .unwrap()
    };
    let nobody = Request::get("/metrics").header("host", "scans.example");
    let nobody = service.send(nobody.body(Body::empty()).unwrap()).await;
    assert_eq!(nobody.problem().0, 401);
    for path in ["/metrics", "/v1/models"] {
        assert_eq!(
            service.send(from("scans.example:8443", path)).await.status,
            200
        );
        let other = service.send(from("evil.example", path)).await;
        assert_eq!(other.problem(), (421, "unknown_host".to_owned()));
    }
    // Probes come by address.
    assert_eq!(
        service.send(from("10.0.0.7:8080", "/healthz")).await.status,
        200
    );
}
