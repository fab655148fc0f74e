//! The options of a request: a JSON object, unknown fields refused.
use std::collections::BTreeMap;

use dawson_imaging::align::Align;
use dawson_imaging::dicom::Wish;
use dawson_imaging::dicom::write::Kind;
use dawson_imaging::vote::Weighting;
use dawson_inference::engine::Precision;
use dawson_inference::models::{Manifest, Voting};
use dawson_inference::pipeline::{Asked, Output, Settings};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::jobs::Wanted;
use crate::store::Priority;

/// The longest label.
const MAX_LABEL: usize = 200;
/// The most wrong fields that are named.
const MAX_WRONG: usize = 20;

/// What is wrong with the options.
#[derive(Debug)]
pub(super) struct WrongOption {
    /// The field, if it is one field.
    pub(super) field: Option<String>,
    pub(super) reason: String,
}
/// The longest address that is called back.
const MAX_CALLBACK: usize = 2000;
/// The latest deadline: a week.
const MAX_DEADLINE_S: u64 = 604_800;

/// What shapes a result. Everything may be left out; the model has defaults.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// The network: name, or name@version.
    #[schema(example = "ms-lesion")]
    pub(super) model: Option<String>,
    /// The least probability of a lesion's voxel, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f32>,
    /// The least volume of a lesion in millilitres, 0 to 1000.
    #[schema(minimum = 0, maximum = 1000)]
    min_lesion_ml: Option<f64>,
    /// `single`: the whole brain as one patch; `full`: overlapping patches vote; `adaptive`: the one, and patches
    /// vote beside it where it is in doubt.
    voting: Option<VotingOption>,
    /// The share of a patch that the next one covers again, 0 to 0.9.
    #[schema(minimum = 0, maximum = 0.9)]
    overlap: Option<f64>,
    /// Voxels of a patch, multiples of the network's from 32 to 256.
    patch: Option<[usize; 3]>,
    /// How votes weigh.
    weighting: Option<WeightingOption>,
    /// Whether each patch is looked at once more, turned by half a turn about the body's long axis; the model's own if
    /// nothing is said.
    flips: Option<bool>,
    /// The numbers to compute in; `auto`, as if nothing was said: those of the model.
    precision: Option<PrecisionOption>,
    /// Whether and how contrasts are laid on the FLAIR; rigid if nothing is said.
    align: Option<AlignOption>,
    /// Whether an anatomy network, if one is installed, finds the brain and the regions of lesions.
    #[schema(default = true)]
    anatomy: Option<bool>,
    /// What to make besides the report; the DICOM objects only of studies that came as DICOM. Unless named, all
    /// but `probability_uint8`, `dicom_seg_labelmap` and `dicom_sc`, and `dicom_images` with `de_identify` only.
    outputs: Option<Vec<OutputOption>>,
    /// Which series of a DICOM study are which contrasts, by `SeriesInstanceUID`; the others are found.
    #[schema(example = json!({"flair": "1.3.12.2.1107.5.2.43.1"}))]
    series: Option<BTreeMap<String, String>>,
    /// Where the result of a DICOM study is filed: names of the server's destinations. What they take is made,
    /// whatever `outputs` says.
    #[schema(example = json!(["pacs"]))]
    send_to: Option<Vec<String>>,
    /// Whether nothing that is made of a DICOM study says whose it is (PS3.15 basic profile): DICOM objects and images have
    /// pseudonyms, other UIDs and no dates. Not together with `send_to`. The face in the images stays.
    #[schema(default = false)]
    de_identify: Option<bool>,
    /// Whether it goes before others; `urgent` needs a scope of its own where keys are asked for.
    pub(super) priority: Option<PriorityOption>,
    /// It is not begun later than so many seconds after it was acknowledged, but fails with `expired`.
    #[schema(minimum = 1, maximum = 604_800)]
    pub(super) deadline_s: Option<u64>,
    /// Where its end is told, by the Standard Webhooks convention; the host must be on the server's list.
    #[schema(max_length = 2000)]
    pub(super) callback_url: Option<String>,
    /// The caller's own words, at most 200 characters.
    #[schema(max_length = 200)]
    pub(super) label: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PriorityOption {
    Urgent,
    Routine,
    Batch,
}

impl From<PriorityOption> for Priority {
    fn from(option: PriorityOption) -> Self {
        match option {
            PriorityOption::Urgent => Self::Urgent,
            PriorityOption::Routine => Self::Routine,
            PriorityOption::Batch => Self::Batch,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum VotingOption {
    Full,
    Single,
    Adaptive,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WeightingOption {
    BSpline2,
    Gaussian,
    Uniform,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AlignOption {
    Auto,
    None,
    Rigid,
    Affine,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PrecisionOption {
    Auto,
    F32,
    Bf16,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OutputOption {
    Lesions,
    Instances,
    Probability,
    ProbabilityUint8,
    Preview,
    Brain,
    Regions,
    DicomSeg,
    DicomSegLesions,
    DicomSegLabelmap,
    DicomSr,
    DicomPdf,
    DicomSc,
    DicomImages,
}

impl Options {
    /// Reads the text of an options part; every field that is wrong is named.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<WrongOption>> {
        let options: Self = serde_json::from_str(text).map_err(|e| each_wrong(text, &e))?;
        let wrong = options.too_long_or_late();
        if wrong.is_empty() {
            Ok(options)
        } else {
            Err(wrong)
        }
    }

    /// What no type says.
    fn too_long_or_late(&self) -> Vec<WrongOption> {
        let longer = |text: &Option<String>, most| {
            text.as_ref()
                .is_some_and(|text| text.chars().count() > most)
        };
        let late = self
            .deadline_s
            .filter(|s| !(1..=MAX_DEADLINE_S).contains(s));
        let checks = [
            (
                "label",
                longer(&self.label, MAX_LABEL)
                    .then(|| format!("label has more than {MAX_LABEL} characters")),
            ),
            (
                "callback_url",
                longer(&self.callback_url, MAX_CALLBACK)
                    .then(|| format!("callback_url has more than {MAX_CALLBACK} characters")),
            ),
            (
                "deadline_s",
                late.map(|s| format!("deadline_s is {s}, must be 1 to {MAX_DEADLINE_S}")),
            ),
            (
                "send_to",
                (self.de_identify == Some(true) && self.send_to.iter().flatten().next().is_some())
                    .then(|| {
                        "send_to and de_identify exclude each other: what is filed names its patient"
                            .to_owned()
                    }),
            ),
            (
                "series",
                self.wishes().is_none().then(|| {
                    "series must give contrasts (flair, t1w, t2w, pdw, t1gd) the UIDs of series"
                        .to_owned()
                }),
            ),
        ];
        checks
            .into_iter()
            .filter_map(|(field, reason)| {
                Some(WrongOption {
                    field: Some(field.to_owned()),
                    reason: reason?,
                })
            })
            .collect()
    }

    /// The fields that are out of their range for a model, each looked at by itself.
    pub(super) fn out_of_range(&self, manifest: &Manifest) -> Vec<WrongOption> {
        let asked = self.asked();
        let nothing = Asked::default;
        let alone = [
            (
                "threshold",
                Asked {
                    threshold: asked.threshold,
                    ..nothing()
                },
            ),
            (
                "min_lesion_ml",
                Asked {
                    min_lesion_ml: asked.min_lesion_ml,
                    ..nothing()
                },
            ),
            (
                "overlap",
                Asked {
                    overlap: asked.overlap,
                    ..nothing()
                },
            ),
            (
                "patch",
                Asked {
                    patch: asked.patch,
                    ..nothing()
                },
            ),
            (
                "outputs",
                Asked {
                    outputs: asked.outputs.clone(),
                    de_identify: asked.de_identify,
                    ..nothing()
                },
            ),
        ];
        alone
            .into_iter()
            .filter_map(|(field, asked)| {
                let wrong = Settings::resolve(&asked, manifest).err()?;
                Some(WrongOption {
                    field: Some(field.to_owned()),
                    reason: wrong.to_string(),
                })
            })
            .collect()
    }

    /// What `series` says; none if it names no contrast or gives no UID.
    fn wishes(&self) -> Option<Vec<Wish>> {
        let series = self.series.iter().flatten();
        series.map(|(name, uid)| Wish::parse(name, uid)).collect()
    }

    /// What a job is to do.
    fn wanted(&self) -> Wanted {
        let mut send_to = self.send_to.clone().unwrap_or_default();
        send_to.sort();
        send_to.dedup();
        Wanted {
            asked: self.asked(),
            send_to,
        }
    }

    fn asked(&self) -> Asked {
        Asked {
            threshold: self.threshold,
            min_lesion_ml: self.min_lesion_ml,
            voting: self.voting.map(|v| match v {
                VotingOption::Full => Voting::Full,
                VotingOption::Single => Voting::Single,
                VotingOption::Adaptive => Voting::Adaptive,
            }),
            overlap: self.overlap,
            patch: self.patch,
            weighting: self.weighting.map(|w| match w {
                WeightingOption::BSpline2 => Weighting::BSpline2,
                WeightingOption::Gaussian => Weighting::Gaussian,
                WeightingOption::Uniform => Weighting::Uniform,
            }),
            flips: self.flips,
            align: self.align.map(|a| match a {
                AlignOption::None => Align::None,
                AlignOption::Auto | AlignOption::Rigid => Align::Rigid,
                AlignOption::Affine => Align::Affine,
            }),
            anatomy: self.anatomy,
            precision: self.precision.and_then(|p| match p {
                PrecisionOption::Auto => None,
                PrecisionOption::F32 => Some(Precision::F32),
                PrecisionOption::Bf16 => Some(Precision::Bf16),
            }),
            outputs: self.outputs.as_ref().map(|outputs| {
                outputs
                    .iter()
                    .map(|o| match o {
                        OutputOption::Lesions => Output::Lesions,
                        OutputOption::Instances => Output::Instances,
                        OutputOption::Probability => Output::Probability,
                        OutputOption::ProbabilityUint8 => Output::ProbabilityUint8,
                        OutputOption::Preview => Output::Preview,
                        OutputOption::Brain => Output::Brain,
                        OutputOption::Regions => Output::Regions,
                        OutputOption::DicomSeg => Output::Dicom(Kind::Burden),
                        OutputOption::DicomSegLesions => Output::Dicom(Kind::EachLesion),
                        OutputOption::DicomSegLabelmap => Output::Dicom(Kind::LabelMap),
                        OutputOption::DicomSr => Output::Dicom(Kind::Measurements),
                        OutputOption::DicomPdf => Output::Dicom(Kind::Document),
                        OutputOption::DicomSc => Output::Dicom(Kind::Capture),
                        OutputOption::DicomImages => Output::DicomImages,
                    })
                    .collect()
            }),
            series: self.wishes().unwrap_or_default(),
            de_identify: self.de_identify,
        }
    }
}

/// What is wrong field by field; `whole` if that finds nothing (no JSON, a field twice).
fn each_wrong(text: &str, whole: &serde_json::Error) -> Vec<WrongOption> {
    let alone = |reason| {
        vec![WrongOption {
            field: None,
            reason,
        }]
    };
    let fields = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return alone("must be a JSON object".to_owned()),
        Err(e) => return alone(format!("no JSON: {e}")),
    };
    let wrong: Vec<WrongOption> = fields
        .into_iter()
        .filter_map(|(field, value)| {
            let alone = Value::Object([(field.clone(), value)].into_iter().collect());
            let error = serde_path_to_error::deserialize::<_, Options>(alone).err()?;
            Some(WrongOption {
                field: Some(field.chars().take(60).filter(|c| !c.is_control()).collect()),
                reason: plainly(&error),
            })
        })
        .take(MAX_WRONG)
        .collect();
    if wrong.is_empty() {
        return alone(whole.to_string());
    }
    wrong
}

/// Which field is wrong, and how, in the words of the form and not of the program.
fn plainly(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let mut words = error.inner().to_string();
    for (types, plain) in [
        ("f32", "a number"),
        ("f64", "a number"),
        ("u64", "a whole number"),
        ("usize", "a whole number"),
        ("an array of length 3", "three numbers"),
    ] {
        words = words.replace(&format!("expected {types}"), &format!("expected {plain}"));
    }
    match error.path().to_string().as_str() {
        "." => words,
        field if words.contains(field) => words,
        field => format!("{field}: {words}"),
    }
}

/// Reads options as a job's row holds them.
///
/// # Errors
/// What is wrong, field by field.
pub fn read_options(text: &str) -> Result<Wanted, String> {
    Options::parse(text)
        .map(|options| options.wanted())
        .map_err(|wrong| {
            let reasons: Vec<String> = wrong.into_iter().map(|w| w.reason).collect();
            reasons.join("; ")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_and_a_wrong_type_are_refused_by_name() {
        let typo = read_options(r#"{"treshold": 0.5}"#).unwrap_err();
        assert!(typo.contains("treshold"), "{typo}");
        let kind = read_options(r#"{"voting": "sometimes"}"#).unwrap_err();
        assert!(
            kind.contains("sometimes") && kind.contains("single"),
            "{kind}"
        );
        let number = read_options(r#"{"threshold": "half"}"#).unwrap_err();
        assert!(
            number.contains("threshold") && number.contains("expected a number"),
            "{number}"
        );
        assert_eq!(read_options("[]").unwrap_err(), "must be a JSON object");
        assert!(read_options(r#"{"label": 5}"#).is_err());
        let all = Options::parse(r#"{"treshold": 1, "flips": "no", "overlap": 0.5, "label": 5}"#);
        let fields: Vec<_> = all
            .unwrap_err()
            .into_iter()
            .filter_map(|w| w.field)
            .collect();
        assert_eq!(fields, ["flips", "label", "treshold"]);
        let twice = Options::parse(r#"{"flips": true, "flips": false}"#).unwrap_err();
        assert!(twice[0].reason.contains("duplicate field"), "{twice:?}");
        assert!(read_options(r#"{"deadline_s": 0}"#).is_err());
        assert!(read_options(r#"{"series": {"flair": "../1"}}"#).is_err());
        assert!(read_options(r#"{"series": {"t3": "1.2"}}"#).is_err());
        let asked = read_options(r#"{"series": {"t1w": "1.2.3"}}"#)
            .unwrap()
            .asked;
        assert_eq!(asked.series[0].series_instance_uid, "1.2.3");
    }

    #[test]
    fn auto_is_what_is_meant_if_nothing_is_said() {
        let asked = read_options(r#"{"precision": "auto", "align": "auto", "voting": "adaptive"}"#)
            .unwrap()
            .asked;
        assert_eq!((asked.precision, asked.align), (None, Some(Align::Rigid)));
        assert_eq!(asked.voting, Some(Voting::Adaptive));
    }

    #[test]
    fn every_field_is_understood() {
        let wanted = read_options(
            r#"{"model": "ms-lesion", "threshold": 0.4, "min_lesion_ml": 0.01, "voting": "full", "overlap": 0.25,
                "patch": [64, 64, 64], "weighting": "bspline2", "flips": true, "precision": "bf16",
                "outputs": ["lesions", "preview"], "label": "x", "send_to": ["pacs", "archive", "pacs"]}"#,
        )
        .unwrap();
        assert_eq!(wanted.send_to, ["archive", "pacs"]);
        let asked = wanted.asked;
        assert_eq!(
            (asked.voting, asked.weighting),
            (Some(Voting::Full), Some(Weighting::BSpline2))
        );
        assert_eq!(asked.outputs, Some(vec![Output::Lesions, Output::Preview]));
    }
}
