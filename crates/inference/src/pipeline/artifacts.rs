//! A result as files.
use dawson_imaging::nifti::{Compression, Element, SpatialFields, encode};
use dawson_imaging::preview::{self, Shown};
use dawson_imaging::volume::Volume;
use rayon::prelude::*;

use super::{Error, Output, Segmentation};
use crate::report::NOTICE;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `.nii.gz`
    Nifti,
    /// `.png`
    Png,
    /// `.json`
    Json,
}

impl MediaType {
    /// The name for `Content-Type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nifti => "application/gzip",
            Self::Png => "image/png",
            Self::Json => "application/json",
        }
    }
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its name, such as `lesions.nii.gz`.
    pub name: &'static str,
    /// Its kind.
    pub media_type: MediaType,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Segmentation {
    /// Makes the files that were asked for, and `report.json`.
    ///
    /// NIfTI files lie on the FLAIR's own grid with its sform, qform, codes and units.
    ///
    /// # Errors
    /// [`Error::Preview`], [`Error::Report`].
    pub fn artifacts(&self) -> Result<Vec<Artifact>, Error> {
        let mut artifacts: Vec<Artifact> = self
            .outputs
            .par_iter()
            .filter_map(|&output| self.artifact(output).transpose())
            .collect::<Result<_, _>>()?;
        let mut bytes = serde_json::to_vec_pretty(&self.report).map_err(Error::Report)?;
        bytes.push(b'\n');
        artifacts.push(Artifact {
            name: "report.json",
            media_type: MediaType::Json,
            bytes,
        });
        Ok(artifacts)
    }

    /// One file; `None` if nothing is known of what it holds.
    fn artifact(&self, output: Output) -> Result<Option<Artifact>, Error> {
        let made = match output {
            Output::Lesions => self.nifti("lesions.nii.gz", &self.lesions.mask()),
            Output::Instances => match u16::try_from(self.lesions.items.len()) {
                Ok(_) => self.nifti(
                    "instances.nii.gz",
                    &self.lesions.instances.map(|id| id as u16),
                ),
                Err(_) => self.nifti("instances.nii.gz", &self.lesions.instances),
            },
            Output::Probability => self.nifti("probability.nii.gz", &self.probability),
            Output::Preview => {
                let shown = Shown {
                    flair: &self.flair,
                    lesions: &self.lesions,
                    places: &self.places,
                    frame: self.frame,
                };
                Artifact {
                    name: "preview.png",
                    media_type: MediaType::Png,
                    bytes: preview::draw(&shown, NOTICE).map_err(Error::Preview)?,
                }
            }
            Output::Brain => match &self.brain {
                Some(brain) => self.nifti("brain.nii.gz", brain),
                None => return Ok(None),
            },
            Output::Regions if self.report.anatomy.is_some() => {
                let code = |id: u32| {
                    let place = self.places.get((id as usize).wrapping_sub(1));
                    place.map_or(0, |place| place.region.code())
                };
                self.nifti("regions.nii.gz", &self.lesions.instances.map(code))
            }
            Output::Regions => return Ok(None),
        };
        Ok(Some(made))
    }

    fn nifti<T: Element>(&self, name: &'static str, volume: &Volume<T>) -> Artifact {
        let spatial: &SpatialFields = &self.spatial;
        Artifact {
            name,
            media_type: MediaType::Nifti,
            bytes: encode(volume, spatial, Compression::Gzip),
        }
    }
}
