//! One file a resource, each with its own `router()`.
pub(super) mod models;
pub(super) mod operation;
pub(super) mod results;
pub(super) mod segmentations;
pub(super) mod studies;
