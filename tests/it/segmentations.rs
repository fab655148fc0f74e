//! Studies over HTTP: submitted, waited for, fetched, cancelled, erased.
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use dawson::jobs::Sees;
use dawson_imaging::nifti::{Limits, decode};
use dawson_imaging::study::Contrast;
use dawson_inference::pipeline::Asked;
use futures_util::stream;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::support::{
    Form, PATIENCE, Service, ServiceOptions, engine_config, file, segment, segmenter, study,
};

const ALL: [Contrast; 3] = [Contrast::Flair, Contrast::T1w, Contrast::T2w];

#[tokio::test(flavor = "multi_thread")]
async fn a_study_goes_in_and_a_mask_with_statistics_comes_out() {
    let service = Service::start(ServiceOptions::default()).await;
    let answer = service
        .run(Form::of(&ALL).options(&json!({ "label": "a study" })))
        .await;
    assert_eq!(
        answer.status,
        StatusCode::OK,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.header("preference-applied"), "wait=120");
    let job = answer.json();
    assert_eq!(
        (&job["state"], &job["label"]),
        (&json!("succeeded"), &json!("a study"))
    );
    assert_eq!(
        job["report"]["notice"],
        "research use only, not for diagnosis"
    );
    let path = job["links"]["self"].as_str().unwrap();
    assert_eq!(answer.header("location"), path);

    let list = service
        .get(job["links"]["artifacts"].as_str().unwrap())
        .await
        .json();
    let names: Vec<&str> = list["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "brain.nii.gz",
            "instances.nii.gz",
            "lesions.nii.gz",
            "preview.png",
            "probability.nii.gz",
            "report.json"
        ]
    );
    for artifact in list["artifacts"].as_array().unwrap() {
        let fetched = service.get(artifact["href"].as_str().unwrap()).await;
        let digest = hex::encode(Sha256::digest(&fetched.body));
        assert_eq!(json!(digest), artifact["sha256"]);
        assert_eq!(fetched.header("etag"), format!("\"{digest}\""));
        assert_eq!(
            fetched.header("content-type"),
            artifact["media_type"].as_str().unwrap()
        );
    }

    // The same bytes as without the service, on the FLAIR's own grid.
    let direct = segment(
        &segmenter(&engine_config("auto")),
        study(&ALL),
        &Asked::default(),
    )
    .unwrap();
    let mask = service
        .get(&format!("{path}/artifacts/lesions.nii.gz"))
        .await
        .body;
    assert_eq!(mask, direct.artifacts(1_767_348_900_000).unwrap()[0].bytes);
    let (mask, flair) = (
        decode(&mask, Limits::CLINICAL).unwrap(),
        decode(&file(Contrast::Flair), Limits::CLINICAL).unwrap(),
    );
    assert_eq!(mask.header.spatial, flair.header.spatial);
    assert_eq!(mask.placement.grid, flair.placement.grid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_fetched_in_parts_or_not_at_all_if_it_is_held() {
    let service = Service::start(ServiceOptions::default()).await;
    let job = service.run(Form::of(&[Contrast::Flair])).await.json();
    let path = format!(
        "{}/artifacts/lesions.nii.gz",
        job["links"]["self"].as_str().unwrap()
    );
    let whole = service.get(&path).await;
    let with = |name: &'static str, value: String| {
        Request::get(&path)
            .header(name, value)
            .body(Body::empty())
            .unwrap()
    };
    let part = service.send(with("range", "bytes=4-9".to_owned())).await;
    assert_eq!(
        (part.status, &part.body[..]),
        (StatusCode::PARTIAL_CONTENT, &whole.body[4..10])
    );
    let held = service
        .send(with("if-none-match", whole.header("etag").to_owned()))
        .await;
    assert_eq!(
        (held.status, held.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    let beyond = service
        .send(with("range", "bytes=99999999-".to_owned()))
        .await;
    assert_eq!(beyond.problem(), (416, "range_not_satisfiable".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_holds_every_artifact() {
    let service = Service::start(ServiceOptions::default()).await;
    let job = service.run(Form::of(&[Contrast::Flair])).await.json();
    let path = job["links"]["self"].as_str().unwrap();
    let bundle = service.get(&format!("{path}/bundle.zip")).await;
    assert_eq!(bundle.header("content-type"), "application/zip");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bundle.body)).unwrap();
    assert_eq!(archive.len(), 6);
    let mut mask = Vec::new();
    std::io::copy(&mut archive.by_name("lesions.nii.gz").unwrap(), &mut mask).unwrap();
    assert_eq!(
        service
            .get(&format!("{path}/artifacts/lesions.nii.gz"))
            .await
            .body,
        mask
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_is_acknowledged_listed_cancelled_and_erased() {
    let service = Service::idle(ServiceOptions::default()).await;
    let first = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let second = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await
        .json();
    assert_eq!(
        (&second["state"], &second["queue"]["position"]),
        (&json!("queued"), &json!(1))
    );
    let path = first.header("location").to_owned();

    let page = service.get("/v1/segmentations?limit=1&state=queued").await;
    assert_eq!(page.json()["jobs"][0]["id"], second["id"]);
    let next = page
        .header("link")
        .trim_start_matches('<')
        .split('>')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        service.get(&next).await.json()["jobs"][0]["links"]["self"],
        json!(path)
    );

    let early = service
        .get(&format!("{path}/artifacts/lesions.nii.gz"))
        .await;
    assert_eq!(early.problem(), (404, "artifact_not_ready".to_owned()));

    let post = |path: String| Request::post(path).body(Body::empty()).unwrap();
    let cancelled = service.send(post(format!("{path}/cancel"))).await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (StatusCode::ACCEPTED, &json!("cancelled"))
    );
    let again = service.send(post(format!("{path}/cancel"))).await;
    assert_eq!(again.problem(), (409, "job_ended".to_owned()));
    let folder = service
        .state
        .join("jobs")
        .join(path.rsplit('/').next().unwrap());
    assert!(
        !folder.join("inputs").exists(),
        "a cancelled job's scans are gone"
    );

    let delete = |path: &str| Request::delete(path).body(Body::empty()).unwrap();
    assert_eq!(
        service.send(delete(&path)).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        service.send(delete(&path)).await.problem(),
        (404, "not_found".to_owned())
    );
    assert_eq!(
        service.get(&path).await.problem(),
        (404, "not_found".to_owned())
    );
    assert!(!folder.exists(), "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_job_is_not_sent_again() {
    let service = Service::idle(ServiceOptions::default()).await;
    let path = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await
        .header("location")
        .to_owned();
    let seen = service.get(&path).await.header("etag").to_owned();
    let again = Request::get(&path)
        .header("if-none-match", seen)
        .body(Body::empty())
        .unwrap();
    assert_eq!(service.send(again).await.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gives_the_same_job_and_another_request_is_refused() {
    let service = Service::idle(ServiceOptions::default()).await;
    let send = |form: Form| service.send(form.request(&[("idempotency-key", "scan-7")]));
    let first = send(Form::of(&[Contrast::Flair])).await.json();
    let again = send(Form::of(&[Contrast::Flair])).await.json();
    assert_eq!(first["id"], again["id"]);
    let other = send(Form::of(&[Contrast::Flair, Contrast::T1w])).await;
    assert_eq!(other.problem(), (422, "idempotency_mismatch".to_owned()));
    let uploads = std::fs::read_dir(service.state.join("incoming"))
        .unwrap()
        .count();
    assert_eq!(uploads, 0, "what came to nothing is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_again() {
    let service = Service::idle(ServiceOptions {
        queue: 1,
        ..ServiceOptions::default()
    })
    .await;
    service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    let full = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    assert_eq!(full.problem(), (429, "queue_full".to_owned()));
    assert!(full.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_could_be_room_for_are_refused_before_they_are_read() {
    let service = Service::idle(ServiceOptions {
        queue: 1,
        ..ServiceOptions::default()
    })
    .await;
    let send = || service.send(Form::of(&[Contrast::Flair]).request(&[]));
    // Two for the one place: the second may have it if the first is no study.
    let first = service.jobs.new_upload_with_room(0).await.unwrap();
    let _second = service.jobs.new_upload_with_room(0).await.unwrap();
    assert_eq!(send().await.problem(), (429, "queue_full".to_owned()));
    drop(first);
    assert_eq!(send().await.status, 202);
    // What was asked before that study was taken says nothing about this one, whose body never comes.
    let (head, _) = Form::of(&[Contrast::Flair]).request(&[]).into_parts();
    let never = stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let unread = service.send(Request::from_parts(head, Body::from_stream(never)));
    let answer = tokio::time::timeout(PATIENCE, unread).await;
    let answer = answer.expect("it is refused without its body");
    assert_eq!(answer.problem(), (429, "queue_full".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_service_takes_no_more_and_says_so() {
    let service = Service::idle(ServiceOptions::default()).await;
    service.jobs.close();
    let refused = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    assert_eq!(refused.problem(), (503, "shutting_down".to_owned()));
    let ready = service.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_run_after_a_restart() {
    let first = Service::idle(ServiceOptions::default()).await;
    let path = first
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await
        .header("location")
        .to_owned();
    let state = first.state.clone();
    std::mem::forget(first); // A process that is killed removes nothing.
    let second = Service::on(state, ServiceOptions::default()).await;
    second.jobs.recover().await.unwrap();
    tokio::spawn(std::sync::Arc::clone(&second.jobs).run());
    let id = path.rsplit('/').next().unwrap().parse().unwrap();
    let ended = second
        .jobs
        .wait(&Sees::All, id, Duration::from_mins(2))
        .await
        .unwrap();
    assert_eq!(ended.job.state.name(), "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_whose_time_is_over_are_erased() {
    let service = Service::start(ServiceOptions {
        results_ttl: Duration::ZERO,
        ..ServiceOptions::default()
    })
    .await;
    let path = service
        .run(Form::of(&[Contrast::Flair]))
        .await
        .header("location")
        .to_owned();
    let gone = async {
        while service.get(&path).await.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), gone)
        .await
        .expect("the sweeper comes by");
}
