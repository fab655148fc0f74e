//! One function for each happening: it logs and it counts.
//!
//! Series are named `dawson_<noun>_<unit>[_total]`; labels take values from closed lists. Nothing of
//! a patient is ever a field: jobs go by their id, files by their contrast.
#![expect(clippy::disallowed_macros, reason = "the one room that counts")]
use std::sync::OnceLock;

use dawson_inference::problem::{Class, Code};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::store::JobId;

/// Seconds of a study, from a patch on a GPU to a large network on a small machine.
const SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0];

static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

/// Folds what histograms have gathered, so that they do not grow while nobody asks for them.
pub fn upkeep() {
    if let Some(Ok(handle)) = HANDLE.get() {
        handle.run_upkeep();
    }
}

/// Installs the recorder, once in a process.
///
/// # Errors
/// If another recorder was installed before.
pub fn metrics() -> Result<PrometheusHandle, String> {
    let build = || {
        PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|e: BuildError| e.to_string())
    };
    HANDLE.get_or_init(build).clone()
}

/// A study was acknowledged.
pub fn job_accepted(id: JobId, contrasts: usize) {
    tracing::info!(job = %id, contrasts, "job accepted");
    counter!("dawson_jobs_accepted_total").increment(1);
}

/// A worker took a job.
pub fn job_started(id: JobId, attempt: i64, waited_s: f64) {
    tracing::info!(job = %id, attempt, waited_s, "job started");
    histogram!("dawson_job_wait_seconds").record(waited_s);
    gauge!("dawson_jobs_running").increment(1.0);
}

/// A worker let go of a job, however it ended.
pub fn job_left(id: JobId) {
    tracing::debug!(job = %id, "job left its worker");
    gauge!("dawson_jobs_running").decrement(1.0);
}

/// A job has results.
pub fn job_succeeded(id: JobId, total_s: f64, network_s: f64, lesions: usize) {
    tracing::info!(job = %id, total_s, network_s, lesions, "job succeeded");
    counter!("dawson_jobs_ended_total", "state" => "succeeded").increment(1);
    histogram!("dawson_study_seconds").record(total_s);
    histogram!("dawson_network_seconds").record(network_s);
}

/// A job has a problem. What the client did wrong is `info`, what we did wrong is `error`.
pub fn job_failed(id: JobId, code: Code, reason: &str) {
    match code.class() {
        Class::Invalid => tracing::info!(job = %id, code = code.name(), reason, "job failed"),
        Class::Transient | Class::Internal => {
            tracing::error!(job = %id, code = code.name(), reason, "job failed");
        }
    }
    counter!("dawson_jobs_ended_total", "state" => "failed").increment(1);
    counter!("dawson_problems_total", "code" => code.name()).increment(1);
}

/// A job will be tried again.
pub fn job_retried(id: JobId, code: Code, reason: &str) {
    tracing::warn!(job = %id, code = code.name(), reason, "job will be tried again");
    counter!("dawson_jobs_retried_total", "code" => code.name()).increment(1);
}

/// A job was cancelled by its caller.
pub fn job_cancelled(id: JobId) {
    tracing::info!(job = %id, "job cancelled");
    counter!("dawson_jobs_ended_total", "state" => "cancelled").increment(1);
}

/// Another attempt holds the job, or it has ended meanwhile: this worker's result is dropped.
pub fn lease_lost(id: JobId, attempt: i64) {
    tracing::warn!(job = %id, attempt, "lease lost, the result is dropped");
    counter!("dawson_leases_lost_total").increment(1);
}

/// Jobs whose worker fell silent were found.
pub fn jobs_reclaimed(queued: usize, crashed: usize) {
    tracing::warn!(queued, crashed, "jobs whose worker fell silent were found");
    counter!("dawson_jobs_reclaimed_total").increment(queued as u64);
}

/// Jobs whose time was over were erased.
pub fn jobs_expired(count: usize) {
    tracing::info!(count, "results whose time was over were erased");
    counter!("dawson_jobs_expired_total").increment(count as u64);
}

/// The store failed in the background; what was to be done is done again later.
pub fn store_failed(doing: &'static str, error: &crate::store::Error) {
    tracing::error!(doing, %error, "the store failed");
    counter!("dawson_store_failures_total", "doing" => doing).increment(1);
}

/// A job and everything about it was erased.
pub fn job_erased(id: JobId) {
    tracing::info!(job = %id, "job erased");
    counter!("dawson_jobs_erased_total").increment(1);
}

/// Files that no row speaks of were removed.
pub fn strays_swept(uploads: usize, jobs: usize) {
    tracing::info!(uploads, jobs, "files that no job speaks of were removed");
    counter!("dawson_strays_swept_total").increment((uploads + jobs) as u64);
}

/// Nothing is begun because the disk is nearly full.
pub fn disk_full(error: &dyn std::fmt::Display) {
    tracing::error!(%error, "nothing is begun");
    counter!("dawson_disk_full_total").increment(1);
}

/// A caller was told of a job's end.
pub fn callback_told(id: JobId, tries: i64) {
    tracing::info!(job = %id, tries, "callback told");
    counter!("dawson_callbacks_total", "outcome" => "told").increment(1);
}

/// A caller could not be told of a job's end.
pub fn callback_failed(id: JobId, tries: i64, given_up: bool, reason: &str) {
    tracing::warn!(job = %id, tries, given_up, reason, "callback failed");
    let outcome = if given_up { "given_up" } else { "failed" };
    counter!("dawson_callbacks_total", "outcome" => outcome).increment(1);
}

/// A request was answered.
pub fn request_answered(method: &str, route: &str, status: u16, took_s: f64, request_id: &str) {
    tracing::info!(
        method,
        route,
        status,
        took_s,
        request_id,
        "request answered"
    );
    let labels = [("route", route.to_owned()), ("status", status.to_string())];
    counter!("dawson_http_requests_total", &labels).increment(1);
    histogram!("dawson_http_request_seconds", "route" => route.to_owned()).record(took_s);
}

/// A request was answered with a problem.
pub fn problem_answered(code: &str, status: u16, inside: Option<&str>, request_id: &str) {
    if let Some(reason) = inside {
        tracing::error!(code, status, reason, request_id, "problem answered");
    } else {
        tracing::debug!(code, status, request_id, "problem answered");
    }
    // Codes come from a closed list.
    counter!("dawson_problems_total", "code" => code.to_owned()).increment(1);
}

/// So many connections are open.
pub fn connections_open(count: usize) {
    gauge!("dawson_http_connections").set(count as f64);
}

/// As many connections were open as may be, all at work: this one was turned away.
pub fn connection_refused() {
    tracing::debug!("connection refused, all are at work");
    counter!("dawson_http_connections_refused_total").increment(1);
}

/// The system gives no more connections.
pub fn accept_failed(error: &std::io::Error) {
    tracing::error!(%error, "connections cannot be accepted");
    counter!("dawson_http_accept_failures_total").increment(1);
}

/// The grace time was over: these connections were closed whatever they did.
pub fn connections_cut(count: usize) {
    tracing::warn!(
        count,
        "connections were closed before their requests had ended"
    );
    counter!("dawson_http_connections_cut_total").increment(count as u64);
}

/// The span of a request: every line that it causes carries its id, and the trace that the client named.
pub fn request_span(request_id: &str, trace: Option<(&str, &str)>) -> tracing::Span {
    let (trace_id, parent_id) = trace.unzip();
    tracing::info_span!("request", request_id, trace_id, parent_id)
}

/// Who did what to which job, and what came of it. Nothing of its content.
#[derive(Debug)]
pub struct Audit<'a> {
    /// The id of the key.
    pub who: &'a str,
    /// Such as `submit`.
    pub what: &'static str,
    /// The job.
    pub job: Option<JobId>,
    /// The HTTP status.
    pub status: u16,
    /// The problem, if it was one.
    pub code: Option<&'static str>,
    /// Finds the request's other lines.
    pub request_id: Option<String>,
}

/// Something was done that may be asked about later.
pub fn audit(audit: &Audit<'_>) {
    let Audit {
        who,
        what,
        job,
        status,
        code,
        request_id,
    } = audit;
    let job = job.map(|id| id.to_string());
    tracing::info!(target: "audit", who, what, job, status, code, request_id, "audit");
}

/// A key was made or revoked.
pub fn key_changed(what: &'static str, key: &str) {
    tracing::info!(target: "audit", who = "operator", what, key, "audit");
}

/// The operator's files were read again.
pub fn reloaded(what: &'static str) {
    tracing::info!(target: "audit", who = "operator", what, "reloaded");
}

/// The operator's files were to be read again and do not hold: what was read before stays in use.
pub fn reload_failed(what: &'static str, error: &dyn std::fmt::Display) {
    tracing::error!(what, %error, "not reloaded, what was read before stays in use");
}

/// A TLS handshake came to nothing.
pub fn handshake_failed(reason: &dyn std::fmt::Display) {
    tracing::debug!(%reason, "handshake failed");
    counter!("dawson_tls_handshakes_failed_total").increment(1);
}

/// The system gives fewer file handles than the settings may need.
pub fn few_handles(got: u64, wanted: u64) {
    tracing::warn!(
        got,
        wanted,
        "there are fewer file handles than connections may need"
    );
}
