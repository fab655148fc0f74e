//! Sending by STOW-RS (PS3.18 section 10.5): one request for all objects of a delivery.
//!
//! The status of the answer proves nothing: servers say 200 and store nothing. An object counts as stored if the
//! answer lists it in (0008,1199); one that the answer refuses as already there is looked for (QIDO-RS, section
//! 10.6). Nobody is followed elsewhere, and no answer is read beyond a bound.
use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::super::destinations::StowPeer;
use super::{Object, class_named};

/// A server that is not reached within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest that a server may be silent.
const PATIENCE: Duration = Duration::from_mins(1);
/// The longest that a request and its answer may take.
const WHOLE: Duration = Duration::from_mins(5);
/// The most bytes of an answer.
const MOST_ANSWER: usize = 4 << 20;
/// DICOM JSON (PS3.18 annex F).
const JSON: &str = "application/dicom+json";

/// Referenced SOP Sequence: what was stored.
const REFERENCED_SOP_SEQUENCE: &str = "00081199";
/// Failed SOP Sequence: what was not.
const FAILED_SOP_SEQUENCE: &str = "00081198";
/// Referenced SOP Instance UID, in items of both.
const REFERENCED_SOP_INSTANCE_UID: &str = "00081155";
/// Failure Reason, in items of the latter.
const FAILURE_REASON: &str = "00081197";
/// SOP Instance UID, in answers to queries.
const SOP_INSTANCE_UID: &str = "00080018";
/// Failure reasons that say that an object is there already: the standard's (PS3.7 annex C), and 45070 of Azure.
const ALREADY_THERE: [u64; 2] = [0x0111, 45_070];

/// Why objects were not stored.
#[derive(Debug, thiserror::Error)]
pub(in crate::pacs) enum Failed {
    /// The server is not reached, or does not answer.
    #[error("STOW-RS: {why}")]
    NoAnswer { why: &'static str },
    /// The answer is not DICOM JSON.
    #[error("STOW-RS: answered status {status} and no list of what was stored")]
    NoList { status: u16 },
    /// The answer is larger than any list.
    #[error("STOW-RS: the answer has more than {MOST_ANSWER} bytes")]
    TooLarge,
    /// Some objects are not on the list; this is the first of them.
    #[error("STOW-RS: {missing} of {objects} objects are not listed as stored (status {status}), {class}{}",
            reason.map_or_else(String::new, |r| format!(" with failure reason {r:#06X}")))]
    NotStored {
        missing: usize,
        objects: usize,
        status: u16,
        class: String,
        reason: Option<u64>,
    },
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        // The error's own text may hold the address, and with it identifiers.
        let why = if error.is_connect() {
            "cannot connect"
        } else if error.is_timeout() {
            "the server did not answer in time"
        } else {
            "the connection was lost"
        };
        Self::NoAnswer { why }
    }
}

/// The client for all servers.
pub(in crate::pacs) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(PATIENCE)
        .timeout(WHOLE)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Sends objects; returns once the server has confirmed each of them.
pub(in crate::pacs) async fn send(
    client: &Client,
    peer: &StowPeer,
    objects: &[Object],
) -> Result<(), Failed> {
    let boundary = boundary(objects);
    let kind = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
    let request = client
        .post(format!("{}/studies", peer.root))
        .header(CONTENT_TYPE, kind)
        .body(body(&boundary, objects));
    let answer = asked(request, peer).send().await?;
    let status = answer.status().as_u16();
    let answer = read(answer).await?.ok_or(Failed::NoList { status })?;
    let listed = Listed::of(&answer);
    let mut missing = Vec::new();
    for object in objects {
        let uid = object.sop_instance_uid.as_str();
        if listed.stored.contains(uid) {
            continue;
        }
        let reason = listed.reason(uid);
        let told = reason.is_some_and(|reason| ALREADY_THERE.contains(&reason));
        if !(told && is_there(client, peer, uid).await?) {
            missing.push((object, reason));
        }
    }
    let Some((first, reason)) = missing.first() else {
        return Ok(());
    };
    Err(Failed::NotStored {
        missing: missing.len(),
        objects: objects.len(),
        status,
        class: class_named(&first.sop_class_uid),
        reason: *reason,
    })
}

fn asked(request: RequestBuilder, peer: &StowPeer) -> RequestBuilder {
    let request = request.header(ACCEPT, JSON);
    match &peer.authorization {
        Some(value) => request.header(AUTHORIZATION, value.clone()),
        None => request,
    }
}

/// Whether the server has an object.
async fn is_there(client: &Client, peer: &StowPeer, uid: &str) -> Result<bool, Failed> {
    let request = client.get(format!("{}/instances?SOPInstanceUID={uid}", peer.root));
    let answer = asked(request, peer).send().await?;
    if !answer.status().is_success() {
        return Ok(false);
    }
    let found = read(answer).await?;
    let found = found.as_ref().and_then(Value::as_array);
    Ok(found
        .into_iter()
        .flatten()
        .any(|item| text(item, SOP_INSTANCE_UID) == Some(uid)))
}

/// The answer as JSON; `None` if it is none.
async fn read(mut answer: Response) -> Result<Option<Value>, Failed> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if bytes.len() + piece.len() > MOST_ANSWER {
            return Err(Failed::TooLarge);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

/// What an answer says of which object.
struct Listed<'a> {
    stored: BTreeSet<&'a str>,
    failed: Vec<(&'a str, Option<u64>)>,
}

impl<'a> Listed<'a> {
    fn of(answer: &'a Value) -> Self {
        // Some servers wrap the data set into an array.
        let answer = answer.get(0).unwrap_or(answer);
        let stored = items(answer, REFERENCED_SOP_SEQUENCE);
        let failed = items(answer, FAILED_SOP_SEQUENCE);
        Self {
            stored: stored
                .filter_map(|i| text(i, REFERENCED_SOP_INSTANCE_UID))
                .collect(),
            failed: failed
                .filter_map(|i| {
                    let reason = i.get(FAILURE_REASON).and_then(|r| r["Value"][0].as_u64());
                    Some((text(i, REFERENCED_SOP_INSTANCE_UID)?, reason))
                })
                .collect(),
        }
    }

    fn reason(&self, uid: &str) -> Option<u64> {
        self.failed
            .iter()
            .find(|(failed, _)| *failed == uid)
            .and_then(|(_, reason)| *reason)
    }
}

fn items<'a>(data_set: &'a Value, tag: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let sequence = data_set.get(tag).and_then(|s| s["Value"].as_array());
    sequence.into_iter().flatten()
}

fn text<'a>(data_set: &'a Value, tag: &str) -> Option<&'a str> {
    data_set.get(tag)?["Value"][0].as_str()
}

/// A line that stands in no object: no file holds a part of the hash of them all.
fn boundary(objects: &[Object]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for object in objects {
        hash.update(&object.file);
    }
    format!("dawson-{}", &hex::encode(hash.finalize())[..40])
}

fn body(boundary: &str, objects: &[Object]) -> Vec<u8> {
    let bytes: usize = objects.iter().map(|o| o.file.len() + 200).sum();
    let mut body = Vec::with_capacity(bytes);
    for object in objects {
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Type: application/dicom\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(&object.file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_answer_lists_is_told_by_object() {
        let item = |uid: &str| json!({ "00081155": { "vr": "UI", "Value": [uid] } });
        let mut refused = item("1.3");
        refused["00081197"] = json!({ "vr": "US", "Value": [273] });
        let answer = json!({
            "00081190": { "vr": "UR", "Value": ["http://h/studies/1"] },
            "00081199": { "vr": "SQ", "Value": [item("1.1"), item("1.2")] },
            "00081198": { "vr": "SQ", "Value": [refused] },
        });
        for answer in [answer.clone(), json!([answer])] {
            let listed = Listed::of(&answer);
            assert_eq!(listed.stored, BTreeSet::from(["1.1", "1.2"]));
            assert_eq!(
                (listed.reason("1.3"), listed.reason("1.1")),
                (Some(273), None)
            );
        }
        for nothing in [
            json!({}),
            json!([]),
            json!(null),
            json!({ "00081199": { "vr": "SQ" } }),
            json!("1.1"),
        ] {
            assert!(Listed::of(&nothing).stored.is_empty(), "{nothing}");
        }
    }
}
