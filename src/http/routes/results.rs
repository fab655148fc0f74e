//! What comes of a study: its events while it runs, its files once it has succeeded.
use std::convert::Infallible;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dawson_inference::problem::{Code, Problem};
use dawson_inference::report::Report;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::super::App;
use super::super::extract::{Caller, Id, matches_any};
use super::super::problem::Failure;
use super::super::wire::{ArtifactBody, ArtifactsBody, EventBody};
use crate::jobs::{Channel, Jobs, Kind};
use crate::store::{JobId, Pieces, StoredFile};

/// How often a silent stream says that it is alive.
const PING: Duration = Duration::from_secs(15);

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
    security(("api_key" = ["read"])),
    params(
        ("id" = String, Path, description = "the job"),
        ("Last-Event-ID" = Option<u64>, Header, description = "the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events", body = EventBody, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended and every event was seen"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn events(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let seen = headers
        .get("last-event-id")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let channel = app.jobs.watch(&caller.sees, id).await?;
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
    security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 200, description = "The files", body = ArtifactsBody),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
) -> Result<Json<ArtifactsBody>, Failure> {
    let (artifacts, _) = app.jobs.artifacts(&caller.sees, id).await?;
    let artifacts = artifacts
        .into_iter()
        .map(|file| ArtifactBody::of(id, file))
        .collect();
    Ok(Json(ArtifactsBody { artifacts }))
}

/// Fetch a file of a result
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}/artifacts/{name}",
    tag = "segmentations",
    security(("api_key" = ["read"])),
    params(
        ("id" = String, Path, description = "the job"),
        ("name" = String, Path, description = "such as lesions.nii.gz"),
        ("Range" = Option<String>, Header, description = "a part of the file"),
        ("If-Match" = Option<String>, Header, description = "only the file with this ETag"),
        ("If-None-Match" = Option<String>, Header, description = "the ETag that is held already"),
        ("If-Range" = Option<String>, Header, description = "the whole file unless it has this ETag"),
    ),
    responses(
        (status = 200, description = "The file; its ETag is its SHA-256",
            content((Vec<u8> = "application/gzip"), (Report = "application/json"), (Vec<u8> = "image/png"))),
        (status = 206, description = "A part of the file",
            content((Vec<u8> = "application/gzip"), (Vec<u8> = "application/json"), (Vec<u8> = "image/png"))),
        (status = 304, description = "It is held already"),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "precondition_failed", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "range_not_satisfiable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Path(path): Path<ArtifactPath>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (file, attempt) = app.jobs.artifact(&caller.sees, id, &path.name).await?;
    let etag = format!("\"{}\"", file.sha256);
    if headers.contains_key(IF_MATCH) && !matches_any(headers.get(IF_MATCH), &etag) {
        let detail = format!("{} is not the file that If-Match names", file.name);
        return Err(Failure::new(Code::PreconditionFailed, detail));
    }
    let tag = text(&etag)?;
    if matches_any(headers.get(IF_NONE_MATCH), &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let part = part_of(&headers, &etag, &file)?;
    let bytes = part.clone().unwrap_or(0..file.bytes);
    let pieces = app
        .jobs
        .read_artifact(id, attempt, &file.name, part.clone())
        .await?;
    let mut response = Body::from_stream(pieces).into_response();
    let answered = response.headers_mut();
    answered.insert(CONTENT_TYPE, text(&file.media_type)?);
    answered.insert(CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
    answered.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answered.insert(ETAG, tag);
    let disposition = format!("attachment; filename=\"{}\"", file.name);
    answered.insert(CONTENT_DISPOSITION, text(&disposition)?);
    if part.is_some() {
        let last = bytes.end.saturating_sub(1);
        let range = format!("bytes {}-{last}/{}", bytes.start, file.bytes);
        answered.insert(CONTENT_RANGE, text(&range)?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// What goes into headers here is our own: digests, names of artifacts, numbers.
fn text(value: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(value).map_err(|e| Failure::internal(&e))
}

/// The one part of a file that is asked for; `None` for all of
/// it, also if several parts are asked for or a range is not understood (RFC 9110, 14.2).
fn part_of(
    headers: &HeaderMap,
    etag: &str,
    file: &StoredFile,
) -> Result<Option<Range<u64>>, Failure> {
    let Some(range) = headers.get(RANGE).and_then(|v| v.to_str().ok()) else {
        return Ok(None);
    };
    // A part of another edition of the file would be of no use.
    if headers.get(IF_RANGE).is_some_and(|v| v != etag) {
        return Ok(None);
    }
    let Ok(ranges) = http_range_header::parse_range_header(range) else {
        return Ok(None);
    };
    match ranges.validate(file.bytes).as_deref() {
        Ok([one]) => Ok(Some(*one.start()..one.end() + 1)),
        Ok(_) => Ok(None),
        Err(_) => Err(Failure::new(
            Code::RangeNotSatisfiable,
            format!("{} has {} bytes", file.name, file.bytes),
        )),
    }
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
    security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 200, description = "The files, stored without packing them again", body = Vec<u8>, content_type = "application/zip"),
        (status = 404, description = "not_found, artifact_not_ready", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn bundle(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Failure> {
    let (artifacts, attempt) = app.jobs.artifacts(&caller.sees, id).await?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"bundle.zip\""),
        ),
    ];
    let pieces = pack(app.jobs, id, attempt, artifacts);
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// A zip of stored files, piece by piece as fast as it is read. If a file cannot be read to its end the
/// stream fails, and the client sees that what it has is not whole.
fn pack(
    jobs: Arc<Jobs>,
    id: JobId,
    attempt: i64,
    artifacts: Vec<StoredFile>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let packed = Packed::default();
    let begun = Packing {
        bundle: Some(ZipWriter::new_stream(packed.clone())),
        packed,
        files: artifacts.into_iter(),
        open: None,
    };
    stream::try_unfold(begun, move |mut packing| {
        let jobs = Arc::clone(&jobs);
        async move {
            while let Some(bundle) = &mut packing.bundle {
                if let Some(pieces) = &mut packing.open {
                    match pieces.try_next().await? {
                        Some(piece) => bundle.write_all(&piece)?,
                        None => packing.open = None,
                    }
                } else if let Some(file) = packing.files.next() {
                    let options = SimpleFileOptions::default()
                        .compression_method(CompressionMethod::Stored)
                        .large_file(file.bytes > u64::from(u32::MAX));
                    bundle.start_file(&file.name, options)?;
                    let opened = jobs.read_artifact(id, attempt, &file.name, None).await;
                    packing.open = Some(opened.map_err(io::Error::other)?);
                } else if let Some(bundle) = packing.bundle.take() {
                    bundle.finish()?;
                }
                let piece = packing.packed.take();
                if !piece.is_empty() {
                    return Ok(Some((piece, packing)));
                }
            }
            Ok(None)
        }
    })
}

/// A bundle that is being packed.
struct Packing {
    /// Gone once it is finished.
    bundle: Option<ZipWriter<StreamWriter<Packed>>>,
    packed: Packed,
    files: std::vec::IntoIter<StoredFile>,
    open: Option<Pieces>,
}

/// What was packed and not taken yet.
#[derive(Clone, Default)]
struct Packed(Arc<Mutex<Vec<u8>>>);

impl Packed {
    fn take(&self) -> Bytes {
        let mut packed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Bytes::from(std::mem::take(&mut *packed))
    }
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut packed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        packed.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
