//! A result as files.
use dawson_imaging::dicom::write::{self, Captured, Findings, Flag, Kind, MadeBy, Moment, Writer};
use dawson_imaging::dicom::{NO_MOMENT, Source, packed};
use dawson_imaging::nifti::{Compression, Element, SpatialFields, encode_as};
use dawson_imaging::preview::{self, Shown};
use dawson_imaging::volume::Volume;
use rayon::prelude::*;

use super::{Error, Output, Segmentation, Settings, error};
use crate::report::{ModelReport, NOTICE, Warning};

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `.nii.gz`
    Nifti,
    /// `.png`
    Png,
    /// `.json`
    Json,
    /// `.dcm`
    Dicom,
    /// `.zip`
    Zip,
}

impl MediaType {
    /// The name for `Content-Type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nifti => "application/gzip",
            Self::Png => "image/png",
            Self::Json => "application/json",
            Self::Dicom => "application/dicom",
            Self::Zip => "application/zip",
        }
    }
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its name, such as `lesions.nii.gz`.
    pub name: String,
    /// Its kind.
    pub media_type: MediaType,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Steps of a probability that is stored in one byte.
const STEPS: f32 = 255.0;

fn named(model: &ModelReport) -> write::Model<'_> {
    write::Model {
        name: &model.name,
        version: &model.version,
        sha256: &model.sha256,
    }
}

/// Says which files were asked for that only a DICOM study has.
pub(super) fn missing_objects(settings: &Settings, source: Option<&Source>) -> Option<Warning> {
    let is_object = |output: &Output| matches!(output, Output::Dicom(_) | Output::DicomImages);
    let asked = settings.outputs_named && settings.outputs.iter().any(is_object);
    (asked && source.is_none()).then(|| {
        let detail = "DICOM objects were asked for, but the study came as NIfTI".to_owned();
        error::warning("not_dicom", None, detail)
    })
}

impl Segmentation {
    /// Makes the files that were asked for, and `report.json`.
    ///
    /// NIfTI files lie on the FLAIR's own grid with its sform, qform, codes and units; DICOM objects on the
    /// slices of its series. These say that they were computed at `computed_ms`, milliseconds since 1970, unless they
    /// are de-identified: the same moment gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Preview`], [`Error::Report`], [`Error::Object`], [`Error::Images`].
    pub fn artifacts(&self, computed_ms: i64) -> Result<Vec<Artifact>, Error> {
        let mut artifacts: Vec<Artifact> = self
            .settings
            .outputs
            .par_iter()
            .filter_map(|&output| self.artifact(output).transpose())
            .collect::<Result<_, _>>()?;
        artifacts.extend(self.objects(computed_ms).map_err(Error::Object)?);
        let mut bytes = serde_json::to_vec_pretty(&self.report).map_err(Error::Report)?;
        bytes.push(b'\n');
        artifacts.push(Artifact {
            name: "report.json".to_owned(),
            media_type: MediaType::Json,
            bytes,
        });
        Ok(artifacts)
    }

    /// One file; `None` if nothing is known of what it holds.
    fn artifact(&self, output: Output) -> Result<Option<Artifact>, Error> {
        let made = match output {
            Output::Lesions => {
                let instances = &self.lesions.instances;
                self.nifti("lesions.nii.gz", instances, |id| u8::from(id != 0), 1.0)
            }
            Output::Instances => match u16::try_from(self.lesions.items.len()) {
                Ok(_) => self.nifti(
                    "instances.nii.gz",
                    &self.lesions.instances,
                    |id| id as u16,
                    1.0,
                ),
                Err(_) => self.nifti("instances.nii.gz", &self.lesions.instances, |id| id, 1.0),
            },
            Output::Probability => self.nifti("probability.nii.gz", &self.probability, |p| p, 1.0),
            Output::ProbabilityUint8 => {
                let step = |p: f32| (p * STEPS).round() as u8;
                let name = "probability_uint8.nii.gz";
                self.nifti(name, &self.probability, step, 1.0 / f64::from(STEPS))
            }
            Output::Preview => {
                let shown = Shown {
                    flair: &self.flair,
                    lesions: &self.lesions,
                    places: &self.places,
                    frame: self.frame,
                };
                Artifact {
                    name: "preview.png".to_owned(),
                    media_type: MediaType::Png,
                    bytes: preview::draw(&shown, NOTICE).map_err(Error::Preview)?,
                }
            }
            Output::Brain => match &self.brain {
                Some(brain) => self.nifti("brain.nii.gz", brain, |inside| inside, 1.0),
                None => return Ok(None),
            },
            Output::Regions if self.report.anatomy.is_some() => {
                let code = |id: u32| {
                    let place = self.places.get((id as usize).wrapping_sub(1));
                    place.map_or(0, |place| place.region.code())
                };
                self.nifti("regions.nii.gz", &self.lesions.instances, code, 1.0)
            }
            Output::DicomImages if !self.images.is_empty() => {
                let files = self.images.iter().map(|image| (&image.name, &image.bytes));
                Artifact {
                    name: "dicom_images.zip".to_owned(),
                    media_type: MediaType::Zip,
                    bytes: packed(files).map_err(Error::Images)?,
                }
            }
            Output::Regions | Output::Dicom(_) | Output::DicomImages => return Ok(None),
        };
        Ok(Some(made))
    }

    /// The DICOM objects that were asked for, if the study came as DICOM.
    fn objects(&self, computed_ms: i64) -> Result<Vec<Artifact>, write::Error> {
        let kind = |output: &Output| match output {
            Output::Dicom(kind) => Some(*kind),
            _ => None,
        };
        let kinds: Vec<Kind> = self.settings.outputs.iter().filter_map(kind).collect();
        let Some(source) = self.source.as_ref().filter(|_| !kinds.is_empty()) else {
            return Ok(Vec::new());
        };
        let report = &self.report;
        let computed = jiff::Timestamp::from_millisecond(computed_ms)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .strftime("%Y%m%d%H%M%S")
            .to_string();
        let computed = if self.settings.de_identify {
            NO_MOMENT
        } else {
            &computed
        };
        let moment = Moment::parse(computed)?;
        let also_seen: Vec<_> = self.also_seen.iter().collect();
        let flags: Vec<Flag<'_>> = report
            .warnings
            .iter()
            .map(|warning| Flag {
                code: &warning.code,
                detail: &warning.detail,
            })
            .collect();
        let writer = Writer::new(Findings {
            source,
            also_seen: &also_seen,
            flair: &self.flair,
            lesions: &self.lesions,
            places: &self.places,
            frame: self.frame,
            made_by: MadeBy {
                version: env!("CARGO_PKG_VERSION"),
                model: named(&report.model),
                anatomy: report.anatomy.as_ref().map(|told| named(&told.model)),
                method: &report.lesions.counting_rule,
            },
            flags: &flags,
            computed: &moment,
        })?;
        let objects = writer.objects(&kinds, Captured::WithLesions)?;
        let artifact = |object: write::Object| Artifact {
            name: object.name,
            media_type: MediaType::Dicom,
            bytes: object.file,
        };
        Ok(objects.into_iter().map(artifact).collect())
    }

    fn nifti<T: Copy + Send + Sync, U: Element>(
        &self,
        name: &'static str,
        volume: &Volume<T>,
        stored: impl Fn(T) -> U + Sync,
        slope: f64,
    ) -> Artifact {
        let spatial: &SpatialFields = &self.spatial;
        Artifact {
            name: name.to_owned(),
            media_type: MediaType::Nifti,
            bytes: encode_as(volume, stored, slope, spatial, Compression::Gzip),
        }
    }
}
