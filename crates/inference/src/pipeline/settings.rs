//! What a request asks for, and what that means for a model.
//!
//! [`Asked`] holds what a caller said (all of it may be left out), [`Settings`] what it means:
//! resolved against the model, checked, complete.
use std::num::NonZeroUsize;

use dawson_imaging::align::Align;
use dawson_imaging::dicom::{Wish, write::Kind};
use dawson_imaging::lesions::CountingRule;
use dawson_imaging::vote::Weighting;

use crate::engine::Precision;
use crate::models::{Manifest, Voting};

/// What a caller asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// The least probability of a lesion's voxel, 0 to 1.
    pub threshold: Option<f32>,
    /// The least volume of a lesion, 0 to 1000.
    pub min_lesion_ml: Option<f64>,
    /// One look, many, or many where one is in doubt.
    pub voting: Option<Voting>,
    /// The share of a patch that the next one covers again, 0 to 0.9.
    pub overlap: Option<f64>,
    /// Voxels of a patch where patches vote.
    pub patch: Option<[usize; 3]>,
    /// How votes weigh.
    pub weighting: Option<Weighting>,
    /// Whether each patch is looked at once more, turned by half a turn about the body's long axis.
    pub flips: Option<bool>,
    /// The numbers to compute in; the model's own if nothing is said.
    pub precision: Option<Precision>,
    /// Whether and how contrasts are laid on the FLAIR.
    pub align: Option<Align>,
    /// Whether the brain and the regions of lesions are told by an anatomy network, if there is one.
    pub anatomy: Option<bool>,
    /// What to make besides the report.
    pub outputs: Option<Vec<Output>>,
    /// Which series of a DICOM study are which contrasts; the others are found.
    pub series: Vec<Wish>,
    /// Whether nothing that is made of a DICOM study says whose it is.
    pub de_identify: Option<bool>,
}

/// A file that a result can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `lesions.nii.gz`: 0 and 1.
    Lesions,
    /// `instances.nii.gz`: 0 and the lesions' ids.
    Instances,
    /// `probability.nii.gz`: 0 to 1.
    Probability,
    /// `probability_uint8.nii.gz`: the same in steps of 1/255, a quarter of the bytes.
    ProbabilityUint8,
    /// `preview.png`
    Preview,
    /// `brain.nii.gz`: 0 and 1.
    Brain,
    /// `regions.nii.gz`: 0, and for each lesion the number of its region.
    Regions,
    /// `<kind>.dcm`: a DICOM object, of studies that came as DICOM.
    Dicom(Kind),
    /// `dicom_images.zip`: the de-identified images of its contrasts.
    DicomImages,
}

impl Output {
    /// Every output.
    pub const ALL: [Self; 14] = [
        Self::Lesions,
        Self::Instances,
        Self::Probability,
        Self::ProbabilityUint8,
        Self::Preview,
        Self::Brain,
        Self::Regions,
        Self::Dicom(Kind::Burden),
        Self::Dicom(Kind::EachLesion),
        Self::Dicom(Kind::LabelMap),
        Self::Dicom(Kind::Measurements),
        Self::Dicom(Kind::Document),
        Self::Dicom(Kind::Capture),
        Self::DicomImages,
    ];

    /// What is made unless outputs are named: all but the coarse probability, captures, which are large, the
    /// label map, which many archives refuse, and images, which are for de-identified studies.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let named_only = [
            Self::ProbabilityUint8,
            Self::Dicom(Kind::LabelMap),
            Self::Dicom(Kind::Capture),
            Self::DicomImages,
        ];
        let usual = Self::ALL
            .iter()
            .filter(|output| !named_only.contains(output));
        usual.copied().collect()
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lesions => "lesions",
            Self::Instances => "instances",
            Self::Probability => "probability",
            Self::ProbabilityUint8 => "probability_uint8",
            Self::Preview => "preview",
            Self::Brain => "brain",
            Self::Regions => "regions",
            Self::Dicom(kind) => kind.name(),
            Self::DicomImages => "dicom_images",
        }
    }
}

/// What a request means.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own, by the name that requests know"
)]
pub struct Settings {
    /// The least probability of a lesion's voxel.
    pub threshold: f32,
    /// The least volume of a lesion.
    pub min_lesion_ml: f64,
    /// One look, many, or many where one is in doubt.
    pub voting: Voting,
    /// The share of a patch that the next one covers again.
    pub overlap: f64,
    /// Voxels of a patch where patches vote.
    pub patch: [NonZeroUsize; 3],
    /// How votes weigh.
    pub weighting: Weighting,
    /// Whether each patch is looked at once more, turned by half a turn about the body's long axis.
    pub flips: bool,
    /// The numbers to compute in.
    pub precision: Precision,
    /// Whether and how contrasts are laid on the FLAIR.
    pub align: Align,
    /// Whether the brain and the regions of lesions are told by an anatomy network, if there is one.
    pub anatomy: bool,
    /// What to make besides the report, each once.
    pub outputs: Vec<Output>,
    /// Whether these outputs were asked for one by one.
    pub outputs_named: bool,
    /// Which series of a DICOM study are which contrasts; the others are found.
    pub series: Vec<Wish>,
    /// Whether nothing that is made of a DICOM study says whose it is.
    pub de_identify: bool,
}

/// A value that a request may not have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {found}, must be {allowed}")]
pub struct OutOfRange {
    field: &'static str,
    found: String,
    allowed: String,
}

fn within<T: PartialOrd + ToString>(
    field: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, OutOfRange> {
    if range.contains(&value) {
        Ok(value)
    } else {
        let allowed = format!(
            "{} to {}",
            range.start().to_string(),
            range.end().to_string()
        );
        Err(OutOfRange {
            field,
            found: value.to_string(),
            allowed,
        })
    }
}

impl Settings {
    /// What counts as a lesion.
    #[must_use]
    pub fn counting_rule(&self) -> CountingRule {
        CountingRule {
            threshold: self.threshold,
            min_lesion_ml: self.min_lesion_ml,
        }
    }

    /// What `asked` means for the model of `manifest`: what was left out is the model's default.
    ///
    /// # Errors
    /// [`OutOfRange`] names the field, its value and what is allowed.
    pub fn resolve(asked: &Asked, manifest: &Manifest) -> Result<Self, OutOfRange> {
        let de_identify = asked.de_identify.unwrap_or(false);
        let usual = || {
            let images = de_identify.then_some(Output::DicomImages);
            Output::usual().into_iter().chain(images).collect()
        };
        let mut outputs = Vec::new();
        for output in asked.outputs.clone().unwrap_or_else(usual) {
            if output == Output::DicomImages && !de_identify {
                return Err(OutOfRange {
                    field: "outputs",
                    found: output.name().to_owned(),
                    allowed: "asked for together with de_identify".to_owned(),
                });
            }
            if !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        Ok(Self {
            threshold: within(
                "threshold",
                asked.threshold.unwrap_or(manifest.output.threshold),
                0.0..=1.0,
            )?,
            min_lesion_ml: within(
                "min_lesion_ml",
                asked.min_lesion_ml.unwrap_or(manifest.output.min_lesion_ml),
                0.0..=1000.0,
            )?,
            voting: asked.voting.unwrap_or(manifest.patches.voting),
            overlap: within(
                "overlap",
                asked.overlap.unwrap_or(manifest.patches.overlap),
                0.0..=0.9,
            )?,
            patch: match asked.patch {
                Some(shape) => patch(shape, manifest.input.multiple)?,
                None => manifest.patches.shape,
            },
            weighting: asked.weighting.unwrap_or(manifest.patches.weighting),
            flips: asked.flips.unwrap_or(manifest.patches.flips),
            precision: asked.precision.unwrap_or(manifest.patches.precision),
            align: asked.align.unwrap_or(Align::Rigid),
            anatomy: asked.anatomy.unwrap_or(true),
            outputs,
            outputs_named: asked.outputs.is_some(),
            series: asked.series.clone(),
            de_identify,
        })
    }
}

/// The most voxels of a patch: what 192 voxels a side have.
const MOST_PATCH_VOXELS: usize = 192 * 192 * 192;

/// A patch of at least 32 voxels a side, of sides that suit the network.
fn patch(shape: [usize; 3], multiple: NonZeroUsize) -> Result<[NonZeroUsize; 3], OutOfRange> {
    let side = |n: usize| {
        NonZeroUsize::new(n).filter(|n| (32..=256).contains(&n.get()) && n.get() % multiple == 0)
    };
    match shape.map(side) {
        [Some(i), Some(j), Some(k)] if i.get() * j.get() * k.get() <= MOST_PATCH_VOXELS => {
            Ok([i, j, k])
        }
        _ => Err(OutOfRange {
            field: "patch",
            found: format!("{shape:?}"),
            allowed: format!(
                "three multiples of {multiple} from 32 to 256, at most {MOST_PATCH_VOXELS} voxels"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::parse(include_str!(
            "../../../../models/ms-lesion/0.1.0/model.toml"
        ))
        .unwrap()
    }

    #[test]
    fn what_is_left_out_is_the_model_s_default() {
        let manifest = manifest();
        let settings = Settings::resolve(&Asked::default(), &manifest).unwrap();
        assert_eq!(
            settings.threshold.to_bits(),
            manifest.output.threshold.to_bits()
        );
        assert_eq!(
            (settings.voting, settings.patch),
            (manifest.patches.voting, manifest.patches.shape)
        );
        assert_eq!(settings.outputs, Output::usual());
    }

    #[test]
    fn how_often_is_looked_is_the_model_s_choice_unless_a_request_says() {
        let flips = |of_model: bool, asked: Option<bool>| {
            let mut manifest = manifest();
            manifest.patches.flips = of_model;
            let asked = Asked {
                flips: asked,
                ..Asked::default()
            };
            Settings::resolve(&asked, &manifest).unwrap().flips
        };
        assert_eq!([flips(false, None), flips(true, None)], [false, true]);
        assert!(flips(false, Some(true)) && !flips(true, Some(false)));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let refused = |asked: Asked| {
            Settings::resolve(&asked, &manifest())
                .unwrap_err()
                .to_string()
        };
        let threshold = refused(Asked {
            threshold: Some(1.5),
            ..Asked::default()
        });
        assert_eq!(threshold, "threshold is 1.5, must be 0 to 1");
        let nan = refused(Asked {
            min_lesion_ml: Some(f64::NAN),
            ..Asked::default()
        });
        assert_eq!(nan, "min_lesion_ml is NaN, must be 0 to 1000");
        let images = refused(Asked {
            outputs: Some(vec![Output::DicomImages]),
            ..Asked::default()
        });
        assert!(images.contains("de_identify"), "{images}");
        let patch = refused(Asked {
            patch: Some([40, 64, 64]),
            ..Asked::default()
        });
        assert!(patch.starts_with("patch is [40, 64, 64]"), "{patch}");
    }
}
