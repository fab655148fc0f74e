//! DICOMweb (PS3.18): images come in by STOW-RS, are found by QIDO-RS and fetched by WADO-RS, results too.
//!
//! The hospital's own vocabulary on the same rooms: what comes in goes to the [inbox](crate::pacs::Inbox) like
//! what nodes send, and becomes jobs; what goes out are the images that it holds and the DICOM artifacts of the
//! caller's jobs. Objects are given as they are stored: nothing is transcoded, rendered or changed. Addresses and
//! answers carry UIDs and, to those who may see the objects, the patient's attributes; logs and metrics know
//! neither.
mod catalogue;
mod json;
mod media;
mod related;
mod retrieve;
mod routes;
mod search;
mod store;

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Path};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
pub(super) use catalogue::Catalogue;
use dawson_imaging::dicom;
use dawson_inference::problem::Code;
pub(super) use routes::router;
use serde::Serialize;

use super::problem::Failure;

/// Data sets as JSON.
const JSON: &str = "application/dicom+json";

/// What an address names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Uids {
    study: Option<String>,
    series: Option<String>,
    instance: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Uids {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let named = Path::<BTreeMap<String, String>>::from_request_parts(parts, state).await;
        let Ok(Path(mut named)) = named else {
            return Err(no_uid("the address"));
        };
        let mut take = |name: &str| match named.remove(name) {
            Some(uid) if !dicom::is_uid(&uid) => Err(no_uid(name)),
            uid => Ok(uid),
        };
        Ok(Self {
            study: take("study")?,
            series: take("series")?,
            instance: take("instance")?,
        })
    }
}

/// The study that an address names.
pub(super) struct StudyUid(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for StudyUid {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let uids = Uids::from_request_parts(parts, state).await?;
        uids.study.map(Self).ok_or_else(|| no_uid("study"))
    }
}

fn no_uid(name: &str) -> Failure {
    let detail = format!("{name} must be a UID: 1 to 64 digits and dots");
    Failure::new(Code::MalformedRequest, detail)
}

/// Where an object is, relative to the address of whatever answer names it (PS3.5, 6.2, UR): which names and
/// schemes lead here, proxies know and Dawson does not.
fn url(study: &str, series: Option<&str>, instance: Option<&str>) -> String {
    let mut url = format!("/dicom-web/studies/{study}");
    for (level, uid) in [("series", series), ("instances", instance)] {
        if let Some(uid) = uid {
            url = format!("{url}/{level}/{uid}");
        }
    }
    url
}

/// An answer in the DICOM JSON model.
fn answer(told: &impl Serialize) -> Response {
    match serde_json::to_vec(told) {
        Ok(bytes) => ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], bytes).into_response(),
        Err(e) => Failure::internal(&e).into_response(),
    }
}
