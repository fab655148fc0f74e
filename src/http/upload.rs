//! A study that arrives: each part is written to the disk and hashed as it passes.
//!
//! A part's first bytes are held against the NIfTI guard as soon as they are there, so that what is
//! no scan ends early and the answer names the part. Nothing is kept of an upload that fails.
use std::path::Path;

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use axum::http::StatusCode;
use dawson_imaging::nifti::{Header, Limits};
use dawson_imaging::study::Contrast;
use dawson_inference::models::hex;
use dawson_inference::pipeline::nifti_code;
use dawson_inference::problem::Code;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::HttpConfig;
use super::options::Options;
use super::problem::Failure;
use crate::store::StoredFile;
use crate::telemetry;

/// The most bytes of the options.
const MAX_OPTIONS_BYTES: usize = 64 << 10;
/// The most parts: every contrast and the options, and a few that will be refused by name.
const MAX_PARTS: usize = 16;
/// Bytes that the guard wants to see: more than any header packed.
const GUARD_BYTES: usize = 16 << 10;

/// What has arrived.
pub(super) struct Arrived {
    pub(super) inputs: Vec<StoredFile>,
    pub(super) options: Options,
    /// The options as they were sent.
    pub(super) options_text: String,
}

/// Takes all parts into `folder`.
pub(super) async fn receive(
    mut form: Multipart,
    folder: &Path,
    config: &HttpConfig,
    limits: Limits,
) -> Result<Arrived, Failure> {
    let mut inputs: Vec<StoredFile> = Vec::new();
    let mut options: Option<String> = None;
    let mut parts = 0;
    while let Some(part) = form.next_field().await.map_err(|e| broken(&e))? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(Failure::new(
                Code::UnknownPart,
                format!("the form has more than {MAX_PARTS} parts"),
            ));
        }
        let name = part.name().unwrap_or_default().to_owned();
        let twice =
            inputs.iter().any(|i| i.name == name) || (name == "options" && options.is_some());
        if twice {
            return Err(Failure::new(
                Code::DuplicatePart,
                format!("part '{name}' was sent twice"),
            ));
        }
        if name == "options" {
            options = Some(text(part).await?);
        } else if Contrast::parse(&name).is_some() {
            inputs.push(scan(part, &name, folder, config, limits).await?);
        } else {
            let known: Vec<&str> = Contrast::ALL.iter().map(|c| c.name()).collect();
            let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
            let detail = format!(
                "part '{shown}' is not known; known are {} and options",
                known.join(", ")
            );
            return Err(Failure::new(Code::UnknownPart, detail));
        }
    }
    if !inputs
        .iter()
        .any(|input| input.name == Contrast::Flair.name())
    {
        return Err(Failure::new(
            Code::MissingFlair,
            "the form has no part named flair",
        ));
    }
    let options_text = options.unwrap_or_else(|| "{}".to_owned());
    let options = Options::parse(&options_text)
        .map_err(|reason| Failure::new(Code::InvalidOptions, format!("options: {reason}")))?;
    Ok(Arrived {
        inputs,
        options,
        options_text,
    })
}

/// What the multipart parser says.
fn broken(error: &MultipartError) -> Failure {
    let code = match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
        // A wrong form, or a stream that broke: the client is gone, and that is no fault of ours.
        _ => Code::MalformedRequest,
    };
    Failure::new(code, error.body_text())
}

async fn text(mut part: Field<'_>) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        if bytes.len() + chunk.len() > MAX_OPTIONS_BYTES {
            let detail = format!("options are larger than {MAX_OPTIONS_BYTES} bytes");
            return Err(Failure::new(Code::InvalidOptions, detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(Code::InvalidOptions, "options are not UTF-8"))
}

/// Writes a scan to the disk, hashes it, and looks at its header on the way.
async fn scan(
    mut part: Field<'_>,
    name: &str,
    folder: &Path,
    config: &HttpConfig,
    limits: Limits,
) -> Result<StoredFile, Failure> {
    let unwritten = |e: std::io::Error| storage(name, &e);
    let mut file = File::create(folder.join(name)).await.map_err(unwritten)?;
    let mut hash = Sha256::new();
    let mut bytes: usize = 0;
    let mut head = Vec::with_capacity(GUARD_BYTES);
    let mut guarded = false;
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        bytes += chunk.len();
        if bytes > config.max_part_bytes {
            let detail = format!(
                "part '{name}' is larger than {} bytes",
                config.max_part_bytes
            );
            return Err(Failure::new(Code::BodyTooLarge, detail));
        }
        if !guarded {
            head.extend_from_slice(&chunk[..chunk.len().min(GUARD_BYTES - head.len())]);
            if head.len() >= GUARD_BYTES {
                guard(&head, name, limits)?;
                guarded = true;
            }
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(unwritten)?;
    }
    if !guarded {
        guard(&head, name, limits)?;
    }
    // The last write may still be under way, and only this tells whether it failed.
    file.flush().await.map_err(unwritten)?;
    file.sync_all().await.map_err(unwritten)?;
    telemetry::part_arrived(name, bytes as u64);
    Ok(StoredFile {
        name: name.to_owned(),
        media_type: "application/octet-stream".to_owned(),
        bytes: bytes as u64,
        sha256: hex(&hash.finalize()),
    })
}

fn guard(head: &[u8], name: &str, limits: Limits) -> Result<(), Failure> {
    Header::read(head, limits)
        .map(|_| ())
        .map_err(|error| Failure::new(nifti_code(&error), format!("{name}: {error}")))
}

fn storage(name: &str, error: &std::io::Error) -> Failure {
    tracing::error!(part = name, %error, "a part could not be written");
    Failure::new(
        Code::StorageFailed,
        format!("part '{name}' could not be stored"),
    )
}
