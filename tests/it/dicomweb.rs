//! Images come in by STOW-RS, are found by QIDO-RS and fetched by WADO-RS; so are the results of their jobs.
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use dawson::keys::Scope;
use dawson_imaging::study::Contrast;
use serde_json::{Value, json};

use super::access::Ring;
use super::dicom::{element, series, study, zipped};
use super::support::{Answer, PATIENCE, Service, ServiceOptions};

const STUDY: &str = "1.2.840.99";
const STUDIES: &str = "/dicom-web/studies";
const RELATED: &str = "multipart/related; type=\"application/dicom\"; boundary=a-b";
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

/// A part as most clients write it.
fn part(file: &[u8]) -> Vec<u8> {
    let head = b"--a-b\r\nContent-Type: application/dicom\r\n\r\n";
    [&head[..], file, b"\r\n"].concat()
}

fn related(files: &[Vec<u8>]) -> Vec<u8> {
    let parts = files.iter().map(|file| part(file));
    [&parts.collect::<Vec<_>>().concat()[..], b"--a-b--\r\n"].concat()
}

async fn post(service: &Service, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let request = Request::post(path).header("content-type", kind);
    service.send(request.body(Body::from(body)).unwrap()).await
}

async fn stow(service: &Service, files: &[Vec<u8>]) -> Answer {
    post(service, STUDIES, RELATED, related(files)).await
}

async fn ask(service: &Service, path: &str, header: (&str, &str)) -> Answer {
    let request = Request::get(path).header(header.0, header.1);
    service.send(request.body(Body::empty()).unwrap()).await
}

/// The data sets of an answer.
fn found(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/dicom+json");
    answer.json().as_array().unwrap().clone()
}

/// The first value of an element.
fn value<'a>(dataset: &'a Value, tag: &str) -> &'a Value {
    &dataset[tag]["Value"][0]
}

/// Status, instances stored, reasons of failures, and of failures without names.
fn told(answer: &Answer) -> (u16, usize, Vec<u64>, Vec<u64>) {
    assert_eq!(answer.header("content-type"), "application/dicom+json");
    let told = answer.json();
    let items = |tag: &str| told[tag]["Value"].as_array().cloned().unwrap_or_default();
    let reasons = |tag: &str| {
        let reason = |item: &Value| value(item, "00081197").as_u64().unwrap();
        items(tag).iter().map(reason).collect()
    };
    for item in items("00081198") {
        assert!(value(&item, "00081150").is_string() && value(&item, "00081155").is_string());
    }
    let stored = items("00081199").len();
    (
        answer.status.as_u16(),
        stored,
        reasons("00081198"),
        reasons("0008119A"),
    )
}

/// The parts of a multipart answer.
fn parts(answer: &Answer) -> Vec<Vec<u8>> {
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type");
    assert!(kind.starts_with("multipart/related; type=\"application/dicom\""));
    let mark = format!("\r\n--{}", kind.split_once("boundary=").unwrap().1).into_bytes();
    let body = [b"\r\n", &answer.body[..]].concat();
    let at: Vec<usize> = (0..body.len())
        .filter(|&n| body[n..].starts_with(&mark))
        .collect();
    assert!(body[*at.last().unwrap() + mark.len()..].starts_with(b"--\r\n"));
    let part =
        |two: &[usize]| {
            let part = &body[two[0] + mark.len() + 2..two[1]];
            let end = part.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
            assert!(part.starts_with(
                b"Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
            ));
            part[end + 4..].to_vec()
        };
    at.windows(2).map(part).collect()
}

/// What `/v1/studies` says once the study is no longer on its way.
async fn arrived(service: &Service) -> Value {
    let arrived = async {
        loop {
            let told = service.get("/v1/studies").await.json()["studies"][0].clone();
            if told["state"] != "arriving" {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap()
}

/// A file with what its meta information says of it.
fn announcing(file: &[u8], class: &str, instance: &str) -> Vec<u8> {
    let meta = [
        element(2, 2, b"UI", class.as_bytes()),
        element(2, 3, b"UI", instance.as_bytes()),
    ];
    [&file[..132], &meta.concat(), &file[132..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_was_stored_is_a_job_and_results_lie_beside_it() {
    let service = Service::start(ServiceOptions::default()).await;
    let files = study(&[Contrast::Flair]);
    let answer = stow(&service, &files).await;
    assert_eq!(told(&answer), (200, files.len(), vec![], vec![]));
    let answer = answer.json();
    assert_eq!(
        value(&answer, "00081190"),
        &json!(format!("{STUDIES}/{STUDY}"))
    );
    let one = value(&answer, "00081199").clone();
    assert_eq!(value(&one, "00081150"), MR);
    let url = value(&one, "00081190").as_str().unwrap().to_owned();
    assert_eq!(parts(&service.get(&url).await), [files[0].clone()]);

    let arrival = arrived(&service).await;
    assert_eq!(
        (&arrival["state"], &arrival["revision"]),
        (&json!("sent"), &json!(1))
    );
    assert_eq!(arrival["images"], files.len());
    let job = arrival["job"]["href"].as_str().unwrap();
    let job = ask(&service, job, ("prefer", "wait=120")).await.json();
    assert_eq!(job["state"], "succeeded", "{job}");

    let studies = found(&service.get(&format!("{STUDIES}?PatientID=MRN-4711")).await);
    assert_eq!(studies.len(), 1);
    assert_eq!(value(&studies[0], "0020000D"), STUDY);
    assert_eq!(value(&studies[0], "00100010")["Alphabetic"], "Doe^Jane");
    assert_eq!(
        studies[0]["00080061"]["Value"],
        json!(["DOC", "MR", "SEG", "SR"])
    );
    assert_eq!(value(&studies[0], "00201208"), files.len() + 4);
    let of = format!("{STUDIES}/{STUDY}");
    let segmentations = found(&service.get(&format!("{of}/series?Modality=SEG")).await);
    assert_eq!(segmentations.len(), 2);
    assert_eq!(value(&segmentations[0], "00080060"), "SEG");
    // The same by address of all series, which tells of the study too.
    let all = found(&service.get("/dicom-web/series?00080060=SEG&limit=1").await);
    assert_eq!((all.len(), value(&all[0], "00201206")), (1, &json!(5)));

    // A result as it is among the job's artifacts.
    let report = found(&service.get("/dicom-web/instances?Modality=SR").await);
    let url = value(&report[0], "00081190").as_str().unwrap().to_owned();
    let artifact = format!(
        "{}/dicom_sr.dcm",
        job["links"]["artifacts"].as_str().unwrap()
    );
    let artifact = service.get(&artifact).await.body;
    assert_eq!(parts(&service.get(&url).await), [artifact.to_vec()]);
    let said = found(&service.get(&format!("{url}/metadata")).await);
    assert_eq!(value(&said[0], "0040A730")["0040A040"]["vr"], "CS");

    // A series as it came, slice by slice in its order.
    let flair = format!("{of}/series/{}", series(Contrast::Flair));
    let mut in_order = files.clone();
    in_order.reverse();
    assert_eq!(parts(&service.get(&flair).await), in_order);
    assert_eq!(parts(&service.get(&of).await).len(), files.len() + 4);
    let said = found(&service.get(&format!("{flair}/metadata")).await);
    assert_eq!(said.len(), files.len());
    assert_eq!(value(&said[1], "00200013"), 2);
    assert!(said[0].get("7FE00010").is_none() && said[0].get("00020010").is_none());

    // What comes late makes the next revision.
    let mut late = files[0].clone();
    let at = late.windows(4).position(|w| w == [8, 0, 0x18, 0]).unwrap() + 8;
    late[at..at + 3].copy_from_slice(b"9.9");
    assert_eq!(told(&stow(&service, &[late]).await).0, 200);
    let again = arrived(&service).await;
    assert_eq!(
        (&again["revision"], &again["images"]),
        (&json!(2), &json!(files.len() + 1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_is_answered_for() {
    let service = Service::idle(ServiceOptions::default()).await;
    let files = study(&[Contrast::Flair]);
    assert_eq!(
        told(&stow(&service, &files[..1]).await),
        (200, 1, vec![], vec![])
    );
    // The same again is stored already.
    assert_eq!(
        told(&stow(&service, &files[..1]).await),
        (200, 1, vec![], vec![])
    );
    let mut other = files[0].clone();
    *other.last_mut().unwrap() ^= 1;
    let ct = announcing(&files[2], "1.2.840.10008.5.1.4.1.1.2", "1.2.3");
    let mut cut = announcing(&files[3], MR, "1.2.840.99.1.7");
    cut.truncate(cut.len() - 9);
    let liar = announcing(&files[4], MR, "1.2.3.4");
    let mut strange = announcing(&files[5], MR, "1.2.3.5");
    let at = strange
        .windows(8)
        .position(|w| w == [2, 0, 0x10, 0, b'U', b'I', 0x14, 0])
        .unwrap();
    strange[at + 8..at + 27].copy_from_slice(b"1.2.840.10008.1.2.7");
    let mixed = [
        files[1].clone(),
        other.clone(),
        ct,
        cut,
        liar,
        strange,
        b"%PDF".to_vec(),
        files[6][..700].to_vec(),
    ];
    let failed = vec![0x0122, 0xc000, 0xa900, 0xc122];
    let expected = (
        202,
        1,
        [vec![0x0111], failed].concat(),
        vec![0xc000, 0xc000],
    );
    assert_eq!(told(&stow(&service, &mixed).await), expected);
    let none = stow(&service, &[other]).await;
    assert_eq!(told(&none), (409, 0, vec![0x0111], vec![]));
    let arrival = &service.get("/v1/studies").await.json()["studies"][0];
    assert_eq!(
        (&arrival["images"], &arrival["conflicts"]),
        (&json!(2), &json!(2))
    );
    // The first of two stays.
    let kept = service.get(&format!("{STUDIES}/{STUDY}")).await;
    assert!(parts(&kept).contains(&files[0]));

    let named = [announcing(&files[7], MR, "1.2.840.99.1.22")];
    let elsewhere = post(
        &service,
        &format!("{STUDIES}/1.2.3"),
        RELATED,
        related(&named),
    )
    .await;
    assert_eq!(told(&elsewhere).0, 409);
    let here = format!("{STUDIES}/{STUDY}");
    assert_eq!(
        told(&post(&service, &here, RELATED, related(&files[7..8])).await).0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_another_study_than_the_address_is_not_stored() {
    let service = Service::idle(ServiceOptions::default()).await;
    let flair = study(&[Contrast::Flair]);
    let number = flair.len();
    let file = announcing(
        &flair[0],
        MR,
        &format!("{}.{number}", series(Contrast::Flair)),
    );
    let answer = post(
        &service,
        &format!("{STUDIES}/1.2.3"),
        RELATED,
        related(&[file]),
    )
    .await;
    assert_eq!(told(&answer), (409, 0, vec![0x0110], vec![]));
    assert!(
        service.get("/v1/studies").await.json()["studies"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

/// `body` with `to` instead of the first `from`.
fn with(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = body.windows(from.len()).position(|w| w == from).unwrap();
    [&body[..at], to, &body[at + from.len()..]].concat()
}

const PART_KIND: &[u8] = b"Content-Type: application/dicom\r\n";

/// A service that takes little at once.
async fn narrow() -> Service {
    Service::idle(ServiceOptions {
        max_part_bytes: 64 << 10,
        max_body_bytes: 1 << 20,
        ..ServiceOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_read_however_it_is_written() {
    let service = narrow().await;
    let files = study(&[Contrast::Flair]);
    let body = related(&files[..2]);
    let preamble = [b"This is a preamble to be ignored.\r\n", &body[..]].concat();
    let longer = [PART_KIND, b"Content-Length: 1\r\n"].concat();
    let quoted = "multipart/related;boundary=\"a-b\"; type=\"application/dicom\"";
    let upper = "Multipart/Related; Type=application/DICOM; Boundary=a-b";
    for (kind, body) in [
        (RELATED, body.clone()),
        (quoted, body.clone()),
        (upper, body.clone()),
        (RELATED, preamble),
        (RELATED, with(&body, PART_KIND, &longer)),
    ] {
        let answer = post(&service, STUDIES, kind, body).await;
        assert_eq!(told(&answer), (200, 2, vec![], vec![]), "{kind}");
    }
    // Bytes that look like a boundary and are none belong to the image.
    let inside = [&files[3][..], b"\r\n--a-bX"].concat();
    let answer = stow(&service, &[inside, files[4].clone()]).await;
    assert_eq!(told(&answer), (202, 1, vec![], vec![0xc000]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_what_it_says_is_a_problem() {
    let service = narrow().await;
    let files = study(&[Contrast::Flair]);
    let body = related(&files[..2]);
    let bare = String::from_utf8_lossy(&related(&[b"x".to_vec()])).replace("\r\n", "\n");
    let many: Vec<Vec<u8>> = vec![Vec::new(); 101];
    let spaced = RELATED.replace("a-b", "\"a b \"");
    let json = RELATED.replace("dicom", "dicom+json");
    let cases: [(&str, Vec<u8>, u16, &str); 15] = [
        (RELATED, bare.into_bytes(), 400, "malformed_request"),
        (
            RELATED,
            with(&body, PART_KIND, b""),
            400,
            "malformed_request",
        ),
        (
            RELATED,
            with(&body, PART_KIND, b"X: y\r\n"),
            400,
            "malformed_request",
        ),
        (
            RELATED,
            with(&body, b"--a-b--", b""),
            400,
            "malformed_request",
        ),
        (RELATED, Vec::new(), 400, "malformed_request"),
        (
            "multipart/related; type=\"application/dicom\"",
            body.clone(),
            400,
            "malformed_request",
        ),
        (&spaced, body.clone(), 400, "malformed_request"),
        (&json, body.clone(), 415, "unsupported_media_type"),
        (
            "multipart/form-data; boundary=a-b",
            body.clone(),
            415,
            "unsupported_media_type",
        ),
        (
            "application/dicom+json",
            body.clone(),
            415,
            "unsupported_media_type",
        ),
        ("", body.clone(), 415, "unsupported_media_type"),
        (
            RELATED,
            related(&[vec![0; 65 << 10]]),
            413,
            "body_too_large",
        ),
        (RELATED, related(&many), 413, "body_too_large"),
        (RELATED, vec![0; 2 << 20], 413, "body_too_large"),
        (
            "application/zip",
            b"PK\x03\x04no".to_vec(),
            422,
            "damaged_archive",
        ),
    ];
    for (number, (kind, body, status, code)) in cases.into_iter().enumerate() {
        let answer = post(&service, STUDIES, kind, body).await;
        assert_eq!(
            answer.problem(),
            (status, code.to_owned()),
            "{number}: {kind}"
        );
    }
    // The problem says what was kept before the body broke.
    let open = [part(&files[5]), part(&files[6])].concat();
    let answer = post(&service, STUDIES, RELATED, open).await;
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("within part 2") && detail.contains("1 images"),
        "{detail}"
    );
    let left = std::fs::read_dir(service.state.join("incoming")).unwrap();
    assert_eq!(left.count(), 0, "nothing of an upload stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_and_a_zip_are_taken_too() {
    let service = Service::idle(ServiceOptions::default()).await;
    let mut files = study(&[Contrast::Flair]);
    let one = post(&service, STUDIES, "application/dicom", files[0].clone()).await;
    assert_eq!(told(&one), (200, 1, vec![], vec![]));
    files.push(b"a note".to_vec());
    let zip = post(&service, STUDIES, "application/zip", zipped(&files)).await;
    assert_eq!(told(&zip), (202, files.len() - 1, vec![], vec![0xc000]));
    let page = format!("{STUDIES}/{STUDY}/instances?limit=3&offset=2");
    let answer = service.get(&page).await;
    let numbers: Vec<Value> = found(&answer)
        .iter()
        .map(|i| value(i, "00200013").clone())
        .collect();
    assert_eq!(numbers, [3, 4, 5]);
    let left = files.len() - 6;
    assert!(
        answer
            .header("warning")
            .contains(&format!("There are {left} additional results"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_started_when_somebody_says_so() {
    let options = ServiceOptions {
        quiet: Duration::from_hours(1),
        ..ServiceOptions::default()
    };
    let service = Service::start(options).await;
    stow(&service, &study(&[Contrast::Flair])).await;
    let start_with = |uid: &str, query: &str| {
        let request = Request::post(format!("/v1/studies/{uid}/start{query}"));
        service.send(request.body(Body::empty()).unwrap())
    };
    let start = |uid: &str| start_with(uid, "");
    let answer = start(STUDY).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["state"]),
        (202, &json!("arriving"))
    );
    let arrival = arrived(&service).await;
    assert_eq!(arrival["state"], "sent");
    let again = start(STUDY).await;
    assert_eq!(
        (again.status.as_u16(), &again.json()["job"]),
        (202, &arrival["job"])
    );
    // A number that is there already is no reason to wait.
    let same = start_with(STUDY, "?images=1").await;
    assert_eq!(
        (same.status.as_u16(), &same.json()["state"]),
        (202, &json!("sent"))
    );
    for query in ["?images=0", "?images=-1", "?images=x", "?image=1"] {
        let refused = start_with(STUDY, query).await.problem();
        assert_eq!(refused, (400, "malformed_request".to_owned()), "{query}");
    }
    assert_eq!(start("1.2.3").await.problem().1, "not_found");
    for uid in ["x", "..%2f..%2fetc", "1.2%00", &"1".repeat(65), "%ff"] {
        assert_eq!(
            start(uid).await.problem(),
            (400, "malformed_request".to_owned()),
            "{uid}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_to_be_had_is_refused() {
    let service = Service::idle(ServiceOptions::default()).await;
    assert_eq!(found(&service.get(STUDIES).await), Vec::<Value>::new());
    stow(&service, &study(&[Contrast::Flair])[..2]).await;
    let of = format!("{STUDIES}/{STUDY}");
    for query in [
        "PatientName=Doe",
        "StudyDate=20200101",
        "PatientID=Do*",
        "limit=many",
    ] {
        let answer = service.get(&format!("{STUDIES}?{query}")).await;
        assert_eq!(answer.problem(), (400, "malformed_request".to_owned()));
        let key = query.split_once('=').unwrap().0;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(key) && !detail.contains("Do*"), "{detail}");
    }
    for path in ["/1.2.3", "/1.2.3/metadata", "/1.2.840.99/series/1.2.3"] {
        let answer = service.get(&format!("{STUDIES}{path}")).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(
        service
            .get(&format!("{STUDIES}/..%2f/series"))
            .await
            .problem()
            .0,
        400
    );
    let none = service.get(&format!("{STUDIES}/1.2.3/series")).await;
    assert_eq!(found(&none), Vec::<Value>::new());
    let implicit =
        "multipart/related; type=\"application/dicom\"; transfer-syntax=1.2.840.10008.1.2";
    let answer = ask(&service, &of, ("accept", implicit)).await;
    assert_eq!(answer.problem(), (406, "not_acceptable".to_owned()));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("1.2.840.10008.1.2.1"), "{detail}");
    let any = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";
    assert_eq!(parts(&ask(&service, &of, ("accept", any)).await).len(), 2);
    let metadata = format!("{of}/metadata");
    let answer = ask(&service, &metadata, ("accept", "application/dicom+xml")).await;
    assert_eq!(answer.problem().0, 406);
    let fuzzy = service
        .get(&format!("{STUDIES}?fuzzymatching=true&includefield=all"))
        .await;
    assert_eq!(found(&fuzzy).len(), 1);
    assert!(fuzzy.header("warning").contains("fuzzymatching"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_sees_nothing_of_it() {
    let ring = Ring::new();
    let key = |name: &str, scopes: &[Scope]| format!("Bearer {}", ring.key(name, scopes).0);
    let owner = key("owner", &[Scope::Submit, Scope::Read]);
    let other = key("other", &[Scope::Submit, Scope::Read]);
    let admin = key("admin", &[Scope::Admin]);
    let options = ServiceOptions {
        access: ring.access(),
        ..ServiceOptions::default()
    };
    let service = Service::idle(options).await;
    let body = related(&study(&[Contrast::Flair])[..2]);
    let request = Request::post(STUDIES).header("content-type", RELATED);
    let request = request
        .header("authorization", &owner)
        .body(Body::from(body));
    assert_eq!(service.send(request.unwrap()).await.status, 200);
    let of = format!("{STUDIES}/{STUDY}");
    for (key, sees) in [(&owner, 1), (&admin, 1), (&other, 0)] {
        let header = ("authorization", key.as_str());
        let studies = ask(&service, "/v1/studies", header).await.json();
        assert_eq!(studies["studies"].as_array().unwrap().len(), sees);
        assert_eq!(found(&ask(&service, STUDIES, header).await).len(), sees);
        let expected = if sees == 1 { 200 } else { 404 };
        assert_eq!(ask(&service, &of, header).await.status, expected);
        let start = Request::post(format!("/v1/studies/{STUDY}/start"));
        let start = start.header("authorization", key).body(Body::empty());
        let expected = if sees == 1 { 202 } else { 404 };
        assert_eq!(service.send(start.unwrap()).await.status, expected);
    }
    assert_eq!(service.get(&of).await.problem().1, "unauthorized");
}
