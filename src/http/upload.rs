//! A study that arrives: each part is written to the disk and hashed as it passes.
//!
//! A part's first bytes are held against the NIfTI guard as soon as they are there. Once something is
//! wrong nothing more is written, but the other parts are still looked at, so that the answer names all
//! that is wrong. Nothing is kept of an upload that fails. What a client calls its files is not read.
//!
//! A study is either one NIfTI part for each contrast, or DICOM: a zip in the part `study`, or a part `dicom`
//! for each file.
use std::path::{Path, PathBuf};

use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use dawson_imaging::nifti::{Header, Limits};
use dawson_imaging::study::Contrast;
use dawson_inference::pipeline::nifti_code;
use dawson_inference::problem::Code;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::HttpConfig;
use super::limits::FormRoom;
use super::options::{Options, WrongOption};
use super::problem::Failure;
use crate::jobs::STUDY;
use crate::store::{self, StoredFile};
use crate::telemetry;

/// Bytes that the guard wants to see: more than any header packed.
const GUARD_BYTES: usize = 16 << 10;

/// What has arrived.
pub(super) struct Arrived {
    pub(super) inputs: Vec<StoredFile>,
    pub(super) headers: Vec<(Contrast, Header)>,
    pub(super) options: Options,
    /// The options as they were sent.
    pub(super) options_text: String,
}

/// The part of one DICOM file; it may come as often as a study has files.
const DICOM: &str = "dicom";

/// A form that is still to be read.
pub(super) struct Form {
    parts: Multipart,
    room: FormRoom,
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let room = request.extensions().get::<FormRoom>().cloned();
        let parts = Multipart::from_request(request, state)
            .await
            .map_err(|e| not_a_form(&e))?;
        Ok(Self {
            parts,
            room: room.unwrap_or_default(),
        })
    }
}

fn not_a_form(rejection: &MultipartRejection) -> Failure {
    match rejection {
        MultipartRejection::InvalidBoundary(_) => {
            let detail = "a study is submitted as multipart/form-data with a boundary";
            Failure::new(Code::UnsupportedMediaType, detail)
        }
        other => Failure::new(Code::MalformedRequest, other.to_string()),
    }
}

impl Form {
    /// The next part; until it is there, its header is bounded.
    async fn next(&mut self, config: &HttpConfig) -> Result<Option<Field<'_>>, Failure> {
        self.room.expect_header(config.max_part_header_bytes);
        let part = self.parts.next_field().await.map_err(|e| broken(&e))?;
        self.room.expect_content();
        Ok(part)
    }
}

/// Takes all parts into `folder`. What is wrong with a part does not end this: the others are looked
/// at too, so that the answer names everything.
pub(super) async fn receive(
    mut form: Form,
    folder: &Path,
    config: &HttpConfig,
    limits: Limits,
) -> Result<Arrived, Failure> {
    let mut inputs: Vec<StoredFile> = Vec::new();
    let mut headers = Vec::new();
    let mut options: Option<String> = None;
    let mut seen: Vec<String> = Vec::new();
    let mut wrong: Vec<Failure> = Vec::new();
    let mut dicom_parts: usize = 0;
    while let Some(part) = form.next(config).await? {
        let name = part.name().unwrap_or_default().to_owned();
        if seen.len() >= config.max_parts {
            let detail = format!("the form has more than {} parts", config.max_parts);
            return Err(Failure::new(Code::UnknownPart, detail));
        }
        if name == DICOM {
            dicom_parts += 1;
            if dicom_parts > config.max_dicom_parts {
                let detail = format!(
                    "the form has more than {} dicom parts",
                    config.max_dicom_parts
                );
                return Err(Failure::new(Code::BodyTooLarge, detail).at(DICOM));
            }
            let path = wrong.is_empty().then(|| place(folder, dicom_parts));
            keep(part, &name, path.as_deref(), config).await?;
            continue;
        }
        let twice = seen.contains(&name);
        seen.push(name.clone());
        let is_contrast = Contrast::parse(&name).is_some();
        if name != "options" && name != STUDY && !is_contrast {
            wrong.push(unknown(&name));
            skip(part, config).await?;
        } else if twice {
            let detail = format!("part '{name}' was sent twice");
            wrong.push(Failure::new(Code::DuplicatePart, detail).at(&name));
            skip(part, config).await?;
        } else if is_contrast {
            // Once something is wrong, nothing is kept.
            let folder = wrong.is_empty().then_some(folder);
            match scan(part, &name, folder, config, limits).await? {
                Ok((file, header)) => {
                    inputs.push(file);
                    headers.extend(Contrast::parse(&name).map(|contrast| (contrast, header)));
                }
                Err(failure) => wrong.push(failure.at(&name)),
            }
        } else if name == STUDY {
            let path = wrong.is_empty().then(|| folder.join(STUDY));
            inputs.extend(keep(part, &name, path.as_deref(), config).await?);
        } else {
            options = Some(text(part, config).await?);
        }
    }
    let zipped = seen.iter().any(|name| name == STUDY);
    let contrasts = seen.iter().any(|name| Contrast::parse(name).is_some());
    let kinds = [zipped, dicom_parts > 0, contrasts];
    if kinds.iter().filter(|&&there| there).count() > 1 {
        let detail =
            "a study is either a part for each contrast, or the part study, or parts dicom";
        wrong.push(Failure::new(Code::MalformedRequest, detail));
    } else if dicom_parts > 0 && wrong.is_empty() {
        inputs.push(packed(folder, dicom_parts).await?);
    }
    if kinds == [false; 3] || (contrasts && !seen.iter().any(|name| name == Contrast::Flair.name()))
    {
        let missing = Failure::new(Code::MissingFlair, "the form has no part named flair");
        wrong.push(missing.at(Contrast::Flair.name()));
    }
    let options_text = options.unwrap_or_else(|| "{}".to_owned());
    let options = match Options::parse(&options_text) {
        Ok(options) => options,
        Err(reasons) => {
            wrong.extend(reasons.into_iter().map(invalid_option));
            Options::default()
        }
    };
    match Failure::all(wrong) {
        Some(failure) => Err(failure),
        None => Ok(Arrived {
            inputs,
            headers,
            options,
            options_text,
        }),
    }
}

/// An option that does not hold.
pub(super) fn invalid_option(wrong: WrongOption) -> Failure {
    let failure = Failure::new(Code::InvalidOptions, format!("options: {}", wrong.reason));
    match wrong.field {
        Some(field) => failure.at(&format!("options.{field}")),
        None => failure.at("options"),
    }
}

fn unknown(name: &str) -> Failure {
    let known: Vec<&str> = Contrast::ALL.iter().map(|c| c.name()).collect();
    let known = known.join(", ");
    let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
    let detail =
        format!("part '{shown}' is not known; known are {known}, {STUDY}, {DICOM} and options");
    Failure::new(Code::UnknownPart, detail).at(&shown)
}

fn too_large(name: &str, most: usize) -> Failure {
    let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
    let detail = format!("part '{shown}' is larger than {most} bytes");
    Failure::new(Code::BodyTooLarge, detail).at(&shown)
}

/// Reads a part that is not wanted.
async fn skip(mut part: Field<'_>, config: &HttpConfig) -> Result<(), Failure> {
    let name = part.name().unwrap_or_default().to_owned();
    let mut bytes: usize = 0;
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        bytes += chunk.len();
        if bytes > config.max_part_bytes {
            return Err(too_large(&name, config.max_part_bytes));
        }
    }
    Ok(())
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

async fn text(mut part: Field<'_>, config: &HttpConfig) -> Result<String, Failure> {
    let most = config.max_options_bytes;
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        if bytes.len() + chunk.len() > most {
            let detail = format!("options are larger than {most} bytes");
            return Err(Failure::new(Code::InvalidOptions, detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(Code::InvalidOptions, "options are not UTF-8"))
}

/// Writes a scan to the disk if there is a folder, hashes it, and looks at its header on the way. The
/// inner error is what is wrong with the scan, which is then read to its end.
async fn scan(
    mut part: Field<'_>,
    name: &str,
    folder: Option<&Path>,
    config: &HttpConfig,
    limits: Limits,
) -> Result<Result<(StoredFile, Header), Failure>, Failure> {
    let unwritten = |e: std::io::Error| storage(name, &e);
    let mut file = match folder {
        Some(folder) => Some(File::create(folder.join(name)).await.map_err(unwritten)?),
        None => None,
    };
    let mut hash = Sha256::new();
    let mut bytes: usize = 0;
    let mut head = Vec::with_capacity(GUARD_BYTES);
    let mut header = None;
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        bytes += chunk.len();
        if bytes > config.max_part_bytes {
            return Err(too_large(name, config.max_part_bytes));
        }
        if header.is_none() {
            head.extend_from_slice(&chunk[..chunk.len().min(GUARD_BYTES - head.len())]);
            if head.len() >= GUARD_BYTES {
                match guard(&head, name, limits) {
                    Ok(seen) => header = Some(seen),
                    Err(failure) => {
                        skip(part, config).await?;
                        return Ok(Err(failure));
                    }
                }
            }
        }
        if let Some(file) = &mut file {
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(unwritten)?;
        }
    }
    let header = match header.map_or_else(|| guard(&head, name, limits), Ok) {
        Ok(header) => header,
        Err(failure) => return Ok(Err(failure)),
    };
    if let Some(file) = &mut file {
        // The last write may still be under way, and only this tells whether it failed.
        file.flush().await.map_err(unwritten)?;
        file.sync_all().await.map_err(unwritten)?;
    }
    telemetry::part_arrived(name, bytes as u64);
    let stored = StoredFile {
        name: name.to_owned(),
        media_type: "application/octet-stream".to_owned(),
        bytes: bytes as u64,
        sha256: hex::encode(hash.finalize()),
    };
    Ok(Ok((stored, header)))
}

/// Writes a part to the disk if there is a path. A whole study is hashed and synced; single files are once they
/// are packed.
async fn keep(
    mut part: Field<'_>,
    name: &str,
    path: Option<&Path>,
    config: &HttpConfig,
) -> Result<Option<StoredFile>, Failure> {
    let Some(path) = path else {
        skip(part, config).await?;
        return Ok(None);
    };
    let unwritten = |e: std::io::Error| storage(name, &e);
    let mut file = File::create(path).await.map_err(unwritten)?;
    let mut hash = (name == STUDY).then(Sha256::new);
    let mut bytes: usize = 0;
    while let Some(chunk) = part.chunk().await.map_err(|e| broken(&e))? {
        bytes += chunk.len();
        if bytes > config.max_part_bytes {
            return Err(too_large(name, config.max_part_bytes));
        }
        if let Some(hash) = &mut hash {
            hash.update(&chunk);
        }
        file.write_all(&chunk).await.map_err(unwritten)?;
    }
    file.flush().await.map_err(unwritten)?;
    telemetry::part_arrived(name, bytes as u64);
    let Some(hash) = hash else { return Ok(None) };
    file.sync_all().await.map_err(unwritten)?;
    let sha256 = hex::encode(hash.finalize());
    Ok(Some(study_file(bytes as u64, sha256)))
}

fn study_file(bytes: u64, sha256: String) -> StoredFile {
    StoredFile {
        name: STUDY.to_owned(),
        media_type: "application/zip".to_owned(),
        bytes,
        sha256,
    }
}

/// Where the part `dicom` with that number is kept, from 1. Names that the client gives are not read.
fn place(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("dicom-{number}"))
}

/// The `dicom` parts of a folder as one archive, so that a job has the same input however it was sent.
async fn packed(folder: &Path, count: usize) -> Result<StoredFile, Failure> {
    let folder = folder.to_owned();
    let work = move || -> std::io::Result<StoredFile> {
        let parts: Vec<PathBuf> = (1..=count).map(|n| place(&folder, n)).collect();
        let (bytes, sha256) = store::pack(parts.clone(), &folder.join(STUDY))?;
        parts.iter().try_for_each(std::fs::remove_file)?;
        Ok(study_file(bytes, sha256))
    };
    let packed = tokio::task::spawn_blocking(work).await;
    packed
        .map_err(|e| Failure::internal(&e))?
        .map_err(|e| storage(DICOM, &e))
}

fn guard(head: &[u8], name: &str, limits: Limits) -> Result<Header, Failure> {
    Header::read(head, limits)
        .map_err(|error| Failure::new(nifti_code(&error), format!("{name}: {error}")))
}

fn storage(name: &str, error: &std::io::Error) -> Failure {
    tracing::error!(part = name, %error, "a part could not be written");
    Failure::new(
        Code::StorageFailed,
        format!("part '{name}' could not be stored"),
    )
}
