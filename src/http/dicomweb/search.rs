//! QIDO-RS: which studies, series and instances there are (PS3.18, 10.6).
//!
//! Values are compared as they are: UIDs (or lists of them), modalities, classes, a patient's ID; there are no
//! wildcards, no dates and no fuzzy names. A key that is not known is refused and not ignored, because a search
//! that is wider than what was asked for shows somebody else's images. Refusals name keys, never values.
use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::HeaderName;
use axum::response::Response;
use dawson_inference::problem::Code;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::super::problem::Failure;
use super::Uids;
use super::catalogue::{self, Instance};
use super::json::{self, Dataset};

/// The most answers at once.
const MOST: usize = 5000;
/// RFC 7234, 5.5; HTTP itself has dropped it, PS3.18 has not.
const WARNING: HeaderName = HeaderName::from_static("warning");

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Study,
    Series,
    Instance,
}

/// A key that is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Study,
    Series,
    Instance,
    Class,
    Modality,
    Patient,
}

impl Key {
    const ALL: [(&str, Tag, Self); 7] = [
        ("StudyInstanceUID", tags::STUDY_INSTANCE_UID, Self::Study),
        ("SeriesInstanceUID", tags::SERIES_INSTANCE_UID, Self::Series),
        ("SOPInstanceUID", tags::SOP_INSTANCE_UID, Self::Instance),
        ("SOPClassUID", tags::SOP_CLASS_UID, Self::Class),
        ("Modality", tags::MODALITY, Self::Modality),
        (
            "ModalitiesInStudy",
            tags::MODALITIES_IN_STUDY,
            Self::Modality,
        ),
        ("PatientID", tags::PATIENT_ID, Self::Patient),
    ];

    /// By keyword or by tag.
    fn parse(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(keyword, tag, _)| {
            *keyword == name || json::key(*tag).eq_ignore_ascii_case(name)
        });
        found.map(|(.., key)| *key)
    }

    fn is_uid(self) -> bool {
        !matches!(self, Self::Modality | Self::Patient)
    }

    fn of(self, instance: &Instance) -> &str {
        match self {
            Self::Study => &instance.study,
            Self::Series => &instance.series,
            Self::Instance => &instance.uid,
            Self::Class => &instance.sop_class,
            Self::Modality => &instance.modality,
            Self::Patient => &instance.patient_id,
        }
    }
}

/// A search.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// All must fit; of a key's values one.
    matches: Vec<(Key, Vec<String>)>,
    limit: usize,
    offset: usize,
    /// Somebody asked for fuzzy matching.
    fuzzy: bool,
}

impl Search {
    /// Reads the query of an address whose path names `uids`.
    pub(super) fn parse(query: &[(String, String)], uids: &Uids) -> Result<Self, Failure> {
        let mut search = Self {
            matches: Vec::new(),
            limit: MOST,
            offset: 0,
            fuzzy: false,
        };
        let path = [(Key::Study, &uids.study), (Key::Series, &uids.series)];
        for (key, uid) in path {
            if let Some(uid) = uid {
                search.matches.push((key, vec![uid.clone()]));
            }
        }
        for (name, value) in query {
            match name.as_str() {
                "limit" => search.limit = count(name, value)?.min(MOST),
                "offset" => search.offset = count(name, value)?,
                "fuzzymatching" => {
                    search.fuzzy = value
                        .parse()
                        .map_err(|_| wrong("fuzzymatching must be true or false"))?;
                }
                // Every answer has all that there is to be told.
                "includefield" => {}
                _ => search.add(name, value)?,
            }
        }
        Ok(search)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let Some(key) = Key::parse(name) else {
            let shown: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let shown = shown.get(..shown.len().min(64)).unwrap_or_default();
            let known: Vec<&str> = Key::ALL.iter().map(|(keyword, ..)| *keyword).collect();
            let known = known.join(", ");
            let detail = format!(
                "the key '{shown}' is not matched; matched are {known}; limit, offset, includefield and \
                 fuzzymatching are taken too"
            );
            return Err(wrong(detail));
        };
        // No value fits all.
        if value.is_empty() {
            return Ok(());
        }
        let values: Vec<String> = if key == Key::Patient {
            vec![value.to_owned()]
        } else {
            value.split([',', '\\']).map(str::to_owned).collect()
        };
        if key.is_uid()
            && !values
                .iter()
                .all(|value| dawson_imaging::dicom::is_uid(value))
        {
            return Err(wrong(format!("{name} must be a UID or a list of UIDs")));
        }
        if values.iter().any(|value| value.contains(['*', '?'])) {
            return Err(wrong(format!("{name} is compared as it is: no * and no ?")));
        }
        self.matches.push((key, values));
        Ok(())
    }

    fn fits(&self, instance: &Instance) -> bool {
        let fits = |(key, values): &(Key, Vec<String>)| {
            values.iter().any(|value| value == key.of(instance))
        };
        self.matches.iter().all(fits)
    }

    /// The answer, of objects that lie by study, series and instance.
    pub(super) fn answer(&self, level: Level, uids: &Uids, all: &[Arc<Instance>]) -> Response {
        let same = |a: &Arc<Instance>, b: &Arc<Instance>| match level {
            Level::Study => a.study == b.study,
            Level::Series => a.study == b.study && a.series == b.series,
            Level::Instance => false,
        };
        let groups = all.chunk_by(same);
        let found: Vec<_> = groups
            .filter(|group| group.iter().any(|i| self.fits(i)))
            .collect();
        let page = found.iter().skip(self.offset).take(self.limit);
        let told = page.filter_map(|group| {
            let first = group.first()?;
            Some(match level {
                Level::Study => study(first, group),
                Level::Series if uids.study.is_none() => {
                    let of_study = all.iter().filter(|other| other.study == first.study);
                    let mut told = study(first, &of_study.cloned().collect::<Vec<_>>());
                    told.extend(series(first, group));
                    told
                }
                Level::Series => series(first, group),
                Level::Instance => instance(first, uids),
            })
        });
        let told: Vec<Dataset> = told.collect();
        let left = found
            .len()
            .saturating_sub(self.offset.saturating_add(told.len()));
        let mut response = super::answer(&told);
        let mut warnings = Vec::new();
        if left > 0 {
            warnings.push(format!(
                "There are {left} additional results that can be requested"
            ));
        }
        if self.fuzzy {
            warnings.push(
                "The fuzzymatching parameter is not supported. Only literal matching has been performed."
                    .to_owned(),
            );
        }
        for warning in warnings {
            if let Ok(value) = HeaderValue::from_str(&format!("299 dawson: \"{warning}\"")) {
                response.headers_mut().append(WARNING, value);
            }
        }
        response
    }
}

fn wrong(detail: impl Into<String>) -> Failure {
    Failure::new(Code::MalformedRequest, detail)
}

fn count(name: &str, value: &str) -> Result<usize, Failure> {
    let number = value.parse::<u32>();
    let number = number.map_err(|_| wrong(format!("{name} must be a whole number")))?;
    Ok(number as usize)
}

/// Of what an object says, these.
fn those(instance: &Instance, tags: &[Tag]) -> Dataset {
    let mut said = instance.said();
    let those = tags.iter().filter_map(|&tag| {
        let key = json::key(tag);
        let value = said.remove(&key)?;
        Some((key, value))
    });
    those.collect()
}

fn put(told: &mut Dataset, tag: Tag, vr: VR, value: impl Into<serde_json::Value>) {
    told.insert(json::key(tag), json::element(vr, value));
}

fn study(first: &Instance, all: &[Arc<Instance>]) -> Dataset {
    let mut told = those(first, &catalogue::STUDY);
    let series: BTreeSet<&str> = all.iter().map(|i| i.series.as_str()).collect();
    let modalities = all.iter().map(|i| i.modality.as_str());
    let modalities: BTreeSet<&str> = modalities.filter(|m| !m.is_empty()).collect();
    let url = super::url(&first.study, None, None);
    let modalities = serde_json::json!({ "vr": "CS", "Value": modalities });
    told.insert(json::key(tags::MODALITIES_IN_STUDY), modalities);
    put(&mut told, tags::INSTANCE_AVAILABILITY, VR::CS, "ONLINE");
    put(&mut told, tags::RETRIEVE_URL, VR::UR, url);
    put(
        &mut told,
        tags::NUMBER_OF_STUDY_RELATED_SERIES,
        VR::IS,
        series.len(),
    );
    put(
        &mut told,
        tags::NUMBER_OF_STUDY_RELATED_INSTANCES,
        VR::IS,
        all.len(),
    );
    told
}

fn series(first: &Instance, all: &[Arc<Instance>]) -> Dataset {
    let mut told = those(first, &catalogue::SERIES);
    told.extend(those(first, &[tags::STUDY_INSTANCE_UID]));
    let url = super::url(&first.study, Some(&first.series), None);
    put(&mut told, tags::RETRIEVE_URL, VR::UR, url);
    put(
        &mut told,
        tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
        VR::IS,
        all.len(),
    );
    told
}

fn instance(this: &Instance, uids: &Uids) -> Dataset {
    let mut told = those(this, &catalogue::INSTANCE);
    if uids.study.is_none() {
        told.extend(those(this, &catalogue::STUDY));
    }
    if uids.series.is_none() {
        told.extend(those(this, &catalogue::SERIES));
    }
    told.extend(those(
        this,
        &[tags::STUDY_INSTANCE_UID, tags::SERIES_INSTANCE_UID],
    ));
    let url = super::url(&this.study, Some(&this.series), Some(&this.uid));
    put(&mut told, tags::INSTANCE_AVAILABILITY, VR::CS, "ONLINE");
    put(&mut told, tags::RETRIEVE_URL, VR::UR, url);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Search, Failure> {
        let pairs = query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Search::parse(&pairs.collect::<Vec<_>>(), &Uids::default())
    }

    #[test]
    fn keys_are_known_by_keyword_and_by_tag() {
        let by_keyword = parse("StudyInstanceUID=1.2,1.3&limit=7&includefield=all").unwrap();
        let by_tag = parse("0020000d=1.2\\1.3&limit=7").unwrap();
        assert_eq!(by_keyword, by_tag);
        assert_eq!(by_tag.matches[0].1, ["1.2", "1.3"]);
        // A patient's ID may have a comma in it.
        assert_eq!(parse("PatientID=a,b").unwrap().matches[0].1, ["a,b"]);
        assert_eq!(parse("PatientID=").unwrap().matches, []);
    }

    #[test]
    fn what_is_not_understood_is_refused_without_the_value() {
        for query in [
            "PatientName=Doe",
            "StudyDate=Doe",
            "StudyInstanceUID=Doe",
            "PatientID=Doe*",
            "limit=Doe",
            "offset=-1",
            "fuzzymatching=Doe",
        ] {
            let failure = parse(query).unwrap_err();
            assert_eq!(failure.code(), Code::MalformedRequest, "{query}");
            assert!(!format!("{failure:?}").contains("Doe"), "{query}");
        }
    }
}
