//! Health, metrics, and what problems mean.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use dawson_inference::problem::{Code, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::problem::Failure;
use super::super::wire::{CheckBody, HealthBody};

pub(in crate::http) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(alive))
        .routes(routes!(ready))
        .routes(routes!(metrics))
        .routes(routes!(problem))
}

/// Whether the process answers
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    security(()),
    responses((status = 200, description = "It does", body = HealthBody))
)]
async fn alive() -> Json<HealthBody> {
    Json(HealthBody {
        status: "ok",
        checks: Vec::new(),
    })
}

/// Whether the service takes work
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    security(()),
    responses(
        (status = 200, description = "It does", body = HealthBody),
        (status = 503, description = "It does not, and why", body = HealthBody),
    )
)]
async fn ready(State(app): State<App>) -> Response {
    let store = app.jobs.ping().await;
    let disk = app.jobs.check_disk(0);
    let undelivered = app.jobs.undelivered().await;
    let closing = app.jobs.is_closing();
    let networks = app.jobs.networks();
    let engine = networks.segmenter.engine();
    let checks = vec![
        CheckBody {
            name: "store",
            ok: store.is_ok(),
            detail: if store.is_ok() {
                "answers"
            } else {
                "does not answer"
            }
            .to_owned(),
        },
        CheckBody {
            name: "engine",
            ok: networks.segmenter.is_alive(),
            detail: format!("{}, ONNX Runtime {}", engine.device, engine.runtime_version),
        },
        CheckBody {
            name: "disk",
            ok: disk.is_ok(),
            detail: match disk {
                Ok(()) => "has room".to_owned(),
                Err(error) => error.to_string(),
            },
        },
        // Results that do not arrive are an operator's affair; studies are taken all the same.
        CheckBody {
            name: "filing",
            ok: true,
            detail: match undelivered {
                Ok(left) => format!("{} deliveries wait, {} are dead", left.waiting, left.dead),
                Err(_) => "is not known: the store does not answer".to_owned(),
            },
        },
        CheckBody {
            name: "running",
            ok: !closing,
            detail: if closing {
                "the server is stopping"
            } else {
                "takes studies"
            }
            .to_owned(),
        },
    ];
    let ok = checks.iter().all(|c| c.ok);
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(HealthBody {
            status: if ok { "ok" } else { "unavailable" },
            checks,
        }),
    )
        .into_response()
}

/// Series for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    security(()),
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
async fn metrics(State(app): State<App>) -> Response {
    app.jobs.measure().await;
    let text = app.metrics.map(|m| m.render()).unwrap_or_default();
    (
        [(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4"),
        )],
        text,
    )
        .into_response()
}

/// What a problem means and what to do about it
#[utoipa::path(
    get,
    path = "/problems/{code}",
    tag = "operation",
    security(()),
    params(("code" = String, Path, description = "such as missing_flair")),
    responses(
        (status = 200, description = "An explanation, as text or HTML", body = String, content_type = "text/plain"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn problem(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    let code = Code::parse(&name)
        .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no problem '{name}'")))?;
    let wants_html = headers
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.contains("text/html"));
    if wants_html {
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <h1>{title}</h1><p><code>{name}</code>, HTTP status {status}</p><p>{page}</p></html>",
            title = code.title(),
            status = code.status(),
            page = code.page(),
        );
        return Ok(Html(page).into_response());
    }
    Ok(format!(
        "{}\n{}, HTTP status {}\n\n{}\n",
        code.title(),
        name,
        code.status(),
        code.page()
    )
    .into_response())
}
