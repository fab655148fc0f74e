//! Every series that is counted: its name, its labels, what it tells.
//!
//! The table here is the one that `docs/operation.md` shows, that Prometheus gets as help, and that the
//! dashboard and the alerts in `deploy/` are held against. Series whose labels are known beforehand
//! stand at zero from the start, so that the first failure is seen as an increase.
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dawson_inference::problem::{Class, Code};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use Kind::{Counter, Gauge, Histogram};

use crate::files;

/// Seconds of a study, from a patch on a GPU to a large network on a small machine.
const STUDY_S: &[f64] = &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0];
/// Seconds of a stage, the quick ones included.
const STAGE_S: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0,
];
/// Seconds that a job waits: its clients wait with it.
const WAIT_S: &[f64] = &[
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0,
];
/// Seconds of an answer; one that waits for a job's end may take minutes.
const ANSWER_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0,
];
/// Patches of a batch.
const PATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

/// What is counted how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size: how many were at most as large as each of these.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    /// `dawson_<noun>_<unit>[_total]`
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// Its labels; each takes few values.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

const fn series(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Series {
    Series {
        name,
        kind,
        labels,
        help,
    }
}

/// The table. The process's own series come from `metrics-process` and are named as everywhere.
#[rustfmt::skip]
pub const SERIES: &[Series] = &[
    series("dawson_build_info", Gauge, &["version", "runtime"], "1: the version of Dawson and of ONNX Runtime"),
    series("dawson_queue_jobs", Gauge, &[], "Jobs that wait"),
    series("dawson_queue_oldest_seconds", Gauge, &[], "How long the first of those that wait has waited"),
    series("dawson_jobs_accepted_total", Counter, &[], "Studies that were acknowledged"),
    series("dawson_jobs_running", Gauge, &[], "Jobs that are computed by this process"),
    series("dawson_jobs_ended_total", Counter, &["state", "code"], "Jobs that ended: succeeded, failed (with the problem's code) or cancelled"),
    series("dawson_jobs_retried_total", Counter, &["code"], "Attempts after which a job was queued again"),
    series("dawson_jobs_expired_total", Counter, &[], "Jobs that were erased because their time was over"),
    series("dawson_jobs_erased_total", Counter, &[], "Jobs that were erased with everything about them"),
    series("dawson_strays_swept_total", Counter, &[], "Uploads and files that no job speaks of, removed"),
    series("dawson_disk_full_total", Counter, &[], "Times that no job was begun because the disk is nearly full"),
    series("dawson_callbacks_total", Counter, &["outcome"], "Ends of jobs that callers were told, that failed to be told for now, or were given up"),
    series("dawson_deliveries_total", Counter, &["destination", "outcome"], "Tries to file results: delivered, failed for now, or dead"),
    series("dawson_deliveries_waiting", Gauge, &[], "Deliveries of results that have not arrived yet"),
    series("dawson_deliveries_dead", Gauge, &[], "Deliveries that were given up and are to be sent again by hand"),
    series("dawson_job_attempts_total", Counter, &[], "Attempts that were begun"),
    series("dawson_job_crashes_total", Counter, &[], "Attempts whose worker fell silent"),
    series("dawson_job_wait_seconds", Histogram(WAIT_S), &[], "From a study's arrival to the start of an attempt"),
    series("dawson_leases_lost_total", Counter, &[], "Results that were dropped because another attempt held the job"),
    series("dawson_store_failures_total", Counter, &["doing"], "Statements or files that failed in the background"),
    series("dawson_study_seconds", Histogram(STUDY_S), &[], "A study, from its first byte to its report"),
    series("dawson_stage_seconds", Histogram(STAGE_S), &["stage"], "Each stage of a study: decode, align, anatomy, assemble, normalise, infer, restore, count"),
    series("dawson_network_seconds", Histogram(STUDY_S), &[], "Of a study, the time inside the network"),
    series("dawson_artifact_bytes_total", Counter, &[], "Bytes of results that were stored"),
    series("dawson_images_arrived_total", Counter, &[], "Images that arrived one by one and are on the disk"),
    series("dawson_image_bytes_total", Counter, &[], "Their bytes"),
    series("dawson_images_answered_total", Counter, &["outcome"], "C-STORE requests by their answer: stored, warning, no_room or refused"),
    series("dawson_associations_total", Counter, &["outcome"], "Associations: accepted, then released, lost, aborted or too_long; or rejected, refused, too_many"),
    series("dawson_studies_arrived_total", Counter, &["outcome"], "Studies that arrived image by image and were whole: sent, not_routed or refused"),
    series("dawson_upload_bytes_total", Counter, &["part"], "Bytes of scans that arrived, by contrast"),
    series("dawson_engine_batch_seconds", Histogram(STAGE_S), &["device"], "A batch inside the network; its count is the number of batches"),
    series("dawson_engine_batch_patches", Histogram(PATCHES), &["device"], "Patches of a batch; its sum is the number of patches"),
    series("dawson_engine_sessions_opened_total", Counter, &["device"], "Sessions that were opened"),
    series("dawson_engine_rebuilds_total", Counter, &["device"], "Times that one patch was tried again with no other session open"),
    series("dawson_engine_out_of_memory_total", Counter, &["device"], "Batches for which memory did not suffice"),
    series("dawson_engine_failures_total", Counter, &["device"], "Batches that failed for another reason"),
    series("dawson_engine_failovers_total", Counter, &["device"], "Times that this device took over from one that failed"),
    series("dawson_engine_device_in_use", Gauge, &["device"], "1 for the device that computes, 0 for one that was given up"),
    series("dawson_http_requests_total", Counter, &["method", "route", "status"], "Requests that were answered; status is 2xx, 3xx, 4xx or 5xx"),
    series("dawson_http_request_seconds", Histogram(ANSWER_S), &["method", "route"], "From a request's head to the head of its answer"),
    series("dawson_http_connections", Gauge, &[], "Connections that are open"),
    series("dawson_http_connections_refused_total", Counter, &[], "Connections turned away because as many were open as may be"),
    series("dawson_http_accept_failures_total", Counter, &[], "Times that the system gave no more connections"),
    series("dawson_http_connections_cut_total", Counter, &[], "Connections closed at a stop before their requests had ended"),
    series("dawson_tls_handshakes_failed_total", Counter, &[], "TLS handshakes that came to nothing"),
    series("dawson_problems_total", Counter, &["code"], "Requests that were answered with a problem"),
    series("dawson_refusals_total", Counter, &["code"], "Of these, the ones for size or load: status 413, 429 or 503"),
    series("dawson_disk_free_bytes", Gauge, &[], "Room on the file system of the state folder"),
    series("dawson_disk_size_bytes", Gauge, &[], "The size of that file system"),
    series("process_cpu_seconds_total", Counter, &[], "Processor time of the process"),
    series("process_resident_memory_bytes", Gauge, &[], "Memory of the process"),
    series("process_virtual_memory_bytes", Gauge, &[], "Address space of the process"),
    series("process_virtual_memory_max_bytes", Gauge, &[], "The most address space that it may have"),
    series("process_open_fds", Gauge, &[], "Files and sockets that are open"),
    series("process_max_fds", Gauge, &[], "The most that may be open"),
    series("process_threads", Gauge, &[], "Threads of the process"),
    series("process_start_time_seconds", Gauge, &[], "When the process started, in seconds since 1970"),
];

static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();

/// Folds what histograms have gathered, so that they do not grow while nobody asks for them.
pub fn upkeep() {
    if let Some(handle) = INSTALLED.get() {
        handle.run_upkeep();
    }
}

/// The series of this process, and what is measured only when somebody looks.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    state: PathBuf,
}

impl Metrics {
    /// Installs the recorder, once in a process. `state` is the folder whose disk is watched.
    ///
    /// # Errors
    /// If another recorder was installed before.
    pub fn install(state: &Path) -> Result<Self, String> {
        let mut builder = PrometheusBuilder::new();
        for series in SERIES {
            if let Histogram(bounds) = series.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(series.name.to_owned()), bounds)
                    .map_err(|e| e.to_string())?;
            }
        }
        let handle = builder.install_recorder().map_err(|e| e.to_string())?;
        INSTALLED.get_or_init(|| handle.clone());
        describe();
        stand_at_zero();
        Ok(Self {
            handle,
            state: state.to_owned(),
        })
    }

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        metrics_process::Collector::default().collect();
        self.measure_disk();
        self.handle.render()
    }

    fn measure_disk(&self) {
        match files::space(&self.state) {
            Ok(disk) => {
                gauge!("dawson_disk_free_bytes").set(disk.free as f64);
                gauge!("dawson_disk_size_bytes").set(disk.size as f64);
            }
            Err(error) => {
                tracing::warn!(%error, "the disk of the state folder could not be measured");
            }
        }
    }
}

fn describe() {
    for series in SERIES {
        let unit = match series.name {
            name if name.contains("_seconds") => Unit::Seconds,
            name if name.contains("_bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        match series.kind {
            Counter => describe_counter!(series.name, unit, series.help),
            Gauge => describe_gauge!(series.name, unit, series.help),
            Histogram(_) => describe_histogram!(series.name, unit, series.help),
        }
    }
}

/// What a counter has never counted is not there, and an alert on its increase would miss the first.
fn stand_at_zero() {
    for series in SERIES {
        match series.kind {
            Counter if series.labels.is_empty() && series.name.starts_with("dawson_") => {
                counter!(series.name).increment(0);
            }
            Gauge if series.labels.is_empty() => gauge!(series.name).set(0.0),
            _ => {}
        }
    }
    for state in ["succeeded", "cancelled"] {
        counter!("dawson_jobs_ended_total", "state" => state, "code" => "none").increment(0);
    }
    for outcome in ["told", "failed", "given_up"] {
        counter!("dawson_callbacks_total", "outcome" => outcome).increment(0);
    }
    for outcome in ["stored", "warning", "no_room", "refused"] {
        counter!("dawson_images_answered_total", "outcome" => outcome).increment(0);
    }
    for outcome in ["accepted", "rejected", "aborted", "too_many"] {
        counter!("dawson_associations_total", "outcome" => outcome).increment(0);
    }
    for outcome in ["sent", "not_routed", "refused"] {
        counter!("dawson_studies_arrived_total", "outcome" => outcome).increment(0);
    }
    for code in Code::ALL {
        counter!("dawson_jobs_ended_total", "state" => "failed", "code" => code.name())
            .increment(0);
        if code.class() == Class::Transient {
            counter!("dawson_jobs_retried_total", "code" => code.name()).increment(0);
        }
        if is_refusal(code.status()) {
            counter!("dawson_refusals_total", "code" => code.name()).increment(0);
        }
    }
}

/// Whether an answer of this status turns a request away for its size or for the service's load.
pub(super) fn is_refusal(status: u16) -> bool {
    matches!(status, 413 | 429 | 503)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_unit_and_counters_end_in_total() {
        for series in SERIES {
            let counts = series.name.ends_with("_total");
            assert_eq!(counts, series.kind == Counter, "{}", series.name);
            let words = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(series.name.chars().all(words), "{}", series.name);
        }
    }

    #[test]
    fn the_manual_shows_this_table() {
        let manual = include_str!("../../docs/operation.md");
        let shown: Vec<&str> = manual
            .lines()
            .filter(|line| line.starts_with("| `dawson_") || line.starts_with("| `process_"))
            .collect();
        let table: Vec<String> = SERIES.iter().map(row).collect();
        assert_eq!(
            shown,
            table,
            "docs/operation.md must say\n{}",
            table.join("\n")
        );
    }

    fn row(series: &Series) -> String {
        format!(
            "| `{}` | {} | {} | {} |",
            series.name,
            series.kind.name(),
            series.labels.join(", "),
            series.help
        )
    }

    /// What `telemetry` counts under names of its own is in the table, with these labels.
    #[test]
    fn whatever_is_counted_is_in_the_table() {
        let source = concat!(include_str!("../telemetry.rs"), include_str!("series.rs"));
        let names: std::collections::BTreeSet<&str> = source
            .split('"')
            .filter(|word| {
                word.starts_with("dawson_")
                    && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                    && !word.ends_with('_')
            })
            .filter(|word| *word != "dawson_inference")
            .collect();
        let known: std::collections::BTreeSet<&str> = SERIES
            .iter()
            .map(|s| s.name)
            .filter(|name| name.starts_with("dawson_"))
            .collect();
        assert_eq!(names, known);
    }
}
