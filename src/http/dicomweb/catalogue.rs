//! The DICOM objects that there are: images that arrive, and results of jobs that have succeeded.
//!
//! Nothing of it is in the database. Each file's header is read when it is first asked for and what a search
//! tells of it is kept in memory, under the name of exactly that content: an image by its hash, a result by
//! its job and attempt, so that nothing kept can be out of date. What is kept is the patient's and is told to
//! those who may see the object, never written down.
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dawson_imaging::dicom::{self, Limits};
use dawson_inference::problem::Code;
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, OpenFileOptions};
use futures_util::{StreamExt, TryStreamExt};
use tokio::fs::File;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::super::App;
use super::super::problem::Failure;
use super::json::{self, Dataset};
use super::related::DICOM;
use crate::jobs::Sees;
use crate::pacs::HeldImage;
use crate::store::{Job, JobId, Page, Pieces, State};

/// Files whose headers are kept in memory, roughly; a header takes 2 kB.
const MOST_KEPT: usize = 20_000;
/// Files that are read at once, because each is held in memory.
const READERS: usize = 2;
/// Jobs read at once.
const JOBS: i64 = 200;
/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// What a study's answer says (PS3.18, table 10.6.3-3).
pub(super) const STUDY: [Tag; 11] = [
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_DESCRIPTION,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_ID,
];
/// What a series' answer says (table 10.6.3-4).
pub(super) const SERIES: [Tag; 6] = [
    tags::MODALITY,
    tags::SERIES_DESCRIPTION,
    tags::SERIES_INSTANCE_UID,
    tags::SERIES_NUMBER,
    tags::PERFORMED_PROCEDURE_STEP_START_DATE,
    tags::PERFORMED_PROCEDURE_STEP_START_TIME,
];
/// What an instance's answer says (table 10.6.3-5).
pub(super) const INSTANCE: [Tag; 7] = [
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::INSTANCE_NUMBER,
    tags::ROWS,
    tags::COLUMNS,
    tags::BITS_ALLOCATED,
    tags::NUMBER_OF_FRAMES,
];

/// A DICOM object that can be fetched.
pub(super) struct Instance {
    pub(super) study: String,
    pub(super) series: String,
    pub(super) uid: String,
    pub(super) sop_class: String,
    pub(super) modality: String,
    pub(super) patient_id: String,
    number: Option<i64>,
    /// The UID of its transfer syntax.
    pub(super) syntax: String,
    place: Place,
    /// [`STUDY`], [`SERIES`] and [`INSTANCE`] of it, as JSON text because there are many.
    said: Box<str>,
}

#[derive(Clone)]
enum Place {
    Arrived(PathBuf),
    Result {
        job: JobId,
        attempt: i64,
        name: String,
    },
}

/// Exactly one content.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Content {
    Arrived(PathBuf, [u8; 32]),
    Results(JobId, i64),
}

type Instances = Vec<Arc<Instance>>;

/// What was read of files, so that it need not be read again.
pub(in crate::http) struct Catalogue {
    recent: Mutex<Recent<Content, Instances>>,
    readers: Semaphore,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            recent: Mutex::new(Recent::new(MOST_KEPT)),
            readers: Semaphore::new(READERS),
        }
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalogue")
    }
}

impl Catalogue {
    /// The objects that a caller sees, of one study or of all: by study, series, number and UID.
    pub(super) async fn list(
        &self,
        app: &App,
        sees: &Sees,
        study: Option<&str>,
    ) -> Result<Instances, Failure> {
        let mut all = Instances::new();
        for image in app.inbox.images(sees, study) {
            all.extend(self.arrived(app, image).await?);
        }
        let mut before = None;
        loop {
            let page = Page {
                owner: None,
                state: Some(State::Succeeded),
                before,
                limit: JOBS,
            };
            let jobs = app.jobs.list(sees, page).await?;
            before = jobs.last().map(|job| job.id);
            for job in &jobs {
                all.extend(self.results(app, sees, job).await?);
            }
            if before.is_none() || (jobs.len() as i64) < JOBS {
                break;
            }
        }
        if let Some(study) = study {
            all.retain(|instance| instance.study == study);
        }
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        // Two keys may have sent the same image; an administrator sees it once.
        all.dedup_by(|a, b| a.order() == b.order());
        Ok(all)
    }

    async fn arrived(&self, app: &App, image: HeldImage) -> Result<Instances, Failure> {
        let content = Content::Arrived(image.path.clone(), image.kept.sha256);
        if let Some(known) = self.recent(&content) {
            return Ok(known);
        }
        let limits = app.inbox.limits();
        let _reader = self.readers.acquire().await;
        let path = image.path.clone();
        let Some(bytes) = read_arrived(&path).await? else {
            return Ok(Instances::new());
        };
        let read = move || {
            let (syntax, object) = dicom::attributes(&bytes, &limits).ok()?;
            Instance::of(&object, syntax.uid(), Place::Arrived(path))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let instance = read.map_err(|e| Failure::internal(&e))?;
        let instances: Instances = instance.into_iter().map(Arc::new).collect();
        self.keep(content, &instances);
        Ok(instances)
    }

    async fn results(&self, app: &App, sees: &Sees, job: &Job) -> Result<Instances, Failure> {
        let content = Content::Results(job.id, job.attempt);
        if let Some(known) = self.recent(&content) {
            return Ok(known);
        }
        let mut instances = Instances::new();
        let artifacts = match app.jobs.artifacts(sees, job.id).await {
            Ok((artifacts, _)) => artifacts,
            // It was erased meanwhile.
            Err(error) if error.code() == Code::NotFound => return Ok(instances),
            Err(error) => return Err(error.into()),
        };
        for file in artifacts.iter().filter(|file| file.media_type == DICOM) {
            let _reader = self.readers.acquire().await;
            let place = Place::Result {
                job: job.id,
                attempt: job.attempt,
                name: file.name.clone(),
            };
            let Some(bytes) = read_result(app, &place).await? else {
                return Ok(Instances::new());
            };
            let read = move || {
                let (syntax, object) = own(&bytes)?;
                Instance::of(&object, &syntax, place)
            };
            let read = tokio::task::spawn_blocking(read).await;
            instances.extend(read.map_err(|e| Failure::internal(&e))?.map(Arc::new));
        }
        self.keep(content, &instances);
        Ok(instances)
    }

    /// All that an object says, but for bulk values; none if it is gone.
    pub(super) async fn metadata(
        &self,
        app: &App,
        instance: &Instance,
    ) -> Result<Option<Dataset>, Failure> {
        let limits = app.inbox.limits();
        let _reader = self.readers.acquire().await;
        let (bytes, is_own) = match &instance.place {
            Place::Arrived(path) => (read_arrived(path).await?, false),
            place @ Place::Result { .. } => (read_result(app, place).await?, true),
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let read = move || metadata_of(&bytes, is_own, &limits);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|e| Failure::internal(&e))
    }

    fn recent(&self, content: &Content) -> Option<Instances> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(content)
    }

    fn keep(&self, content: Content, instances: &Instances) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.insert(content, instances.clone());
    }
}

fn metadata_of(bytes: &[u8], is_own: bool, limits: &Limits) -> Option<Dataset> {
    let (_, object) = if is_own {
        own(bytes)?
    } else {
        let (syntax, object) = dicom::attributes(bytes, limits).ok()?;
        (syntax.uid().to_owned(), object)
    };
    Some(json::dataset(&object))
}

/// An object that Dawson wrote, and its transfer syntax.
fn own(bytes: &[u8]) -> Option<(String, InMemDicomObject)> {
    let options = OpenFileOptions::new().read_until(tags::PIXEL_DATA);
    let file = options.from_reader(bytes).ok()?;
    let syntax = file.meta().transfer_syntax().to_owned();
    Some((syntax, file.into_inner()))
}

/// An image's bytes; none if its study is gone.
async fn read_arrived(path: &std::path::Path) -> Result<Option<Vec<u8>>, Failure> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unread(&e)),
    }
}

/// A result's bytes; none if its job is gone.
async fn read_result(app: &App, place: &Place) -> Result<Option<Vec<u8>>, Failure> {
    let read = async {
        let mut pieces = place.open(app).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.try_next().await.map_err(|e| unread(&e))? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    match (read.await, place) {
        (Ok(bytes), _) => Ok(Some(bytes)),
        (Err(_), Place::Result { job, .. }) if app.jobs.state(*job).await?.is_none() => Ok(None),
        (Err(failure), _) => Err(failure),
    }
}

fn unread(error: &io::Error) -> Failure {
    tracing::error!(%error, "a DICOM object could not be read");
    Failure::new(Code::StorageFailed, "the server could not read its store")
}

impl Place {
    async fn open(&self, app: &App) -> Result<Pieces, Failure> {
        match self {
            Self::Arrived(path) => {
                let file = File::open(path).await.map_err(|e| unread(&e))?;
                Ok(ReaderStream::with_capacity(file, PIECE).boxed())
            }
            Self::Result { job, attempt, name } => {
                Ok(app.jobs.read_artifact(*job, *attempt, name, None).await?)
            }
        }
    }
}

impl Instance {
    /// None if it lacks what every object has.
    fn of(object: &InMemDicomObject, syntax: &str, place: Place) -> Option<Self> {
        let text = |tag| {
            let text = object.get(tag)?.to_str().ok()?;
            let text = text.trim_matches(['\0', ' ']);
            (!text.is_empty()).then(|| text.to_owned())
        };
        let said = [&STUDY[..], &SERIES, &INSTANCE].concat();
        let said = json::some_of(object, &said);
        let number = object.get(tags::INSTANCE_NUMBER);
        Some(Self {
            study: text(tags::STUDY_INSTANCE_UID)?,
            series: text(tags::SERIES_INSTANCE_UID)?,
            uid: text(tags::SOP_INSTANCE_UID)?,
            sop_class: text(tags::SOP_CLASS_UID)?,
            modality: text(tags::MODALITY).unwrap_or_default(),
            patient_id: text(tags::PATIENT_ID).unwrap_or_default(),
            number: number.and_then(|n| n.to_int().ok()),
            syntax: syntax.to_owned(),
            place,
            said: serde_json::to_string(&said).ok()?.into(),
        })
    }

    fn order(&self) -> (&str, &str, Option<i64>, &str) {
        let number = self.number;
        (&self.study, &self.series, number, &self.uid)
    }

    /// What a search tells of it.
    pub(super) fn said(&self) -> Dataset {
        serde_json::from_str(&self.said).unwrap_or_default()
    }

    /// Its file.
    pub(super) async fn open(&self, app: &App) -> Result<Pieces, Failure> {
        self.place.open(app).await
    }
}

/// A map of bounded size that forgets what was not asked for lately.
struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// Holds at most so many entries.
    fn new(most: usize) -> Self {
        Self {
            half: most.div_ceil(2),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(key.clone(), value.clone());
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_stays_and_there_is_never_more_than_the_bound() {
        let mut recent = Recent::new(10);
        recent.insert(0, "kept");
        for n in 1..100 {
            recent.insert(n, "other");
            assert_eq!(recent.get(&0), Some("kept"), "{n}");
            assert!(recent.young.len() + recent.old.len() <= 10);
        }
        assert_eq!(recent.get(&1), None);
        assert!(recent.get(&99).is_some());
    }
}
