#![doc = include_str!("../README.md")]

pub mod engine;
pub mod models;
pub mod pipeline;
pub mod problem;
pub mod report;
