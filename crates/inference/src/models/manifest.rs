//! `model.toml`: all that the service must know about a network.
//!
//! The format is described for people in `docs/models.md`. Unknown keys are refused, and every number
//! is checked here, so that nothing downstream has to.
use std::num::NonZeroUsize;

use dawson_imaging::normalise::Normalisation;
use dawson_imaging::study::Contrast;
use dawson_imaging::vote::Weighting;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::engine::Precision;

/// The only edition of the format so far.
const FORMAT: u32 = 1;

/// What every network says about itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Heading {
    format: u32,
    /// Its name, the folder's name.
    pub name: String,
    /// Its version, the sub-folder's name.
    pub version: String,
    /// One line for people.
    pub title: String,
    /// The licence of the weights.
    pub licence: String,
    /// What it is for and not for.
    pub intended_use: String,
    /// The network's file, beside `model.toml`.
    pub file: String,
    /// SHA-256 of that file, in hexadecimal.
    pub sha256: String,
    /// How the file came to be, if that is told.
    pub made: Option<Made>,
}

/// How a network's file came to be.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The command that wrote it.
    pub command: String,
    /// The commit of the repository that the command was run in.
    pub commit: String,
    /// Hours of training that went into its weights.
    pub training_hours: f64,
}

/// A checked description of a network that finds lesions.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// What every network says about itself.
    pub heading: Heading,
    /// What goes in.
    pub input: Input,
    /// How intensities are scaled.
    pub normalisation: Normalisation,
    /// How a study is cut and fused.
    pub patches: Patches,
    /// What comes out.
    pub output: Output,
    /// A patch whose answer is known.
    pub golden: Golden,
}

/// What a network takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The tensor's name; `[n, c, k, j, i]` with k upwards, j forwards, i to the right (RAS+).
    pub name: String,
    /// The contrasts in the order of the channels.
    pub contrasts: Vec<Contrast>,
    /// Those that a study must have.
    pub required: Vec<Contrast>,
    /// The value of every voxel of a contrast that a study lacks.
    pub missing_value: f32,
    /// Millimetres between voxels along i, j, k.
    pub spacing_mm: [f64; 3],
    /// Every side of a patch is a multiple of this.
    pub multiple: NonZeroUsize,
}

/// How often the network looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voting {
    /// Overlapping patches vote.
    Full,
    /// One patch holds the whole brain.
    Single,
    /// One patch holds the whole brain; overlapping patches vote beside it where it is in doubt.
    Adaptive,
}

impl Voting {
    /// Every voting.
    pub const ALL: [Self; 3] = [Self::Full, Self::Single, Self::Adaptive];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Single => "single",
            Self::Adaptive => "adaptive",
        }
    }
}

/// How a study is cut into patches.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// The voting that a request gets if it asks for none.
    pub voting: Voting,
    /// Voxels of a patch, `[i, j, k]`, where patches vote.
    pub shape: [NonZeroUsize; 3],
    /// The share of a patch that the next one covers again.
    pub overlap: f64,
    /// How votes weigh.
    pub weighting: Weighting,
    /// Whether a request that says nothing of it gets two looks at each patch.
    pub flips: bool,
    /// The numbers that a request gets that names none: the card shows that they change nothing that matters.
    pub precision: Precision,
}

/// What a network gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The tensor's name; `[n, 1, k, j, i]`, probabilities.
    pub name: String,
    /// The least probability of a lesion's voxel.
    pub threshold: f32,
    /// The least volume of a lesion.
    pub min_lesion_ml: f64,
    /// Whether the probability outside the brain is set to 0.
    pub restrict_to_brain: bool,
}

/// A bright ball in a brain of ripples, and what the network says about it (see [`super::golden`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// Voxels of the patch.
    pub shape: [NonZeroUsize; 3],
    /// The height of the ball in each channel, in normalised units.
    pub peaks: Vec<f32>,
    /// The standard deviation of the ball, in voxels.
    pub sigma: f64,
    /// How far a probability may be off in f32.
    pub tolerance: f32,
    /// Voxels `[i, j, k]` and their probabilities.
    pub expected: Vec<([usize; 3], f32)>,
    /// The mean probability of the patch.
    pub mean: f32,
}

#[derive(Deserialize)]
struct Document {
    #[serde(flatten)]
    heading: Heading,
    input: InputTable,
    normalisation: NormalisationTable,
    patches: PatchesTable,
    output: OutputTable,
    golden: GoldenTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTable {
    name: String,
    contrasts: Vec<String>,
    required: Vec<String>,
    missing_value: f32,
    spacing_mm: [f64; 3],
    multiple: NonZeroUsize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NormalisationTable {
    centre: String,
    scale: String,
    clip: [f32; 2],
    outside_brain: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchesTable {
    voting: String,
    shape: [NonZeroUsize; 3],
    overlap: f64,
    weighting: String,
    #[serde(default)]
    flips: bool,
    precision: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputTable {
    name: String,
    threshold: f32,
    min_lesion_ml: f64,
    restrict_to_brain: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoldenTable {
    shape: [NonZeroUsize; 3],
    peaks: Vec<f32>,
    sigma: f64,
    tolerance: f32,
    mean: f32,
    expected: Vec<GoldenVoxel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenVoxel {
    at: [usize; 3],
    probability: f32,
}

impl Manifest {
    /// Reads and checks the text of a `model.toml`.
    ///
    /// # Errors
    /// [`Error::Manifest`] with the key and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document: Document = document(text)?;
        document.check()
    }
}

/// Reads a document of known keys.
///
/// Keys of the top level are compared here, since a heading that is shared takes in all that it does not
/// know; the tables below refuse what they do not know by themselves.
pub(super) fn document<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    let unreadable = |e: &toml::de::Error| Error::Manifest {
        key: e.span().map_or_else(String::new, |at| {
            format!("bytes {} to {}", at.start, at.end)
        }),
        reason: e.message().to_owned(),
    };
    let table: toml::Table = text.parse().map_err(|e| unreadable(&e))?;
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(wrong(unknown, "is not known"));
    }
    toml::from_str(text).map_err(|e| unreadable(&e))
}

/// Every key of the top level.
const KEYS: [&str; 16] = [
    "format",
    "task",
    "name",
    "version",
    "title",
    "licence",
    "intended_use",
    "file",
    "sha256",
    "made",
    "input",
    "normalisation",
    "patches",
    "showing",
    "output",
    "golden",
];

pub(super) fn wrong(key: &str, reason: impl Into<String>) -> Error {
    Error::Manifest {
        key: key.to_owned(),
        reason: reason.into(),
    }
}

impl Heading {
    pub(super) fn check(self) -> Result<Self, Error> {
        if self.format != FORMAT {
            return Err(wrong(
                "format",
                format!("{} is not known, must be {FORMAT}", self.format),
            ));
        }
        for (key, name) in [("name", &self.name), ("version", &self.version)] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(wrong(
                    key,
                    format!("'{name}' must be letters, digits, '-', '_' and '.'"),
                ));
            }
        }
        if self.file.contains(['/', '\\']) || self.file.starts_with('.') {
            return Err(wrong("file", "must be a file beside model.toml"));
        }
        if self.sha256.len() != 64 || !self.sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong("sha256", "must be 64 hexadecimal digits"));
        }
        Ok(Self {
            sha256: self.sha256.to_ascii_lowercase(),
            ..self
        })
    }
}

impl Document {
    fn check(self) -> Result<Manifest, Error> {
        let heading = self.heading.check()?;
        let input = self.input.check()?;
        let patches = self.patches.check(input.multiple)?;
        let golden = self.golden.check(input.contrasts.len(), input.multiple)?;
        Ok(Manifest {
            heading,
            normalisation: self.normalisation.check()?,
            output: self.output.check()?,
            input,
            patches,
            golden,
        })
    }
}

impl InputTable {
    fn check(self) -> Result<Input, Error> {
        let known = |key: &str, names: &[String]| {
            names
                .iter()
                .map(|n| {
                    Contrast::parse(n).ok_or_else(|| wrong(key, format!("'{n}' is no contrast")))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let contrasts = known("input.contrasts", &self.contrasts)?;
        let required = known("input.required", &self.required)?;
        if contrasts.first() != Some(&Contrast::Flair) || !required.contains(&Contrast::Flair) {
            return Err(wrong(
                "input.contrasts",
                "the first must be flair, and it must be required",
            ));
        }
        if let Some(extra) = required.iter().find(|c| !contrasts.contains(c)) {
            return Err(wrong(
                "input.required",
                format!("{extra} is not among the contrasts"),
            ));
        }
        let distinct = contrasts
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        if distinct != contrasts.len() {
            return Err(wrong("input.contrasts", "a contrast stands there twice"));
        }
        if !self.spacing_mm.iter().all(|s| (0.2..=10.0).contains(s)) {
            return Err(wrong("input.spacing_mm", "must be 0.2 to 10"));
        }
        if self.multiple.get() > 64 {
            return Err(wrong("input.multiple", "must be 1 to 64"));
        }
        Ok(Input {
            name: self.name,
            contrasts,
            required,
            missing_value: finite("input.missing_value", self.missing_value)?,
            spacing_mm: self.spacing_mm,
            multiple: self.multiple,
        })
    }
}

pub(super) fn finite(key: &str, value: f32) -> Result<f32, Error> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(wrong(key, "must be a finite number"))
    }
}

impl NormalisationTable {
    fn check(self) -> Result<Normalisation, Error> {
        if self.centre != "median" {
            return Err(wrong("normalisation.centre", "must be \"median\""));
        }
        if self.scale != "iqr" {
            return Err(wrong("normalisation.scale", "must be \"iqr\""));
        }
        let [low, high] = self.clip;
        // Not-a-number fails this comparison too.
        let ascending = low < high;
        if !ascending {
            return Err(wrong("normalisation.clip", "must be two ascending numbers"));
        }
        let outside_brain = finite("normalisation.outside_brain", self.outside_brain)?;
        Ok(Normalisation {
            clip: self.clip,
            outside_brain,
        })
    }
}

impl PatchesTable {
    fn check(self, multiple: NonZeroUsize) -> Result<Patches, Error> {
        let voting = Voting::ALL
            .into_iter()
            .find(|v| v.name() == self.voting)
            .ok_or_else(|| {
                wrong(
                    "patches.voting",
                    "must be \"full\", \"single\" or \"adaptive\"",
                )
            })?;
        let weighting = Weighting::ALL
            .into_iter()
            .find(|w| w.name() == self.weighting)
            .ok_or_else(|| {
                wrong(
                    "patches.weighting",
                    "must be \"bspline2\", \"gaussian\" or \"uniform\"",
                )
            })?;
        let precision = match self.precision {
            Some(name) => Precision::ALL
                .into_iter()
                .find(|p| p.name() == name)
                .ok_or_else(|| wrong("patches.precision", "must be \"f32\" or \"bf16\""))?,
            None => Precision::F32,
        };
        if !(0.0..=0.9).contains(&self.overlap) {
            return Err(wrong("patches.overlap", "must be 0 to 0.9"));
        }
        check_shape("patches.shape", self.shape, multiple)?;
        Ok(Patches {
            voting,
            shape: self.shape,
            overlap: self.overlap,
            weighting,
            flips: self.flips,
            precision,
        })
    }
}

pub(super) fn check_shape(
    key: &str,
    shape: [NonZeroUsize; 3],
    multiple: NonZeroUsize,
) -> Result<(), Error> {
    let fits = |n: &NonZeroUsize| n.get() <= 512 && n.get() % multiple == 0;
    if shape.iter().all(fits) {
        Ok(())
    } else {
        Err(wrong(
            key,
            format!("must be multiples of {multiple} up to 512"),
        ))
    }
}

impl OutputTable {
    fn check(self) -> Result<Output, Error> {
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(wrong("output.threshold", "must be 0 to 1"));
        }
        if !(0.0..=1000.0).contains(&self.min_lesion_ml) {
            return Err(wrong("output.min_lesion_ml", "must be 0 to 1000"));
        }
        Ok(Output {
            name: self.name,
            threshold: self.threshold,
            min_lesion_ml: self.min_lesion_ml,
            restrict_to_brain: self.restrict_to_brain,
        })
    }
}

impl GoldenTable {
    pub(super) fn check(self, channels: usize, multiple: NonZeroUsize) -> Result<Golden, Error> {
        check_shape("golden.shape", self.shape, multiple)?;
        if self.peaks.len() != channels {
            return Err(wrong(
                "golden.peaks",
                format!("must be {channels} numbers, one a channel"),
            ));
        }
        let within = |v: &GoldenVoxel| (0..3).all(|a| v.at[a] < self.shape[a].get());
        if self.expected.is_empty() || !self.expected.iter().all(within) {
            return Err(wrong(
                "golden.expected",
                "must be voxels of the patch, at least one",
            ));
        }
        Ok(Golden {
            shape: self.shape,
            peaks: self.peaks,
            sigma: self.sigma,
            tolerance: self.tolerance,
            expected: self
                .expected
                .into_iter()
                .map(|v| (v.at, v.probability))
                .collect(),
            mean: self.mean,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../../models/ms-lesion/0.1.0/model.toml");

    #[test]
    fn the_shipped_description_is_valid() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!(manifest.heading.name, "ms-lesion");
        assert_eq!(manifest.input.contrasts[0], Contrast::Flair);
    }

    #[test]
    fn each_wrong_value_is_refused_with_its_key() {
        let cases = [
            ("format = 1", "format = 2", "format"),
            ("required = [\"flair\"]", "required = [\"t1gd\"]", "input"),
            ("overlap = 0.5", "overlap = 1.5", "patches.overlap"),
            (
                "weighting = \"bspline2\"",
                "weighting = \"b\"",
                "patches.weighting",
            ),
            (
                "centre = \"median\"",
                "centre = \"mean\"",
                "normalisation.centre",
            ),
            ("multiple = 16", "multiple = 0", "bytes"),
            ("multiple = 16", "multiple = 13", "patches.shape"),
            ("file = \"model.onnx\"", "file = \"../model.onnx\"", "file"),
            ("name = \"ms-lesion\"", "name = \"../x\"", "name"),
            ("threshold = ", "treshold = 1 #", "bytes"),
            ("title = ", "titel = 1 #", "titel"),
        ];
        for (good, bad, key) in cases {
            assert!(GOOD.contains(good), "{good}");
            let refused = Manifest::parse(&GOOD.replacen(good, bad, 1));
            match refused {
                Err(Error::Manifest { key: found, .. }) => {
                    assert!(found.starts_with(key), "{found} {key}");
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
    }
}
