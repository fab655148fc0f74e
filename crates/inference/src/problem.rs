//! Everything that can go wrong, as one closed list of codes.
//!
//! Job rows, HTTP answers, the command line's exit codes and the pages under `/problems/` all read
//! this list. Each room maps its own errors to codes by an exhaustive `match`, so a new error does
//! not compile until it has one.
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request cannot be served as it is: the client changes it.
    Invalid,
    /// It may work later: it is tried again.
    Transient,
    /// A fault of Dawson: the operator is told.
    Internal,
}

macro_rules! codes {
    ($($(#[doc = $page:literal])+ $variant:ident = $code:literal, $class:ident, $status:literal, $exit:literal, $title:literal;)*) => {
        /// A stable code; see `/problems/{code}`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $page])+ $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as it stands on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Who has to act.
            #[must_use]
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// The HTTP status of an answer with this code.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The command line's exit code.
            #[must_use]
            pub fn exit(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// A short title, the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What it means and what to do about it.
            #[must_use]
            pub fn page(self) -> &'static str {
                match self { $(Self::$variant => concat!($($page),+).trim_ascii(),)* }
            }
        }
    };
}

codes! {
    /// The file is neither a NIfTI-1 nor a NIfTI-2 image, packed by gzip or not. Files are told
    /// apart by their content, not by their names. Send one .nii or .nii.gz for each contrast.
    NotNifti = "not_nifti", Invalid, 422, 3, "Not a NIfTI image";
    /// The file ends early, its gzip stream is damaged, or it holds fewer or more voxels than its
    /// header promises. Send the file again; if that does not help, export it again.
    DamagedImage = "damaged_image", Invalid, 422, 3, "The image is damaged";
    /// The image is of a kind that is not read: complex, colour or 128-bit voxels, several volumes
    /// in one file, fewer than three axes, a header without its data. Convert it to one 3D image of
    /// integers or floats.
    UnsupportedImage = "unsupported_image", Invalid, 422, 3, "This kind of image is not read";
    /// None of the files is an MR image: of the classes MR, Enhanced MR and Legacy Converted Enhanced MR
    /// of DICOM. Send all files of the examination, as they are or in one zip.
    NotDicom = "not_dicom", Invalid, 422, 3, "No MR image among the files";
    /// A DICOM file ends early, its lengths or sequences do not fit, or its pixels are not what its
    /// header says. The detail counts the files from 1. Send it again, or export it again.
    DamagedDicom = "damaged_dicom", Invalid, 422, 3, "A DICOM file is damaged";
    /// The zip archive is damaged or encrypted, or holds another archive. Pack the files of one study
    /// with deflate or without compression.
    DamagedArchive = "damaged_archive", Invalid, 422, 3, "The zip archive cannot be read";
    /// The images are of more than one examination. Send each study by itself.
    SeveralStudies = "several_studies", Invalid, 422, 3, "The files are of several studies";
    /// The series that is the FLAIR, or that the request names, is no volume that can be trusted: slices
    /// are missing, doubled, uneven or sheared, positions are missing, or it is a mosaic. The detail says
    /// which. Send the series whole, or name another one in the option series.
    UnusableSeries = "unusable_series", Invalid, 422, 3, "A series cannot be used";
    /// An image says that names are burned into its pixels (Burned In Annotation is not NO), and nothing here takes them
    /// out. Send images without annotations, or do not ask for de-identification.
    NotDeIdentifiable = "not_de_identifiable", Invalid, 422, 3, "An image cannot be de-identified";
    /// The option series names a series that is not in the study.
    UnknownSeries = "unknown_series", Invalid, 422, 3, "A series is not in the study";
    /// The image has more voxels than a brain scan has. The limits stand in the configuration.
    ImageTooLarge = "image_too_large", Invalid, 413, 3, "The image is too large";
    /// The header's affine places no voxel in the world: it is singular, not finite, or its
    /// spacing is not that of a scanner. A result could not be placed either, so it is not guessed.
    InvalidAffine = "invalid_affine", Invalid, 422, 3, "The image's place in the world is not known";
    /// Every voxel of the image, or of the brain on it, has the same value.
    NoContrast = "no_contrast", Invalid, 422, 3, "There is nothing to see on the image";
    /// By their headers, this contrast and the FLAIR show different places. Check that both are of
    /// the same patient and examination.
    ContrastElsewhere = "contrast_elsewhere", Invalid, 422, 3, "A contrast shows another place than the FLAIR";
    /// The anatomy network finds no head on the FLAIR: a phantom, another part of the body, or noise. Send the
    /// FLAIR of the head; a result without the anatomy network is to be had with the option anatomy: false.
    NoHead = "no_head", Invalid, 422, 3, "There is no head on the FLAIR";
    /// A contrast cannot be laid on the FLAIR, and the parts of the FLAIR's head are not to be seen on it: it is of
    /// another head. Check that both are of the same patient, or leave it out.
    AnotherHead = "another_head", Invalid, 422, 3, "A contrast shows another head than the FLAIR";
    /// Every study needs a FLAIR: the part or option named flair, or a series of that kind in a DICOM
    /// study. The option series can say which it is.
    MissingFlair = "missing_flair", Invalid, 422, 3, "The FLAIR is missing";
    /// A part of the form was sent twice.
    DuplicatePart = "duplicate_part", Invalid, 422, 3, "A part was sent twice";
    /// A part of the form has a name that is not known. Known are the contrasts (flair, t1w, t2w,
    /// pdw, t1gd), study and dicom for a DICOM study, and options.
    UnknownPart = "unknown_part", Invalid, 422, 3, "A part is not known";
    /// The options are no JSON object of the documented fields, or a value is out of its range.
    InvalidOptions = "invalid_options", Invalid, 422, 3, "The options are not valid";
    /// No model of that name is installed; GET /v1/models lists those that are.
    UnknownModel = "unknown_model", Invalid, 422, 3, "The model is not known";
    /// The request does not follow its format, for example a multipart body without its boundary.
    MalformedRequest = "malformed_request", Invalid, 400, 3, "The request is malformed";
    /// A study is submitted as multipart/form-data, images by DICOMweb as multipart/related, application/dicom or
    /// application/zip.
    UnsupportedMediaType = "unsupported_media_type", Invalid, 415, 3, "The body has a type that is not taken";
    /// The body is larger than the limit in the configuration.
    BodyTooLarge = "body_too_large", Invalid, 413, 3, "The body is too large";
    /// The request names no key, or one that is not taken: unknown, expired or revoked. Send
    /// Authorization: Bearer and a key; the operator makes one with dawson keys new.
    Unauthorized = "unauthorized", Invalid, 401, 3, "A key is needed";
    /// The key is known, but lacks the scope that this address asks for. The operator can make one
    /// that has it.
    Forbidden = "forbidden", Invalid, 403, 3, "The key may not do this";
    /// The service is not reached under the name in the request's Host header. The operator lists the
    /// names in the configuration.
    UnknownHost = "unknown_host", Invalid, 421, 3, "The service does not go by this name";
    /// There is nothing at this address: no such route, job, artifact, model or problem, or no
    /// longer; results are kept for a limited time.
    NotFound = "not_found", Invalid, 404, 3, "Not found";
    /// The address exists, but not for this method; the answer's Allow header lists those it has.
    MethodNotAllowed = "method_not_allowed", Invalid, 405, 3, "The method is not allowed here";
    /// The answer is not to be had in the form that Accept asks for; the detail names the form that there is.
    /// DICOM objects are given as they are stored, nothing is converted.
    NotAcceptable = "not_acceptable", Invalid, 406, 3, "There is no such form of it";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", Invalid, 408, 3, "The request took too long to arrive";
    /// The job has not ended yet, so it has no results. Wait for it: its events, or Prefer: wait.
    ArtifactNotReady = "artifact_not_ready", Invalid, 404, 3, "The result is not there yet";
    /// The job has already ended; what has ended cannot be cancelled.
    JobEnded = "job_ended", Invalid, 409, 3, "The job has ended";
    /// The same Idempotency-Key came with another request before. Use a new key for a new request.
    IdempotencyMismatch = "idempotency_mismatch", Invalid, 422, 3, "The key was used for another request";
    /// The study needs more memory than this server has been given.
    StudyTooLarge = "study_too_large", Invalid, 413, 3, "The study is too large for this server";
    /// The requested range lies outside the artifact.
    RangeNotSatisfiable = "range_not_satisfiable", Invalid, 416, 3, "The range cannot be served";
    /// The file is not the one that If-Match names. Fetch its entry in the list of artifacts again.
    PreconditionFailed = "precondition_failed", Invalid, 412, 3, "The condition does not hold";
    /// As many jobs wait as may wait. The answer's Retry-After says when to try again.
    QueueFull = "queue_full", Transient, 429, 1, "Too many jobs wait";
    /// The key asks more often than it may, or has too many requests under way. The answer's
    /// Retry-After says when to try again.
    TooManyRequests = "too_many_requests", Transient, 429, 1, "Too many requests";
    /// As many connections are open as may be, and all are at work. Try again a little later.
    Overloaded = "overloaded", Transient, 503, 1, "Too many connections";
    /// The job's deadline passed while it waited, so it was not begun. Submit it again with a later
    /// deadline or a higher priority.
    Expired = "expired", Transient, 503, 1, "The deadline passed while the job waited";
    /// The server is stopping; send the study to another one, or again a little later.
    ShuttingDown = "shutting_down", Transient, 503, 1, "The server is stopping";
    /// The device ran out of memory although the batch was halved and the session built anew.
    OutOfMemory = "out_of_memory", Transient, 503, 4, "The device is out of memory";
    /// The device failed while it computed.
    DeviceFailed = "device_failed", Transient, 503, 4, "The device failed";
    /// The device that the configuration asks for cannot be used. `dawson doctor` says what is
    /// missing and how to mend it; Dawson never computes on another one by itself.
    DeviceUnavailable = "device_unavailable", Internal, 503, 4, "The device cannot be used";
    /// ONNX Runtime is missing or does not load. `make setup` fetches it, `dawson doctor` explains.
    RuntimeUnavailable = "runtime_unavailable", Internal, 503, 4, "ONNX Runtime cannot be used";
    /// A model's files do not match their description, or its golden patch gives other values.
    /// Install the model again; `dawson models verify` checks it.
    ModelInvalid = "model_invalid", Internal, 503, 4, "A model is not valid";
    /// The device does not compute in the precision that was asked for.
    PrecisionUnavailable = "precision_unavailable", Invalid, 422, 4, "The device does not have this precision";
    /// The server's disk is full or failed. The operator has to make room.
    StorageFailed = "storage_failed", Transient, 503, 1, "The server cannot store it";
    /// The job stopped the server three times and is not tried again.
    Crashed = "crashed", Internal, 500, 1, "The job crashed";
    /// The job was cancelled by its caller. Submit the study again if it is wanted after all.
    Cancelled = "cancelled", Invalid, 409, 1, "The job was cancelled";
    /// A fault in Dawson. The operator finds it in the log by the request's id.
    Internal = "internal", Internal, 500, 1, "Something went wrong inside";
}

impl Code {
    /// The code with that [`Code::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == name)
    }
}

/// A problem as RFC 9457 puts it, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/problems/{code}`: what the code means and what to do about it.
    #[serde(rename = "type")]
    #[schema(example = "/problems/missing_flair")]
    pub kind: String,
    /// The same for every occurrence of the code.
    #[schema(example = "The FLAIR is missing")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What was wrong this time: the part, the field, the number.
    pub detail: String,
    /// Stable, in `snake_case`.
    #[schema(example = "missing_flair")]
    pub code: String,
    /// Where in a job it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Finds the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Each thing that was wrong, if there were several; the problem itself is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Wrong>,
}

/// One of several things that were wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wrong {
    /// Stable, in `snake_case`.
    #[schema(example = "invalid_options")]
    pub code: String,
    /// What was wrong.
    pub detail: String,
    /// The part of the form, or the field of the options.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "options.threshold")]
    pub at: Option<String>,
}

impl Problem {
    /// An occurrence of `code`.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{}", code.name()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code: code.name().to_owned(),
            stage: None,
            request_id: None,
            errors: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_names_with_a_page_and_a_fitting_status() {
        for &code in Code::ALL {
            assert_eq!(Code::parse(code.name()), Some(code));
            assert!(
                code.name()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_'),
                "{}",
                code.name()
            );
            assert!(
                code.page().len() > 25 && !code.page().starts_with(' '),
                "{}",
                code.page()
            );
            let client = (400..500).contains(&code.status());
            assert_eq!(
                client,
                code.class() == Class::Invalid || code.status() == 429,
                "{}",
                code.name()
            );
        }
    }
}
