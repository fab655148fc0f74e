//! What jobs, artifacts and models look like on the wire.
use dawson_inference::models::Model;
use dawson_inference::problem::Problem;
use dawson_inference::report::Report;
use serde::Serialize;
use utoipa::ToSchema;

use crate::jobs::{JobView, time};
use crate::store::{Delivery, Job, JobId, StoredFile};

/// A study from submission to result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobBody {
    /// A ULID: ids sort by time.
    #[schema(example = "01KB0V7Z6N3W7Q1X5F6J8R9T2M")]
    id: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    state: &'static str,
    /// `urgent`, `routine` or `batch`.
    priority: &'static str,
    /// The caller's own words.
    label: Option<String>,
    /// The network, name@version.
    model: String,
    /// RFC 3339, UTC.
    created_at: String,
    /// When a worker first took it.
    started_at: Option<String>,
    /// When it ended.
    ended_at: Option<String>,
    /// Not begun after this.
    deadline_at: Option<String>,
    /// How far it is, while it runs; not in lists.
    progress: Option<ProgressBody>,
    /// Where it stands, while it waits.
    queue: Option<QueueBody>,
    /// Why it failed.
    error: Option<Problem>,
    /// The result, once it has succeeded; not in lists.
    report: Option<Report>,
    /// Where the result is filed, and what came of it; not in lists.
    deliveries: Vec<DeliveryBody>,
    /// Where to go from here.
    links: LinksBody,
}

/// The results of a job on their way to a destination.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryBody {
    /// The destination's name.
    destination: String,
    /// `waiting` for its next try, `stored` where the destination is still to commit to it, `delivered`, or `dead`:
    /// given up until it is sent again.
    state: &'static str,
    /// How often it was tried.
    tries: i64,
    /// Why the last try failed.
    error: Option<String>,
    /// When it is tried next, while it waits.
    not_before: Option<String>,
    /// When it was delivered or given up.
    ended_at: Option<String>,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProgressBody {
    /// `decode`, `align`, `anatomy`, `assemble`, `normalise`, `infer`, `restore` or `count`.
    stage: String,
    /// Patches done.
    done: usize,
    /// Patches in all, 0 outside `infer`.
    total: usize,
    /// From 0 to 1, growing: of the time that a study of this size takes here, within what the stage and the
    /// patches done allow.
    fraction: f64,
    /// Seconds that the rest should take.
    eta_s: f64,
}

/// Where a job stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueBody {
    /// Jobs before it.
    position: i64,
    /// Seconds until it should begin.
    eta_s: f64,
}

/// Where to go from a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LinksBody {
    #[serde(rename = "self")]
    this: String,
    events: String,
    artifacts: String,
    cancel: String,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobsBody {
    /// Newest first.
    pub(super) jobs: Vec<JobBody>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

/// One of a job's events; a stream is many of them.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what axum writes")]
pub(super) struct EventBody {
    /// Ascending; give the last one as `Last-Event-ID` to go on after it.
    #[schema(example = "7")]
    id: String,
    /// `state`, `progress`, `warning` or `end`.
    event: String,
    /// JSON.
    #[schema(example = "{\"state\":\"running\"}")]
    data: String,
}

/// A file of a result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArtifactBody {
    /// Its file name.
    #[schema(example = "lesions.nii.gz")]
    name: String,
    /// Its media type.
    media_type: String,
    /// Its size.
    bytes: u64,
    /// SHA-256 in hexadecimal, its `ETag` too.
    sha256: String,
    /// Where it is.
    href: String,
}

/// The files of a result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArtifactsBody {
    /// By name.
    pub(super) artifacts: Vec<ArtifactBody>,
}

/// A network.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelBody {
    name: String,
    version: String,
    title: String,
    licence: String,
    intended_use: String,
    sha256: String,
    /// The contrasts that it sees, in order.
    contrasts: Vec<&'static str>,
    /// Those that a study must have.
    required: Vec<&'static str>,
    spacing_mm: [f64; 3],
    /// Voxels of a patch.
    patch: [usize; 3],
    overlap: f64,
    weighting: &'static str,
    /// The default of `voting`.
    voting: &'static str,
    /// The default of `flips`.
    flips: bool,
    threshold: f32,
    min_lesion_ml: f64,
}

/// The networks that are served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelsBody {
    /// By name and version.
    pub(super) models: Vec<ModelBody>,
    /// What they run on.
    pub(super) device: String,
    /// What that computes in.
    pub(super) precisions: Vec<&'static str>,
}

/// A network with its card.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelCardBody {
    #[serde(flatten)]
    pub(super) model: ModelBody,
    /// The model card, Markdown.
    pub(super) card: String,
}

/// Whether the service is well.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// `ok`, or `unavailable`.
    pub(super) status: &'static str,
    /// What was looked at.
    pub(super) checks: Vec<CheckBody>,
}

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckBody {
    /// What was looked at.
    pub(super) name: &'static str,
    /// Whether it is well.
    pub(super) ok: bool,
    /// What was seen.
    pub(super) detail: String,
}

/// The path of a job.
pub(super) fn path_of(id: JobId) -> String {
    format!("/v1/segmentations/{id}")
}

impl JobBody {
    /// A job of a list: without queue and report.
    pub(super) fn of(job: Job) -> Self {
        Self::from(JobView {
            job,
            queue: None,
            advance: None,
            report: None,
            deliveries: Vec::new(),
        })
    }
}

impl From<JobView> for JobBody {
    fn from(view: JobView) -> Self {
        let JobView {
            job,
            queue,
            advance,
            report,
            deliveries,
        } = view;
        let path = path_of(job.id);
        let progress = advance.map(|a| ProgressBody {
            stage: a.stage,
            done: a.done,
            total: a.total,
            fraction: a.fraction,
            eta_s: a.eta_s,
        });
        Self {
            id: job.id.to_string(),
            state: job.state.name(),
            priority: job.priority.name(),
            label: job.label,
            model: job.model,
            created_at: time(job.created_at),
            started_at: job.started_at.map(time),
            ended_at: job.ended_at.map(time),
            deadline_at: job.deadline_at.map(time),
            progress,
            queue: queue.map(|(position, eta_s)| QueueBody { position, eta_s }),
            error: job.error,
            report,
            deliveries: deliveries.into_iter().map(DeliveryBody::from).collect(),
            links: LinksBody {
                events: format!("{path}/events"),
                artifacts: format!("{path}/artifacts"),
                cancel: format!("{path}/cancel"),
                this: path,
            },
        }
    }
}

impl From<Delivery> for DeliveryBody {
    fn from(delivery: Delivery) -> Self {
        Self {
            not_before: delivery.due_at().map(time),
            state: delivery.stage(),
            destination: delivery.destination,
            tries: delivery.tries,
            error: delivery.error,
            ended_at: delivery.ended_at.map(time),
        }
    }
}

impl ArtifactBody {
    pub(super) fn of(id: JobId, file: StoredFile) -> Self {
        let href = format!("{}/artifacts/{}", path_of(id), file.name);
        let StoredFile {
            name,
            media_type,
            bytes,
            sha256,
        } = file;
        Self {
            name,
            media_type,
            bytes,
            sha256,
            href,
        }
    }
}

impl ModelBody {
    pub(super) fn of(model: &Model) -> Self {
        let m = &model.manifest;
        Self {
            name: m.heading.name.clone(),
            version: m.heading.version.clone(),
            title: m.heading.title.clone(),
            licence: m.heading.licence.clone(),
            intended_use: m.heading.intended_use.clone(),
            sha256: model.sha256().to_owned(),
            contrasts: m.input.contrasts.iter().map(|c| c.name()).collect(),
            required: m.input.required.iter().map(|c| c.name()).collect(),
            spacing_mm: m.input.spacing_mm,
            patch: m.patches.shape.map(std::num::NonZeroUsize::get),
            overlap: m.patches.overlap,
            weighting: m.patches.weighting.name(),
            voting: m.patches.voting.name(),
            flips: m.patches.flips,
            threshold: m.output.threshold,
            min_lesion_ml: m.output.min_lesion_ml,
        }
    }
}
