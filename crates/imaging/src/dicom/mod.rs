//! DICOM in: from the files of a study to the scans that it holds.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod source;

pub use source::{Identity, Source, SourceImage};
