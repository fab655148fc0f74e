#![doc = include_str!("../README.md")]

mod beside;
pub mod engine;
pub mod models;
pub mod pipeline;
pub mod problem;
pub mod report;
