//! Why a study has no result, and the code of each reason.
use dawson_imaging::normalise::NoContrast;
use dawson_imaging::study::Contrast;
use dawson_imaging::{dicom, nifti, preview, study};

use super::looks::{AnotherHead, NoHead};
use super::settings::OutOfRange;
use crate::models;
use crate::problem::{Class, Code, Problem};
use crate::{engine, report};

/// Why a study has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is not a scan.
    #[error("{contrast}: {reason}")]
    Decode {
        /// The contrast it was sent as.
        contrast: Contrast,
        /// What is wrong with it.
        reason: nifti::Error,
    },
    /// Files that are no DICOM study.
    #[error(transparent)]
    Dicom(dicom::StudyError),
    /// A zip archive that is not taken.
    #[error(transparent)]
    Archive(dicom::Error),
    /// A study in which no series can be chosen.
    #[error(transparent)]
    Choice(dicom::NoChoice),
    /// A series that was chosen, and cannot be decoded.
    #[error("{contrast}: {reason}")]
    Stack {
        /// What it was chosen as.
        contrast: Contrast,
        /// What is wrong with it.
        reason: dicom::Refusal,
    },
    /// A contrast that was given twice.
    #[error("{contrast} was given twice")]
    Duplicate {
        /// The contrast.
        contrast: Contrast,
    },
    /// A contrast that the model requires and the study lacks.
    #[error("model {model} needs {contrast}, and it is missing")]
    Missing {
        /// The contrast.
        contrast: Contrast,
        /// Name and version.
        model: String,
    },
    /// Contrasts that do not make a study.
    #[error(transparent)]
    Study(study::Error),
    /// What is on the FLAIR is no head.
    #[error("flair: {0}")]
    NoHead(NoHead),
    /// A contrast of another head.
    #[error("{contrast}: {reason}")]
    AnotherHead {
        /// The contrast.
        contrast: Contrast,
        /// What was seen.
        reason: AnotherHead,
    },
    /// A brain without contrast.
    #[error("{contrast}: {reason}")]
    Normalise {
        /// The contrast.
        contrast: Contrast,
        /// What was found.
        reason: NoContrast,
    },
    /// A setting out of its range.
    #[error(transparent)]
    Settings(OutOfRange),
    /// So many patches that one study would keep the engine for hours.
    #[error(
        "the study needs {looks} patches, at most {max} are computed: ask for larger patches or less overlap"
    )]
    TooManyLooks {
        /// Patches.
        looks: usize,
        /// The limit.
        max: usize,
    },
    /// The network could not be run.
    #[error(transparent)]
    Engine(engine::Error),
    /// The picture could not be drawn.
    #[error(transparent)]
    Preview(preview::Error),
    /// The report could not be written.
    #[error("the report could not be written: {0}")]
    Report(serde_json::Error),
    /// A DICOM object that could not be made.
    #[error(transparent)]
    Object(dicom::write::Error),
    /// The de-identified images could not be packed.
    #[error("the de-identified images: {0}")]
    Images(dicom::Error),
    /// De-identification was asked for, and there is no key for other names.
    #[error("there is no key for pseudonyms")]
    NoPseudonyms,
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Decode { reason, .. } => nifti_code(reason),
            Self::Dicom(error) => study_code(error),
            Self::Choice(dicom::NoChoice::UnknownSeries { .. }) => Code::UnknownSeries,
            Self::Missing { .. } | Self::Choice(dicom::NoChoice::NoFlair { .. }) => {
                Code::MissingFlair
            }
            Self::Stack {
                reason:
                    dicom::Refusal::Pixels {
                        reason: dicom::Error::Annotated,
                        ..
                    },
                ..
            } => Code::NotDeIdentifiable,
            Self::Stack {
                reason:
                    dicom::Refusal::Pixels {
                        reason: dicom::Error::Unwritable,
                        ..
                    },
                ..
            } => Code::Internal,
            // `NoChoice` may grow; what it adds is a series that cannot be taken.
            Self::Stack { .. } | Self::Choice(_) => Code::UnusableSeries,
            Self::Duplicate { .. } => Code::DuplicatePart,
            Self::Study(study::Error::Elsewhere { .. }) => Code::ContrastElsewhere,
            Self::Study(study::Error::NothingThere(_)) | Self::Normalise { .. } => Code::NoContrast,
            Self::Study(study::Error::Grid(_)) => Code::InvalidAffine,
            Self::Study(study::Error::FieldTooLarge { .. })
            | Self::Archive(dicom::Error::TooMuch { .. }) => Code::ImageTooLarge,
            Self::Archive(_) => Code::DamagedArchive,
            Self::NoHead(_) => Code::NoHead,
            Self::AnotherHead { .. } => Code::AnotherHead,
            Self::TooManyLooks { .. } => Code::StudyTooLarge,
            Self::Settings(_) => Code::InvalidOptions,
            Self::Engine(error) => engine_code(error),
            Self::Cancelled => Code::Cancelled,
            // `study::Error` may grow; what it adds is ours to explain.
            Self::Study(_)
            | Self::Preview(_)
            | Self::Report(_)
            | Self::Object(_)
            | Self::Images(_)
            | Self::NoPseudonyms => Code::Internal,
        }
    }

    /// The problem as a client sees it: what was ours to prevent is not explained to it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let code = self.code();
        match code.class() {
            Class::Invalid => Problem::new(code, self.to_string()),
            // The reason may name files and libraries; the log has it.
            Class::Transient | Class::Internal => Problem::new(code, code.page()),
        }
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Cancelled => Self::Cancelled,
            other => Self::Engine(other),
        }
    }
}

/// The code of an image that cannot be read.
#[must_use]
pub fn nifti_code(error: &nifti::Error) -> Code {
    use nifti::Error as E;
    match error {
        E::NotNifti { .. } => Code::NotNifti,
        E::HeaderTruncated { .. }
        | E::Gzip { .. }
        | E::DataTruncated { .. }
        | E::TrailingData { .. }
        | E::DataOffset { .. }
        | E::Bitpix { .. }
        | E::AxisLength { found: ..=0, .. } => Code::DamagedImage,
        E::AxisLength { .. } | E::TooManyVoxels { .. } | E::TooManyBytes { .. } => {
            Code::ImageTooLarge
        }
        E::OutOfMemory { .. } => Code::OutOfMemory,

        E::Quaternion { .. } | E::Affine { .. } => Code::InvalidAffine,
        // A pair's header, other axes, several volumes, other types; `nifti::Error` may grow, and what it
        // adds is a kind of image not read.
        _ => Code::UnsupportedImage,
    }
}

/// The code of files that are no study.
fn study_code(error: &dicom::StudyError) -> Code {
    use dicom::StudyError as E;
    match error {
        E::NoImages { .. } => Code::NotDicom,
        E::SeveralStudies => Code::SeveralStudies,
        E::TooLarge { .. } => Code::ImageTooLarge,
        E::File { reason, .. } => match reason {
            dicom::Error::TooMuch { .. } => Code::ImageTooLarge,
            dicom::Error::Syntax { .. } => Code::UnsupportedImage,
            _ => Code::DamagedDicom,
        },
        // `StudyError` may grow; what it adds is a study that is not read.
        _ => Code::DamagedDicom,
    }
}

/// The code of a failure of the engine.
#[must_use]
pub fn engine_code(error: &engine::Error) -> Code {
    use engine::Error as E;
    match error {
        E::LibraryNotFound { .. } | E::LibraryUnusable { .. } => Code::RuntimeUnavailable,
        E::DeviceUnavailable { .. } => Code::DeviceUnavailable,
        E::PrecisionUnavailable { .. } => Code::PrecisionUnavailable,
        E::ModelUnusable { .. } | E::NotProbabilities { .. } => Code::ModelInvalid,
        E::OutOfMemory { .. } => Code::OutOfMemory,
        E::DeviceFailed { .. } => Code::DeviceFailed,
        E::Cancelled => Code::Cancelled,
        E::Stopped => Code::ShuttingDown,
    }
}

/// The code of a model that cannot be used.
#[must_use]
pub fn model_code(error: &models::Error) -> Code {
    use models::Error as E;
    match error {
        E::Unknown { .. } => Code::UnknownModel,
        E::Engine(error) => engine_code(error),
        E::NotFound { .. }
        | E::Read { .. }
        | E::Manifest { .. }
        | E::Misplaced { .. }
        | E::Checksum { .. }
        | E::Golden { .. } => Code::ModelInvalid,
    }
}

/// Something to know about a result.
pub(super) fn warning(code: &str, contrast: Option<Contrast>, detail: String) -> report::Warning {
    report::Warning {
        code: code.to_owned(),
        detail,
        contrast: contrast.map(|c| c.name().to_owned()),
    }
}
