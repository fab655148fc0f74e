//! `dawson serve`: the one place where the parts meet.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args as ClapArgs, Command, FromArgMatches};
use dawson_imaging::nifti::Limits;
use dawson_inference::engine::{Device, Engine, EngineConfig, Precision};
use dawson_inference::models::find_folder;
use dawson_inference::pipeline::Segmenter;
use dawson_inference::problem::Code;
use tokio::signal::unix::{SignalKind, signal};

use super::edge::{Edge, listener};
use super::pacs;
use super::say::{announce, say};
use super::{Failure, dicom};
use crate::config::{self, KEYS, Settings, flag_name};
use crate::http;
use crate::jobs::{
    CallbackConfig, FilingConfig, Jobs, JobsConfig, Networks, Parts, Places, Secret, open_store,
};
use crate::pacs::{Destination, Filing};
use crate::telemetry::{Log, LogConfig, Metrics};
use crate::{files, telemetry};

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "dawson.toml";

/// Every setting as a flag.
#[derive(Debug)]
pub(super) struct Args {
    file: Option<PathBuf>,
    print: bool,
    flags: Vec<(&'static str, String)>,
}

impl ClapArgs for Args {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Settings [default: dawson.toml, if it is there]");
        let print = Arg::new("print-config")
            .long("print-config")
            .action(clap::ArgAction::SetTrue)
            .help("Print every setting and where its value came from, and do nothing else");
        let keys = KEYS.iter().map(|key| {
            let default = if key.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", key.default)
            };
            let arg = Arg::new(key.name)
                .long(flag_name(key.name).trim_start_matches('-').to_owned())
                .value_name("VALUE")
                .help(format!("{}{default}", key.help));
            // A truth value alone means yes.
            if key.default == "false" {
                arg.num_args(0..=1).default_missing_value("true")
            } else {
                arg
            }
        });
        command
            .arg(file)
            .arg(print)
            .args(keys)
            .after_help(
                "Each setting is also a key of dawson.toml (with _ for -) and a variable DAWSON_….\n\n\
                 Example:\n  dawson serve --listen 127.0.0.1:8080 --state /var/lib/dawson --device openvino",
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = |key: &'static str| Some((key, matches.get_one::<String>(key)?.clone()));
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            print: matches.get_flag("print-config"),
            flags: KEYS.iter().filter_map(|key| said(key.name)).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(Code::InvalidOptions, error.to_string())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = read_settings(args.file.as_ref(), &args.flags)?;
    if args.print {
        say!("{}", settings.to_string().trim_end());
        return Ok(());
    }
    let _log = start_log(&settings)?;
    let runtime = runtime()?;
    let served = runtime.block_on(serve(&settings));
    // What still blocks a thread is not waited for longer than this.
    runtime.shutdown_timeout(Duration::from_secs(2));
    served
}

/// What runs the async side of a command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("no runtime: {e}")))
}

/// Which service a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct ServiceArgs {
    /// The service's settings [default: dawson.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The service's folder
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<String>,
}

impl ServiceArgs {
    /// Its settings, with what else was said here.
    pub(super) fn settings(
        &self,
        more: &[(&'static str, &Option<String>)],
    ) -> Result<Settings, Failure> {
        let said = [("state", &self.state)];
        let said = said.iter().chain(more);
        let flags: Vec<(&'static str, String)> = said
            .filter_map(|(key, value)| Some((*key, value.as_ref()?.clone())))
            .collect();
        read_settings(self.config.as_ref(), &flags)
    }
}

/// The settings of a service: of its file, the variables, and what was said here.
pub(super) fn read_settings(
    file: Option<&PathBuf>,
    flags: &[(&'static str, String)],
) -> Result<Settings, Failure> {
    let path = file
        .cloned()
        .or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()));
    let file = path
        .map(|path| {
            let bytes = files::read(&path).map_err(|e| Failure::file(&e))?;
            Ok::<_, Failure>((path, String::from_utf8_lossy(&bytes).into_owned()))
        })
        .transpose()?;
    let flag = |key: &'static str| {
        flags
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.clone())
    };
    Ok(Settings::layered(
        file,
        |name| std::env::var(name).ok(),
        flag,
    )?)
}

fn start_log(settings: &Settings) -> Result<Log, Failure> {
    Log::start(LogConfig {
        filter: settings.get("log")?,
        format: settings.get("log_format")?,
        otlp_endpoint: settings.optional("otlp_endpoint")?,
    })
    .map_err(|reason| settings.wrong("otlp_endpoint", reason).into())
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let edge = Edge::open(settings)?;
    let state: PathBuf = settings.get("state")?;
    let _lock = lock(&state)?;
    let metrics = Metrics::install(&state).map_err(|e| Failure::new(Code::Internal, e))?;
    let pacs_file = pacs::file(settings)?;
    let networks = open_networks(settings)?;
    let places = Places::of(settings)?;
    let destinations = pacs::destinations(settings, &pacs_file)?;
    let (store, job_files) = open_store(&state, &places)
        .await
        .map_err(|e| Failure::new(Code::StorageFailed, e.to_string()))?;
    let jobs = Arc::new(Jobs::new(Parts {
        store,
        files: job_files,
        networks,
        default_model: settings.get("model")?,
        read_options: http::read_options,
        config: jobs_config(settings, &destinations)?,
    }));
    jobs.model(None)
        .map_err(|e| Failure::new(e.code(), e.to_string()))?;
    jobs.recover()
        .await
        .map_err(|e| Failure::new(e.code(), e.to_string()))?;
    let inbox = pacs::open_inbox(settings, &jobs, &pacs_file).await?;
    let nodes = pacs::listen(settings, &inbox, edge.dicom_tls.clone())?;
    let router = http::router(
        Arc::clone(&jobs),
        Arc::clone(&inbox),
        edge.http.clone(),
        Some(metrics),
    );
    let listener = listener(edge.listen)?;
    let address = listener
        .local_addr()
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    // Before anybody may know that it runs, it can be stopped in good order.
    let asked = asked_to_stop()?;
    let fresh = {
        let jobs = Arc::clone(&jobs);
        edge.keep_fresh(move || {
            let jobs = Arc::clone(&jobs);
            // What came of it is in the log: there is nobody to tell.
            async move { drop(jobs.reload().await) }
        })?
    };
    let scheme = if edge.tls.is_some() { "https" } else { "http" };
    announce!("listening on {scheme}://{address}");
    if let Some((_, nodes)) = &nodes {
        let address = nodes
            .local_addr()
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        announce!("listening on dicom://{address}");
    }
    telemetry::serving(address, jobs.networks().segmenter.engine());

    let filing = Filing::new(Arc::clone(&jobs), destinations)
        .map_err(|e| Failure::new(Code::Internal, format!("results cannot be filed: {e}")))?;
    let filing = tokio::spawn(filing.run());
    let runner = tokio::spawn(Arc::clone(&jobs).run());
    let arriving = tokio::spawn(inbox.run());
    let nodes =
        nodes.map(|(receiver, listener)| tokio::spawn(receiver.serve(listener, jobs.closed())));
    let stopping = Arc::clone(&jobs);
    let stop = async move {
        asked.await;
        tracing::info!("stopping: requests and running jobs may go on for their grace times");
        stopping.close();
    };
    let fresh = tokio::spawn(fresh);
    http::serve(listener, edge.tls, router, edge.listening, stop).await;
    fresh.abort();
    if let Some(nodes) = nodes {
        nodes
            .await
            .map_err(|e| Failure::new(Code::Internal, format!("the receiver failed: {e}")))?;
    }
    arriving.abort();
    filing
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("filing failed: {e}")))?;
    runner
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("the runner failed: {e}")))
}

/// From now on SIGTERM and SIGINT end what is returned, and nothing else.
fn asked_to_stop() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let deaf = |e: std::io::Error| {
        Failure::new(Code::Internal, format!("signals cannot be received: {e}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(deaf)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// One process a folder: held as long as the file is open.
fn lock(state: &std::path::Path) -> Result<std::fs::File, Failure> {
    std::fs::create_dir_all(state).map_err(|e| Failure::file(&files::named(state, &e)))?;
    let path = state.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Failure::file(&files::named(&path, &e)))?;
    file.try_lock().map_err(|_| {
        Failure::new(
            Code::StorageFailed,
            format!("{} is in use by another dawson", state.display()),
        )
    })?;
    Ok(file)
}

/// Engine and networks, each network verified on the engine before anything is served.
fn open_networks(settings: &Settings) -> Result<Networks, Failure> {
    let folder = settings
        .optional::<PathBuf>("models")?
        .map_or_else(find_folder, Ok)?;
    let failover: Option<String> = settings.optional("failover")?;
    let failover = failover
        .iter()
        .flat_map(|list| list.split(','))
        .map(|name| {
            name.trim()
                .parse::<Device>()
                .map_err(|e| settings.wrong("failover", e.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let engine = Engine::start(&EngineConfig {
        device: settings.get("device")?,
        failover,
        library: settings.optional("runtime_library")?,
        threads: settings.optional("threads")?,
        batch: settings.get("batch")?,
        max_sessions: settings.get("max_sessions")?,
        queue: settings.get("patch_queue")?,
        engine_cache: Some(match settings.optional("engine_cache")? {
            Some(folder) => folder,
            None => settings.get::<PathBuf>("state")?.join("engines"),
        }),
        observer: telemetry::engine,
    })?;
    let limits = Limits {
        max_axis: settings.get("max_axis")?,
        max_voxels: settings.get("max_voxels")?,
        max_bytes: settings.get("max_unpacked_bytes")?,
    };
    let rules = settings.optional::<PathBuf>("series_rules")?;
    let key = settings.optional::<PathBuf>("de_identify_key")?;
    let named: String = settings.get("precision")?;
    let precision = Precision::ALL
        .into_iter()
        .find(|p| p.name() == named)
        .ok_or_else(|| settings.wrong("precision", "must be f32 or bf16"))?;
    let segmenter = Segmenter::new(engine, limits)
        .with_series_rules(dicom::series_rules_of(rules.as_deref())?)
        .with_pseudonyms(dicom::pseudonyms_of(key.as_deref())?);
    Ok(Networks::open(folder, precision, segmenter)?)
}

/// Where results may be filed, and how patiently.
fn filing_config(
    settings: &Settings,
    destinations: &[Destination],
) -> Result<FilingConfig, Failure> {
    let list: Option<String> = settings.optional("filing_retry_s")?;
    let seconds = |text: &str| {
        let seconds = text.trim().parse().ok();
        let wait = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        wait.ok_or_else(|| settings.wrong("filing_retry_s", "must be seconds separated by commas"))
    };
    let waits = list.iter().flat_map(|list| list.split(','));
    Ok(FilingConfig {
        destinations: destinations.iter().map(Destination::wants).collect(),
        waits: waits.map(seconds).collect::<Result<_, _>>()?,
    })
}

fn jobs_config(settings: &Settings, destinations: &[Destination]) -> Result<JobsConfig, Failure> {
    Ok(JobsConfig {
        workers: settings.get("workers")?,
        queue: settings.get("queue")?,
        queue_bytes: settings.get("queue_bytes")?,
        memory_budget: settings
            .optional("memory_budget_bytes")?
            .unwrap_or_else(|| machine_memory() / 4 * 3),
        min_free_bytes: settings.get("min_free_bytes")?,
        lease: settings.seconds("lease_s")?.max(Duration::from_secs(1)),
        retries: settings.get("retries")?,
        results_ttl: settings.seconds("results_ttl_s")?,
        keep_inputs: settings.get("keep_inputs")?,
        grace: settings.seconds("grace_s")?,
        callbacks: callback_config(settings)?,
        filing: filing_config(settings, destinations)?,
    })
}

impl Places {
    /// Where the settings say that jobs are kept.
    pub(super) fn of(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self {
            database: settings.optional("database")?,
            artifacts: settings.optional("artifacts")?,
        })
    }
}

fn callback_config(settings: &Settings) -> Result<CallbackConfig, Failure> {
    let hosts: Option<String> = settings.optional("callback_hosts")?;
    let hosts: Vec<String> = hosts
        .iter()
        .flat_map(|list| list.split(','))
        .map(|host| host.trim().to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let secret: Option<String> = settings.optional("callback_secret")?;
    let secret = match secret {
        Some(text) => Secret::parse(&text).map_err(|e| settings.wrong("callback_secret", e))?,
        None if hosts.is_empty() => Secret::default(),
        None => {
            let reason = "is needed to sign what callback_hosts are told";
            return Err(settings.wrong("callback_secret", reason).into());
        }
    };
    Ok(CallbackConfig { hosts, secret })
}

/// Bytes of memory that this process may use: the machine's, or less if a control group says so.
fn machine_memory() -> u64 {
    let read = |path: &str| {
        let bytes = files::read(std::path::Path::new(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    let known = [machine, group].into_iter().flatten().min();
    // Where neither is told, the smallest machine that is of any use is thought of.
    known.unwrap_or(4 << 30)
}
