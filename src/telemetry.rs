//! One function for each happening: it logs and it counts.
//!
//! What is counted is the table in `series.rs`; where lines and spans go is `trace.rs`. Labels take
//! values from closed lists. Nothing of a patient is ever a field: jobs go by their id, files by their
//! contrast.
#![expect(clippy::disallowed_macros, reason = "the one room that counts")]
mod series;
mod trace;

use dawson_inference::engine::{EngineInfo, Happening};
use dawson_inference::problem::{Class, Code};
use dawson_inference::report::Report;
use metrics::{counter, gauge, histogram};
pub use series::{Kind, Metrics, SERIES, Series, upkeep};
pub use trace::{Format, Log, LogConfig, job_span, request_span};

use crate::store::{JobId, Undelivered};

/// The service is about to take requests.
pub fn serving(address: std::net::SocketAddr, engine: &EngineInfo) {
    let EngineInfo {
        device,
        runtime_version,
        threads,
        ..
    } = engine;
    tracing::info!(%address, %device, runtime_version, threads, "ready");
    let version = env!("CARGO_PKG_VERSION");
    gauge!("dawson_build_info", "version" => version, "runtime" => runtime_version.clone())
        .set(1.0);
    gauge!("dawson_engine_device_in_use", "device" => device.to_string()).set(1.0);
    for series in [
        "dawson_engine_out_of_memory_total",
        "dawson_engine_failures_total",
        "dawson_engine_rebuilds_total",
        "dawson_engine_failovers_total",
    ] {
        counter!(series, "device" => device.to_string()).increment(0);
    }
}

/// Somebody wants to know what waits.
pub fn queue_measured(jobs: i64, oldest_s: f64) {
    gauge!("dawson_queue_jobs").set(jobs as f64);
    gauge!("dawson_queue_oldest_seconds").set(oldest_s.max(0.0));
}

/// A scan has arrived.
pub fn part_arrived(part: &str, bytes: u64) {
    tracing::debug!(part, bytes, "part arrived");
    // Parts have names from a closed list, the contrasts.
    counter!("dawson_upload_bytes_total", "part" => part.to_owned()).increment(bytes);
}

/// An image of a study that arrives image by image is on the disk.
pub fn image_arrived(bytes: u64) {
    tracing::debug!(bytes, "image arrived");
    counter!("dawson_images_arrived_total").increment(1);
    counter!("dawson_image_bytes_total").increment(bytes);
}

/// An image that a node sent was answered with that status.
pub fn image_answered(status: u16) {
    let outcome = match status {
        0x0000 => "stored",
        0xb000..=0xbfff => "warning",
        0xa700..=0xa7ff => "no_room",
        _ => "refused",
    };
    counter!("dawson_images_answered_total", "outcome" => outcome).increment(1);
}

/// What became of an association, or of the wish for one.
pub fn association(outcome: &'static str) {
    counter!("dawson_associations_total", "outcome" => outcome).increment(1);
}

/// A study that arrived image by image was whole, and became what `outcome` says.
pub fn study_arrived(outcome: &'static str) {
    tracing::info!(outcome, "study arrived");
    counter!("dawson_studies_arrived_total", "outcome" => outcome).increment(1);
}

/// A study was acknowledged.
pub fn job_accepted(id: JobId, contrasts: usize) {
    tracing::info!(job = %id, contrasts, "job accepted");
    counter!("dawson_jobs_accepted_total").increment(1);
    trace::remember(id);
}

/// A worker took a job.
pub fn job_started(id: JobId, attempt: i64, waited_s: f64) {
    tracing::info!(job = %id, attempt, waited_s, "job started");
    counter!("dawson_job_attempts_total").increment(1);
    histogram!("dawson_job_wait_seconds").record(waited_s);
    gauge!("dawson_jobs_running").increment(1.0);
}

/// A worker let go of a job, however it ended.
pub fn job_left(id: JobId) {
    tracing::debug!(job = %id, "job left its worker");
    gauge!("dawson_jobs_running").decrement(1.0);
}

/// A job has results, `bytes` of them.
pub fn job_succeeded(id: JobId, report: &Report, bytes: u64) {
    let t = &report.timings_s;
    let (total_s, network_s, lesions) =
        (t.total, t.network + t.anatomy_network, report.lesions.count);
    tracing::info!(job = %id, total_s, network_s, lesions, bytes, "job succeeded");
    job_ended(id, "succeeded", "none");
    histogram!("dawson_study_seconds").record(total_s);
    histogram!("dawson_network_seconds").record(network_s);
    let stages = [
        ("decode", t.decode),
        ("align", t.align),
        ("anatomy", t.anatomy),
        ("assemble", t.assemble),
        ("normalise", t.normalise),
        ("infer", t.infer),
        ("restore", t.restore),
        ("count", t.count),
    ];
    for (stage, seconds) in stages {
        histogram!("dawson_stage_seconds", "stage" => stage).record(seconds);
    }
    counter!("dawson_artifact_bytes_total").increment(bytes);
}

/// A job has a problem. What the client did wrong is `info`, what we did wrong is `error`.
pub fn job_failed(id: JobId, code: Code, reason: &str) {
    match code.class() {
        Class::Invalid => tracing::info!(job = %id, code = code.name(), reason, "job failed"),
        Class::Transient | Class::Internal => {
            tracing::error!(job = %id, code = code.name(), reason, "job failed");
        }
    }
    trace::failed();
    job_ended(id, "failed", code.name());
}

/// A job will be tried again.
pub fn job_retried(id: JobId, code: Code, reason: &str) {
    tracing::warn!(job = %id, code = code.name(), reason, "job will be tried again");
    trace::failed();
    counter!("dawson_jobs_retried_total", "code" => code.name()).increment(1);
}

/// A job was cancelled by its caller.
pub fn job_cancelled(id: JobId) {
    tracing::info!(job = %id, "job cancelled");
    job_ended(id, "cancelled", "none");
}

fn job_ended(id: JobId, state: &'static str, code: &'static str) {
    counter!("dawson_jobs_ended_total", "state" => state, "code" => code).increment(1);
    trace::forget(id);
}

/// Another attempt holds the job, or it has ended meanwhile: this worker's result is dropped.
pub fn lease_lost(id: JobId, attempt: i64) {
    tracing::warn!(job = %id, attempt, "lease lost, the result is dropped");
    counter!("dawson_leases_lost_total").increment(1);
}

/// Jobs whose worker fell silent were found.
pub fn jobs_reclaimed(queued: usize, crashed: usize) {
    tracing::warn!(queued, crashed, "jobs whose worker fell silent were found");
    counter!("dawson_job_crashes_total").increment((queued + crashed) as u64);
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

/// Results may be filed at these destinations.
pub fn filing_at<'a>(destinations: impl Iterator<Item = &'a str>) {
    for destination in destinations {
        for outcome in ["delivered", "failed", "dead"] {
            // Destinations are named by the operator, in a file.
            let destination = destination.to_owned();
            counter!("dawson_deliveries_total", "destination" => destination, "outcome" => outcome)
                .increment(0);
        }
    }
}

/// A destination has confirmed all results of a job.
pub fn delivered(id: JobId, destination: &str, tries: i64) {
    tracing::info!(job = %id, destination, tries, "results delivered");
    delivery_tried(destination, "delivered");
}

/// Results of a job did not arrive at a destination.
pub fn delivery_failed(id: JobId, destination: &str, tries: i64, given_up: bool, reason: &str) {
    if given_up {
        tracing::error!(job = %id, destination, tries, reason, "delivery given up");
        delivery_tried(destination, "dead");
    } else {
        tracing::warn!(job = %id, destination, tries, reason, "delivery failed");
        delivery_tried(destination, "failed");
    }
}

fn delivery_tried(destination: &str, outcome: &'static str) {
    let destination = destination.to_owned();
    counter!("dawson_deliveries_total", "destination" => destination, "outcome" => outcome)
        .increment(1);
}

/// Somebody wants to know what has not arrived.
pub fn deliveries_measured(undelivered: Undelivered) {
    gauge!("dawson_deliveries_waiting").set(undelivered.waiting as f64);
    gauge!("dawson_deliveries_dead").set(undelivered.dead as f64);
}

/// Something happened in the engine. What needs a line is logged there, where the reason is known.
pub fn engine(happening: Happening) {
    match happening {
        Happening::Batch {
            device,
            patches,
            took,
        } => {
            let device = device.to_string();
            histogram!("dawson_engine_batch_patches", "device" => device.clone())
                .record(patches as f64);
            histogram!("dawson_engine_batch_seconds", "device" => device).record(took);
        }
        Happening::SessionOpened { device } => {
            count_for(device, "dawson_engine_sessions_opened_total");
        }
        Happening::Rebuilt { device } => count_for(device, "dawson_engine_rebuilds_total"),
        Happening::OutOfMemory { device } => {
            count_for(device, "dawson_engine_out_of_memory_total");
        }
        Happening::Failed { device } => count_for(device, "dawson_engine_failures_total"),
        Happening::FailedOver { from, to } => {
            gauge!("dawson_engine_device_in_use", "device" => from.to_string()).set(0.0);
            gauge!("dawson_engine_device_in_use", "device" => to.to_string()).set(1.0);
            count_for(to, "dawson_engine_failovers_total");
        }
    }
}

fn count_for(device: dawson_inference::engine::Device, series: &'static str) {
    counter!(series, "device" => device.to_string()).increment(1);
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
    trace::answered(status);
    let method = known_method(method);
    let class = match status {
        ..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500.. => "5xx",
    };
    let route = route.to_owned();
    counter!("dawson_http_requests_total", "method" => method, "route" => route.clone(), "status" => class)
        .increment(1);
    histogram!("dawson_http_request_seconds", "method" => method, "route" => route).record(took_s);
}

/// A method may be any word that a client sends; what is counted must not be.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"];
    KNOWN
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
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
    if series::is_refusal(status) {
        counter!("dawson_refusals_total", "code" => code.to_owned()).increment(1);
    }
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
