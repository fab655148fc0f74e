//! Studies that arrive image by image, until each is whole and becomes a job.
//!
//! DICOM has no word for "that was all", so a study is taken once it has been quiet for a while and nobody
//! who brought images of it is still there, once it has as many images as its route or somebody stated, or when
//! somebody says that it is whole. An image that comes later makes a new revision of the whole study; the same
//! images again make nothing. What is here is also on the disk ([`ArrivingStudies`]): after a restart the
//! studies are where they were.
mod session;
mod study;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dawson_imaging::dicom::{self, Head, Limits};
use dawson_inference::problem::Code;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

pub use session::Session;
use study::{Study, Whole, resumed, sent, words_of};

use super::rules::Rules;
use crate::jobs::{self, JobId, Jobs, STUDY, Sees, Submission, Upload};
use crate::store::{About, ArrivingStudies, KeptImage, Priority, StoredFile};
use crate::{files, telemetry};

/// How often studies are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Every so many looks, studies that are done with are looked for.
const FORGET_EACH: u64 = 8;
/// The wait after a study could not be taken now, but may be later.
const AGAIN: Duration = Duration::from_secs(5);

/// How studies arrive.
#[derive(Debug, Clone)]
pub struct InboxConfig {
    /// A study is whole once nothing has come for so long.
    pub quiet: Duration,
    /// A study is taken so long after its first new image, whoever still sends.
    pub longest: Duration,
    /// Images of a study are kept so long after the last one came, for those that come late.
    pub late: Duration,
    /// How much a file and a study may be.
    pub limits: Limits,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is on the disk.
    New,
    /// It was there already.
    Same,
    /// Another image of that SOP Instance UID is there; the first one stays.
    Conflict,
}

/// Why an image is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is no MR image, or damaged, or not read.
    #[error(transparent)]
    File(dicom::Error),
    /// It is of another study than all that its sender brings.
    #[error("the image is of another study")]
    OtherStudy,
    /// It is not the object that it was announced as.
    #[error("the file holds another object than was announced")]
    Mismatch,
    /// The study has as many images or bytes as a study may have.
    #[error("the study has more images or bytes than a study may have")]
    StudyFull,
    /// The same image is being stored at this moment.
    #[error("the same image is being stored at this moment")]
    Busy,
    /// There is no room, or the service stops.
    #[error(transparent)]
    Jobs(#[from] jobs::Error),
}

/// Where a study is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Images may still come.
    Arriving,
    /// It is a job.
    Sent(JobId),
    /// No rule runs it.
    NotRouted,
    /// It cannot be a job; the reason names nothing of the patient.
    Refused(Code, String),
}

/// A study as it is told.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// (0020,000D).
    pub study_instance_uid: String,
    /// Images that are there.
    pub images: usize,
    /// With how many it is taken, if its route or somebody said so.
    pub images_stated: Option<usize>,
    /// Bytes of their files.
    pub bytes: u64,
    /// Images that were not kept because another of the same UID was.
    pub conflicts: usize,
    /// How often it became a job.
    pub revision: u32,
    /// Where it is.
    pub stage: Stage,
}

/// An image that is here, for those who fetch it.
#[derive(Debug, Clone)]
pub struct HeldImage {
    /// Its file, until its study is done with.
    pub path: PathBuf,
    /// How long the file is, and what is in it.
    pub kept: KeptImage,
}

/// Who brings images.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    /// The API key whose studies they are.
    pub owner: Option<String>,
    /// The application entity, if one sends.
    pub calling_ae_title: Option<String>,
}

/// The studies that arrive.
#[derive(Debug)]
pub struct Inbox {
    jobs: Arc<Jobs>,
    files: ArrivingStudies,
    rules: Rules,
    config: InboxConfig,
    studies: Mutex<BTreeMap<String, Study>>,
    /// Files are read and checked one at a time, because they are held in memory.
    checking: tokio::sync::Semaphore,
    wake: Notify,
}

impl Inbox {
    /// The inbox, with what a process before this one had received.
    ///
    /// # Errors
    /// [`jobs::Error::Store`]
    pub async fn open(
        jobs: Arc<Jobs>,
        rules: Rules,
        config: InboxConfig,
    ) -> Result<Self, jobs::Error> {
        let files = jobs.arriving().clone();
        let mut studies = BTreeMap::new();
        for found in files.found().await? {
            let key = found.key.clone();
            let paths: Vec<PathBuf> = found
                .images
                .keys()
                .map(|image| files.path(&key, image))
                .collect();
            let limits = config.limits;
            let words = tokio::task::spawn_blocking(move || words_of(&paths, &limits)).await;
            studies.insert(key, resumed(found, words.unwrap_or_default()));
        }
        Ok(Self {
            jobs,
            files,
            rules,
            config,
            studies: Mutex::new(studies),
            checking: tokio::sync::Semaphore::new(2),
            wake: Notify::new(),
        })
    }

    /// The jobs that studies become.
    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How much a file may be.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.config.limits
    }

    /// Somebody begins to bring images.
    #[must_use]
    pub fn session(self: &Arc<Self>, sender: Sender) -> Session {
        Session {
            inbox: Arc::clone(self),
            sender,
            only: None,
            touched: BTreeSet::new(),
        }
    }

    /// A folder for images that arrive.
    ///
    /// # Errors
    /// [`jobs::Error::Closing`], [`jobs::Error::Store`]
    pub async fn new_upload(&self) -> Result<Upload, jobs::Error> {
        self.jobs.new_upload().await
    }

    /// Whether there is disk for an image of so many bytes.
    ///
    /// # Errors
    /// [`jobs::Error::DiskFull`], [`jobs::Error::Store`]
    pub fn check_disk(&self, bytes: u64) -> Result<(), jobs::Error> {
        self.jobs.check_disk(bytes)
    }

    /// The studies that a caller sees.
    #[must_use]
    pub fn list(&self, sees: &Sees) -> Vec<Arrival> {
        let studies = self.studies();
        let seen = studies
            .values()
            .filter(|study| sees.what_is_of(study.about.owner.as_deref()));
        seen.map(|study| study.told(&self.rules)).collect()
    }

    /// The images that a caller sees, of one study or of all.
    #[must_use]
    pub fn images(&self, sees: &Sees, study_instance_uid: Option<&str>) -> Vec<HeldImage> {
        let studies = self.studies();
        let seen = studies.iter().filter(|(_, study)| {
            let asked = study_instance_uid.is_none_or(|uid| study.about.study_instance_uid == uid);
            asked && !study.removing && sees.what_is_of(study.about.owner.as_deref())
        });
        let images = seen.flat_map(|(key, study)| {
            study.images.iter().map(|(name, kept)| HeldImage {
                path: self.files.path(key, name),
                kept: *kept,
            })
        });
        images.collect()
    }

    /// Takes a study once it has so many images, or as it is, without waiting for it to be quiet; none if it is not
    /// there.
    #[must_use]
    pub fn start(
        &self,
        sees: &Sees,
        study_instance_uid: &str,
        images: Option<NonZeroUsize>,
    ) -> Option<Arrival> {
        let mut studies = self.studies();
        let study = studies.values_mut().find(|study| {
            sees.what_is_of(study.about.owner.as_deref())
                && study.about.study_instance_uid == study_instance_uid
        })?;
        let whole = images.map_or(Whole::AsItIs, Whole::With);
        let are_to_come = whole.is_more_than(study.images.len());
        let is_sent = matches!(study.stage, Stage::Sent(_));
        // What became of the images that are there stays, until more come.
        if !are_to_come && !is_sent {
            study.stage = Stage::Arriving;
            study.not_before = None;
        }
        if are_to_come || !is_sent {
            study.whole = Some(whole);
        }
        let told = study.told(&self.rules);
        drop(studies);
        self.wake.notify_one();
        Some(told)
    }

    /// Makes studies that are whole jobs, and forgets those that are done with, until it is aborted.
    pub async fn run(self: Arc<Self>) {
        for turn in 0_u64.. {
            self.send_what_is_due().await;
            // Each asks the store about a job: not as often.
            if turn % FORGET_EACH == 0 {
                self.forget_what_is_done_with().await;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn send_what_is_due(&self) {
        let due: Vec<String> = {
            let mut studies = self.studies();
            let due = studies
                .iter_mut()
                .filter(|(_, study)| study.is_due(&self.config, &self.rules));
            due.map(|(key, study)| {
                study.leaving = true;
                key.clone()
            })
            .collect()
        };
        for key in due {
            self.send(&key).await;
        }
    }

    async fn forget_what_is_done_with(&self) {
        for key in self.done_with().await {
            self.forget(&key).await;
        }
    }

    /// Removes a study, unless something has come for it meanwhile.
    async fn forget(&self, key: &str) {
        {
            let mut studies = self.studies();
            match studies.get_mut(key) {
                Some(study) if study.is_idle() => study.removing = true,
                _ => return,
            }
        }
        let removed = self.files.remove(key).await;
        let mut studies = self.studies();
        match removed {
            Ok(()) => drop(studies.remove(key)),
            Err(error) => {
                telemetry::store_failed("arriving", &error);
                if let Some(study) = studies.get_mut(key) {
                    study.removing = false;
                }
            }
        }
    }

    /// Studies of which nothing is left to do: their job was erased, or nothing came for long.
    async fn done_with(&self) -> Vec<String> {
        let sent: Vec<(String, Option<JobId>, bool)> = {
            let studies = self.studies();
            let idle = studies.iter().filter(|(_, study)| study.is_idle());
            idle.map(|(key, study)| {
                let job = match study.stage {
                    Stage::Sent(job) => Some(job),
                    _ => None,
                };
                let is_late = study.last.elapsed() >= self.config.late;
                (key.clone(), job, is_late)
            })
            .collect()
        };
        let mut done = Vec::new();
        for (key, job, is_late) in sent {
            let done_with = match job {
                None => is_late,
                Some(job) => match self.jobs.state(job).await {
                    Ok(None) => true,
                    Ok(Some(state)) => is_late && state.has_ended(),
                    Err(_) => false,
                },
            };
            if done_with {
                done.push(key);
            }
        }
        done
    }

    /// Makes a study a job.
    async fn send(&self, key: &str) {
        let taken = {
            let mut studies = self.studies();
            studies.get_mut(key).map(|study| {
                let title = study.about.calling_ae_title.as_deref();
                let options = self.rules.options(title, &study.words);
                let names: Vec<String> = study.images.keys().cloned().collect();
                let is_whole = study.is_whole(&self.rules);
                let whole = study.whole.take_if(|_| is_whole);
                (study.about.clone(), options, names, study.digest(), whole)
            })
        };
        let Some((about, options, names, digest, whole)) = taken else {
            return;
        };
        let stage = match options {
            None => Ok(Stage::NotRouted),
            Some(options) => self.submit(key, &about, options, &names, &digest).await,
        };
        let mut studies = self.studies();
        let Some(study) = studies.get_mut(key) else {
            return;
        };
        study.leaving = false;
        match stage {
            Ok(stage) => {
                if let Stage::Sent(job) = &stage {
                    study.about.sent = Some(sent(&about, *job, digest.clone()));
                }
                telemetry::study_arrived(match &stage {
                    Stage::Sent(_) => "sent",
                    Stage::NotRouted => "not_routed",
                    Stage::Refused(..) => "refused",
                    Stage::Arriving => "arriving",
                });
                // What came meanwhile makes the next revision.
                if study.digest() == digest {
                    study.stage = stage;
                    study.whole = study.whole.filter(|whole| whole.is_more_than(names.len()));
                } else {
                    study.first = Instant::now();
                }
            }
            Err(error) => {
                tracing::warn!(code = error.code().name(), %error, "a study that arrived waits");
                // What was said meanwhile is newer.
                study.whole = study.whole.or(whole);
                study.not_before = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// What became of it; an error is one that may pass.
    async fn submit(
        &self,
        key: &str,
        about: &About,
        options: String,
        names: &[String],
        digest: &str,
    ) -> Result<Stage, jobs::Error> {
        if let Some(sent) = about.sent.as_ref().filter(|sent| sent.digest == digest)
            && let Ok(job) = sent.job.parse()
        {
            return Ok(Stage::Sent(job));
        }
        let bytes = {
            let studies = self.studies();
            studies.get(key).map_or(0, Study::bytes)
        };
        let upload = self.jobs.new_upload_with_room(bytes).await?;
        let archive = upload.folder().join(STUDY);
        let packed = self.files.pack(key, names, &archive).await;
        let (bytes, sha256) = match packed {
            Ok(packed) => packed,
            Err(error) => {
                upload.discard().await;
                return Err(error.into());
            }
        };
        let submission = Submission {
            upload,
            inputs: vec![StoredFile {
                name: STUDY.to_owned(),
                media_type: "application/zip".to_owned(),
                bytes,
                sha256,
            }],
            headers: Vec::new(),
            owner: about.owner.clone(),
            priority: Priority::Routine,
            deadline: None,
            callback_url: None,
            label: None,
            model: None,
            options,
            // After a crash between the job and its note, the same images find the same job.
            idempotency_key: Some(format!("arrived-{key}-{digest}")),
        };
        match self.jobs.submit(submission).await {
            Ok(job) => {
                let about = About {
                    sent: Some(sent(about, job.id, digest.to_owned())),
                    ..about.clone()
                };
                // Should this fail, the same images find the same job by their key.
                if let Err(error) = self.files.describe(key, &about).await {
                    telemetry::store_failed("arriving", &error);
                }
                Ok(Stage::Sent(job.id))
            }
            Err(
                error @ (jobs::Error::Full { .. }
                | jobs::Error::DiskFull { .. }
                | jobs::Error::Closing
                | jobs::Error::Store(_)),
            ) => Err(error),
            Err(error) => {
                let code = error.code();
                tracing::warn!(code = code.name(), %error, "a study that arrived cannot be run");
                Ok(Stage::Refused(code, error.to_string()))
            }
        }
    }

    fn studies(&self) -> MutexGuard<'_, BTreeMap<String, Study>> {
        self.studies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and checks a file.
    async fn checked(&self, path: PathBuf) -> Result<(Head, KeptImage), Refused> {
        let _room = self.checking.acquire().await;
        let limits = self.config.limits;
        let work = move || {
            let bytes =
                files::read(&path).map_err(|e| jobs::Error::Store(crate::store::Error::File(e)))?;
            let head = Head::read(&bytes, &limits).map_err(Refused::File)?;
            let kept = KeptImage {
                bytes: bytes.len() as u64,
                sha256: Sha256::digest(&bytes).into(),
            };
            Ok((head, kept))
        };
        let checked = tokio::task::spawn_blocking(work).await;
        checked.unwrap_or_else(|e| {
            let error = crate::store::Error::File(std::io::Error::other(e));
            Err(Refused::Jobs(jobs::Error::Store(error)))
        })
    }
}
