#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod align;
pub mod anatomy;
pub mod appearance;
pub mod bias;
pub mod brain;
mod chance;
pub mod components;
pub mod dicom;
mod distance;
pub mod evaluate;
pub mod grid;
mod gzip;
pub mod lesions;
pub mod nifti;
pub mod noise;
pub mod normalise;
pub mod phantom;
pub mod preview;
pub mod regions;
pub mod resample;
pub mod study;
pub mod tile;
pub mod volume;
pub mod vote;
