//! A phantom study, a service on it, and the few lines of HTTP that the tests need.
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use dawson::http::{
    AccessConfig, HttpConfig, ListenConfig, MetricsAccess, Pace, read_options, router, serve,
};
use dawson::jobs::{
    CallbackConfig, FilingConfig, Jobs, JobsConfig, Networks, Parts, Places, open_store,
};
use dawson::pacs::{AeTitle, Destination, Filing, Inbox, InboxConfig, PacsFile};
use dawson::tls::Tls;
use dawson_imaging::dicom;
use dawson_imaging::grid::Grid;
use dawson_imaging::nifti::{Compression, Limits, SpatialFields, encode};
use dawson_imaging::phantom::{Phantom, PhantomOptions, Skull, head};
use dawson_imaging::study::Contrast;
use dawson_inference::engine::{DeviceChoice, Engine, EngineConfig, Precision};
use dawson_inference::models::{Model, Registry};
use dawson_inference::pipeline::{Asked, Cancel, ContrastFile, Segmentation, Segmenter, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
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
    EngineConfig::new(device.parse::<DeviceChoice>().unwrap())
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
    let registry = Registry::open(&models()).unwrap();
    segment_by(
        &registry.get("tiny-lesion").unwrap(),
        segmenter,
        files,
        asked,
    )
}

/// Runs a study with a network.
pub(crate) fn segment_by(
    model: &Arc<Model>,
    segmenter: &Segmenter,
    files: Vec<ContrastFile>,
    asked: &Asked,
) -> Result<Segmentation, dawson_inference::pipeline::Error> {
    let settings = Settings::resolve(asked, &model.manifest).unwrap();
    segmenter.segment(
        files,
        model,
        &settings,
        &mut |_| {},
        &Arc::new(Cancel::default()),
    )
}

/// A service on a folder of its own.
pub(crate) struct Service {
    pub(crate) router: Router,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) state: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct ServiceOptions {
    pub(crate) workers: usize,
    pub(crate) queue: usize,
    pub(crate) results_ttl: Duration,
    pub(crate) max_part_bytes: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) pace: Pace,
    pub(crate) access: AccessConfig,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) memory_budget: u64,
    pub(crate) min_free_bytes: u64,
    pub(crate) lease: Duration,
    pub(crate) callbacks: CallbackConfig,
    /// The file on archives and nodes, as the operator writes it.
    pub(crate) pacs: String,
    pub(crate) filing_waits: Vec<Duration>,
    pub(crate) places: Places,
    pub(crate) models: PathBuf,
    pub(crate) quiet: Duration,
    pub(crate) late: Duration,
    pub(crate) dicom_limits: dicom::Limits,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            queue: 20,
            results_ttl: Duration::from_hours(1),
            max_part_bytes: 8 << 20,
            max_body_bytes: 32 << 20,
            pace: Pace {
                timeout: Duration::from_mins(1),
                min_bytes_per_s: 1024,
            },
            access: open_to_all(),
            cors_origins: Vec::new(),
            memory_budget: 4 << 30,
            min_free_bytes: 0,
            lease: Duration::from_secs(30),
            callbacks: CallbackConfig::default(),
            pacs: String::new(),
            filing_waits: vec![Duration::ZERO],
            places: Places::default(),
            models: models(),
            quiet: Duration::from_millis(300),
            late: Duration::from_mins(10),
            dicom_limits: dicom::Limits::CLINICAL,
        }
    }
}

impl Service {
    /// A service whose jobs are run.
    pub(crate) async fn start(options: ServiceOptions) -> Self {
        let destinations = destinations(&options);
        let service = Self::idle(options).await;
        service.run_jobs(destinations);
        tokio::spawn(Arc::clone(&service.inbox).run());
        service
    }

    /// Runs the jobs, and files their results.
    pub(crate) fn run_jobs(&self, destinations: Vec<Destination>) -> JoinHandle<()> {
        let filing = Filing::new(Arc::clone(&self.jobs), destinations).unwrap();
        tokio::spawn(Arc::clone(&self.jobs).run());
        tokio::spawn(filing.run())
    }

    /// A service that takes jobs but runs none.
    pub(crate) async fn idle(options: ServiceOptions) -> Self {
        let state = std::env::temp_dir().join(format!("dawson-it-{}", ulid::Ulid::generate()));
        Self::on(state, options).await
    }

    /// A service on a folder that may hold jobs already.
    pub(crate) async fn on(state: PathBuf, options: ServiceOptions) -> Self {
        let (store, files) = open_store(&state, &options.places).await.unwrap();
        let engine = segmenter(&engine_config("auto"));
        let networks = Networks::open(options.models.clone(), Precision::F32, engine).unwrap();
        let wants = destinations(&options)
            .iter()
            .map(Destination::wants)
            .collect();
        let jobs = Arc::new(Jobs::new(Parts {
            store,
            files,
            networks,
            default_model: "tiny-lesion".to_owned(),
            read_options,
            config: JobsConfig {
                workers: options.workers,
                queue: options.queue,
                queue_bytes: 1 << 30,
                memory_budget: options.memory_budget,
                min_free_bytes: options.min_free_bytes,
                lease: options.lease,
                retries: 3,
                results_ttl: options.results_ttl,
                keep_inputs: false,
                grace: Duration::from_secs(10),
                callbacks: options.callbacks,
                filing: FilingConfig {
                    destinations: wants,
                    waits: options.filing_waits,
                },
            },
        }));
        let config = HttpConfig {
            max_body_bytes: options.max_body_bytes,
            pace: options.pace,
            max_parts: 16,
            max_dicom_parts: 100,
            max_part_bytes: options.max_part_bytes,
            max_part_header_bytes: 16 << 10,
            max_options_bytes: 64 << 10,
            max_wait: Duration::from_mins(5),
            access: options.access.clone(),
            cors_origins: options.cors_origins.clone(),
        };
        let inbox = InboxConfig {
            quiet: options.quiet,
            longest: options.quiet.max(Duration::from_mins(1)),
            late: options.late,
            limits: options.dicom_limits,
        };
        let rules = PacsFile::parse(&options.pacs).unwrap().rules().unwrap();
        let inbox = Inbox::open(Arc::clone(&jobs), rules, inbox).await;
        let inbox = Arc::new(inbox.unwrap());
        Self {
            router: router(Arc::clone(&jobs), Arc::clone(&inbox), config, None),
            jobs,
            inbox,
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

pub(crate) fn destinations(options: &ServiceOptions) -> Vec<Destination> {
    let file = PacsFile::parse(&options.pacs).unwrap();
    let title = AeTitle::parse("DAWSON").unwrap();
    file.destinations(&title, |_| None).unwrap()
}

/// Nobody is asked who they are.
pub(crate) fn open_to_all() -> AccessConfig {
    AccessConfig {
        keys: None,
        hosts: Vec::new(),
        metrics: MetricsAccess::Open,
        key_requests: 100,
        key_rate_per_s: NonZeroU32::new(1000).unwrap(),
        key_burst: NonZeroU32::new(1000).unwrap(),
    }
}

/// Limits that no test reaches by accident.
pub(crate) fn patient() -> ListenConfig {
    ListenConfig {
        max_connections: 64,
        header_timeout: Duration::from_mins(10),
        idle_timeout: Duration::from_mins(10),
        write_timeout: Duration::from_mins(10),
        max_header_bytes: 16 << 10,
        max_headers: 50,
        max_streams: 10,
        grace: Duration::from_mins(10),
    }
}

/// A service on a real socket.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<()>,
}

impl Listening {
    pub(crate) async fn start(service: &Service, config: ListenConfig) -> Self {
        Self::with(service, config, None).await
    }

    pub(crate) async fn with(
        service: &Service,
        config: ListenConfig,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = service.router.clone();
        let served = tokio::spawn(serve(listener, tls, router, config, async move {
            let _stop = stopped.await;
        }));
        Self {
            address,
            stop: Some(stop),
            served,
        }
    }

    /// Asks the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// A connection that has sent `bytes`.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Line {
        let mut line = Line(TcpStream::connect(self.address).await.unwrap());
        line.send(bytes).await;
        line
    }

    /// Whether the service answers a new client.
    pub(crate) async fn is_well(&self) -> bool {
        let mut line = self
            .send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        line.rest().await.starts_with("HTTP/1.1 200")
    }
}

/// A bare connection.
pub(crate) struct Line(pub(crate) TcpStream);

impl Line {
    /// Sends; a server that has hung up is no error here.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _sent = self.0.write_all(bytes.as_ref()).await;
    }

    /// All that comes until the server hangs up, which it must.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes));
        // A reset after the last byte is an end as well.
        let _end = read.await.expect("the server hangs up");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All that comes until `end` is in it.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains(end) {
            let read = tokio::time::timeout(PATIENCE, self.0.read(&mut bytes));
            let n = read.await.expect("the server goes on").unwrap();
            assert_ne!(n, 0, "the server hung up after: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        text
    }
}

/// Far more than anything takes: a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

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

    /// Content type and bytes of the whole form.
    pub(crate) fn close(mut self) -> (String, Vec<u8>) {
        self.body
            .extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        let kind = format!("multipart/form-data; boundary={}", Self::BOUNDARY);
        (kind, self.body)
    }

    pub(crate) fn request(self, headers: &[(&str, &str)]) -> Request<Body> {
        let (kind, body) = self.close();
        let mut request = Request::post("/v1/segmentations").header("content-type", kind);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(body)).unwrap()
    }
}
