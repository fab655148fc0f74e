//! A form as it comes from strangers, through the whole router: it is refused as a problem, or a job.
#![no_main]
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{Request, StatusCode};
use dawson::http::{AccessConfig, HttpConfig, MetricsAccess, Pace, read_options, router};
use dawson::jobs::{
    CallbackConfig, FilingConfig, Jobs, JobsConfig, Networks, Parts, Places, open_store,
};
use dawson::pacs::{Inbox, InboxConfig, Rules};
use dawson_imaging::dicom;
use dawson_imaging::nifti::Limits;
use dawson_inference::engine::{Engine, EngineConfig, Precision, unobserved};
use dawson_inference::pipeline::Segmenter;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// A service that takes jobs but runs none.
struct Idle {
    runtime: Runtime,
    router: Router,
    state: PathBuf,
}

impl Idle {
    fn start() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let state = std::env::temp_dir().join(format!("dawson-fuzz-{}", std::process::id()));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (store, files) = runtime
            .block_on(open_store(&state, &Places::default()))
            .unwrap();
        let engine = EngineConfig {
            device: "cpu".parse().unwrap(),
            failover: Vec::new(),
            library: None,
            threads: Some(NonZeroUsize::MIN),
            batch: NonZeroUsize::MIN,
            max_sessions: NonZeroUsize::MIN,
            queue: NonZeroUsize::MIN,
            engine_cache: None,
            observer: unobserved,
        };
        let segmenter = Segmenter::new(Engine::start(&engine).unwrap(), Limits::CLINICAL);
        let models = root.join("tests/fixtures/models");
        let jobs = Arc::new(Jobs::new(Parts {
            store,
            files,
            networks: Networks::open(models, Precision::F32, segmenter).unwrap(),
            default_model: "tiny-lesion".to_owned(),
            read_options,
            config: JobsConfig {
                workers: 1,
                queue: 100,
                queue_bytes: 1 << 30,
                memory_budget: 4 << 30,
                min_free_bytes: 0,
                lease: Duration::from_secs(30),
                retries: 0,
                results_ttl: Duration::from_hours(1),
                keep_inputs: false,
                grace: Duration::ZERO,
                callbacks: CallbackConfig::default(),
                filing: FilingConfig::default(),
            },
        }));
        let inbox = InboxConfig {
            quiet: Duration::from_secs(1),
            longest: Duration::from_secs(1),
            late: Duration::from_secs(1),
            limits: dicom::Limits::CLINICAL,
        };
        let inbox = Inbox::open(Arc::clone(&jobs), Rules::default(), inbox);
        let inbox = Arc::new(runtime.block_on(inbox).unwrap());
        let config = HttpConfig {
            max_body_bytes: 1 << 20,
            pace: Pace {
                timeout: Duration::from_secs(5),
                min_bytes_per_s: 1024,
            },
            max_parts: 8,
            max_dicom_parts: 8,
            max_part_bytes: 1 << 16,
            max_part_header_bytes: 1 << 10,
            max_options_bytes: 1 << 12,
            max_wait: Duration::ZERO,
            access: AccessConfig {
                keys: None,
                hosts: Vec::new(),
                metrics: MetricsAccess::Open,
                key_requests: 100,
                key_rate_per_s: NonZeroU32::MAX,
                key_burst: NonZeroU32::MAX,
            },
            cors_origins: Vec::new(),
        };
        Self {
            runtime,
            router: router(jobs, inbox, config, None),
            state,
        }
    }

    fn answer(&self, request: Request<Body>) -> (StatusCode, Option<String>, String, Vec<u8>) {
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let text = |name| head.headers.get(name)?.to_str().ok().map(str::to_owned);
            let (location, kind) = (text(LOCATION), text(CONTENT_TYPE).unwrap_or_default());
            (head.status, location, kind, to_bytes(body, usize::MAX).await.unwrap().to_vec())
        })
    }
}

static IDLE: OnceLock<Idle> = OnceLock::new();

fuzz_target!(|body: &[u8]| {
    let idle = IDLE.get_or_init(Idle::start);
    let request = Request::post("/v1/segmentations")
        .header(CONTENT_TYPE, "multipart/form-data; boundary=x")
        .body(Body::from(body.to_vec()));
    let (status, location, kind, text) = idle.answer(request.unwrap());
    if status == StatusCode::ACCEPTED {
        let erase = Request::delete(location.unwrap()).body(Body::empty());
        assert_eq!(idle.answer(erase.unwrap()).0, StatusCode::NO_CONTENT);
    } else {
        let text = String::from_utf8_lossy(&text);
        assert!(status.is_client_error() && kind == "application/problem+json", "{status} {text}");
    }
    // Nothing stays of what was refused or erased.
    for folder in ["incoming", "jobs"] {
        assert_eq!(std::fs::read_dir(idle.state.join(folder)).unwrap().count(), 0);
    }
});
