//! A DICOM study: which of its series is which contrast, and their volumes.
use dawson_imaging::dicom::{
    Choice, Confidence, Decision, Limits, NoChoice, Pseudonyms, Refusal, Scan, SeriesRow, SiteRule,
    Stack, Study, StudyError, Wish, choose, members,
};
use dawson_imaging::study::Contrast;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::intake::{Decoded, Taken};
use super::needs::ScanSize;
use super::{Artifact, Error, MediaType, Output, Settings, error};
use crate::report::{SeriesReport, Warning};

/// A DICOM study with its choice of series; nothing is decoded yet.
pub struct Selection {
    study: Study,
    choice: Choice,
    /// Bytes of all files.
    bytes: u64,
}

impl Selection {
    /// Reads the headers of a study's files, and chooses; `whole` if its images are to be written again without names.
    ///
    /// # Errors
    /// [`Error::Dicom`], [`Error::Choice`]
    pub(super) fn of(
        files: Vec<Vec<u8>>,
        wishes: &[Wish],
        rules: &[SiteRule],
        whole: bool,
    ) -> Result<Self, Error> {
        let bytes = files.iter().map(|file| file.len() as u64).sum();
        let study = if whole {
            Study::read_whole(files, &Limits::CLINICAL)
        } else {
            Study::read(files, &Limits::CLINICAL)
        };
        let study = study.map_err(Error::Dicom)?;
        let choice = choose(&study, wishes, rules).map_err(|no_choice| match no_choice {
            // It is a file that is wrong, whatever its series would have been taken for.
            NoChoice::Refused {
                reason: Refusal::DamagedImage { file, reason },
                ..
            } => Error::Dicom(StudyError::File {
                number: file,
                reason,
            }),
            other => Error::Choice(other),
        })?;
        Ok(Self {
            study,
            choice,
            bytes,
        })
    }

    /// The same, of a zip archive.
    ///
    /// # Errors
    /// [`Error::Archive`], and as [`Selection::of`].
    pub(super) fn of_zip(
        zip: &[u8],
        wishes: &[Wish],
        rules: &[SiteRule],
        whole: bool,
    ) -> Result<Self, Error> {
        let files = members(zip, &Limits::CLINICAL).map_err(Error::Archive)?;
        Self::of(files, wishes, rules, whole)
    }

    /// The contrasts that were chosen, and what each unpacks to.
    #[must_use]
    pub fn scans(&self) -> Vec<ScanSize> {
        let stacks = self.choice.chosen.iter();
        let stacks = stacks.filter_map(|chosen| self.study.stacks.get(chosen.stack));
        let samples = self.study.samples_behind(&stacks.collect::<Vec<_>>());
        let chosen = self.choice.chosen.iter();
        chosen
            .filter_map(|chosen| {
                let grid = self.study.stacks.get(chosen.stack)?.grid().ok()?;
                // The files of all series are held together, so the FLAIR's share stands for them.
                let of_flair = chosen.contrast == Contrast::Flair;
                let (file_bytes, samples) = if of_flair {
                    (self.bytes, samples)
                } else {
                    (0, 0)
                };
                let size = ScanSize::of_grid(chosen.contrast, &grid, file_bytes);
                Some(size.with_images(samples))
            })
            .collect()
    }

    /// Decodes what was chosen. A contrast beside the FLAIR whose pixels cannot be decoded, or that cannot be
    /// de-identified, is left out, with its reason, unless the caller named its series.
    ///
    /// With `pseudonyms` nothing that is taken says whose it is, and the images come along if they were asked for.
    pub(super) fn decode(
        mut self,
        settings: &Settings,
        pseudonyms: Option<&Pseudonyms>,
    ) -> Result<Taken, Error> {
        let wishes = &settings.series;
        let mut decoded = Vec::new();
        let mut taken = Vec::new();
        let mut source = None;
        let mut also = Vec::new();
        for chosen in std::mem::take(&mut self.choice.chosen) {
            let contrast = chosen.contrast;
            let Some(stack) = self.study.stacks.get(chosen.stack) else {
                continue;
            };
            match self.scan(stack, pseudonyms) {
                Ok(scan) => {
                    taken.push((contrast, stack));
                    let values = scan.volume.samples().iter().flat_map(|v| v.to_le_bytes());
                    let mut hash = Sha256::new();
                    hash.update(values.collect::<Vec<u8>>());
                    if contrast == Contrast::Flair {
                        source = Some(scan.source);
                    } else {
                        also.push((contrast, scan.source));
                    }
                    decoded.push(Decoded {
                        contrast,
                        volume: scan.volume,
                        spatial: scan.spatial,
                        datatype: scan.datatype,
                        affine_from: "image_position_patient",
                        disagreement_mm: None,
                        orientation_known: true,
                        non_finite: scan.non_finite,
                        sha256: hex::encode(hash.finalize()),
                    });
                }
                Err(reason) => {
                    let named = wishes.iter().any(|wish| wish.contrast == contrast);
                    if named || contrast == Contrast::Flair {
                        return Err(Error::Stack { contrast, reason });
                    }
                    if let Some(row) = self.choice.series.get_mut(chosen.stack) {
                        row.decision = Decision::Refused(reason);
                    }
                }
            }
        }
        let series_uid = |uid: &str| {
            pseudonyms.map_or_else(|| uid.to_owned(), |p| p.uid(uid).as_str().to_owned())
        };
        let pseudonyms = pseudonyms.filter(|_| settings.outputs.contains(&Output::DicomImages));
        let images = pseudonyms.map_or(Ok(Vec::new()), |p| self.images(&taken, p))?;
        let warnings = self.warnings(series_uid);
        let series = self.choice.series.iter();
        Ok(Taken {
            decoded,
            source,
            also,
            series: series.map(|row| series_report(row, series_uid)).collect(),
            warnings,
            images,
        })
    }

    /// A stack decoded; with `pseudonyms` in whose pixels no names stand, and whose source says none.
    fn scan(&self, stack: &Stack, pseudonyms: Option<&Pseudonyms>) -> Result<Scan, Refusal> {
        let mut scan = self.study.decode(stack)?;
        if let Some(pseudonyms) = pseudonyms {
            self.study.names_nobody(stack)?;
            scan.source = pseudonyms.source(&scan.source);
        }
        Ok(scan)
    }

    /// The images of what was taken, without what says whose they are.
    fn images(
        &self,
        taken: &[(Contrast, &Stack)],
        pseudonyms: &Pseudonyms,
    ) -> Result<Vec<Artifact>, Error> {
        let stacks: Vec<&Stack> = taken.iter().map(|(_, stack)| *stack).collect();
        let contrast_of = |place: usize| taken.get(place).map_or(Contrast::Flair, |(c, _)| *c);
        let images = self.study.nameless(&stacks, pseudonyms);
        let images = images.map_err(|(place, reason)| Error::Stack {
            contrast: contrast_of(place),
            reason,
        })?;
        let numbered = images.into_iter().zip(1..);
        let files = numbered.map(|((place, image), n)| Artifact {
            name: format!("{}/{n:04}.dcm", contrast_of(place)),
            media_type: MediaType::Dicom,
            bytes: image,
        });
        Ok(files.collect())
    }

    fn warnings(&self, series_uid: impl Fn(&str) -> String) -> Vec<Warning> {
        let damaged = self.study.damaged.iter().map(|one| {
            let (number, reason) = (one.number, &one.reason);
            let series = series_uid(&one.series_instance_uid);
            let detail = format!(
                "file {number} is damaged ({reason}), so series {series}, which it is of, was not used"
            );
            error::warning("damaged_image", None, detail)
        });
        let mut warnings: Vec<Warning> = damaged.collect();
        for (stack, row) in self.study.stacks.iter().zip(&self.choice.series) {
            let Decision::Chosen(contrast) = row.decision else {
                continue;
            };
            let mut warn = |code, detail: String| {
                warnings.push(error::warning(code, Some(contrast), detail));
            };
            if row.derived {
                let detail = "it was computed from other images, and no original one was sent";
                warn("derived_series", detail.to_owned());
            }
            if row.confidence == Confidence::Low {
                let detail = "its times do not tell the contrast: its names were believed";
                warn("contrast_uncertain", detail.to_owned());
            }
            if stack.instance_gaps > 0 {
                let detail = format!(
                    "{} numbers are left out among the images of its series: some may be missing",
                    stack.instance_gaps
                );
                warn("instance_gaps", detail);
            }
        }
        warnings
    }
}

fn series_report(row: &SeriesRow, series_uid: impl Fn(&str) -> String) -> SeriesReport {
    let contrast = match row.decision {
        Decision::Chosen(contrast) | Decision::RunnerUp(contrast) => {
            Some(contrast.name().to_owned())
        }
        Decision::Refused(_) | Decision::Excluded | Decision::LeftOut => None,
    };
    let refusal = match &row.decision {
        Decision::Refused(refusal) => Some(refusal),
        _ => None,
    };
    SeriesReport {
        series_instance_uid: series_uid(&row.series_instance_uid),
        stack: row.stack,
        images: row.images,
        class: row.class.name().to_owned(),
        confidence: row.confidence.name().to_owned(),
        because: row.because.clone(),
        derived: row.derived,
        decision: row.decision.name().to_owned(),
        contrast,
        reason: refusal.map(|refusal| refusal.name().to_owned()),
        detail: refusal.map(ToString::to_string),
    }
}

/// Why a site's rules are not read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// No TOML of the documented fields.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A rule that fits every series.
    #[error("rule {number} names no text to look for")]
    Empty {
        /// From 1.
        number: usize,
    },
    /// A contrast that is not known.
    #[error(
        "rule {number}: contrast '{contrast}' is not known, must be flair, t1w, t2w, pdw, t1gd or none"
    )]
    Contrast {
        /// From 1.
        number: usize,
        /// What stands there.
        contrast: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    series_description: Option<String>,
    protocol_name: Option<String>,
    sequence_name: Option<String>,
    contrast: String,
}

/// Reads a site's rules: TOML with `[[rule]]` tables of `series_description`, `protocol_name` and
/// `sequence_name` (parts of those texts, in any case; all that are given must be found) and `contrast`, which
/// is a contrast's name or `none` for series that are never taken. The first rule that fits decides.
///
/// # Errors
/// [`RulesError`] names the rule.
///
/// ```
/// # use dawson_inference::pipeline::series_rules;
/// let rules = series_rules("[[rule]]\nseries_description = \"cs_dark\"\ncontrast = \"flair\"")?;
/// assert_eq!(rules.len(), 1);
/// assert!(series_rules("[[rule]]\ncontrast = \"flair\"").is_err());
/// # Ok::<(), dawson_inference::pipeline::RulesError>(())
/// ```
pub fn series_rules(text: &str) -> Result<Vec<SiteRule>, RulesError> {
    let file: RulesFile = toml::from_str(text)?;
    let rule = |(entry, number): (RuleEntry, usize)| {
        let contrast = Contrast::parse(&entry.contrast);
        if contrast.is_none() && entry.contrast != "none" {
            let contrast = entry.contrast;
            return Err(RulesError::Contrast { number, contrast });
        }
        let texts = [
            &entry.series_description,
            &entry.protocol_name,
            &entry.sequence_name,
        ];
        if texts
            .iter()
            .all(|text| text.as_ref().is_none_or(String::is_empty))
        {
            return Err(RulesError::Empty { number });
        }
        Ok(SiteRule {
            series_description: entry.series_description,
            protocol_name: entry.protocol_name,
            sequence_name: entry.sequence_name,
            contrast,
        })
    };
    file.rule.into_iter().zip(1..).map(rule).collect()
}
