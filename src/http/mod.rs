//! The wire: routes, uploads, events, the OpenAPI description; problems become problem+json here.
//!
//! Handlers only translate: a request into a call of [`crate::jobs`], its result into an answer.
//! Every error that leaves is a problem, those of the framework included (`problem.rs`).
mod extract;
mod options;
mod problem;
mod routes;
mod upload;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
pub use options::read_options;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::jobs::Jobs;
use crate::telemetry::Metrics;

/// Limits of the wire.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The most bytes of a body.
    pub max_body_bytes: usize,
    /// The most bytes of one part.
    pub max_part_bytes: usize,
    /// The longest that `Prefer: wait` is honoured.
    pub max_wait: Duration,
}

/// What every handler may use.
#[derive(Debug, Clone)]
struct App {
    jobs: Arc<Jobs>,
    config: Arc<HttpConfig>,
    metrics: Option<Metrics>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dawson",
        description = "Finds multiple-sclerosis lesions in multi-contrast brain MRI. Research use only, not for diagnosis.",
        license(name = "Apache-2.0")
    ),
    tags(
        (name = "segmentations", description = "Studies and their results"),
        (name = "models", description = "The networks that are served"),
        (name = "operation", description = "Health, metrics, and what problems mean")
    )
)]
struct Description;

/// The OpenAPI description.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(routes::segmentations::router())
        .merge(routes::results::router())
        .merge(routes::models::router())
        .merge(routes::operation::router())
}

/// The service: everything that it answers.
pub fn router(jobs: Arc<Jobs>, config: HttpConfig, metrics: Option<Metrics>) -> Router {
    let (router, description) = routes().split_for_parts();
    let max_body = config.max_body_bytes;
    let app = App {
        jobs,
        config: Arc::new(config),
        metrics,
    };
    // Only JSON is compressed: scans and masks are packed already, and events must not wait.
    let only_json = SizeAbove::new(1024)
        .and(NotForContentType::new("application/gzip"))
        .and(NotForContentType::new("application/zip"))
        .and(NotForContentType::new("image/"))
        .and(NotForContentType::new("text/event-stream"));
    router
        .with_state(app)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body))
        .layer(CompressionLayer::new().compress_when(only_json))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::finish))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}
