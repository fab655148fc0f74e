//! The networks that are served.
use axum::Json;
use axum::extract::{Path, State};
use dawson_inference::problem::{Code, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::problem::Failure;
use super::super::wire::{ModelBody, ModelCardBody, ModelsBody};
use crate::jobs::Networks;

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(reload))
}

fn all(networks: &Networks) -> ModelsBody {
    let device = networks.segmenter.engine().device;
    let models = networks.registry.models();
    ModelsBody {
        models: models.iter().map(|m| ModelBody::of(m)).collect(),
        device: device.to_string(),
        precisions: device.precisions().iter().map(|p| p.name()).collect(),
    }
}

/// List the networks
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    security(("api_key" = ["submit"]), ("api_key" = ["read"])),
    responses((status = 200, description = "The networks and what they run on", body = ModelsBody))
)]
async fn list(State(app): State<App>) -> Json<ModelsBody> {
    Json(all(&app.jobs.networks()))
}

/// Read the networks' folder again
///
/// Every network that is there is verified and computes its golden patch; then the next jobs get them all.
/// Jobs that run keep theirs. If one network is wrong, nothing changes. SIGHUP does the same.
#[utoipa::path(
    post,
    path = "/v1/models/reload",
    tag = "models",
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The networks from now on", body = ModelsBody),
        (status = 503, description = "model_invalid", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn reload(State(app): State<App>) -> Result<Json<ModelsBody>, Failure> {
    Ok(Json(all(&*app.jobs.reload().await?)))
}

/// Look at a network and its card
#[utoipa::path(
    get,
    path = "/v1/models/{name}",
    tag = "models",
    security(("api_key" = ["submit"]), ("api_key" = ["read"])),
    params(("name" = String, Path, description = "name, or name@version")),
    responses(
        (status = 200, description = "The network", body = ModelCardBody),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<ModelCardBody>, Failure> {
    let found = app.jobs.networks().registry.get(&name);
    let model = found.map_err(|e| Failure::new(Code::NotFound, e.to_string()))?;
    // A model without a card is still a model.
    let card = model.card().unwrap_or_default();
    Ok(Json(ModelCardBody {
        model: ModelBody::of(&model),
        card,
    }))
}
