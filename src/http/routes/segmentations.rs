//! Studies: submitted, listed, looked at, cancelled, erased.
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, ETAG, IF_NONE_MATCH, LINK, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use dawson_inference::problem::{Code, Problem};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::extract::{Caller, Fields, Id, idempotency_key, matches_any, wait};
use super::super::options::Options;
use super::super::problem::Failure;
use super::super::upload::{self, Arrived, Form};
use super::super::wire::{JobBody, JobsBody, path_of};
use crate::jobs::{JobView, Submission};
use crate::keys::Scope;
use crate::store::{self, JobId, Page};

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit, list))
        .routes(routes!(get, erase))
        .routes(routes!(cancel))
        .routes(routes!(send_again))
}

/// The form of a submission: one NIfTI file for each contrast that there is, or a DICOM study.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form, which is read part by part")]
struct StudyForm {
    /// FLAIR, .nii or .nii.gz; every study of NIfTI files has it.
    #[schema(value_type = Option<String>, format = Binary)]
    flair: Option<Vec<u8>>,
    /// T1-weighted, before contrast agent.
    #[schema(value_type = Option<String>, format = Binary)]
    t1w: Option<Vec<u8>>,
    /// T2-weighted.
    #[schema(value_type = Option<String>, format = Binary)]
    t2w: Option<Vec<u8>>,
    /// Proton-density-weighted.
    #[schema(value_type = Option<String>, format = Binary)]
    pdw: Option<Vec<u8>>,
    /// T1-weighted, after gadolinium.
    #[schema(value_type = Option<String>, format = Binary)]
    t1gd: Option<Vec<u8>>,
    /// Instead of contrasts: a DICOM study as a zip; its contrasts are found.
    #[schema(value_type = Option<String>, format = Binary)]
    study: Option<Vec<u8>>,
    /// Instead of contrasts: the files of a DICOM study, one part each.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    dicom: Option<Vec<Vec<u8>>>,
    /// What shapes the result.
    options: Option<Options>,
}

/// Submit a study
///
/// The study is on the server's disk once this is answered. With `Prefer: wait=N` the answer waits up
/// to N seconds for the job's end and is then 200.
#[utoipa::path(
    post,
    path = "/v1/segmentations",
    tag = "segmentations",
    security(("api_key" = ["submit"])),
    request_body(content = StudyForm, content_type = "multipart/form-data"),
    params(
        ("Prefer" = Option<String>, Header, description = "wait=N: wait up to N seconds for the end"),
        ("Idempotency-Key" = Option<String>, Header, description = "the same key with the same study gives the same job"),
    ),
    responses(
        (status = 202, description = "Acknowledged", body = JobBody, headers(("Location" = String, description = "the job"))),
        (status = 200, description = "It ended while the answer waited", body = JobBody),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "body_too_large, image_too_large, study_too_large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "unsupported_media_type", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "not_nifti, damaged_image, unsupported_image, missing_flair, duplicate_part, unknown_part, not_dicom, damaged_dicom, damaged_archive, several_studies, unusable_series, unknown_series, invalid_options, unknown_model, idempotency_mismatch", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "queue_full", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "seconds"))),
        (status = 503, description = "shutting_down, storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn submit(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Failure> {
    let key = idempotency_key(&headers)?;
    let upload = if key.is_none() {
        app.jobs.new_upload_with_room(length(&headers)).await?
    } else {
        // The job may be known already; then there is no need of room.
        app.jobs.new_upload().await?
    };
    let limits = app.jobs.networks().segmenter.limits();
    let arrived = upload::receive(form, upload.folder(), &app.config, limits).await;
    let arrived = arrived
        .and_then(|arrived| in_range(&app, arrived))
        .and_then(|arrived| in_a_hurry(&caller, arrived));
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(failure) => {
            upload.discard().await;
            return Err(failure);
        }
    };
    let submission = Submission {
        upload,
        inputs: arrived.inputs,
        headers: arrived.headers,
        owner: caller.owner,
        priority: arrived.options.priority.map(Into::into).unwrap_or_default(),
        deadline: arrived.options.deadline_s.map(Duration::from_secs),
        callback_url: arrived.options.callback_url,
        label: arrived.options.label,
        model: arrived.options.model,
        options: arrived.options_text,
        idempotency_key: key,
    };
    let job = app.jobs.submit(submission).await?;
    let id = job.id;
    let patience = wait(&headers, app.config.max_wait);
    let view = match patience {
        Some(patience) => app.jobs.wait(&caller.sees, id, patience).await?,
        None => app.jobs.get(&caller.sees, id).await?,
    };
    let status = if view.job.state.has_ended() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = (status, Json(JobBody::from(view))).into_response();
    response
        .headers_mut()
        .insert(LOCATION, header(&path_of(id)));
    applied(&mut response, patience);
    Ok(response)
}

/// What the headers say about the body's bytes; 0 if they do not.
fn length(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// What is urgent goes before all others, so not everybody may say it.
fn in_a_hurry(caller: &Caller, arrived: Arrived) -> Result<Arrived, Failure> {
    let priority: store::Priority = arrived.options.priority.map(Into::into).unwrap_or_default();
    if priority == store::Priority::Urgent {
        caller.must(Scope::Urgent)?;
    }
    Ok(arrived)
}

/// Names every option that is out of its range for the model.
fn in_range(app: &App, arrived: Arrived) -> Result<Arrived, Failure> {
    let model = app.jobs.model(arrived.options.model.as_deref())?;
    let wrong = arrived.options.out_of_range(&model.manifest);
    match Failure::all(wrong.into_iter().map(upload::invalid_option).collect()) {
        Some(failure) => Err(failure),
        None => Ok(arrived),
    }
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn applied(response: &mut Response, patience: Option<std::time::Duration>) {
    if let Some(patience) = patience {
        let value = header(&format!("wait={}", patience.as_secs()));
        response.headers_mut().insert("preference-applied", value);
    }
}

/// Which jobs are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListFields {
    /// Only those in this state.
    state: Option<String>,
    /// At most so many, 1 to 200.
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/segmentations",
    tag = "segmentations",
    security(("api_key" = ["read"])),
    params(ListFields),
    responses(
        (status = 200, description = "A page of jobs", body = JobsBody, headers(("Link" = String, description = "rel=\"next\", if there is more"))),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Fields(fields): Fields<ListFields>,
) -> Result<Response, Failure> {
    let malformed = |detail: String| Failure::new(Code::MalformedRequest, detail);
    let state = fields
        .state
        .as_deref()
        .map(|s| {
            store::State::parse(s).ok_or_else(|| malformed(format!("state '{s}' is not known")))
        })
        .transpose()?;
    let limit = fields.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(malformed(format!("limit is {limit}, must be 1 to 200")));
    }
    let before = fields
        .cursor
        .as_deref()
        .map(|c| {
            c.parse::<JobId>()
                .map_err(|_| malformed("cursor is not one that was given out".to_owned()))
        })
        .transpose()?;
    let mut jobs = app
        .jobs
        .list(
            &caller.sees,
            Page {
                owner: None,
                state,
                before,
                limit: limit + 1,
            },
        )
        .await?;
    let more = jobs.len() as i64 > limit;
    jobs.truncate(usize::try_from(limit).unwrap_or(0));
    let next_cursor = jobs.last().filter(|_| more).map(|job| job.id.to_string());
    let link = next_cursor.as_ref().map(|cursor| {
        let state = state.map_or_else(String::new, |s| format!("&state={}", s.name()));
        header(&format!(
            "</v1/segmentations?limit={limit}&cursor={cursor}{state}>; rel=\"next\""
        ))
    });
    let body = JobsBody {
        jobs: jobs.into_iter().map(JobBody::of).collect(),
        next_cursor,
    };
    let mut response = Json(body).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// Look at a job
///
/// With `Prefer: wait=N` the answer waits up to N seconds for the job's end.
#[utoipa::path(
    get,
    path = "/v1/segmentations/{id}",
    tag = "segmentations",
    security(("api_key" = ["read"])),
    params(
        ("id" = String, Path, description = "the job"),
        ("Prefer" = Option<String>, Header, description = "wait=N"),
        ("If-None-Match" = Option<String>, Header, description = "the ETag that was seen last"),
    ),
    responses(
        (status = 200, description = "The job, with its report once it has succeeded", body = JobBody, headers(("ETag" = String, description = "changes with the job"))),
        (status = 304, description = "Nothing has changed"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let patience = wait(&headers, app.config.max_wait);
    let view = match patience {
        Some(patience) => app.jobs.wait(&caller.sees, id, patience).await?,
        None => app.jobs.get(&caller.sees, id).await?,
    };
    let etag = etag(&view);
    let mut response = if matches_any(headers.get(IF_NONE_MATCH), &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(JobBody::from(view)).into_response()
    };
    response.headers_mut().insert(ETAG, header(&etag));
    applied(&mut response, patience);
    Ok(response)
}

fn etag(view: &JobView) -> String {
    let job = &view.job;
    let all = format!(
        "{:?} {} {:?} {:?} {:?} {:?}",
        job.state, job.attempt, job.ended_at, view.advance, view.queue, view.deliveries
    );
    let digest = hex::encode(Sha256::digest(all.as_bytes()));
    format!("\"{}\"", &digest[..16])
}

/// Cancel a job
///
/// Computing stops after the patch that is under way; scans and partial results are gone then.
#[utoipa::path(
    post,
    path = "/v1/segmentations/{id}/cancel",
    tag = "segmentations",
    security(("api_key" = ["submit"])),
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 202, description = "Cancelled", body = JobBody),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "job_ended", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn cancel(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Failure> {
    let view = app.jobs.cancel(&caller.sees, id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobBody::from(view))).into_response())
}

/// Send a result again
///
/// To a destination of the job's `send_to`, whatever came of it before: a delivery that was given up is tried anew.
/// Objects that are there already are not stored twice.
#[utoipa::path(
    post,
    path = "/v1/segmentations/{id}/deliveries/{destination}",
    tag = "segmentations",
    security(("api_key" = ["submit"])),
    params(
        ("id" = String, Path, description = "the job"),
        ("destination" = String, Path, description = "a destination of its `send_to`"),
    ),
    responses(
        (status = 202, description = "It will be tried", body = JobBody),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn send_again(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Path((_, destination)): Path<(String, String)>,
) -> Result<Response, Failure> {
    app.jobs.send_again(&caller.sees, id, &destination).await?;
    let view = app.jobs.get(&caller.sees, id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobBody::from(view))).into_response())
}

/// Erase a job
///
/// Cancels it if need be; row, scans and results are gone then.
#[utoipa::path(
    delete,
    path = "/v1/segmentations/{id}",
    tag = "segmentations",
    security(("api_key" = ["submit"])),
    params(("id" = String, Path, description = "the job")),
    responses(
        (status = 204, description = "Erased"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn erase(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<StatusCode, Failure> {
    app.jobs.erase(&caller.sees, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
