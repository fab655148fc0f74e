#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod components;
pub mod evaluate;
pub mod grid;
pub mod nifti;
pub mod phantom;
pub mod study;
pub mod volume;
pub mod brain;
pub mod lesions;
pub mod normalise;
pub mod resample;
pub mod tile;
pub mod vote;
pub mod preview;
