//! Parts of a request, refused in our own words.
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use dawson_inference::problem::Code;
use serde::de::DeserializeOwned;

use super::access::lacks;
use super::problem::Failure;
use crate::jobs::Sees;
use crate::keys::Scope;
use crate::store::JobId;

/// Who asks. Whatever layer knows puts this into the request's extensions; without one nobody is asked who
/// they are, and everybody sees everything.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The id of the API key.
    pub(super) owner: Option<String>,
    /// Whose jobs are shown.
    pub(super) sees: Sees,
    /// What the key may do; everything if nobody is asked for one.
    pub(super) scopes: Option<BTreeSet<Scope>>,
}

impl Caller {
    /// Nobody was asked who they are.
    pub(super) fn anybody() -> Self {
        Self {
            owner: None,
            sees: Sees::All,
            scopes: None,
        }
    }

    /// Refuses those whose key may not do that.
    pub(super) fn must(&self, scope: Scope) -> Result<(), Failure> {
        let may =
            |scopes: &BTreeSet<Scope>| scopes.contains(&scope) || scopes.contains(&Scope::Admin);
        if self.scopes.as_ref().is_none_or(may) {
            Ok(())
        } else {
            Err(lacks(&[scope]))
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<Self>().cloned();
        Ok(known.unwrap_or_else(Self::anybody))
    }
}

/// A job's id from the path; what is no id is no job either.
pub(super) struct Id(pub(super) JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        #[derive(serde::Deserialize)]
        struct IdInPath {
            id: String,
        }
        let Path(IdInPath { id }) = Path::from_request_parts(parts, state)
            .await
            .map_err(|_| Failure::new(Code::NotFound, "there is no such job"))?;
        id.parse()
            .map(Id)
            .map_err(|_| Failure::new(Code::NotFound, format!("there is no job {id}")))
    }
}

/// The query's fields; unknown ones are refused.
pub(super) struct Fields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Fields<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(fields) = Query::from_request_parts(parts, state)
            .await
            .map_err(|e| Failure::new(Code::MalformedRequest, e.body_text()))?;
        Ok(Self(fields))
    }
}

/// `Prefer: wait=N` (RFC 7240), at most `most`; other preferences are ignored.
pub(super) fn wait(headers: &HeaderMap, most: Duration) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse::<u64>().ok())
        .map(|seconds| Duration::from_secs(seconds).min(most))
}

/// Whether a list of entity tags, as `If-Match` and `If-None-Match` carry it (RFC 9110, 13.1), names this one.
pub(super) fn matches_any(list: Option<&HeaderValue>, etag: &str) -> bool {
    let Some(list) = list.and_then(|v| v.to_str().ok()) else {
        return false;
    };
    list.trim() == "*"
        || list
            .split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

/// `Idempotency-Key`, at most 255 visible ASCII characters.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.as_bytes();
    if key.is_empty() || key.len() > 255 || !key.iter().all(u8::is_ascii_graphic) {
        let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        return Err(Failure::new(Code::MalformedRequest, detail));
    }
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_found_in_a_list() {
        let list = |text: &'static str| HeaderValue::from_static(text);
        assert!(matches_any(Some(&list("\"a\", W/\"b\"")), "\"b\""));
        assert!(matches_any(Some(&list("*")), "\"b\""));
        assert!(!matches_any(Some(&list("\"a\"")), "\"b\"") && !matches_any(None, "\"b\""));
    }

    #[test]
    fn the_preference_to_wait_is_found_among_others_and_bounded() {
        let most = Duration::from_mins(5);
        let found = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", axum::http::HeaderValue::from_static(text));
            wait(&headers, most)
        };
        assert_eq!(found("wait=10"), Some(Duration::from_secs(10)));
        assert_eq!(
            found("respond-async, Wait = \"20\""),
            Some(Duration::from_secs(20))
        );
        assert_eq!(found("wait=100000"), Some(most));
        assert_eq!(found("wait=-1"), None);
        assert_eq!(found("return=minimal"), None);
    }
}
