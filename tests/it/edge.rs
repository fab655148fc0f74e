//! The service on a real socket, with clients that are slow, many, stuck or hostile.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use dawson::http::{ListenConfig, Pace};
use dawson_imaging::study::Contrast;
use futures_util::stream;
use serde_json::{Value, json};

use super::support::{Form, Line, Listening, PATIENCE, Service, ServiceOptions, file, patient};

const SHORT: Duration = Duration::from_millis(200);

async fn idle() -> Service {
    Service::idle(ServiceOptions::default()).await
}

/// The head of a submission with a body of that size.
fn head(kind: &str, length: usize) -> String {
    format!(
        "POST /v1/segmentations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Status and problem code of an answer as it stands on the wire.
fn refused(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    (
        status.unwrap(),
        problem["code"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_and_silence_are_not_waited_for() {
    let service = idle().await;
    let server = Listening::start(
        &service,
        ListenConfig {
            header_timeout: SHORT,
            ..patient()
        },
    )
    .await;
    let mut silent = server.send("").await;
    let mut slow = server.send("GET /healthz HTTP/1.1\r\n").await;
    assert_eq!(silent.rest().await, "");
    // A line now and then does not help.
    let (mut reading, mut writing) = slow.0.split();
    let dripping = async {
        loop {
            let line = tokio::io::AsyncWriteExt::write_all(&mut writing, b"x: y\r\n").await;
            if line.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    let mut answer = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
    tokio::select! {
        () = dripping => {}
        _end = tokio::time::timeout(PATIENCE, ended) => {}
    }
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert!(server.is_well().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_too_long_for_its_next_request_is_let_go() {
    let service = idle().await;
    let server = Listening::start(
        &service,
        ListenConfig {
            idle_timeout: SHORT,
            ..patient()
        },
    )
    .await;
    let mut line = server
        .send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert!(line.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_answered_408_and_a_steady_one_is_not() {
    let service = Service::idle(ServiceOptions {
        pace: Pace {
            timeout: SHORT,
            min_bytes_per_s: 1 << 40,
        },
        ..ServiceOptions::default()
    })
    .await;
    let server = Listening::start(&service, patient()).await;
    let (kind, body) = Form::of(&[Contrast::Flair]).close();
    let mut line = server.send(head(&kind, body.len())).await;
    line.send(&body[..200]).await;
    assert_eq!(
        refused(&line.rest().await),
        (408, "request_timeout".to_owned())
    );
    let incoming = service.state.join("incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
    let mut line = server.send(head(&kind, body.len())).await;
    line.send(&body).await;
    assert!(line.rest().await.starts_with("HTTP/1.1 202"));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_only_hold_connections_keep_nobody_out() {
    let service = idle().await;
    let server = Listening::start(
        &service,
        ListenConfig {
            max_connections: 8,
            ..patient()
        },
    )
    .await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(server.send("GET /healthz HTTP/1.1\r\n").await);
    }
    assert!(server.is_well().await);
    // The oldest made room.
    assert_eq!(held[0].rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_at_work_the_next_is_told_to_come_again() {
    let service = idle().await;
    let job = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await
        .json();
    let server = Listening::start(
        &service,
        ListenConfig {
            max_connections: 2,
            ..patient()
        },
    )
    .await;
    let path = job["links"]["events"].as_str().unwrap();
    let watch = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut watching: Vec<Line> = Vec::new();
    for _ in 0..2 {
        let mut line = server.send(&watch).await;
        line.until("event: state").await;
        watching.push(line);
    }
    let mut late = server.send("").await;
    let answer = late.rest().await;
    assert_eq!(refused(&answer), (503, "overloaded".to_owned()));
    assert!(answer.contains("retry-after: "));
    // A client that goes makes room for another.
    watching.clear();
    let well = async {
        while !server.is_well().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, well).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let long = format!("x: {}\r\n", "y".repeat(20 << 10));
    let many = "x: y\r\n".repeat(60);
    for headers in [long, many] {
        let mut line = server
            .send(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
            .await;
        let answer = line.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let fits = "x: y\r\n".repeat(40);
    let mut line = server
        .send(format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fits}\r\n"
        ))
        .await;
    assert!(line.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_head_promises_is_refused_before_the_body_comes() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let mut line = server
        .send(head("multipart/form-data; boundary=x", 1 << 40))
        .await;
    assert_eq!(
        refused(&line.rest().await),
        (413, "body_too_large".to_owned())
    );
    let mut line = server.send(head("application/json", 1000)).await;
    assert_eq!(
        refused(&line.rest().await),
        (415, "unsupported_media_type".to_owned())
    );
    // Nor is a client that asks first told to go on.
    let mut line = server
        .send(
            head("multipart/form-data; boundary=x", 1 << 40)
                .replace("Host: x", "Host: x\r\nExpect: 100-continue"),
        )
        .await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_on_after_a_refusal_still_reads_it() {
    let service = Service::idle(ServiceOptions {
        max_body_bytes: 1 << 20,
        ..ServiceOptions::default()
    })
    .await;
    let server = Listening::start(&service, patient()).await;
    let mut line = server
        .send(head("multipart/form-data; boundary=x", 4 << 20))
        .await;
    // More than the sockets' buffers hold: without lingering this ends in a reset.
    let sent = tokio::io::AsyncWriteExt::write_all(&mut line.0, &vec![0; 4 << 20]).await;
    assert!(sent.is_ok(), "{sent:?}");
    assert_eq!(
        refused(&line.rest().await),
        (413, "body_too_large".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_encodings_are_taken_by_the_letter_or_not_at_all() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let with = |headers: &str, body: &str| {
        format!(
            "POST /v1/segmentations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=x\r\n{headers}\r\n\r\n{body}"
        )
    };
    let chunked = "Transfer-Encoding: chunked";
    let cases = [
        // No number, a sign, a number beyond all bounds, one that wraps around.
        with(chunked, "zz\r\nabc\r\n0\r\n\r\n"),
        with(chunked, "-1\r\nabc\r\n0\r\n\r\n"),
        with(chunked, "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        with(chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        // A chunk longer than it says, an extension without end.
        with(chunked, "1\r\nabc\r\n0\r\n\r\n"),
        with(
            chunked,
            &format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(64 << 10)),
        ),
        // Two ends of one body.
        with(
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        with(
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        with("Content-Length: 3\r\nContent-Length: 4", "abc"),
        with("Content-Length: +3", "abc"),
        with("Content-Length: 3, 3", "abc"),
        with(
            "Transfer-Encoding: chunked, identity",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        with("Transfer-Encoding: xchunked", "3\r\nabc\r\n0\r\n\r\n"),
        with("Transfer-Encoding : chunked", "3\r\nabc\r\n0\r\n\r\n"),
    ];
    for case in cases {
        let mut line = server.send(&case).await;
        let answer = line.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{case}: {answer}");
    }
    // What follows the last answer is not taken for another request.
    let mut line = server
        .send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\u{1}\u{2} no request\r\n\r\n")
        .await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 400"), "{answer}");
    assert!(server.is_well().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_study_is_taken_like_any_other() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let (kind, body) = Form::of(&[Contrast::Flair]).close();
    let mut line = server
        .send(format!(
            "POST /v1/segmentations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    for chunk in body.chunks(10_007) {
        line.send(format!("{:x}\r\n", chunk.len())).await;
        line.send(chunk).await;
        line.send("\r\n").await;
    }
    line.send("0\r\nX-Trailer: nothing\r\n\r\n").await;
    assert!(line.rest().await.starts_with("HTTP/1.1 202"));
}

/// A submission whose body is made while it is read; returns the answer and how much was read.
async fn endless(start: &'static str, more: &'static str) -> ((u16, String), usize) {
    let service = Service::idle(ServiceOptions {
        max_body_bytes: usize::MAX,
        ..ServiceOptions::default()
    })
    .await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let chunks = stream::iter(std::iter::once(start).chain(std::iter::repeat(more)));
    let chunks = futures_util::StreamExt::map(chunks, move |chunk| {
        counted.fetch_add(chunk.len(), Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from_static(chunk.as_bytes()))
    });
    let request = Request::post("/v1/segmentations")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(Body::from_stream(chunks))
        .unwrap();
    let answer = service.send(request).await.problem();
    assert_eq!(
        std::fs::read_dir(service.state.join("incoming"))
            .unwrap()
            .count(),
        0
    );
    (answer, read.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_without_end_is_read_no_further_than_its_limits() {
    let part = "--b\r\nContent-Disposition: form-data; name=\"junk\"\r\n\r\nx\r\n";
    let headers = "--b\r\nContent-Disposition: form-data; name=\"flair\"\r\n";
    let cases = [
        ("parts", part, part, (422, "unknown_part")),
        ("a preamble", "x", "no boundary", (400, "malformed_request")),
        (
            "a part's headers",
            headers,
            "x: y\r\n",
            (400, "malformed_request"),
        ),
        ("padding", "--b", "          ", (400, "malformed_request")),
        (
            "options",
            "--b\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n",
            "[[[[[[[[",
            (422, "invalid_options"),
        ),
        (
            "a scan",
            "--b\r\nContent-Disposition: form-data; name=\"flair\"\r\n\r\n",
            "01234567",
            (413, "body_too_large"),
        ),
    ];
    for (what, start, more, (status, code)) in cases {
        let (answer, read) = endless(start, more).await;
        assert_eq!(answer, (status, code.to_owned()), "{what}");
        let most = if what == "a scan" { 9 << 20 } else { 100 << 10 };
        assert!(read < most, "{what}: {read} bytes were read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_parts_and_names_that_are_paths_go_nowhere() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let many = (0..10_000).fold(Form::default(), |form, n| form.part(&format!("p{n}"), b""));
    let (kind, body) = many.close();
    let mut line = server.send(head(&kind, body.len())).await;
    line.send(&body).await;
    assert_eq!(
        refused(&line.rest().await),
        (422, "unknown_part".to_owned())
    );
    for name in [
        "../flair",
        "/etc/passwd",
        "..\\flair",
        "flair/../x",
        "flair\0",
        ".",
    ] {
        let form = Form::of(&[Contrast::Flair]).part(name, &file(Contrast::T1w));
        let answer = service.send(form.request(&[])).await;
        assert!(answer.status.is_client_error(), "{name}");
    }
    let boundary = "a-boundary-that-no-scan-holds";
    let mut body = Vec::new();
    for (name, file_name) in [
        ("flair", "../../../../tmp/evil.nii"),
        ("t1w", "/etc/DOE^JANE.nii"),
    ] {
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(&file(Contrast::parse(name).unwrap()));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let request = Request::post("/v1/segmentations")
        .header(
            "content-type",
            format!("multipart/form-data; boundary={boundary}"),
        )
        .body(Body::from(body))
        .unwrap();
    let answer = service.send(request).await;
    assert_eq!(answer.status, 202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let inputs = service.state.join("jobs").join(id).join("inputs");
    let mut stored: Vec<_> = std::fs::read_dir(inputs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    stored.sort();
    assert_eq!(stored, ["flair", "t1w"]);
    assert!(!String::from_utf8_lossy(&answer.body).contains("DOE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_form_is_named_at_once() {
    let service = idle().await;
    let form = Form::of(&[Contrast::Flair])
        .part("t1w", b"not a scan at all")
        .part("t2w", b"nor is this")
        .part("swi", b"x")
        .options(&json!({ "treshold": 1, "flips": "no" }));
    let answer = service.send(form.request(&[])).await;
    assert_eq!(answer.problem(), (422, "not_nifti".to_owned()));
    let problem = answer.json();
    let places: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["at"].as_str().unwrap())
        .collect();
    assert_eq!(
        places,
        ["t1w", "t2w", "swi", "options.flips", "options.treshold"]
    );
    let wanted = json!({ "threshold": 2, "overlap": 5, "min_lesion_ml": -1 });
    let form = Form::of(&[Contrast::Flair]).options(&wanted);
    let answer = service.send(form.request(&[])).await.json();
    assert_eq!(answer["errors"].as_array().unwrap().len(), 3, "{answer}");
    assert_eq!(answer["errors"][0]["at"], "options.threshold");
    // One fault is told once.
    let form = Form::of(&[Contrast::Flair]).options(&json!({ "overlap": 5 }));
    assert!(
        service
            .send(form.request(&[]))
            .await
            .json()
            .get("errors")
            .is_none()
    );
    let incoming = service.state.join("incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_an_upload_end_and_takes_no_other() {
    let service = idle().await;
    let mut server = Listening::start(&service, patient()).await;
    let (kind, body) = Form::of(&[Contrast::Flair]).close();
    let (first, second) = body.split_at(body.len() / 2);
    let mut line = server.send(head(&kind, body.len())).await;
    line.send(first).await;
    let incoming = || {
        std::fs::read_dir(service.state.join("incoming"))
            .unwrap()
            .count()
    };
    while incoming() == 0 {
        tokio::task::yield_now().await;
    }
    service.jobs.close();
    server.stop();
    let closed = async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    line.send(second).await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    tokio::time::timeout(PATIENCE, server.served)
        .await
        .unwrap()
        .unwrap();
    let late = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await;
    assert_eq!(late.problem(), (503, "shutting_down".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_those_who_are_stuck() {
    let service = idle().await;
    let mut server = Listening::start(
        &service,
        ListenConfig {
            grace: SHORT,
            ..patient()
        },
    )
    .await;
    let (kind, body) = Form::of(&[Contrast::Flair]).close();
    let mut stuck = server.send(head(&kind, body.len())).await;
    stuck.send(&body[..1000]).await;
    let _silent = server.send("").await;
    let _half = server.send("GET /heal").await;
    while std::fs::read_dir(service.state.join("incoming"))
        .unwrap()
        .count()
        == 0
    {
        tokio::task::yield_now().await;
    }
    server.stop();
    tokio::time::timeout(PATIENCE, server.served)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stuck.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_answers_is_let_go() {
    let service = idle().await;
    let mut server = Listening::start(
        &service,
        ListenConfig {
            write_timeout: SHORT,
            ..patient()
        },
    )
    .await;
    let line = server
        .send("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000))
        .await;
    // The grace time is long: only the write that stalls can end this.
    server.stop();
    tokio::time::timeout(PATIENCE, server.served)
        .await
        .unwrap()
        .unwrap();
    drop(line);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_serves_many_requests_on_one_connection_and_has_limits_too() {
    let service = idle().await;
    let server = Listening::start(&service, patient()).await;
    let stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let (client, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let ask = |header: String| {
        let mut client = client.clone();
        async move {
            let request = Request::get("http://x/healthz").header("x", header);
            let request = request.body(Body::empty()).unwrap();
            client
                .send_request(request)
                .await
                .map(|r| r.status().as_u16())
        }
    };
    // The first answer brings the server's limits along.
    assert_eq!(ask("0".to_owned()).await.unwrap(), 200);
    let answers = futures_util::future::join_all((0..40).map(|n| ask(n.to_string()))).await;
    assert!(answers.into_iter().all(|status| status.unwrap() == 200));
    let large = ask("y".repeat(40 << 10)).await;
    assert!(!matches!(large, Ok(200)), "{large:?}");
}
