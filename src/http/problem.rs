//! Problems on the wire, `application/problem+json` (RFC 9457).
//!
//! Handlers return a [`Failure`]; turning it into a response has no effect but that. One layer,
//! [`finish`], sees every answer: it adds the request's id, turns what the framework answered by
//! itself into problems, logs and counts.
use std::any::Any;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dawson_inference::problem::{Class, Code, Problem, Wrong};
use tower_http::request_id::RequestId;
use tracing::Instrument;

use crate::{jobs, telemetry};

/// The name of the request's id on the wire.
const MEDIA_TYPE: &str = "application/problem+json";

/// A problem on its way out.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    problem: Box<Problem>,
    /// When to come again.
    retry_after_s: Option<u64>,
    /// The part or field that is wrong.
    at: Option<String>,
    /// For the log only.
    inside: Option<String>,
}

impl Failure {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            problem: Box::new(Problem::new(code, detail)),
            retry_after_s: None,
            at: None,
            inside: None,
        }
    }

    /// Several at once: the first is the problem, and all are listed.
    pub(super) fn all(failures: Vec<Self>) -> Option<Self> {
        let errors: Vec<Wrong> = failures
            .iter()
            .map(|failure| Wrong {
                code: failure.problem.code.clone(),
                detail: failure.problem.detail.clone(),
                at: failure.at.clone(),
            })
            .collect();
        let mut first = failures.into_iter().next()?;
        if errors.len() > 1 {
            first.problem.detail =
                format!("{} (and {} more)", first.problem.detail, errors.len() - 1);
            first.problem.errors = errors;
        }
        Some(first)
    }

    /// Says which part or field is wrong.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.at = Some(place.to_owned());
        self
    }

    /// Says when to come again.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Says more.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.problem.detail = format!("{}; {more}", self.problem.detail);
        self
    }

    /// The stable code.
    pub(super) fn code(&self) -> Code {
        Code::parse(&self.problem.code).unwrap_or(Code::Internal)
    }

    /// A fault of ours: the client learns that it happened, the log learns what.
    pub(super) fn internal(reason: &dyn std::fmt::Display) -> Self {
        let detail = "the request could not be served because of a fault in Dawson";
        Self {
            inside: Some(reason.to_string()),
            ..Self::new(Code::Internal, detail)
        }
    }
}

impl From<jobs::Error> for Failure {
    fn from(error: jobs::Error) -> Self {
        let code = error.code();
        let detail = match &error {
            // The reason names files and statements.
            jobs::Error::Store(_) => "the server could not read or write its store".to_owned(),
            other => other.to_string(),
        };
        let retry_after_s = match &error {
            jobs::Error::Full { retry_after_s, .. } => Some(*retry_after_s),
            jobs::Error::Closing | jobs::Error::DiskFull { .. } => Some(10),
            _ => None,
        };
        let inside = (code.class() != Class::Invalid).then(|| error.to_string());
        Self {
            retry_after_s,
            inside,
            ..Self::new(code, detail)
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The body is written by `finish`, which knows the request.
        response.extensions_mut().insert(self);
        response
    }
}

/// There is nothing at this address.
pub(super) async fn not_found(uri: Uri) -> Failure {
    Failure::new(
        Code::NotFound,
        format!("there is nothing at {}", uri.path()),
    )
}

/// Not for this method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::new(
        Code::MethodNotAllowed,
        format!("{method} is not allowed at {}", uri.path()),
    )
}

/// A handler panicked.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the panic over"
)]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let words = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let words = words
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Failure::internal(&format!("panic: {words}")).into_response()
}

/// Sees every request and answer.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let method = request.method().as_str();
    let span =
        telemetry::request_span(method, route(&request), id(&request), traceparent(&request));
    answer(request, next).instrument(span).await
}

/// The template of the address, `unmatched` if there is none.
fn route(request: &Request) -> &str {
    let matched = request.extensions().get::<MatchedPath>();
    matched.map_or("unmatched", MatchedPath::as_str)
}

fn id(request: &Request) -> &str {
    let id = request.extensions().get::<RequestId>();
    id.and_then(|id| id.header_value().to_str().ok())
        .unwrap_or_default()
}

fn traceparent(request: &Request) -> Option<&str> {
    request.headers().get("traceparent")?.to_str().ok()
}

async fn answer(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let (route, id) = (route(&request).to_owned(), id(&request).to_owned());
    let mut response = next.run(request).await;
    let failure = response
        .extensions_mut()
        .remove::<Failure>()
        .or_else(|| of_framework(&response));
    if let Some(failure) = failure {
        response = write(failure, &response, &id);
    }
    let took_s = started.elapsed().as_secs_f64();
    telemetry::request_answered(
        method.as_str(),
        &route,
        response.status().as_u16(),
        took_s,
        &id,
    );
    response
}

/// The framework's own refusals, which come as plain text or without a body.
fn of_framework(response: &Response) -> Option<Failure> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|t| t.to_str().ok())
        .unwrap_or_default();
    if !kind.is_empty() && !kind.starts_with("text/plain") {
        return None;
    }
    let code = match status {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
        StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
        StatusCode::RANGE_NOT_SATISFIABLE => Code::RangeNotSatisfiable,
        status if status.is_client_error() => Code::MalformedRequest,
        _ => Code::Internal,
    };
    Some(Failure::new(code, code.title()))
}

fn write(failure: Failure, answered: &Response, id: &str) -> Response {
    let Failure {
        mut problem,
        inside,
        ..
    } = failure;
    telemetry::problem_answered(&problem.code, problem.status, inside.as_deref(), id);
    problem.request_id = Some(id.to_owned());
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(*problem)).into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    for name in [RETRY_AFTER, ALLOW, CONNECTION, WWW_AUTHENTICATE] {
        if let Some(value) = answered.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::new(body))
}
