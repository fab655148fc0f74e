//! A phantom study, a service on it, and the few lines of HTTP that the tests need.
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use dawson::http::{HttpConfig, read_options, router};
use dawson::jobs::{Jobs, JobsConfig, Parts, open_store};
use dawson_imaging::grid::Grid;
use dawson_imaging::nifti::{Compression, Limits, SpatialFields, encode};
use dawson_imaging::phantom::{Phantom, PhantomOptions, Skull, head};
use dawson_imaging::study::Contrast;
use dawson_inference::engine::{DeviceChoice, Engine, EngineConfig, unobserved};
use dawson_inference::models::Registry;
use dawson_inference::pipeline::{Asked, Cancel, ContrastFile, Segmentation, Segmenter, Settings};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// The grid of the test's scans: the whole brain at 3 mm.
pub(crate) fn grid() -> Grid {
    PhantomOptions::standard(1)
        .grid
        .with_spacing([3.0; 3])
        .unwrap()
}

/// One head for all tests: 3 mm, stripped, three contrasts.
pub(crate) fn phantom() -> &'static Phantom {
    static PHANTOM: OnceLock<Phantom> = OnceLock::new();
    PHANTOM.get_or_init(|| {
        head(&PhantomOptions {
            seed: 1,
            grid: grid(),
            skull: Skull::Stripped,
            lesion_load_ml: 12.0,
            contrasts: vec![Contrast::Flair, Contrast::T1w, Contrast::T2w],
        })
    })
}

/// The phantom's scan of a contrast as a `.nii.gz` file.
pub(crate) fn file(contrast: Contrast) -> Vec<u8> {
    let (_, volume) = phantom()
        .scans
        .iter()
        .find(|(c, _)| *c == contrast)
        .unwrap();
    let stored = volume.map(|v| v.round().clamp(0.0, 32767.0) as i16);
    encode(
        &stored,
        &SpatialFields::of(volume.grid()),
        Compression::Gzip,
    )
}

pub(crate) fn study(contrasts: &[Contrast]) -> Vec<ContrastFile> {
    contrasts
        .iter()
        .map(|&contrast| ContrastFile {
            contrast,
            bytes: file(contrast),
        })
        .collect()
}

pub(crate) fn engine_config(device: &str) -> EngineConfig {
    EngineConfig {
        device: device.parse::<DeviceChoice>().unwrap(),
        failover: Vec::new(),
        library: None,
        threads: None,
        batch: NonZeroUsize::MIN,
        max_sessions: NonZeroUsize::new(3).unwrap(),
        queue: NonZeroUsize::new(8).unwrap(),
        observer: unobserved,
    }
}

pub(crate) fn segmenter(config: &EngineConfig) -> Segmenter {
    Segmenter::new(Engine::start(config).unwrap(), Limits::CLINICAL)
}

/// Runs a study with the tiny network.
pub(crate) fn segment(
    segmenter: &Segmenter,
    files: Vec<ContrastFile>,
    asked: &Asked,
) -> Result<Segmentation, dawson_inference::pipeline::Error> {
    let model = Registry::open(&models())
        .unwrap()
        .get("tiny-lesion")
        .unwrap();
    let settings = Settings::resolve(asked, &model.manifest).unwrap();
    segmenter.segment(
        files,
        &model,
        &settings,
        &mut |_| {},
        &Arc::new(Cancel::default()),
    )
}

/// A service on a folder of its own.
pub(crate) struct Service {
    pub(crate) router: Router,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) state: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct ServiceOptions {
    pub(crate) workers: usize,
    pub(crate) queue: usize,
    pub(crate) results_ttl: Duration,
    pub(crate) max_part_bytes: usize,
    pub(crate) max_body_bytes: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            queue: 20,
            results_ttl: Duration::from_hours(1),
            max_part_bytes: 8 << 20,
            max_body_bytes: 32 << 20,
        }
    }
}

impl Service {
    /// A service whose jobs are run.
    pub(crate) async fn start(options: ServiceOptions) -> Self {
        let service = Self::idle(options).await;
        tokio::spawn(Arc::clone(&service.jobs).run());
        service
    }

    /// A service that takes jobs but runs none.
    pub(crate) async fn idle(options: ServiceOptions) -> Self {
        let state = std::env::temp_dir().join(format!("dawson-it-{}", ulid::Ulid::generate()));
        Self::on(state, options).await
    }

    /// A service on a folder that may hold jobs already.
    pub(crate) async fn on(state: PathBuf, options: ServiceOptions) -> Self {
        let (store, files) = open_store(&state).await.unwrap();
        let jobs = Arc::new(Jobs::new(Parts {
            store,
            files,
            segmenter: segmenter(&engine_config("auto")),
            registry: Registry::open(&models()).unwrap(),
            default_model: "tiny-lesion".to_owned(),
            read_options,
            config: JobsConfig {
                workers: options.workers,
                queue: options.queue,
                lease: Duration::from_secs(30),
                retries: 3,
                results_ttl: options.results_ttl,
                keep_inputs: false,
                grace: Duration::from_secs(10),
            },
        }));
        let config = HttpConfig {
            max_body_bytes: options.max_body_bytes,
            max_part_bytes: options.max_part_bytes,
            max_wait: Duration::from_mins(5),
        };
        Self {
            router: router(Arc::clone(&jobs), config, None),
            jobs,
            state,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    /// Submits a form and waits for the job's end.
    pub(crate) async fn run(&self, form: Form) -> Answer {
        self.send(form.request(&[("prefer", "wait=120")])).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.jobs.close();
        let _gone = std::fs::remove_dir_all(&self.state);
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Status and code of a problem, its form checked.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert!(
            !problem["detail"].as_str().unwrap().is_empty()
                && !problem["request_id"].as_str().unwrap().is_empty()
        );
        (self.status.as_u16(), code)
    }
}

/// A multipart form.
#[derive(Default)]
pub(crate) struct Form {
    body: Vec<u8>,
}

impl Form {
    const BOUNDARY: &str = "a-boundary-that-no-scan-holds";

    pub(crate) fn of(contrasts: &[Contrast]) -> Self {
        contrasts
            .iter()
            .fold(Self::default(), |form, &c| form.part(c.name(), &file(c)))
    }

    pub(crate) fn part(mut self, name: &str, content: &[u8]) -> Self {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\r\n",
            Self::BOUNDARY
        );
        self.body.extend_from_slice(head.as_bytes());
        self.body.extend_from_slice(content);
        self.body.extend_from_slice(b"\r\n");
        self
    }

    pub(crate) fn options(self, options: &Value) -> Self {
        self.part("options", options.to_string().as_bytes())
    }

    pub(crate) fn request(mut self, headers: &[(&str, &str)]) -> Request<Body> {
        self.body
            .extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        let kind = format!("multipart/form-data; boundary={}", Self::BOUNDARY);
        let mut request = Request::post("/v1/segmentations").header("content-type", kind);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(self.body)).unwrap()
    }
}
