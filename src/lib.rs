//! Dawson, the service and the command line.
//!
//! The rooms: [`jobs`] (a job's life), [`store`] (rows and files), [`http`] (the wire), [`cli`] (one
//! file a command), [`keys`] (who may call), [`pacs`]
//! (DICOM nodes), [`config`], [`telemetry`], [`files`] (durable writing), [`tls`]. They meet in
//! `cli/serve.rs`. What is computed stands in the crates `dawson-imaging` and `dawson-inference`.

pub mod cli;
pub mod config;
pub mod files;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod pacs;
pub mod store;
pub mod telemetry;
pub mod tls;
