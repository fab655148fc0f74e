//! What stands in the headers of every request and answer: the request's id and trace, what browsers
//! may do with an answer, what is compressed.
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH, LINK,
    LOCATION, RANGE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use axum::middleware::Next;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};

use std::time::Duration;

/// The request's id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
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

/// Trace and parent of `traceparent` (W3C Trace Context), if it is well formed.
pub(super) fn trace(headers: &HeaderMap) -> Option<(&str, &str)> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let mut fields = value.to_str().ok()?.split('-');
    let mut hex = |digits: usize| {
        let field = fields.next()?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (field.len() == digits && field.bytes().all(lower)).then_some(field)
    };
    let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let nothing = |field: &str| field.bytes().all(|b| b == b'0');
    let known = version == "00" && fields.next().is_none();
    (known && !nothing(trace) && !nothing(parent)).then_some((trace, parent))
}

/// Tells browsers to do nothing with an answer but show it.
pub(super) async fn secure(request: Request, next: Next) -> Response<axum::body::Body> {
    let path = request.uri().path();
    let policy = if path == "/docs" || path.starts_with("/docs/") {
        DOCS_POLICY
    } else {
        DATA_POLICY
    };
    let is_private = path.starts_with("/v1/");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_over_only_if_it_is_well_formed() {
        let found = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(text));
            trace(&headers).map(|(trace, parent)| (trace.to_owned(), parent.to_owned()))
        };
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(
            found("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            Some((trace.to_owned(), parent.to_owned()))
        );
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }
}
