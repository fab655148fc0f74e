//! STOW-RS: images come in (PS3.18, 10.5).
//!
//! Each part is written to the disk as it passes, synced, and given to the inbox at once, so that the study is
//! known to be on its way while the rest of the body comes. What became of each is told one by one: an answer
//! that names an instance as stored is given once it is on the disk. A body that breaks off is a problem, and its
//! problem says how many images were kept before; to send it again does no harm.
use std::path::{Path, PathBuf};

use axum::body::{Body, BodyDataStream};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dawson_imaging::dicom::{self, Limits};
use dawson_inference::problem::Code;
use dicom_core::VR;
use dicom_dictionary_std::tags;
use futures_util::StreamExt;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::App;
use super::super::extract::Caller;
use super::super::problem::Failure;
use super::json::{self, Dataset};
use super::media::MediaType;
use super::related::{self, DICOM, Event, Related};
use crate::jobs;
use crate::pacs::{Kept, Refused, Sender, Session};

/// A study in one file.
const ZIP: &str = "application/zip";
/// Bytes of a file in which it names its object.
const HEAD: u64 = 4 << 10;

/// How a body is read.
enum Kind {
    /// Files between boundaries.
    Related { boundary: String },
    /// One file.
    Single,
    /// Files in a zip.
    Zip,
}

/// Takes what a request brings.
pub(super) async fn store(
    app: &App,
    caller: Caller,
    study: Option<String>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let kind = kind_of(headers)?;
    app.inbox.check_disk(promised(&body))?;
    let upload = app.inbox.new_upload().await?;
    let session = app.inbox.session(Sender {
        owner: caller.owner,
        calling_ae_title: None,
    });
    let session = match &study {
        Some(study) => session.of_study(study),
        None => session,
    };
    let mut receiver = Receiver {
        app,
        session,
        folder: upload.folder().to_owned(),
        files: 0,
        outcomes: Vec::new(),
    };
    let received = receiver.receive(kind, body).await;
    let kept = receiver.outcomes.iter().filter(|o| o.is_stored()).count();
    let outcomes = received.map(|()| std::mem::take(&mut receiver.outcomes));
    drop(receiver);
    upload.discard().await;
    match outcomes {
        Ok(outcomes) => Ok(answer(study.as_deref(), &outcomes)),
        Err(failure) if kept > 0 => {
            Err(failure.and(&format!("{kept} images that came before are kept")))
        }
        Err(failure) => Err(failure),
    }
}

/// The bytes that a body says it has.
fn promised(body: &Body) -> u64 {
    use axum::body::HttpBody;
    body.size_hint().lower()
}

fn kind_of(headers: &HeaderMap) -> Result<Kind, Failure> {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let not_taken = || {
        let detail = format!(
            "taken are multipart/related; type=\"{DICOM}\" with a boundary, {DICOM} and {ZIP}"
        );
        Failure::new(Code::UnsupportedMediaType, detail)
    };
    let kind = text.and_then(MediaType::parse).ok_or_else(not_taken)?;
    match kind.essence.as_str() {
        DICOM => Ok(Kind::Single),
        ZIP => Ok(Kind::Zip),
        "multipart/related" => {
            let inner = kind.parameter("type");
            if inner.is_some_and(|inner| !inner.eq_ignore_ascii_case(DICOM)) {
                return Err(not_taken());
            }
            let detail = "multipart/related must name a boundary of 1 to 70 characters (RFC 2046)";
            let boundary = related::boundary_of(&kind)
                .ok_or_else(|| Failure::new(Code::MalformedRequest, detail))?;
            Ok(Kind::Related {
                boundary: boundary.to_owned(),
            })
        }
        _ => Err(not_taken()),
    }
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Stored {
        class: String,
        instance: String,
        series: String,
        study: String,
    },
    /// An object that is not stored.
    Failed {
        names: (String, String),
        reason: u16,
    },
    /// What names no object.
    Other { reason: u16 },
}

impl Outcome {
    fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}

/// Takes files one by one.
struct Receiver<'a> {
    app: &'a App,
    session: Session,
    folder: PathBuf,
    files: usize,
    outcomes: Vec<Outcome>,
}

impl Receiver<'_> {
    async fn receive(&mut self, kind: Kind, body: Body) -> Result<(), Failure> {
        let body = body.into_data_stream();
        match kind {
            Kind::Related { boundary } => self.related(&boundary, body).await,
            Kind::Single => {
                let path = self.whole(body).await?;
                self.keep(path).await
            }
            Kind::Zip => {
                let archive = self.whole(body).await?;
                for path in self.unpack(archive).await? {
                    self.keep(path).await?;
                }
                Ok(())
            }
        }
    }

    async fn related(&mut self, boundary: &str, mut body: BodyDataStream) -> Result<(), Failure> {
        let most = self.app.config.max_part_header_bytes;
        let mut related = Related::new(boundary, most);
        let malformed = |e: related::Malformed| Failure::new(Code::MalformedRequest, e.to_string());
        let mut part: Option<Part> = None;
        while let Some(piece) = body.next().await {
            related.feed(&piece.map_err(|e| broken(&e))?);
            while let Some(event) = related.next().map_err(malformed)? {
                match (event, &mut part) {
                    (Event::Begin, _) => part = Some(self.part().await?),
                    (Event::Data(data), Some(part)) => part.write(&data).await?,
                    (Event::End, _) => {
                        if let Some(part) = part.take() {
                            let path = part.close().await?;
                            self.keep(path).await?;
                        }
                    }
                    (Event::Data(_), None) => {}
                }
            }
        }
        related.finish().map_err(malformed)
    }

    /// The whole body as a file.
    async fn whole(&mut self, mut body: BodyDataStream) -> Result<PathBuf, Failure> {
        let mut part = self.part().await?;
        while let Some(piece) = body.next().await {
            part.write(&piece.map_err(|e| broken(&e))?).await?;
        }
        part.close().await
    }

    /// A file for the next part; what clients call theirs is not read.
    async fn part(&mut self) -> Result<Part, Failure> {
        self.files += 1;
        let most = self.app.config.max_dicom_parts;
        if self.files > most {
            let detail = format!("the body has more than {most} parts");
            return Err(Failure::new(Code::BodyTooLarge, detail));
        }
        let path = self.folder.join(self.files.to_string());
        let file = File::create(&path).await.map_err(|e| unwritten(&e))?;
        Ok(Part {
            path,
            file,
            number: self.files,
            bytes: 0,
            most: self.app.config.max_part_bytes,
        })
    }

    /// The members of an archive as files, synced.
    async fn unpack(&self, archive: PathBuf) -> Result<Vec<PathBuf>, Failure> {
        let limits = Limits {
            max_files: self.app.config.max_dicom_parts,
            max_study_bytes: self.app.config.max_body_bytes,
            ..self.app.inbox.limits()
        };
        // An archive and its members are held in memory.
        let _room = self.app.unpacking.acquire().await;
        let folder = self.folder.clone();
        let work = move || unpack(&archive, &folder, &limits);
        let unpacked = tokio::task::spawn_blocking(work).await;
        unpacked.map_err(|e| Failure::internal(&e))?
    }

    /// Gives a file to the inbox.
    async fn keep(&mut self, path: PathBuf) -> Result<(), Failure> {
        let names = announced(&path).await.map_err(|e| unwritten(&e))?;
        let meant = names
            .as_ref()
            .map(|(class, instance)| (&class[..], &instance[..]));
        let kept = self.session.keep(path.clone(), meant).await;
        let reason = match kept {
            Ok((Kept::New | Kept::Same, head)) => {
                self.outcomes.push(Outcome::Stored {
                    class: head.sop_class_uid,
                    instance: head.sop_instance_uid,
                    series: head.series_instance_uid,
                    study: head.study_instance_uid,
                });
                None
            }
            // To call it stored would let its sender throw away what is kept nowhere.
            Ok((Kept::Conflict, head)) => {
                let names = (head.sop_class_uid, head.sop_instance_uid);
                self.outcomes.push(Outcome::Failed {
                    names,
                    reason: reason::DUPLICATE,
                });
                None
            }
            Err(refused) => Some(reason_of(&refused)),
        };
        if let Some(reason) = reason {
            self.outcomes.push(match names {
                Some(names) => Outcome::Failed { names, reason },
                None => Outcome::Other { reason },
            });
        }
        // What was not moved away is not needed any more.
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unwritten(&e)),
            _ => Ok(()),
        }
    }
}

/// A file that is being written.
struct Part {
    path: PathBuf,
    file: File,
    number: usize,
    bytes: usize,
    most: usize,
}

impl Part {
    async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > self.most {
            let detail = format!("part {} is larger than {} bytes", self.number, self.most);
            return Err(Failure::new(Code::BodyTooLarge, detail));
        }
        self.file.write_all(data).await.map_err(|e| unwritten(&e))
    }

    async fn close(mut self) -> Result<PathBuf, Failure> {
        // The last write may still be under way, and only this tells whether it failed.
        self.file.flush().await.map_err(|e| unwritten(&e))?;
        self.file.sync_all().await.map_err(|e| unwritten(&e))?;
        Ok(self.path)
    }
}

fn unpack(archive: &Path, folder: &Path, limits: &Limits) -> Result<Vec<PathBuf>, Failure> {
    let bytes = crate::files::read(archive).map_err(|e| unwritten(&e))?;
    let members = dicom::members(&bytes, limits).map_err(|e| {
        let code = match e {
            dicom::Error::TooMuch { .. } => Code::BodyTooLarge,
            _ => Code::DamagedArchive,
        };
        Failure::new(code, e.to_string())
    })?;
    let written = members.into_iter().enumerate().map(|(n, member)| {
        let path = folder.join(format!("member-{n}"));
        let existing = crate::files::Existing::Replace;
        crate::files::write(&path, &member, existing).map(|()| path)
    });
    written.collect::<Result<_, _>>().map_err(|e| unwritten(&e))
}

/// The object that a file says it is.
async fn announced(path: &Path) -> std::io::Result<Option<(String, String)>> {
    let mut head = Vec::new();
    let file = File::open(path).await?;
    file.take(HEAD).read_to_end(&mut head).await?;
    Ok(dicom::announced(&head))
}

fn unwritten(error: &std::io::Error) -> Failure {
    tracing::error!(%error, "an image could not be written");
    Failure::new(Code::StorageFailed, "an image could not be stored")
}

/// The client is gone, or what it sends is bounded by a layer that answers for itself.
fn broken(error: &axum::Error) -> Failure {
    Failure::new(
        Code::MalformedRequest,
        format!("the body broke off: {error}"),
    )
}

/// Why an instance is not stored (PS3.18, I.2.2; PS3.7, annex C).
mod reason {
    pub(super) const PROCESSING: u16 = 0x0110;
    pub(super) const DUPLICATE: u16 = 0x0111;
    pub(super) const CLASS: u16 = 0x0122;
    pub(super) const RESOURCES: u16 = 0xa700;
    pub(super) const MISMATCH: u16 = 0xa900;
    pub(super) const NOT_UNDERSTOOD: u16 = 0xc000;
    pub(super) const SYNTAX: u16 = 0xc122;
}

fn reason_of(refused: &Refused) -> u16 {
    match refused {
        Refused::File(dicom::Error::SopClass { .. }) => reason::CLASS,
        Refused::File(dicom::Error::Syntax { .. }) => reason::SYNTAX,
        Refused::File(dicom::Error::TooMuch { .. }) | Refused::StudyFull => reason::RESOURCES,
        Refused::File(_) => reason::NOT_UNDERSTOOD,
        Refused::Mismatch => reason::MISMATCH,
        Refused::OtherStudy | Refused::Busy | Refused::Jobs(jobs::Error::Closing) => {
            reason::PROCESSING
        }
        Refused::Jobs(_) => reason::RESOURCES,
    }
}

/// PS3.18, 10.5.3.
fn answer(study: Option<&str>, outcomes: &[Outcome]) -> Response {
    let (mut stored, mut failed, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut studies: Vec<&str> = study.into_iter().collect();
    let named = |class: &str, instance: &str| {
        let mut item = Dataset::new();
        let names = [
            (tags::REFERENCED_SOP_CLASS_UID, class),
            (tags::REFERENCED_SOP_INSTANCE_UID, instance),
        ];
        for (tag, uid) in names {
            item.insert(json::key(tag), json::element(VR::UI, uid));
        }
        item
    };
    let because = |reason: u16| {
        (
            json::key(tags::FAILURE_REASON),
            json::element(VR::US, reason),
        )
    };
    for outcome in outcomes {
        match outcome {
            Outcome::Stored {
                class,
                instance,
                series,
                study,
            } => {
                let mut item = named(class, instance);
                let url = super::url(study, Some(series), Some(instance));
                item.insert(json::key(tags::RETRIEVE_URL), json::element(VR::UR, url));
                stored.push(item);
                if !studies.contains(&study.as_str()) {
                    studies.push(study);
                }
            }
            Outcome::Failed { names, reason } => {
                let mut item = named(&names.0, &names.1);
                item.extend([because(*reason)]);
                failed.push(item);
            }
            Outcome::Other { reason } => others.push(Dataset::from_iter([because(*reason)])),
        }
    }
    let status = match (stored.len(), failed.len() + others.len()) {
        (0, _) => StatusCode::CONFLICT,
        (_, 0) => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    let mut told = Dataset::new();
    if let ([study], false) = (&studies[..], stored.is_empty()) {
        let url = super::url(study, None, None);
        told.insert(json::key(tags::RETRIEVE_URL), json::element(VR::UR, url));
    }
    let lists = [
        (tags::REFERENCED_SOP_SEQUENCE, stored),
        (tags::FAILED_SOP_SEQUENCE, failed),
        (tags::OTHER_FAILURES_SEQUENCE, others),
    ];
    for (tag, items) in lists {
        if !items.is_empty() {
            told.insert(json::key(tag), json::sequence(&items));
        }
    }
    (status, super::answer(&told)).into_response()
}
