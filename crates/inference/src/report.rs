//! What a result says: `report.json`.
//!
//! Wire types only. Lengths are millimetres, volumes millilitres, positions RAS+ world millimetres,
//! times seconds. Fields may be added; clients ignore what they do not know.
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The edition of the report.
pub const SCHEMA: &str = "dawson-report/1";

/// Stands on every report and picture.
pub const NOTICE: &str = "research use only, not for diagnosis";

/// The result of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The edition of this document.
    #[schema(example = "dawson-report/1")]
    pub schema: String,
    /// The network.
    pub model: ModelReport,
    /// What it ran on.
    pub engine: EngineReport,
    /// What was sent.
    pub study: StudyReport,
    /// All that shaped the result.
    pub settings: SettingsReport,
    /// What was found.
    pub lesions: LesionsReport,
    /// The parts of the head, and the lesions by region; absent without an anatomy network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anatomy: Option<AnatomyReport>,
    /// What to know before believing it.
    pub warnings: Vec<Warning>,
    /// Seconds of each stage.
    pub timings_s: Timings,
    /// What this is not.
    #[schema(example = "research use only, not for diagnosis")]
    pub notice: String,
}

/// Which network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its ONNX file.
    pub sha256: String,
}

/// What the network ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EngineReport {
    /// `cpu`, `openvino`, `cuda:N` or `tensorrt:N`.
    pub device: String,
    /// `f32` or `bf16`.
    pub precision: String,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
    /// CPU threads of a patch.
    pub threads: usize,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StudyReport {
    /// FLAIR first.
    pub contrasts: Vec<ContrastReport>,
    /// Every series of a DICOM study, and what became of it; absent for NIfTI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<SeriesReport>,
    /// Shape of the grid on which the network saw the study (RAS+).
    pub grid_shape: [usize; 3],
    /// Its spacing.
    pub grid_spacing_mm: [f64; 3],
    /// `brain` (the sender stripped the skull), `extracted` (the brain was found in the head) or `head`.
    pub foreground: String,
    /// Volume of that foreground.
    pub foreground_ml: f64,
    /// Median of the foreground for the noise on the FLAIR; absent if no noise is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_to_noise: Option<f64>,
    /// How much brighter the air beside the head is than diagonally off it, for the median of the brain;
    /// absent if the FLAIR holds too little air, or was stripped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ghosting: Option<f64>,
}

/// A series of a DICOM study, or a part of one: each orientation, echo and time point is a stack of its own.
/// Nothing that somebody typed is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesReport {
    /// Names it in the option `series`.
    #[schema(example = "1.3.12.2.1107.5.2.43.1")]
    pub series_instance_uid: String,
    /// Which part of the series, from 1.
    pub stack: usize,
    /// Images or frames.
    pub images: usize,
    /// What it shows: a contrast, `localizer`, `echo_planar`, `projection`, `phase`, `susceptibility` or `other`.
    pub class: String,
    /// `low`, `high` or `stated` (by the caller or the site).
    pub confidence: String,
    /// The attributes that decided.
    #[schema(example = json!(["EchoTime 120 ms", "InversionTime 2500 ms"]))]
    pub because: Vec<String>,
    /// Whether it was computed from other images.
    pub derived: bool,
    /// `chosen`, `runner_up`, `refused` (it is no volume), `excluded` (it shows no contrast of a study) or
    /// `left_out` (by the site's rules).
    pub decision: String,
    /// The contrast that it was chosen or ran for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<String>,
    /// Why it is no volume, in `snake_case`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same with its figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One contrast as it was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContrastReport {
    /// `flair`, `t1w`, `t2w`, `pdw` or `t1gd`.
    pub contrast: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    /// Spacing along the file's axes.
    pub spacing_mm: [f64; 3],
    /// Where the file's axes point, such as `LPS`.
    pub orientation: String,
    /// The type of the stored numbers.
    pub datatype: String,
    /// The header fields that place it: `sform`, `qform` or `pixdim`; `image_position_patient` in DICOM.
    pub affine_from: String,
    /// SHA-256 of the file as it was sent; of a DICOM series, of its values (f32, little endian, i fastest).
    pub sha256: String,
    /// Whether the network saw it.
    pub used: bool,
    /// Whether its values were interpolated (else copied voxel by voxel).
    pub resampled: bool,
    /// The share of the brain within its field of view, 0 to 1.
    pub coverage: f64,
    /// How it was laid on the FLAIR; absent for the FLAIR, and where headers were to be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentReport>,
    /// What its tissues say of its contrast; absent without an anatomy network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appearance: Option<AppearanceReport>,
    /// How unevenly the brain is lit; absent without an anatomy network, or if too little tissue was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_field: Option<BiasFieldReport>,
}

/// The smooth field in the brightness of a contrast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BiasFieldReport {
    /// The logarithm of the ratio of its 95 % to its 5 % quantile over the brain's tissue: 0.1 is 11 %.
    pub span: f64,
    /// Whether it was removed before the network saw the contrast: done where the span is more than 0.42.
    pub removed: bool,
}

/// How bright the parts of the head are for one another on a contrast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppearanceReport {
    /// The share of pairs of voxels in which fluid is brighter than white matter, 0 to 1: low on FLAIR and T1,
    /// high on T2, one half where nothing is to be told. Absent if too little fluid was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fluid_over_white: Option<f64>,
    /// The same of the cortex: low on T1, about one half or more on FLAIR, high on T2.
    pub cortex_over_white: f64,
    /// The share of cortex and white matter where it is exactly 0 or does not reach, 0 to 1.
    pub empty: f64,
}

/// How a contrast was laid on the FLAIR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlignmentReport {
    /// The angle by which it was turned; 0 if the headers were right.
    pub rotation_deg: f64,
    /// How far the centre of the head was moved, RAS+.
    pub translation_mm: [f64; 3],
    /// Mutual information with the FLAIR in nats, by the headers.
    pub similarity_before: f64,
    /// By the motion that was found.
    pub similarity_after: f64,
    /// Why the result should not be trusted, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// All that shaped the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SettingsReport {
    /// The least probability of a lesion's voxel.
    pub threshold: f32,
    /// The least volume of a lesion.
    pub min_lesion_ml: f64,
    /// `full` or `single`.
    pub voting: String,
    /// Voxels of a patch, `[i, j, k]`.
    pub patch: [usize; 3],
    /// The share of a patch that the next one covers again.
    pub overlap: f64,
    /// How votes weigh.
    pub weighting: String,
    /// Whether each patch was looked at once more, turned by half a turn about the body's long axis.
    pub flips: bool,
    /// `none`, `rigid` or `affine`.
    #[serde(default)]
    pub align: String,
    /// Whether an anatomy network was to be asked.
    #[serde(default)]
    pub anatomy: bool,
    /// Patches that were computed.
    pub patches: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LesionsReport {
    /// How lesions were counted.
    pub counting_rule: String,
    /// The number of lesions.
    pub count: usize,
    /// Their volume together.
    pub volume_ml: f64,
    /// The volume of the largest, 0 if there is none.
    pub largest_ml: f64,
    /// Mean probability over all lesion voxels, 0 if there is none.
    pub mean_probability: f64,
    /// Each lesion, the largest first.
    pub items: Vec<LesionReport>,
}

/// One lesion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LesionReport {
    /// Its value in `instances.nii.gz`, 1 the largest.
    pub id: u32,
    /// Its volume, counted from voxels of the FLAIR.
    pub volume_ml: f64,
    /// Its voxels on the FLAIR's grid.
    pub voxels: usize,
    /// The mean place of its voxels.
    pub centroid_mm: [f64; 3],
    /// The box around it.
    pub bbox_mm: BoxReport,
    /// The largest distance between two of its voxels' centres.
    pub largest_extent_mm: f64,
    /// Mean probability of its voxels.
    pub mean_probability: f64,
    /// Largest probability of a voxel.
    pub max_probability: f32,
    /// Whether it reaches the edge of the image, so that a part may lie outside.
    pub touches_border: bool,
    /// `periventricular`, `juxtacortical`, `infratentorial` or `deep_white_matter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// From its nearest voxel to the ventricles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ventricles_mm: Option<f64>,
    /// From its nearest voxel to the cortex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_cortex_mm: Option<f64>,
}

/// The parts of the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnatomyReport {
    /// The network that told them.
    pub model: ModelReport,
    /// The brain with its ventricles.
    pub brain_ml: f64,
    /// Lateral, third and fourth ventricle.
    pub ventricles_ml: f64,
    /// The cortex of the cerebrum.
    pub cortex_ml: f64,
    /// The white matter of the cerebrum.
    pub white_matter_ml: f64,
    /// Basal ganglia and thalamus.
    pub deep_grey_ml: f64,
    /// Brainstem and cerebellum.
    pub infratentorial_ml: f64,
    /// How a lesion's region is told.
    pub rule: String,
    /// The lesions of each region; all four are there.
    pub regions: Vec<RegionReport>,
}

/// The lesions of one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionReport {
    /// `periventricular`, `juxtacortical`, `infratentorial` or `deep_white_matter`.
    pub region: String,
    /// Their number.
    pub count: usize,
    /// Their volume together.
    pub volume_ml: f64,
}

/// A box along the world's axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoxReport {
    /// Least x, y, z.
    pub min: [f64; 3],
    /// Largest x, y, z.
    pub max: [f64; 3],
}

/// Something to know before believing a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// Stable, in `snake_case`; the list stands in `docs/warnings.md`.
    #[schema(example = "brain_not_extracted")]
    pub code: String,
    /// What was found, with its figure.
    pub detail: String,
    /// The contrast it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<String>,
}

/// Seconds of each stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// Unpacking and reading the files, and cutting the FLAIR to the head.
    pub decode: f64,
    /// Laying contrasts on the FLAIR while the anatomy network looks at it.
    #[serde(default)]
    pub align: f64,
    /// Waiting for the parts of the head, and reading them.
    #[serde(default)]
    pub anatomy: f64,
    /// Inside the anatomy network, most of it during `align` where there are contrasts to be aligned.
    #[serde(default)]
    pub anatomy_network: f64,
    /// Bringing the contrasts onto one grid.
    pub assemble: f64,
    /// Measuring bias fields, removing strong ones, and scaling intensities.
    pub normalise: f64,
    /// Patches through the network, waiting for other studies included.
    pub infer: f64,
    /// Of that, inside the network for this study's patches.
    pub network: f64,
    /// Bringing the probability back onto the FLAIR's grid.
    pub restore: f64,
    /// Finding and measuring lesions.
    pub count: f64,
    /// From the first to the last of these.
    pub total: f64,
}
