//! Those who bring images: each image is checked, moved to its study and on the disk before that is said.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dawson_imaging::dicom::Head;

use super::study::Study;
use super::{Inbox, Kept, Refused, Sender, Stage};
use crate::jobs;
use crate::store::{About, ArrivingStudies};
use crate::telemetry;

/// Somebody who brings images. While one is there, the studies it brought images of are not quiet.
#[derive(Debug)]
pub struct Session {
    pub(super) inbox: Arc<Inbox>,
    pub(super) sender: Sender,
    /// The study that all of its images are of, if that was said.
    pub(super) only: Option<String>,
    pub(super) touched: BTreeSet<String>,
}

impl Session {
    /// From now on images of other studies are refused.
    #[must_use]
    pub fn of_study(mut self, study_instance_uid: &str) -> Self {
        self.only = Some(study_instance_uid.to_owned());
        self
    }

    /// Keeps an image whose file is written and synced at `path`; if it is kept, the file is moved away. It is on
    /// the disk after this. `announced` are the class and the instance that it was announced as.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn keep(
        &mut self,
        path: PathBuf,
        announced: Option<(&str, &str)>,
    ) -> Result<(Kept, Head), Refused> {
        let inbox = Arc::clone(&self.inbox);
        let (head, image) = inbox.checked(path.clone()).await?;
        let found = (head.sop_class_uid.as_str(), head.sop_instance_uid.as_str());
        if announced.is_some_and(|announced| announced != found) {
            return Err(Refused::Mismatch);
        }
        let only = self.only.as_ref();
        if only.is_some_and(|only| *only != head.study_instance_uid) {
            return Err(Refused::OtherStudy);
        }
        inbox.check_disk(image.bytes)?;
        let owner = self.sender.owner.as_deref();
        let key = ArrivingStudies::key(&head.study_instance_uid, owner);
        let name = ArrivingStudies::image(&head.sop_instance_uid);
        let about = {
            let mut studies = inbox.studies();
            let study = studies.entry(key.clone()).or_insert_with(|| {
                Study::new(About {
                    study_instance_uid: head.study_instance_uid.clone(),
                    owner: self.sender.owner.clone(),
                    calling_ae_title: self.sender.calling_ae_title.clone(),
                    sent: None,
                })
            });
            if study.removing {
                return Err(Refused::Busy);
            }
            if self.touched.insert(key.clone()) {
                study.open += 1;
            }
            study.last = Instant::now();
            if let Some(there) = study.images.get(&name) {
                if there.sha256 == image.sha256 {
                    return Ok((Kept::Same, head));
                }
                study.conflicts += 1;
                return Ok((Kept::Conflict, head));
            }
            let limits = inbox.config.limits;
            let bytes = study.bytes().saturating_add(image.bytes);
            if study.images.len() >= limits.max_files || bytes > limits.max_study_bytes as u64 {
                return Err(Refused::StudyFull);
            }
            if !study.writing.insert(name.clone()) {
                return Err(Refused::Busy);
            }
            study.images.is_empty().then(|| study.about.clone())
        };
        let written = async {
            if let Some(about) = &about {
                inbox.files.describe(&key, about).await?;
            }
            inbox.files.keep(&key, &name, &path).await
        };
        let written = written.await;
        let mut studies = inbox.studies();
        if let Some(study) = studies.get_mut(&key) {
            study.writing.remove(&name);
            if written.is_ok() {
                let words = (&head.study_description, &head.series_description);
                study.words.add(words.0, words.1, &head.body_part);
                study.images.insert(name, image);
                study.last = Instant::now();
                if study.stage != Stage::Arriving {
                    study.stage = Stage::Arriving;
                    study.first = study.last;
                }
                if study.is_whole(&inbox.rules) {
                    inbox.wake.notify_one();
                }
            }
        }
        drop(studies);
        written.map_err(jobs::Error::Store)?;
        telemetry::image_arrived(image.bytes);
        Ok((Kept::New, head))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut studies = self.inbox.studies();
        for key in &self.touched {
            if let Some(study) = studies.get_mut(key) {
                study.open = study.open.saturating_sub(1);
                study.last = Instant::now();
            }
        }
    }
}
