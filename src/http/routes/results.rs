//! What comes of a study: its events while it runs, its files once it has succeeded.
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dawson_inference::problem::{Code, Problem};
use futures_util::{Stream, StreamExt, stream};
use tokio_util::io::{ReaderStream, SyncIoBridge};
use tower::ServiceExt;
use tower_http::services::ServeFile;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::App;
use super::super::extract::Id;
use super::super::problem::Failure;
use super::super::wire::{ArtifactBody, ArtifactsBody};
use crate::jobs::{Channel, Kind};
use crate::store::StoredFile;

/// How often a silent stream says that it is alive.
const PING: Duration = Duration::from_secs(15);
/// Bytes of a bundle that may wait for a slow client.
const BUNDLE_BUFFER: usize = 256 << 10;

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(events))
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(bundle))
}

/// Watch a job
///
/// Server-sent events `state`, `progress`, `warning` and `end`; the stream ends after `end`. With
/// `Last-Event-ID` it goes on after that event.
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}/events",
    tag = "segmentations",
    params(
        ("id" = String, Path, description = "the job"),
        ("Last-Event-ID" = Option<u64>, Header, description = "the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended and every event was seen"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn events(
    State(app): State<App>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let seen = headers
        .get("last-event-id")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let channel = app.jobs.watch(id).await?;
    let seen = channel.resume_after(seen);
    if channel.has_ended() && channel.after(seen).is_empty() {
        // Nothing will ever follow: this tells an EventSource not to come again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let closed = app.jobs.closed();
    Ok(Sse::new(follow(channel, seen).take_until(closed))
        .keep_alive(KeepAlive::new().interval(PING))
        .into_response())
}

/// The events after `seen`, until the end.
fn follow(channel: Arc<Channel>, seen: u64) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    stream::unfold(
        (channel, seen, false),
        |(channel, seen, ended)| async move {
            if ended {
                return None;
            }
            channel.wait_after(seen).await;
            let events = channel.after(seen);
            let last = events.last().map_or(seen, |e| e.id);
            let ended = events.iter().any(|e| e.kind == Kind::End);
            let lines: Vec<_> = events
                .into_iter()
                .map(|e| {
                    Ok(SseEvent::default()
                        .id(e.id.to_string())
                        .event(e.kind.name())
                        .data(e.data.to_string()))
                })
                .collect();
            Some((stream::iter(lines), (channel, last, ended)))
        },
    )
    .flatten()
}

/// List the files of a result
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}/artifacts",
    tag = "segmentations",
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 200, description = "The files", body = ArtifactsBody),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list(State(app): State<App>, Id(id): Id) -> Result<Json<ArtifactsBody>, Failure> {
    let artifacts = app.jobs.artifacts(id).await?;
    let artifacts = artifacts
        .into_iter()
        .map(|(file, _)| ArtifactBody::of(id, file))
        .collect();
    Ok(Json(ArtifactsBody { artifacts }))
}

/// Fetch a file of a result
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}/artifacts/{name}",
    tag = "segmentations",
    params(
        ("id" = String, Path, description = "the job"),
        ("name" = String, Path, description = "such as lesions.nii.gz"),
        ("Range" = Option<String>, Header, description = "a part of the file"),
        ("If-None-Match" = Option<String>, Header, description = "the ETag that is held already"),
    ),
    responses(
        (status = 200, description = "The file; its ETag is its SHA-256", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "A part of the file", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It is held already"),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "range_not_satisfiable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(
    State(app): State<App>,
    Id(id): Id,
    Path(path): Path<ArtifactPath>,
    mut request: Request,
) -> Result<Response, Failure> {
    let (file, path) = app.jobs.artifact(id, &path.name).await?;
    let etag = HeaderValue::from_str(&format!("\"{}\"", file.sha256))
        .map_err(|e| Failure::internal(&e))?;
    if request.headers().get(IF_NONE_MATCH) == Some(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    // The file's own conditions (a modification time, another ETag) are not ours.
    for name in [
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
    ] {
        request.headers_mut().remove(name);
    }
    let served = ServeFile::new(path)
        .oneshot(request)
        .await
        .map_err(|e| Failure::internal(&e))?;
    let mut response = served.map(Body::new);
    let status = response.status();
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Err(Failure::new(
            Code::RangeNotSatisfiable,
            format!("{} has {} bytes", file.name, file.bytes),
        ));
    }
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        return Err(Failure::internal(&format!(
            "{} answered {status}",
            file.name
        )));
    }
    let kind = HeaderValue::from_str(&file.media_type).map_err(|e| Failure::internal(&e))?;
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", file.name))
        .map_err(|e| Failure::internal(&e))?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(ETAG, etag);
    headers.insert(CONTENT_DISPOSITION, disposition);
    Ok(response)
}

#[derive(serde::Deserialize)]
struct ArtifactPath {
    name: String,
}

/// Fetch all files of a result in one zip
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}/bundle.zip",
    tag = "segmentations",
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 200, description = "The files, stored without packing them again", body = Vec<u8>, content_type = "application/zip"),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn bundle(State(app): State<App>, Id(id): Id) -> Result<Response, Failure> {
    let artifacts = app.jobs.artifacts(id).await?;
    let (writer, reader) = tokio::io::duplex(BUNDLE_BUFFER);
    let writer = SyncIoBridge::new(writer);
    tokio::task::spawn_blocking(move || {
        // A client that goes away ends the pipe, and so the writing.
        if let Err(error) = pack(writer, artifacts) {
            tracing::info!(job = %id, %error, "a bundle was not sent to its end");
        }
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"bundle.zip\""),
        ),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(reader))).into_response())
}

fn pack(
    writer: impl std::io::Write,
    artifacts: Vec<(StoredFile, PathBuf)>,
) -> zip::result::ZipResult<()> {
    let mut bundle = ZipWriter::new_stream(writer);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (file, path) in artifacts {
        bundle.start_file(
            file.name,
            stored.large_file(file.bytes > u64::from(u32::MAX)),
        )?;
        std::io::copy(&mut std::fs::File::open(path)?, &mut bundle)?;
    }
    bundle.finish()?;
    Ok(())
}
