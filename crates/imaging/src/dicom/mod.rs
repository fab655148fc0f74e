//! DICOM: from the files of a study to the scans that it holds, and from what was found to objects that
//! an archive keeps beside them.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod source;
pub mod write;

pub use source::{Identity, Source, SourceImage};
