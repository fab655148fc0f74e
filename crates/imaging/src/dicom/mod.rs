//! DICOM in: from the files of a study to the scans that it holds.
//!
//! Bytes come from strangers. So a guard walks over every file first, without recursion and
//! without allocating by a length that it read: depth, counts, lengths and fragments are held against
//! [`Limits`], and only a copy without private groups, bulk data and pixels reaches `dicom-object`. Pixels
//! are decoded by code that forbids `unsafe`, into buffers whose size the guard has bounded; a panic in
//! another crate becomes [`Error::Fault`]. Then [`Study`] groups images into stacks, builds volumes from
//! positions alone and refuses by name ([`Refusal`]) what does not make one, and [`choose`] says which
//! series is which contrast, and why.
//!
//! Not read: other classes than MR, Enhanced MR and Legacy Converted Enhanced MR (they are counted), lossy
//! pixels, colour, mosaics.
//!
//! The way out is [`write`]: what was found, as objects that an archive keeps beside the images.
// Tests index what they made.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod archive;
mod choose;
mod classify;
mod deidentify;
mod guard;
mod head;
mod header;
mod pixels;
mod protocol;
mod source;
mod stack;
mod study;
mod syntax;
#[cfg(test)]
#[allow(clippy::trivially_copy_pass_by_ref, reason = "b\"UI\" is a reference")]
pub(crate) mod synthetic;
pub mod write;

pub use archive::{members, packed};
pub use choose::{Choice, Chosen, Decision, NoChoice, SeriesRow, SiteRule, Wish, choose};
pub use classify::{Class, Classified, Confidence};
pub use deidentify::{NO_MOMENT, Pseudonyms};
pub use guard::is_uid;
pub use head::{Head, announced, attributes, data_set};
pub use source::{Identity, Source, SourceImage};
pub use stack::Refusal;
pub use study::{Damaged, OfStack, Scan, Stack, Study, StudyError};
pub use syntax::Syntax;

/// How much a file and a study may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a file, and of what a deflated one inflates to.
    pub max_file_bytes: usize,
    /// The most sequences within one another.
    pub max_depth: usize,
    /// The most elements and items of a file.
    pub max_elements: usize,
    /// The most rows, columns and frames.
    pub max_axis: usize,
    /// The most samples of a file.
    pub max_samples: usize,
    /// The most fragments of a file's pixels.
    pub max_fragments: usize,
    /// The most files of a study.
    pub max_files: usize,
    /// The most bytes of a study's files together.
    pub max_study_bytes: usize,
}

impl Limits {
    /// What fits any brain examination: 512 MiB and 2²⁸ samples a file, 4,096 rows, columns and frames, 20,000
    /// files and 4 GiB a study.
    pub const CLINICAL: Self = Self {
        max_file_bytes: 512 << 20,
        max_depth: 16,
        max_elements: 200_000,
        max_axis: 4096,
        max_samples: 1 << 28,
        max_fragments: 65_536,
        max_files: 20_000,
        max_study_bytes: 4 << 30,
    };
}

/// Why a file is not an image that Dawson reads. The text holds numbers, tags and UIDs of the file and
/// nothing of the patient.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No `DICM` after the preamble.
    #[error("not a DICOM file: no DICM at byte 128 of {bytes}")]
    NotDicom {
        /// Bytes there are.
        bytes: usize,
    },
    /// A transfer syntax that is not read.
    #[error("transfer syntax {uid} is not read")]
    Syntax {
        /// Its UID, shortened to 64 characters.
        uid: String,
    },
    /// More of something than the limits allow.
    #[error("{what}: {found}, at most {max} are taken")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// How many there are, or were when counting stopped.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// Elements, lengths or delimiters that do not fit one another.
    #[error("at byte {at}: {reason}")]
    Structure {
        /// Where, counted from the start of the (inflated) data set.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The deflate stream is damaged.
    #[error("the deflated data set is damaged")]
    Deflate,
    /// An attribute that an image must have.
    #[error("{name} is missing")]
    Missing {
        /// Its keyword.
        name: &'static str,
    },
    /// An attribute outside its rule.
    #[error("{name} is {found}, must be {rule}")]
    Attribute {
        /// Its keyword.
        name: &'static str,
        /// The number found.
        found: i64,
        /// What it must be.
        rule: &'static str,
    },
    /// A UID of other characters than digits and dots, or too long.
    #[error("{name} is no UID: 1 to 64 digits and dots")]
    Uid {
        /// Its keyword.
        name: &'static str,
    },
    /// A class of object that is no MR image.
    #[error("SOP class {uid} is no MR image")]
    SopClass {
        /// Its UID.
        uid: String,
    },
    /// Fewer bytes of pixels than the header promises.
    #[error("the header promises {needed} bytes of pixels, the file holds {found}")]
    PixelsShort {
        /// Bytes there are.
        found: usize,
        /// Bytes promised.
        needed: usize,
    },
    /// Pixels that are not what their transfer syntax says.
    #[error("frame {frame}: {reason}")]
    Pixels {
        /// From 1.
        frame: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// Names may stand in the pixels, so the image cannot be de-identified.
    #[error("BurnedInAnnotation is not NO: names may stand in its pixels")]
    Annotated,
    /// An image could not be written down again.
    #[error("the image cannot be written")]
    Unwritable,
    /// The data set passed the guard, yet could not be parsed.
    #[error("the data set cannot be parsed")]
    Parse,
    /// A decoder of another crate panicked.
    #[error("the {part} gave up on the file")]
    Fault {
        /// Which.
        part: &'static str,
    },
    /// A zip that is damaged, or holds what a study does not.
    #[error("the zip archive: {reason}")]
    Archive {
        /// What is wrong.
        reason: &'static str,
    },
}

/// Runs code of another crate that may panic on hostile bytes; the panic becomes an error.
fn caught<T>(part: &'static str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or(Err(Error::Fault { part }))
}
