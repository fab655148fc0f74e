//! One study that arrives, as it is kept in memory.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use dawson_imaging::dicom::{Head, Limits};
use sha2::{Digest, Sha256};

use super::super::rules::{Rules, Words};
use super::{Arrival, InboxConfig, Stage};
use crate::files;
use crate::jobs::JobId;
use crate::store::{About, ArrivingStudy, KeptImage, Sent};

/// A study that arrives.
#[derive(Debug)]
pub(super) struct Study {
    pub(super) about: About,
    pub(super) images: BTreeMap<String, KeptImage>,
    /// Images that are being written.
    pub(super) writing: BTreeSet<String>,
    pub(super) words: Words,
    pub(super) conflicts: usize,
    /// Those who brought images of it and are still there.
    pub(super) open: usize,
    /// When its first image came that no job has.
    pub(super) first: Instant,
    pub(super) last: Instant,
    /// Not looked at before this.
    pub(super) not_before: Option<Instant>,
    /// Somebody said that it is whole with so many images, 0 if as it is.
    pub(super) whole_with: Option<usize>,
    /// It is being made a job.
    pub(super) leaving: bool,
    /// Its files are being removed.
    pub(super) removing: bool,
    pub(super) stage: Stage,
}

impl Study {
    pub(super) fn new(about: About) -> Self {
        let now = Instant::now();
        Self {
            about,
            images: BTreeMap::new(),
            writing: BTreeSet::new(),
            words: Words::default(),
            conflicts: 0,
            open: 0,
            first: now,
            last: now,
            not_before: None,
            whole_with: None,
            leaving: false,
            removing: false,
            stage: Stage::Arriving,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.images.values().map(|image| image.bytes).sum()
    }

    /// Stands for its images.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, image) in &self.images {
            hash.update(name.as_bytes());
            hash.update(image.sha256);
        }
        hex::encode(hash.finalize())
    }

    pub(super) fn is_due(&self, config: &InboxConfig, rules: &Rules) -> bool {
        let quiet = self.open == 0 && self.last.elapsed() >= config.quiet;
        self.stage == Stage::Arriving
            && !self.images.is_empty()
            && self.writing.is_empty()
            && !self.leaving
            && self.not_before.is_none_or(|at| at <= Instant::now())
            && (self.is_whole(rules) || quiet || self.first.elapsed() >= config.longest)
    }

    /// Whether as many images are there as were stated. With more than its route says the route is wrong about this
    /// study, or these are late ones, and each would be a revision of its own.
    pub(super) fn is_whole(&self, rules: &Rules) -> bool {
        let images = self.images.len();
        self.whole_with.is_some_and(|stated| images >= stated)
            || self.images_by_route(rules) == Some(images)
    }

    fn images_by_route(&self, rules: &Rules) -> Option<usize> {
        rules.images(self.about.calling_ae_title.as_deref(), &self.words)
    }

    /// Whether nothing is done with it and nothing is to be done.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.open == 0 && self.writing.is_empty();
        quiet && !self.leaving && !self.removing && self.stage != Stage::Arriving
    }

    pub(super) fn told(&self, rules: &Rules) -> Arrival {
        let stated = self.whole_with.filter(|&stated| stated > 0);
        Arrival {
            study_instance_uid: self.about.study_instance_uid.clone(),
            images: self.images.len(),
            images_stated: stated.or_else(|| self.images_by_route(rules)),
            bytes: self.bytes(),
            conflicts: self.conflicts,
            revision: self.about.sent.as_ref().map_or(0, |sent| sent.revision),
            stage: self.stage.clone(),
        }
    }
}

pub(super) fn sent(about: &About, job: JobId, digest: String) -> Sent {
    let before = about.sent.as_ref().map_or(0, |sent| sent.revision);
    Sent {
        job: job.to_string(),
        digest,
        revision: before + 1,
    }
}

/// A study that a process before this one had received.
pub(super) fn resumed(found: ArrivingStudy, words: Words) -> Study {
    let age = SystemTime::now().duration_since(found.newest);
    let last = Instant::now().checked_sub(age.unwrap_or_default());
    let mut study = Study::new(found.about);
    study.images = found.images;
    study.words = words;
    study.last = last.unwrap_or(study.last);
    study.first = study.last;
    if let Some(sent) = &study.about.sent
        && sent.digest == study.digest()
        && let Ok(job) = sent.job.parse()
    {
        study.stage = Stage::Sent(job);
    }
    study
}

pub(super) fn words_of(paths: &[PathBuf], limits: &Limits) -> Words {
    let mut words = Words::default();
    for path in paths {
        if let Ok(bytes) = files::read(path)
            && let Ok(head) = Head::read(&bytes, limits)
        {
            words.add(
                &head.study_description,
                &head.series_description,
                &head.body_part,
            );
        }
    }
    words
}
