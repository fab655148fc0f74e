//! One study that arrives, as it is kept in memory.
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
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
    /// When somebody said that it is whole.
    pub(super) whole: Option<Whole>,
    /// It is being made a job.
    pub(super) leaving: bool,
    /// Its files are being removed.
    pub(super) removing: bool,
    pub(super) stage: Stage,
}

/// With which images a study is whole, as somebody said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    AsItIs,
    With(NonZeroUsize),
}

impl Whole {
    pub(super) fn is_more_than(self, images: usize) -> bool {
        matches!(self, Self::With(stated) if stated.get() > images)
    }
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
            whole: None,
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

    /// Whether as many images are there as were stated. Those beyond its route's number are late ones, and each would
    /// be a revision of its own.
    pub(super) fn is_whole(&self, rules: &Rules) -> bool {
        let images = self.images.len();
        match self.whole {
            Some(whole) => !whole.is_more_than(images),
            None => self.images_by_route(rules) == Some(images),
        }
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
        let images_stated = match self.whole {
            Some(Whole::AsItIs) => None,
            Some(Whole::With(stated)) => Some(stated.get()),
            None => self.images_by_route(rules),
        };
        Arrival {
            study_instance_uid: self.about.study_instance_uid.clone(),
            images: self.images.len(),
            images_stated,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::PacsFile;
    use super::*;

    const CONFIG: InboxConfig = InboxConfig {
        quiet: Duration::from_hours(1),
        longest: Duration::from_hours(1),
        late: Duration::from_hours(1),
        limits: Limits::CLINICAL,
    };

    fn about() -> About {
        About {
            study_instance_uid: "1.2".to_owned(),
            owner: None,
            calling_ae_title: None,
            sent: None,
        }
    }

    fn images(count: usize) -> BTreeMap<String, KeptImage> {
        let kept = KeptImage {
            bytes: 1,
            sha256: [0; 32],
        };
        (0..count).map(|n| (n.to_string(), kept)).collect()
    }

    /// Whether a study that is not quiet is due with 0, 1, 2 … images.
    fn due(rules: &str, whole: Option<Whole>) -> [bool; 6] {
        let rules = PacsFile::parse(rules).unwrap().rules().unwrap();
        [0, 1, 2, 3, 4, 5].map(|count| {
            let mut study = Study::new(about());
            study.images = images(count);
            study.open = 1;
            study.whole = whole;
            study.is_due(&CONFIG, &rules)
        })
    }

    #[test]
    fn a_study_is_due_with_the_images_that_were_stated() {
        let route = "[[route]]\nimages=3";
        let with = |n: usize| Some(Whole::With(NonZeroUsize::new(n).unwrap()));
        let none = [false; 6];
        assert_eq!(due("", None), none);
        assert_eq!(due(route, None), [false, false, false, true, false, false]);
        let elsewhere = "[[route]]\nbody_part='knee'\nimages=3";
        assert_eq!(due(elsewhere, None), none);
        // What is said of this study goes before what its route says of all.
        for rules in ["", route] {
            let at_once = [false, true, true, true, true, true];
            assert_eq!(due(rules, Some(Whole::AsItIs)), at_once);
            assert_eq!(
                due(rules, with(4)),
                [false, false, false, false, true, true]
            );
        }
    }

    #[test]
    fn a_stated_number_never_delays_and_waits_for_what_is_being_written() {
        let rules = PacsFile::parse("[[route]]\nimages=3").unwrap().rules();
        let rules = rules.unwrap();
        let mut study = Study::new(about());
        study.images = images(3);
        study.writing.insert("4".to_owned());
        assert!(!study.is_due(&CONFIG, &rules));
        study.writing.clear();
        assert!(study.is_due(&CONFIG, &rules));
        study.images = images(2);
        let quick = InboxConfig {
            quiet: Duration::ZERO,
            ..CONFIG
        };
        assert!(!study.is_due(&CONFIG, &rules) && study.is_due(&quick, &rules));
    }

    #[test]
    fn a_route_s_number_counts_after_a_restart_too() {
        let rules = PacsFile::parse("[[route]]\nimages=3").unwrap().rules();
        let found = ArrivingStudy {
            key: "k".to_owned(),
            about: about(),
            images: images(3),
            newest: SystemTime::now(),
        };
        assert!(resumed(found, Words::default()).is_due(&CONFIG, &rules.unwrap()));
    }
}
