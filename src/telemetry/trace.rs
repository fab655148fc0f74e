//! Where log lines and spans go: stderr always, an OpenTelemetry collector if one is named.
//!
//! A request and a job's attempt are spans with their ids; every line inside says them. Spans are sent
//! in batches by a thread of their own, so a collector that is slow or gone costs no request anything.
//! The job's span continues the trace of the request that brought the study, which itself continues
//! the caller's `traceparent`; after a restart the job starts a trace of its own.
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, propagation::Extractor, propagation::TextMapPropagator};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::store::JobId;

/// The most jobs whose request's trace is remembered while they wait.
const REMEMBERED: usize = 1024;

/// Crates whose lines quote what stands in files and messages of strangers: they say nothing.
const QUOTING: [&str; 4] = [
    "dicom_encoding=off",
    "dicom_object=off",
    "dicom_parser=off",
    "dicom_ul=off",
];

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json"),
        }
    }
}

/// Where lines and spans go.
#[derive(Debug)]
pub struct LogConfig {
    /// What is logged.
    pub filter: EnvFilter,
    /// How.
    pub format: Format,
    /// The address of an OpenTelemetry collector (OTLP over HTTP), such as `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
}

/// Sends what is left of the spans when it is dropped.
#[derive(Debug)]
#[must_use = "spans that have not been sent are lost without it"]
pub struct Log {
    spans: Option<SdkTracerProvider>,
}

impl Log {
    /// Starts the log, once in a process.
    ///
    /// # Errors
    /// If the collector's address is none, or another log was started before.
    pub fn start(config: LogConfig) -> Result<Self, String> {
        let spans = config.otlp_endpoint.as_deref().map(exporter).transpose()?;
        let sent = spans.as_ref().map(|provider| {
            let ours = Targets::new()
                .with_target("dawson", LevelFilter::INFO)
                .with_target("dawson_inference", LevelFilter::INFO);
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("dawson"))
                .with_location(false)
                .with_threads(false)
                .with_filter(ours)
        });
        // The audit goes on whatever else is quiet, unless it is named itself.
        let filter = match "audit=info".parse() {
            Ok(always) if !config.filter.to_string().contains("audit") => {
                config.filter.add_directive(always)
            }
            _ => config.filter,
        };
        let filter = QUOTING
            .iter()
            .filter_map(|silent| silent.parse().ok())
            .fold(filter, EnvFilter::add_directive);
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match config.format {
            Format::Text => lines.boxed(),
            Format::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(sent)
            .try_init()
            .map_err(|e| e.to_string())?;
        Ok(Self { spans })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans
            && let Err(error) = spans.shutdown()
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .map_err(|e| e.to_string())?;
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder()
        .with_service_name("dawson")
        .with_attribute(version)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// The span of a request: every line that it causes says its id, and the trace and its parent that its
/// caller named in `traceparent` (W3C Trace Context), if it is well formed.
pub fn request_span(
    method: &str,
    route: &str,
    request_id: &str,
    traceparent: Option<&str>,
) -> Span {
    let method = super::known_method(method);
    let parent = traceparent
        .map(|text| TraceContextPropagator::new().extract(&Traceparent(text)))
        .filter(|parent| parent.span().span_context().is_valid());
    let (trace_id, parent_id) = parent
        .as_ref()
        .map(|parent| {
            let named = parent.span().span_context().clone();
            (named.trace_id().to_string(), named.span_id().to_string())
        })
        .unzip();
    let span = info_span!(
        "request",
        request_id,
        trace_id,
        parent_id,
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    );
    if let Some(parent) = parent {
        continue_trace(&span, parent);
    }
    span
}

/// Writes into the current request's span how it was answered.
pub(super) fn answered(status: u16) {
    let span = Span::current();
    span.record("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of an attempt at a job.
#[must_use]
pub fn job_span(id: JobId, attempt: i64) -> Span {
    let span = info_span!("job", job = %id, attempt, otel.status_code = tracing::field::Empty);
    if let Some(context) = TRACES.of(id) {
        continue_trace(&span, context);
    }
    span
}

/// Writes into the current job's span that it failed.
pub(super) fn failed() {
    Span::current().record("otel.status_code", "ERROR");
}

fn continue_trace(span: &Span, parent: Context) {
    // It fails where no collector is named, and then there is no trace to continue.
    let _continued = span.set_parent(parent);
}

struct Traceparent<'a>(&'a str);

impl Extractor for Traceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// The traces of requests whose jobs have not ended, the oldest first.
struct Traces(Mutex<VecDeque<(JobId, Context)>>);

static TRACES: Traces = Traces(Mutex::new(VecDeque::new()));

impl Traces {
    fn of(&self, id: JobId) -> Option<Context> {
        let traces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = traces.iter().find(|(job, _)| *job == id)?;
        Some(found.1.clone())
    }
}

/// Remembers the current trace for a job that is being acknowledged.
pub(super) fn remember(id: JobId) {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return;
    }
    // Only where the request's span is, not the span itself: it ends with its answer.
    let place = context.span().span_context().clone();
    let context = Context::new().with_remote_span_context(place);
    let mut traces = TRACES.0.lock().unwrap_or_else(PoisonError::into_inner);
    if traces.len() >= REMEMBERED {
        traces.pop_front();
    }
    traces.push_back((id, context));
}

/// A job has ended.
pub(super) fn forget(id: JobId) {
    let mut traces = TRACES.0.lock().unwrap_or_else(PoisonError::into_inner);
    traces.retain(|(job, _)| *job != id);
}
