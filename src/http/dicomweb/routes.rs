//! The addresses of DICOMweb; what answers them is in the files beside this one.
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use dawson_inference::problem::{Code, Problem};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::extract::{Caller, Fields};
use super::super::problem::Failure;
use super::search::{Level, Search};
use super::{Uids, retrieve, store};

type Pairs = Vec<(String, String)>;

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(store_any, search_studies))
        .routes(routes!(store_of_study, retrieve_study))
        .routes(routes!(search_series))
        .routes(routes!(search_series_of_study))
        .routes(routes!(search_instances))
        .routes(routes!(search_instances_of_study))
        .routes(routes!(search_instances_of_series))
        .routes(routes!(retrieve_series))
        .routes(routes!(retrieve_instance))
        .routes(routes!(metadata_of_study))
        .routes(routes!(metadata_of_series))
        .routes(routes!(metadata_of_instance))
}

/// A data set in the DICOM JSON model (PS3.18, annex F): elements by their tags.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "describes what is written element by element")]
struct DataSet(serde_json::Map<String, serde_json::Value>);

/// What a search matches; each key by its keyword or by its tag. All that are given must fit.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query, which is read pair by pair")]
struct SearchFields {
    /// A UID, or several with commas between them.
    #[param(rename = "StudyInstanceUID")]
    study_instance_uid: Option<String>,
    /// A UID, or several with commas between them.
    #[param(rename = "SeriesInstanceUID")]
    series_instance_uid: Option<String>,
    /// A UID, or several with commas between them.
    #[param(rename = "SOPInstanceUID")]
    sop_instance_uid: Option<String>,
    /// A UID, or several with commas between them.
    #[param(rename = "SOPClassUID")]
    sop_class_uid: Option<String>,
    /// Such as MR, SEG, SR or DOC, or several with commas between them.
    #[param(rename = "Modality")]
    modality: Option<String>,
    /// The same.
    #[param(rename = "ModalitiesInStudy")]
    modalities_in_study: Option<String>,
    /// Exactly this one.
    #[param(rename = "PatientID")]
    patient_id: Option<String>,
    /// At most so many answers, up to 5000.
    limit: Option<u32>,
    /// So many are left out first.
    offset: Option<u32>,
    /// Taken, and of no effect: every answer has all that is told at its level.
    includefield: Option<String>,
    /// Taken; true is answered with a Warning, because values are compared as they are.
    fuzzymatching: Option<bool>,
}

async fn find(
    app: &App,
    caller: &Caller,
    uids: &Uids,
    query: &Pairs,
    level: Level,
) -> Result<Response, Failure> {
    let search = Search::parse(query, uids)?;
    let all = app
        .catalogue
        .list(app, &caller.sees, uids.study.as_deref())
        .await?;
    Ok(search.answer(level, uids, &all))
}

/// What an address names, if there is any of it.
async fn named(
    app: &App,
    caller: &Caller,
    uids: &Uids,
) -> Result<Vec<std::sync::Arc<super::catalogue::Instance>>, Failure> {
    let mut all = app
        .catalogue
        .list(app, &caller.sees, uids.study.as_deref())
        .await?;
    let is =
        |asked: &Option<String>, found: &str| asked.as_ref().is_none_or(|asked| asked == found);
    all.retain(|one| is(&uids.series, &one.series) && is(&uids.instance, &one.uid));
    if all.is_empty() {
        return Err(Failure::new(Code::NotFound, "there is no such object"));
    }
    Ok(all)
}

/// Store images
///
/// A multipart/related of files, one file, or a zip of a study. Images are kept as they come; a study that has been
/// quiet for a while, or has as many images as was stated, becomes a job. What became of each file is in the answer.
#[utoipa::path(
    post,
    path = "/dicom-web/studies",
    tag = "dicomweb",
    security(("api_key" = ["submit"])),
    request_body(content(
        (Vec<u8> = "multipart/related"), (Vec<u8> = "application/dicom"), (Vec<u8> = "application/zip"),
    )),
    responses(
        (status = 200, description = "All are stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 202, description = "Some are stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "None is stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 413, description = "body_too_large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "unsupported_media_type", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "damaged_archive", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "shutting_down, storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn store_any(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    store::store(&app, caller, uids.study, &headers, body).await
}

/// Store images of a study
///
/// A multipart/related of files, one file, or a zip of a study. Images are kept as they come; a study that has been
/// quiet for a while, or has as many images as was stated, becomes a job. What became of each file is in the answer.
#[utoipa::path(
    post,
    path = "/dicom-web/studies/{study}",
    tag = "dicomweb",
    security(("api_key" = ["submit"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
    ),
    request_body(content(
        (Vec<u8> = "multipart/related"), (Vec<u8> = "application/dicom"), (Vec<u8> = "application/zip"),
    )),
    responses(
        (status = 200, description = "All are stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 202, description = "Some are stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "None is stored", body = DataSet, content_type = "application/dicom+json"),
        (status = 413, description = "body_too_large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "unsupported_media_type", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "damaged_archive", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "shutting_down, storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn store_of_study(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    store::store(&app, caller, uids.study, &headers, body).await
}

/// Search for studies
#[utoipa::path(
    get,
    path = "/dicom-web/studies",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_studies(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Study).await
}

/// Search for series
#[utoipa::path(
    get,
    path = "/dicom-web/series",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_series(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Series).await
}

/// Search for series of a study
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(("study" = String, Path, description = "its Study Instance UID"), SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_series_of_study(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Series).await
}

/// Search for instances
#[utoipa::path(
    get,
    path = "/dicom-web/instances",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_instances(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Instance).await
}

/// Search for instances of a study
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/instances",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(("study" = String, Path, description = "its Study Instance UID"), SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_instances_of_study(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Instance).await
}

/// Search for instances of a series
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series/{series}/instances",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(("study" = String, Path, description = "its Study Instance UID"), ("series" = String, Path, description = "its Series Instance UID"), SearchFields),
    responses(
        (status = 200, description = "What fits", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn search_instances_of_series(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    Fields(query): Fields<Pairs>,
) -> Result<Response, Failure> {
    find(&app, &caller, &uids, &query, Level::Instance).await
}

/// Fetch the files of a study
///
/// As they are stored, in the transfer syntax of each.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("Accept" = Option<String>, Header, description = "multipart/related; type=\"application/dicom\""),
    ),
    responses(
        (status = 200, description = "The files", body = Vec<u8>, content_type = "multipart/related"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn retrieve_study(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::files(app, &headers, instances)
}

/// Fetch the files of a series
///
/// As they are stored, in the transfer syntax of each.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series/{series}",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("series" = String, Path, description = "its Series Instance UID"),
        ("Accept" = Option<String>, Header, description = "multipart/related; type=\"application/dicom\""),
    ),
    responses(
        (status = 200, description = "The files", body = Vec<u8>, content_type = "multipart/related"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn retrieve_series(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::files(app, &headers, instances)
}

/// Fetch an instance
///
/// As they are stored, in the transfer syntax of each.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series/{series}/instances/{instance}",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("series" = String, Path, description = "its Series Instance UID"),
        ("instance" = String, Path, description = "its SOP Instance UID"),
        ("Accept" = Option<String>, Header, description = "multipart/related; type=\"application/dicom\""),
    ),
    responses(
        (status = 200, description = "The files", body = Vec<u8>, content_type = "multipart/related"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn retrieve_instance(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::files(app, &headers, instances)
}

/// Fetch what a study says
///
/// All attributes but bulk values and private ones.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/metadata",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("Accept" = Option<String>, Header, description = "application/dicom+json"),
    ),
    responses(
        (status = 200, description = "The data sets", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn metadata_of_study(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::metadata(app, &headers, instances)
}

/// Fetch what a series says
///
/// All attributes but bulk values and private ones.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series/{series}/metadata",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("series" = String, Path, description = "its Series Instance UID"),
        ("Accept" = Option<String>, Header, description = "application/dicom+json"),
    ),
    responses(
        (status = 200, description = "The data sets", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn metadata_of_series(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::metadata(app, &headers, instances)
}

/// Fetch what an instance says
///
/// All attributes but bulk values and private ones.
#[utoipa::path(
    get,
    path = "/dicom-web/studies/{study}/series/{series}/instances/{instance}/metadata",
    tag = "dicomweb",
    security(("api_key" = ["read"])),
    params(
        ("study" = String, Path, description = "its Study Instance UID"),
        ("series" = String, Path, description = "its Series Instance UID"),
        ("instance" = String, Path, description = "its SOP Instance UID"),
        ("Accept" = Option<String>, Header, description = "application/dicom+json"),
    ),
    responses(
        (status = 200, description = "The data sets", body = Vec<DataSet>, content_type = "application/dicom+json"),
        (status = 400, description = "malformed_request", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "not_acceptable", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "storage_failed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn metadata_of_instance(
    State(app): State<App>,
    caller: Caller,
    uids: Uids,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instances = named(&app, &caller, &uids).await?;
    retrieve::metadata(app, &headers, instances)
}
