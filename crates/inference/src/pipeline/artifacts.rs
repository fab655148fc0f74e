//! A result as files.
use dawson_imaging::nifti::{Compression, Element, SpatialFields, encode};
use dawson_imaging::preview;
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
            .map(|&output| self.artifact(output))
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

    fn artifact(&self, output: Output) -> Result<Artifact, Error> {
        match output {
            Output::Lesions => Ok(self.nifti("lesions.nii.gz", &self.lesions.mask())),
            Output::Instances => Ok(match u16::try_from(self.lesions.items.len()) {
                Ok(_) => self.nifti(
                    "instances.nii.gz",
                    &self.lesions.instances.map(|id| id as u16),
                ),
                Err(_) => self.nifti("instances.nii.gz", &self.lesions.instances),
            }),
            Output::Probability => Ok(self.nifti("probability.nii.gz", &self.probability)),
            Output::Preview => {
                let bytes = preview::draw(&self.flair, &self.lesions, self.frame, NOTICE)
                    .map_err(Error::Preview)?;
                Ok(Artifact {
                    name: "preview.png",
                    media_type: MediaType::Png,
                    bytes,
                })
            }
        }
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
