//! Whatever is wrong is answered as a problem that says what.
use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use dawson_imaging::study::Contrast;
use dawson_inference::problem::Code;
use serde_json::{Value, json};

use super::support::{Form, Service, ServiceOptions, file};

async fn refused(service: &Service, form: Form) -> (u16, String, String) {
    let answer = service.send(form.request(&[])).await;
    let (status, code) = answer.problem();
    (
        status,
        code,
        answer.json()["detail"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_form_is_refused_by_the_name_of_its_part() {
    let service = Service::idle(ServiceOptions::default()).await;
    let flair = || Form::of(&[Contrast::Flair]);
    let cases: Vec<(Form, u16, &str, &str)> = vec![
        (Form::of(&[Contrast::T1w]), 422, "missing_flair", "flair"),
        (
            flair().part("flair", &file(Contrast::Flair)),
            422,
            "duplicate_part",
            "flair",
        ),
        (flair().part("swi", b"x"), 422, "unknown_part", "swi"),
        (
            flair().part("t1w", b"not a scan at all"),
            422,
            "not_nifti",
            "t1w",
        ),
        (flair().part("t1w", b""), 422, "damaged_image", "t1w"),
        (
            flair().options(&json!({ "treshold": 0.5 })),
            422,
            "invalid_options",
            "treshold",
        ),
        (
            flair().options(&json!({ "threshold": 1.5 })),
            422,
            "invalid_options",
            "threshold",
        ),
        (
            flair().options(&json!({ "label": "x".repeat(201) })),
            422,
            "invalid_options",
            "label",
        ),
        (
            flair().part("options", b"{"),
            422,
            "invalid_options",
            "options",
        ),
        (
            flair().options(&json!({ "model": "nobody" })),
            422,
            "unknown_model",
            "nobody",
        ),
        (
            flair().part("t1w", &vec![0; 9 << 20]),
            413,
            "body_too_large",
            "t1w",
        ),
    ];
    for (form, status, code, names) in cases {
        let found = refused(&service, form).await;
        assert_eq!((found.0, found.1.as_str()), (status, code), "{}", found.2);
        assert!(found.2.contains(names), "{code}: {}", found.2);
    }
    assert_eq!(
        std::fs::read_dir(service.state.join("incoming"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(service.state.join("jobs"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_whether_a_part_or_the_whole() {
    let part = Service::idle(ServiceOptions {
        max_part_bytes: 1000,
        ..ServiceOptions::default()
    })
    .await;
    assert_eq!(
        refused(&part, Form::of(&[Contrast::Flair])).await.1,
        "body_too_large"
    );
    let whole = Service::idle(ServiceOptions {
        max_body_bytes: 1000,
        ..ServiceOptions::default()
    })
    .await;
    assert_eq!(
        refused(&whole, Form::of(&[Contrast::Flair])).await.1,
        "body_too_large"
    );
    let service = Service::idle(ServiceOptions::default()).await;
    let many = (0..20).fold(Form::of(&[Contrast::Flair]), |form, n| {
        form.part(if n % 2 == 0 { "options" } else { "t1w" }, b"{}")
    });
    assert_eq!(refused(&service, many).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_framework_s_own_refusals_are_problems_too() {
    let service = Service::idle(ServiceOptions::default()).await;
    let send = |method: Method, path: &'static str, kind: Option<&'static str>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        service.send(request.body(Body::from("{}")).unwrap())
    };
    assert_eq!(
        send(Method::GET, "/nowhere", None).await.problem(),
        (404, "not_found".to_owned())
    );
    let wrong = send(Method::PUT, "/v1/segmentations", None).await;
    assert_eq!(wrong.problem(), (405, "method_not_allowed".to_owned()));
    assert!(wrong.header("allow").contains("POST"));
    let json = send(Method::POST, "/v1/segmentations", Some("application/json")).await;
    assert_eq!(json.problem(), (415, "unsupported_media_type".to_owned()));
    let cut = send(
        Method::POST,
        "/v1/segmentations",
        Some("multipart/form-data; boundary=x"),
    )
    .await;
    assert_eq!(cut.problem(), (400, "malformed_request".to_owned()));
    assert_eq!(
        service.get("/v1/segmentations?limit=0").await.problem(),
        (400, "malformed_request".to_owned())
    );
    assert_eq!(
        service.get("/v1/segmentations?stat=queued").await.problem(),
        (400, "malformed_request".to_owned())
    );
    assert_eq!(
        service
            .get("/v1/segmentations/..%2F..%2Fetc")
            .await
            .problem(),
        (404, "not_found".to_owned())
    );
    assert_eq!(
        service.get("/v1/models/nobody").await.problem(),
        (404, "not_found".to_owned())
    );
    assert_eq!(
        service.get("/problems/nobody").await.problem(),
        (404, "not_found".to_owned())
    );
    let key = Form::of(&[Contrast::Flair]).request(&[("idempotency-key", "has a space")]);
    assert_eq!(
        service.send(key).await.problem(),
        (400, "malformed_request".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_cannot_be_computed_ends_as_failed_with_its_code_and_stage() {
    let service = Service::start(ServiceOptions::default()).await;
    let mut cut = file(Contrast::Flair);
    cut.truncate(cut.len() / 2);
    let job = service
        .run(Form::default().part("flair", &cut))
        .await
        .json();
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("damaged_image"))
    );
    assert_eq!(job["error"]["stage"], "decode");
    assert!(
        job["error"]["detail"]
            .as_str()
            .unwrap()
            .starts_with("flair: ")
    );
    let id = job["id"].as_str().unwrap();
    assert!(!service.state.join("jobs").join(id).join("inputs").exists());
    let wanted = json!({ "precision": "bf16" });
    let job = service
        .run(Form::of(&[Contrast::Flair]).options(&wanted))
        .await
        .json();
    assert!(
        job["state"] == "succeeded" || job["error"]["code"] == "precision_unavailable",
        "{job}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_has_a_page_and_every_route_is_described() {
    let service = Service::idle(ServiceOptions::default()).await;
    for code in Code::ALL {
        let page = service.get(&format!("/problems/{}", code.name())).await;
        assert!(String::from_utf8_lossy(&page.body).contains(code.title()));
        let html = Request::get(format!("/problems/{}", code.name()))
            .header("accept", "text/html")
            .body(Body::empty());
        assert_eq!(
            service.send(html.unwrap()).await.header("content-type"),
            "text/html; charset=utf-8"
        );
    }
    let description = service.get("/openapi.json").await.json();
    let paths: BTreeSet<&str> = description["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for path in [
        "/v1/segmentations",
        "/v1/segmentations/{id}/events",
        "/v1/models/{name}",
        "/healthz",
        "/metrics",
    ] {
        assert!(paths.contains(path), "{paths:?}");
    }
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let described = operation["responses"]
                .as_object()
                .is_some_and(|r| !r.is_empty());
            assert!(
                described && operation["summary"] != Value::Null,
                "{method} {path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_tells_its_health_its_models_and_its_offline_page() {
    let service = Service::idle(ServiceOptions::default()).await;
    assert_eq!(service.get("/healthz").await.json()["status"], "ok");
    assert_eq!(service.get("/readyz").await.json()["status"], "ok");
    let models = service.get("/v1/models").await.json();
    assert_eq!(models["models"][0]["name"], "tiny-lesion");
    assert!(
        service.get("/v1/models/tiny-lesion").await.json()["card"]
            .as_str()
            .unwrap()
            .contains("tests only")
    );
    let page = service.get("/docs/").await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        page.status.is_success() && !html.contains("https://"),
        "{html}"
    );
}
