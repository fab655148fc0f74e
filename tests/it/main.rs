//! What the whole does, seen from its edges. One binary, so that ONNX Runtime is linked and loaded
//! once; a network of a few hundred bytes, so that it is quick. Nothing here is a mock.
#![allow(missing_docs, reason = "tests are described by their names")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "scratch files of tests need not survive a power cut"
)]
#![allow(clippy::print_stderr, reason = "what is skipped says so")]

mod access;
mod archive;
mod cli;
mod commitment;
mod corpus;
mod determinism;
mod dicom;
mod dicomweb;
mod edge;
mod encodings;
mod events;
mod filing;
mod filing_web;
mod headers;
mod nodes;
mod outbox;
mod pipeline;
mod postgres;
mod problems;
mod reload;
mod segmentations;
mod serving;
mod store;
mod support;
mod tls;
