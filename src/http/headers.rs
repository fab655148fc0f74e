//! What stands in the headers of every request and answer: the request's id and trace, what browsers
//! may do with an answer, what is compressed.
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH, LINK,
    LOCATION, RANGE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, Response};
use axum::middleware::Next;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};

use std::time::Duration;

/// The request's id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a request that is taken over.
const MAX_ID: usize = 128;
/// Answers are data: a browser that takes one for a page shows nothing and runs nothing.
const DATA_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// The page at /docs runs its own scripts and styles, and asks this service alone.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);
/// How long a browser may remember what another origin may ask.
const REMEMBER: Duration = Duration::from_mins(10);

/// Drops a request's id that is no plain word, so that a new one is made: it stands in logs.
pub(super) async fn tidy_id(mut request: Request, next: Next) -> Response<axum::body::Body> {
    let headers = request.headers_mut();
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let is_plain = |id: &HeaderValue| {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b);
        !id.is_empty() && id.len() <= MAX_ID && id.as_bytes().iter().all(plain)
    };
    let sane = match (ids.next(), ids.next()) {
        (Some(id), None) => is_plain(id),
        (first, _) => first.is_none(),
    };
    if !sane {
        headers.remove(REQUEST_ID);
    }
    next.run(request).await
}

/// Tells browsers to do nothing with an answer but show it.
pub(super) async fn secure(request: Request, next: Next) -> Response<axum::body::Body> {
    let path = request.uri().path();
    let policy = if path == "/docs" || path.starts_with("/docs/") {
        DOCS_POLICY
    } else {
        DATA_POLICY
    };
    let is_private = super::access::is_guarded(path);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if is_private {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Lets pages of these origins ask.
pub(super) fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let asked = ["idempotency-key", "last-event-id", "prefer", "traceparent"];
    let asked = asked.map(HeaderName::from_static);
    let plain = [
        ACCEPT,
        AUTHORIZATION,
        CONTENT_TYPE,
        IF_MATCH,
        IF_NONE_MATCH,
        RANGE,
        REQUEST_ID,
    ];
    let told = [
        CONTENT_DISPOSITION,
        CONTENT_RANGE,
        ETAG,
        LINK,
        LOCATION,
        RETRY_AFTER,
        REQUEST_ID,
        HeaderName::from_static("preference-applied"),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(asked.into_iter().chain(plain).collect::<Vec<_>>())
        .expose_headers(told)
        .max_age(REMEMBER)
}

/// JSON and HTML that is worth it. Scans and masks are packed already, and events must not wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextOnly;

impl Predicate for TextOnly {
    fn should_compress<B: HttpBody>(&self, response: &Response<B>) -> bool {
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let is_text = kind == "text/html" || kind == "application/json" || kind.ends_with("+json");
        is_text && SizeAbove::new(1024).should_compress(response)
    }
}
