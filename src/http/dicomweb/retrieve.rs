//! WADO-RS: objects as they are stored, and what they say (PS3.18, 10.4).
//!
//! A multipart/related of files in the transfer syntax in which they came; who asks for another representation is
//! refused with the name of the one that there is. Files are opened one after another while the client reads; if
//! one is gone meanwhile the stream fails, so that nobody takes half a series for a whole one.
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dawson_inference::problem::Code;
use futures_util::{Stream, TryStreamExt, stream};

use super::super::App;
use super::super::problem::Failure;
use super::JSON;
use super::catalogue::Instance;
use super::media::MediaType;
use super::related::DICOM;
use crate::store::Pieces;

type Instances = Vec<Arc<Instance>>;

/// The files of objects.
pub(super) fn files(
    app: App,
    headers: &HeaderMap,
    instances: Instances,
) -> Result<Response, Failure> {
    let syntaxes: BTreeSet<&str> = instances.iter().map(|i| i.syntax.as_str()).collect();
    let accepted = accepted(headers);
    if !accepted.is_empty() && !accepted.iter().any(|kind| takes_files(kind, &syntaxes)) {
        let syntaxes: Vec<&str> = syntaxes.into_iter().collect();
        let detail = format!(
            "given is multipart/related; type=\"{DICOM}\" in the transfer syntax of each file, here {}",
            syntaxes.join(" and ")
        );
        return Err(Failure::new(Code::NotAcceptable, detail));
    }
    let boundary = format!("dawson-{}", ulid::Ulid::generate());
    let kind = format!("multipart/related; type=\"{DICOM}\"; boundary={boundary}");
    let kind = HeaderValue::from_str(&kind).map_err(|e| Failure::internal(&e))?;
    let body = Body::from_stream(parts(app, boundary, instances));
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

/// What objects say.
pub(super) fn metadata(
    app: App,
    headers: &HeaderMap,
    instances: Instances,
) -> Result<Response, Failure> {
    let takes = |kind: &MediaType| {
        let names = [JSON, "application/json", "application/*", "*/*"];
        names.contains(&kind.essence.as_str())
    };
    let accepted = accepted(headers);
    if !accepted.is_empty() && !accepted.iter().any(takes) {
        return Err(Failure::new(
            Code::NotAcceptable,
            format!("given is {JSON}"),
        ));
    }
    let body = Body::from_stream(described(app, instances));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(JSON))], body).into_response())
}

/// What the client takes; anything if it says nothing.
fn accepted(headers: &HeaderMap) -> Vec<MediaType> {
    let lists = headers.get_all(ACCEPT).iter();
    let texts = lists.filter_map(|value| value.to_str().ok());
    let kinds = texts.flat_map(MediaType::list);
    kinds.filter(|kind| !kind.is_refused()).collect()
}

fn takes_files(kind: &MediaType, syntaxes: &BTreeSet<&str>) -> bool {
    match kind.essence.as_str() {
        "*/*" | "multipart/*" => true,
        "multipart/related" => {
            let inner = kind.parameter("type").unwrap_or(DICOM);
            let syntax = kind.parameter("transfer-syntax").unwrap_or("*");
            let is_dicom = inner.eq_ignore_ascii_case(DICOM) || inner == "*/*";
            is_dicom && (syntax == "*" || syntaxes.iter().all(|stored| *stored == syntax))
        }
        _ => false,
    }
}

/// Where a body stands.
struct Parts {
    instances: std::vec::IntoIter<Arc<Instance>>,
    open: Option<Pieces>,
    ended: bool,
}

fn parts(
    app: App,
    boundary: String,
    instances: Instances,
) -> impl Stream<Item = io::Result<Bytes>> {
    let begun = Parts {
        instances: instances.into_iter(),
        open: None,
        ended: false,
    };
    stream::try_unfold(begun, move |mut parts| {
        let (app, boundary) = (app.clone(), boundary.clone());
        async move {
            if let Some(pieces) = &mut parts.open {
                let piece = pieces.try_next().await?;
                let piece = piece.unwrap_or_else(|| {
                    parts.open = None;
                    Bytes::from_static(b"\r\n")
                });
                return Ok(Some((piece, parts)));
            }
            if let Some(instance) = parts.instances.next() {
                let opened = instance.open(&app).await;
                parts.open = Some(opened.map_err(|_| gone())?);
                let head = format!(
                    "--{boundary}\r\nContent-Type: {DICOM}; transfer-syntax={}\r\n\r\n",
                    instance.syntax
                );
                return Ok(Some((Bytes::from(head), parts)));
            }
            if std::mem::replace(&mut parts.ended, true) {
                return Ok(None);
            }
            Ok(Some((Bytes::from(format!("--{boundary}--\r\n")), parts)))
        }
    })
}

fn described(app: App, instances: Instances) -> impl Stream<Item = io::Result<Bytes>> {
    let begun = (instances.into_iter(), "[", false);
    stream::try_unfold(begun, move |(mut instances, mark, ended)| {
        let app = app.clone();
        async move {
            if ended {
                return Ok(None);
            }
            let Some(instance) = instances.next() else {
                return Ok(Some((Bytes::from_static(b"]"), (instances, "", true))));
            };
            let read = app.catalogue.metadata(&app, &instance).await;
            let dataset = read.map_err(|_| gone())?.ok_or_else(gone)?;
            let text = format!("{mark}{}", serde_json::Value::from(dataset));
            Ok(Some((Bytes::from(text), (instances, ",", false))))
        }
    })
}

fn gone() -> io::Error {
    io::Error::other("an object is gone, or could not be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_to_those_who_take_them_as_they_are() {
        let explicit = "1.2.840.10008.1.2.1";
        let takes = |text: &str, syntaxes: &[&str]| {
            let syntaxes = syntaxes.iter().copied().collect();
            MediaType::list(text)
                .iter()
                .any(|kind| takes_files(kind, &syntaxes))
        };
        for text in [
            "*/*",
            "multipart/related",
            "multipart/related; type=\"application/dicom\"",
            "multipart/related; type=application/dicom; transfer-syntax=*",
            "image/jpeg, multipart/related; type=\"application/dicom\"; transfer-syntax=1.2.840.10008.1.2.1",
        ] {
            assert!(takes(text, &[explicit]), "{text}");
        }
        for text in [
            "image/jpeg",
            "application/dicom",
            "multipart/related; type=\"image/jp2\"",
            "multipart/related; type=\"application/dicom\"; transfer-syntax=1.2.840.10008.1.2",
        ] {
            assert!(!takes(text, &[explicit]), "{text}");
        }
        let one =
            "multipart/related; type=\"application/dicom\"; transfer-syntax=1.2.840.10008.1.2.1";
        assert!(!takes(one, &[explicit, "1.2.840.10008.1.2.5"]));
    }
}
