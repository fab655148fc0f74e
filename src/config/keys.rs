//! The table of settings: names, defaults, and what each does.

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in `dawson.toml`; with dashes the flag, in capitals after `DAWSON_` the variable.
    pub name: &'static str,
    /// Its value if nobody says another; empty for none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Every setting.
pub const KEYS: &[Key] = &[
    Key {
        name: "listen",
        default: "127.0.0.1:8080",
        help: "Address and port to listen at; port 0 takes a free one",
    },
    Key {
        name: "state",
        default: "dawson-state",
        help: "Folder for jobs and their files",
    },
    Key {
        name: "database",
        default: "",
        help: "Address of a PostgreSQL database that several servers share [default: a file in state]",
    },
    Key {
        name: "artifacts",
        default: "",
        help: "Address of an S3 bucket for files that several servers share [default: folders in state]",
    },
    Key {
        name: "models",
        default: "",
        help: "Folder of networks [default: searched beside the program]",
    },
    Key {
        name: "series_rules",
        default: "",
        help: "A site's rules on how it names its DICOM series (TOML)",
    },
    Key {
        name: "de_identify_key",
        default: "",
        help: "File of 64 hexadecimal digits; the same give de-identified studies the same pseudonyms and UIDs [default: drawn at each start]",
    },
    Key {
        name: "pacs",
        default: "",
        help: "The operator's file on nodes and archives (TOML): who may send, which studies are run, where results go",
    },
    Key {
        name: "dicom_listen",
        default: "",
        help: "Address and port at which DICOM nodes are listened to (C-STORE, C-ECHO) [default: none]",
    },
    Key {
        name: "dicom_tls",
        default: "false",
        help: "Speak TLS with DICOM nodes, by tls_cert and tls_key",
    },
    Key {
        name: "dicom_tls_ca",
        default: "",
        help: "PEM file of authorities: nodes must show a certificate of one of them [default: none is asked for]",
    },
    Key {
        name: "ae_title",
        default: "DAWSON",
        help: "The application entity title of this service",
    },
    Key {
        name: "max_associations",
        default: "32",
        help: "The most associations at once; more are told to come again",
    },
    Key {
        name: "max_association_bytes",
        default: "17179869184",
        help: "The most bytes that an association may bring",
    },
    Key {
        name: "dicom_silence_s",
        default: "30",
        help: "Seconds that a node may be silent within an association",
    },
    Key {
        name: "study_quiet_s",
        default: "30",
        help: "A study that arrives image by image is whole once nothing has come for so many seconds (a route or `start` may state its images), …",
    },
    Key {
        name: "study_longest_s",
        default: "900",
        help: "… or so many seconds after its first new image, whoever still sends",
    },
    Key {
        name: "study_late_s",
        default: "3600",
        help: "Seconds that its images are kept for those that come late",
    },
    Key {
        name: "max_image_bytes",
        default: "268435456",
        help: "The most bytes of an image that arrives over DIMSE or STOW-RS",
    },
    Key {
        name: "model",
        default: "ms-lesion",
        help: "The network for requests that name none",
    },
    Key {
        name: "device",
        default: "auto",
        help: "auto, cpu, openvino, cuda[:N] or tensorrt[:N]",
    },
    Key {
        name: "failover",
        default: "",
        help: "Devices that may take over when the first fails, separated by commas",
    },
    Key {
        name: "precision",
        default: "f32",
        help: "Precision that is checked at the start: f32 or bf16",
    },
    Key {
        name: "runtime_library",
        default: "",
        help: "The ONNX Runtime library [default: searched beside the program]",
    },
    Key {
        name: "engine_cache",
        default: "",
        help: "The folder where TensorRT keeps the engines that it builds [default: engines in state]",
    },
    Key {
        name: "threads",
        default: "",
        help: "CPU threads for a patch [default: all cores]",
    },
    Key {
        name: "batch",
        default: "1",
        help: "The most patches of a batch",
    },
    Key {
        name: "max_sessions",
        default: "3",
        help: "Sessions that are kept open",
    },
    Key {
        name: "patch_queue",
        default: "64",
        help: "Patches that may wait for the engine",
    },
    Key {
        name: "workers",
        default: "2",
        help: "Studies computed at once; they share the engine",
    },
    Key {
        name: "queue",
        default: "100",
        help: "The most jobs that may wait",
    },
    Key {
        name: "queue_bytes",
        default: "8589934592",
        help: "The most bytes of scans that may wait",
    },
    Key {
        name: "memory_budget_bytes",
        default: "",
        help: "Memory for studies computed at once [default: three quarters of the machine's]",
    },
    Key {
        name: "min_free_bytes",
        default: "1073741824",
        help: "With less disk than this nothing is taken and nothing begun",
    },
    Key {
        name: "lease_s",
        default: "30",
        help: "Seconds after which a silent worker is thought dead",
    },
    Key {
        name: "retries",
        default: "3",
        help: "How often a transient failure is tried again",
    },
    Key {
        name: "results_ttl_s",
        default: "86400",
        help: "Seconds that results are kept",
    },
    Key {
        name: "keep_inputs",
        default: "false",
        help: "Keep scans as long as results",
    },
    Key {
        name: "grace_s",
        default: "30",
        help: "Seconds that running jobs may go on once the server is to stop",
    },
    Key {
        name: "keys_file",
        default: "",
        help: "The file of API keys [default: keys.toml in the state]; once it is there, callers need one",
    },
    Key {
        name: "tls_cert",
        default: "",
        help: "PEM file of the server's certificate and its chain; then HTTPS is spoken",
    },
    Key {
        name: "tls_key",
        default: "",
        help: "PEM file of its private key",
    },
    Key {
        name: "behind_proxy",
        default: "false",
        help: "A proxy in front speaks TLS, so keys may pass in the clear from there",
    },
    Key {
        name: "hosts",
        default: "",
        help: "Names under which the service is reached, separated by commas [default: any]",
    },
    Key {
        name: "cors_origins",
        default: "",
        help: "Origins whose pages may ask, separated by commas [default: none]",
    },
    Key {
        name: "metrics_need_key",
        default: "false",
        help: "Show /metrics only to keys with the scope read",
    },
    Key {
        name: "key_requests",
        default: "512",
        help: "The most requests of a key that are under way at once",
    },
    Key {
        name: "key_rate_per_s",
        default: "100",
        help: "Requests of a key a second, in the long run",
    },
    Key {
        name: "key_burst",
        default: "1000",
        help: "Requests of a key at once, after a pause",
    },
    Key {
        name: "upload_grace_s",
        default: "20",
        help: "Seconds that requests may go on once the server is to stop",
    },
    Key {
        name: "max_connections",
        default: "1024",
        help: "The most connections at once; the longest idle makes room",
    },
    Key {
        name: "header_timeout_s",
        default: "10",
        help: "Seconds that the head of a request, and a TLS handshake, may take",
    },
    Key {
        name: "idle_timeout_s",
        default: "60",
        help: "Seconds that a connection may wait for its next request",
    },
    Key {
        name: "write_timeout_s",
        default: "60",
        help: "Seconds that a client may take nothing of its answer",
    },
    Key {
        name: "max_header_bytes",
        default: "65536",
        help: "The most bytes of a request's head, at least 8192",
    },
    Key {
        name: "max_headers",
        default: "100",
        help: "The most header fields of a request",
    },
    Key {
        name: "max_streams",
        default: "100",
        help: "The most requests at once on an HTTP/2 connection",
    },
    Key {
        name: "body_timeout_s",
        default: "30",
        help: "Seconds that the server waits for bytes of a body in all, …",
    },
    Key {
        name: "min_body_rate",
        default: "4096",
        help: "… and a second longer for each so many bytes that came",
    },
    Key {
        name: "max_body_bytes",
        default: "2147483648",
        help: "The most bytes of a submission",
    },
    Key {
        name: "max_part_bytes",
        default: "1073741824",
        help: "The most bytes of one scan as it is sent",
    },
    Key {
        name: "max_parts",
        default: "16",
        help: "The most parts of a submission",
    },
    Key {
        name: "max_dicom_parts",
        default: "5000",
        help: "The most DICOM files of a submission that are sent one by one",
    },
    Key {
        name: "max_part_header_bytes",
        default: "16384",
        help: "The most bytes of a part's headers",
    },
    Key {
        name: "max_options_bytes",
        default: "65536",
        help: "The most bytes of the options part",
    },
    Key {
        name: "max_axis",
        default: "1024",
        help: "The most voxels along an axis of a scan",
    },
    Key {
        name: "max_voxels",
        default: "134217728",
        help: "The most voxels of a scan",
    },
    Key {
        name: "max_unpacked_bytes",
        default: "1073741824",
        help: "The most bytes that a scan's voxels may unpack to",
    },
    Key {
        name: "max_wait_s",
        default: "300",
        help: "The longest that Prefer: wait is honoured",
    },
    Key {
        name: "callback_hosts",
        default: "",
        help: "Hosts that may be told of a job's end, host or host:port, separated by commas",
    },
    Key {
        name: "callback_secret",
        default: "",
        help: "Key of their signatures, whsec_…; best given by its variable",
    },
    Key {
        name: "filing_retry_s",
        default: "5,15,60,300,900,1800,3600,7200,14400,28800,28800,28800",
        help: "Seconds after each try to file a result that failed until the next; after the last it is given up",
    },
    Key {
        name: "insecure_no_auth",
        default: "false",
        help: "Listen beyond this machine although callers are not asked who they are, or not in private",
    },
    Key {
        name: "log",
        default: "info",
        help: "What is logged, as tracing filters are written",
    },
    Key {
        name: "log_format",
        default: "text",
        help: "text or json",
    },
    Key {
        name: "otlp_endpoint",
        default: "",
        help: "OpenTelemetry collector that gets spans (OTLP over HTTP), such as http://127.0.0.1:4318",
    },
];
