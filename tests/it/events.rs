//! Server-sent events of a job.
use axum::body::Body;
use axum::http::Request;
use dawson_imaging::study::Contrast;

use super::support::{Form, Service, ServiceOptions};

/// Ids and kinds of the events in a stream's text.
fn parse(text: &[u8]) -> Vec<(u64, String)> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|l| l.strip_prefix(name))
                    .map(|v| v.trim().to_owned())
            };
            Some((field("id:")?.parse().ok()?, field("event:")?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_job_tells_its_states_its_progress_and_its_end() {
    let service = Service::start(ServiceOptions::default()).await;
    let job = service
        .send(Form::of(&[Contrast::Flair]).request(&[]))
        .await
        .json();
    let path = job["links"]["events"].as_str().unwrap();
    let stream = service.get(path).await; // Ends with the job.
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let events = parse(&stream.body);
    let kinds: Vec<&str> = events.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("state", "end"));
    assert!(kinds.contains(&"progress"), "{kinds:?}");
    assert!(events.windows(2).all(|e| e[0].0 < e[1].0));

    let resume = Request::get(path)
        .header("last-event-id", events[events.len() - 2].0.to_string())
        .body(Body::empty())
        .unwrap();
    let rest = parse(&service.send(resume).await.body);
    assert_eq!(rest, events[events.len() - 1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ended_before_this_process_began_tells_its_end() {
    let first = Service::start(ServiceOptions::default()).await;
    let job = first.run(Form::of(&[Contrast::Flair])).await.json();
    first.jobs.close();
    let state = first.state.clone();
    std::mem::forget(first);
    let second = Service::on(state, ServiceOptions::default()).await;
    let events = parse(
        &second
            .get(job["links"]["events"].as_str().unwrap())
            .await
            .body,
    );
    assert_eq!(
        events
            .iter()
            .map(|(_, kind)| kind.as_str())
            .collect::<Vec<_>>(),
        ["state", "end"]
    );
}
