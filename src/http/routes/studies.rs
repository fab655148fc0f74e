//! Studies that arrive image by image, until each is a job.
use std::num::NonZeroUsize;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use dawson_inference::problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::dicomweb::StudyUid;
use super::super::extract::{Caller, Fields};
use super::super::problem::Failure;
use super::super::wire::path_of;
use crate::pacs::{Arrival, Stage};

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(arriving))
        .routes(routes!(start))
}

/// A study that arrives, or has arrived.
#[derive(Debug, Serialize, ToSchema)]
struct StudyBody {
    /// (0020,000D).
    #[schema(example = "1.2.840.99")]
    study_instance_uid: String,
    /// `arriving`, `sent` (it is a job), `not_routed` (no rule runs it) or `refused` (it cannot be a job).
    state: &'static str,
    /// Images that are there.
    images: usize,
    /// With how many it is taken, if its route or `start` said so; with fewer once it is quiet.
    #[serde(skip_serializing_if = "Option::is_none")]
    images_stated: Option<usize>,
    /// Bytes of their files.
    bytes: u64,
    /// Images that were not kept because another of the same UID was.
    conflicts: usize,
    /// How often it became a job: images that come late make a new revision.
    revision: u32,
    /// What it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<StudyJobBody>,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// The job that a study became.
#[derive(Debug, Serialize, ToSchema)]
struct StudyJobBody {
    /// Its id.
    id: String,
    /// Where it is.
    href: String,
}

/// Studies that arrive.
#[derive(Debug, Serialize, ToSchema)]
struct StudiesBody {
    studies: Vec<StudyBody>,
}

impl From<Arrival> for StudyBody {
    fn from(arrival: Arrival) -> Self {
        let (state, job, problem) = match arrival.stage {
            Stage::Arriving => ("arriving", None, None),
            Stage::Sent(id) => {
                let (id, href) = (id.to_string(), path_of(id));
                ("sent", Some(StudyJobBody { id, href }), None)
            }
            Stage::NotRouted => ("not_routed", None, None),
            Stage::Refused(code, reason) => ("refused", None, Some(Problem::new(code, reason))),
        };
        Self {
            study_instance_uid: arrival.study_instance_uid,
            state,
            images: arrival.images,
            images_stated: arrival.images_stated,
            bytes: arrival.bytes,
            conflicts: arrival.conflicts,
            revision: arrival.revision,
            job,
            problem,
        }
    }
}

/// When a study is to start.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StartFields {
    /// As soon as so many images of it are there; at once without it.
    #[param(value_type = Option<u64>, minimum = 1)]
    images: Option<NonZeroUsize>,
}

/// List studies that arrive
///
/// Those that come image by image, and those whose images are still kept for what comes late.
#[utoipa::path(
    get,
    path = "/v1/studies",
    tag = "studies",
    security(("api_key" = ["read"])),
    responses((status = 200, description = "The studies", body = StudiesBody))
)]
async fn arriving(State(app): State<App>, caller: Caller) -> Json<StudiesBody> {
    let studies = app.inbox.list(&caller.sees);
    let studies = studies.into_iter().map(StudyBody::from).collect();
    Json(StudiesBody { studies })
}

/// Start a study
///
/// It becomes a job without waiting to be quiet: as it is, or once it has as many images as the query says. One that is
/// a job already stays that job, until more images come.
#[utoipa::path(
    post,
    path = "/v1/studies/{study}/start",
    tag = "studies",
    security(("api_key" = ["submit"])),
    params(("study" = String, Path, description = "its Study Instance UID"), StartFields),
    responses(
        (status = 202, description = "It is on its way", body = StudyBody),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn start(
    State(app): State<App>,
    caller: Caller,
    StudyUid(study): StudyUid,
    Fields(fields): Fields<StartFields>,
) -> Result<(StatusCode, Json<StudyBody>), Failure> {
    let started = app.inbox.start(&caller.sees, &study, fields.images);
    let arrival = started.ok_or_else(|| Failure::new(Code::NotFound, "there is no such study"))?;
    Ok((StatusCode::ACCEPTED, Json(arrival.into())))
}
