//! The wire: routes, uploads, events, the OpenAPI description; problems become problem+json here.
//!
//! Handlers only translate: a request into a call of [`crate::jobs`], its result into an answer.
//! Every error that leaves is a problem, those of the framework included (`problem.rs`).
mod access;
mod dicomweb;
mod extract;
mod headers;
mod limits;
mod listen;
mod options;
mod problem;
mod routes;
mod upload;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use access::{AccessConfig, MetricsAccess};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::middleware;
pub use limits::Pace;
pub use listen::{ListenConfig, serve};
pub use options::read_options;
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use self::access::Gate;
use self::dicomweb::Catalogue;
use self::headers::TextOnly;
use crate::jobs::Jobs;
use crate::pacs::Inbox;
use crate::telemetry::Metrics;

/// Limits of requests; those of connections are in [`ListenConfig`].
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The most bytes of a body.
    pub max_body_bytes: usize,
    /// How slowly a body may come.
    pub pace: Pace,
    /// The most parts of a form.
    pub max_parts: usize,
    /// The most DICOM files of a form; they do not count as its parts.
    pub max_dicom_parts: usize,
    /// The most bytes of one part.
    pub max_part_bytes: usize,
    /// The most bytes of a part's header, and of what stands before the first part.
    pub max_part_header_bytes: usize,
    /// The most bytes of the options part.
    pub max_options_bytes: usize,
    /// The longest that `Prefer: wait` is honoured.
    pub max_wait: Duration,
    /// Who is let in.
    pub access: AccessConfig,
    /// Origins whose pages may ask; none if empty.
    pub cors_origins: Vec<HeaderValue>,
}

/// What every handler may use.
#[derive(Debug, Clone)]
struct App {
    jobs: Arc<Jobs>,
    inbox: Arc<Inbox>,
    catalogue: Arc<Catalogue>,
    /// Archives that are unpacked at once, because each is held in memory.
    unpacking: Arc<Semaphore>,
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
        (name = "studies", description = "Studies that arrive image by image"),
        (name = "dicomweb", description = "STOW-RS, QIDO-RS and WADO-RS of images and results"),
        (name = "models", description = "The networks that are served"),
        (name = "operation", description = "Health, metrics, and what problems mean")
    )
)]
struct Description;

/// The OpenAPI description.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut description = routes().split_for_parts().1;
    describe_layers(&mut description);
    description
}

/// What the layers ask for and answer, the same at every route.
fn describe_layers(description: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("a key of `dawson keys new`")
            .description(Some(
                "Asked for once there are keys. The scopes are submit, urgent, read and admin; a key sees its own \
                 jobs, an admin all.",
            ))
            .build(),
    );
    description
        .components
        .get_or_insert_default()
        .add_security_scheme(access::SCHEME, scheme);
    for (path, item) in &mut description.paths.paths {
        let is_open = !access::is_guarded(path);
        let operations = [&mut item.get, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let mut answers = vec![("503", "overloaded")];
            if !is_open {
                answers.extend([
                    ("401", "unauthorized"),
                    ("403", "forbidden"),
                    ("421", "unknown_host"),
                    ("429", "too_many_requests"),
                ]);
            }
            if operation.request_body.is_some() {
                answers.extend([("408", "request_timeout")]);
            }
            for (status, codes) in answers {
                describe(operation, status, codes);
            }
        }
    }
}

/// Adds an answer, or its codes to those that the route describes.
fn describe(operation: &mut Operation, status: &str, codes: &str) {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    let described = operation
        .responses
        .responses
        .entry(status.to_owned())
        .or_insert_with(|| {
            ResponseBuilder::new()
                .content("application/problem+json", content)
                .build()
                .into()
        });
    if let RefOr::T(response) = described {
        let also = if response.description.is_empty() {
            ""
        } else {
            ", "
        };
        response.description = format!("{}{also}{codes}", response.description);
    }
}

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(routes::segmentations::router())
        .merge(routes::results::router())
        .merge(routes::studies::router())
        .merge(dicomweb::router())
        .merge(routes::models::router())
        .merge(routes::operation::router())
}

/// The service: everything that it answers.
pub fn router(
    jobs: Arc<Jobs>,
    inbox: Arc<Inbox>,
    config: HttpConfig,
    metrics: Option<Metrics>,
) -> Router {
    let (router, mut description) = routes().split_for_parts();
    describe_layers(&mut description);
    let gate = Arc::new(Gate::new(config.access.clone(), &description));
    let origins = config.cors_origins.clone();
    let app = App {
        jobs,
        inbox,
        catalogue: Arc::default(),
        unpacking: Arc::new(Semaphore::new(1)),
        config: Arc::new(config),
        metrics,
    };
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(TextOnly);
    // The last layer sees a request first.
    let router = router
        .with_state(app.clone())
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app, limits::bound_body))
        .layer(middleware::from_fn_with_state(gate, access::admit))
        .layer(compression)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::finish))
        .layer(middleware::from_fn(headers::secure));
    let router = if origins.is_empty() {
        router
    } else {
        router.layer(headers::cors(origins))
    };
    router
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(middleware::from_fn(headers::tidy_id))
}
