//! DICOM: results as objects that an archive keeps beside the images.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod source;
pub mod write;

pub use source::{Identity, Source, SourceImage};
