//! What stands in the headers of every answer.
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request};
use dawson_imaging::study::Contrast;

use super::access::with;
use super::support::{Answer, Form, Service, ServiceOptions, open_to_all};

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_a_request_is_taken_over_only_if_it_is_a_plain_word() {
    let service = with(open_to_all()).await;
    let send = |ids: &[&[u8]]| {
        let mut request = Request::get("/nowhere");
        for id in ids {
            request = request.header("x-request-id", HeaderValue::from_bytes(id).unwrap());
        }
        service.send(request.body(Body::empty()).unwrap())
    };
    let kept = send(&[b"pacs-42:7/a"]).await;
    assert_eq!(kept.header("x-request-id"), "pacs-42:7/a");
    assert_eq!(kept.json()["request_id"], "pacs-42:7/a");
    let long = [b'x'; 129];
    let wrong: [&[&[u8]]; 6] = [
        &[],
        &[b""],
        &[b"two words"],
        &[b"<script>"],
        &[&long],
        &[b"one", b"two"],
    ];
    for ids in wrong {
        let made = send(ids).await;
        let id = made.header("x-request-id");
        assert_eq!(id.len(), 36, "{id}");
        assert_eq!(made.json()["request_id"], id);
        assert_eq!(made.headers.get_all("x-request-id").iter().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_to_do_nothing_with_an_answer() {
    let service = with(open_to_all()).await;
    for path in [
        "/v1/models",
        "/v1/nowhere",
        "/healthz",
        "/problems/internal",
        "/docs/",
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(
            !policy.contains("script-src 'self' 'unsafe-inline'"),
            "{path}"
        );
        let private = answer.header("cache-control") == "no-store";
        assert_eq!(private, path.starts_with("/v1/"), "{path}");
    }
    // The page's own policy lets everything through that the page needs.
    let page = service.get("/docs/").await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    for tag in html.split("<script").skip(1) {
        assert!(tag.trim_start().starts_with("src=\"./"), "{tag}");
    }
    assert!(
        page.header("content-security-policy")
            .contains("script-src 'self'")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_ask_and_no_others() {
    let closed = with(open_to_all()).await;
    let open = Service::idle(ServiceOptions {
        cors_origins: vec![HeaderValue::from_static("https://viewer.example")],
        ..ServiceOptions::default()
    })
    .await;
    let asked = |method: Method, origin: &'static str| {
        Request::builder()
            .method(method)
            .uri("/v1/segmentations")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,prefer")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").to_owned();
    let (listed, other) = ("https://viewer.example", "https://evil.example");
    let preflight = open.send(asked(Method::OPTIONS, listed)).await;
    assert_eq!(preflight.status, 200);
    assert_eq!(allowed(&preflight), listed);
    assert!(
        preflight
            .header("access-control-allow-methods")
            .contains("POST")
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    let seen = open.send(asked(Method::GET, listed)).await;
    assert_eq!(allowed(&seen), listed);
    assert!(
        seen.header("access-control-expose-headers")
            .contains("location")
    );
    assert!(
        seen.headers
            .get("access-control-allow-credentials")
            .is_none()
    );
    for method in [Method::OPTIONS, Method::GET] {
        assert_eq!(allowed(&open.send(asked(method, other)).await), "");
    }
    let refused = closed.send(asked(Method::OPTIONS, listed)).await;
    assert_eq!(refused.problem().0, 405);
    let seen = closed.send(asked(Method::GET, listed)).await;
    assert_eq!((seen.status.as_u16(), allowed(&seen).as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_pages_are_compressed_and_results_are_not() {
    let service = Service::start(ServiceOptions::default()).await;
    let job = service.run(Form::of(&[Contrast::Flair])).await.json();
    assert_eq!(job["state"], "succeeded", "{job}");
    let path = job["links"]["self"].as_str().unwrap();
    let packed = |path: String, how: &'static str| {
        let request = Request::get(path).header("accept-encoding", how);
        service.send(request.body(Body::empty()).unwrap())
    };
    for how in ["gzip", "br", "zstd"] {
        for page in [path, "/openapi.json"] {
            let answer = packed(page.to_owned(), how).await;
            assert_eq!(answer.header("content-encoding"), how, "{page}");
        }
    }
    // What the client does not take, and what is packed already or must not wait.
    assert_eq!(
        packed(path.to_owned(), "identity")
            .await
            .header("content-encoding"),
        ""
    );
    let artifacts = job["links"]["artifacts"].as_str().unwrap();
    for rest in [
        "/artifacts/lesions.nii.gz",
        "/artifacts/probability.nii.gz",
        "/artifacts/preview.png",
        "/bundle.zip",
        "/events",
    ] {
        let answer = packed(format!("{path}{rest}"), "gzip, br, zstd").await;
        assert_eq!(answer.status, 200, "{rest}");
        assert_eq!(answer.header("content-encoding"), "", "{rest}");
    }
    assert!(artifacts.ends_with("/artifacts"));
}
