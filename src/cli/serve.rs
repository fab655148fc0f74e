//! `dawson serve`: the one place where the parts meet.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args as ClapArgs, Command, FromArgMatches};
use dawson_imaging::nifti::Limits;
use dawson_inference::engine::{Device, Engine, EngineConfig, Precision};
use dawson_inference::models::{Registry, find_folder};
use dawson_inference::pipeline::Segmenter;
use dawson_inference::problem::Code;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use crate::config::{self, KEYS, Settings, flag_name};
use crate::http::{self, HttpConfig};
use crate::jobs::{Jobs, JobsConfig, Parts, open_store};
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
    let settings = read_settings(args)?;
    if args.print {
        print!("{settings}");
        return Ok(());
    }
    let _log = start_log(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("no runtime: {e}")))?;
    runtime.block_on(serve(&settings))
}

fn read_settings(args: &Args) -> Result<Settings, Failure> {
    let path = args
        .file
        .clone()
        .or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()));
    let file = path
        .map(|path| {
            let bytes = files::read(&path).map_err(|e| Failure::file(&e))?;
            Ok::<_, Failure>((path, String::from_utf8_lossy(&bytes).into_owned()))
        })
        .transpose()?;
    let flag = |key: &'static str| {
        args.flags
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
    let listen: SocketAddr = settings.get("listen")?;
    if !listen.ip().is_loopback() && !settings.get::<bool>("insecure_no_auth")? {
        let reason = "is reached from other machines, and nothing asks who is calling: put an authenticating proxy on \
                      this machine in front of 127.0.0.1, or say --insecure-no-auth";
        return Err(settings.wrong("listen", reason).into());
    }
    let state: PathBuf = settings.get("state")?;
    let _lock = lock(&state)?;
    let metrics = Metrics::install(&state).map_err(|e| Failure::new(Code::Internal, e))?;
    let (registry, segmenter) = open_engine(settings)?;
    let (store, job_files) = open_store(&state)
        .await
        .map_err(|e| Failure::new(Code::StorageFailed, e.to_string()))?;
    let jobs = Arc::new(Jobs::new(Parts {
        store,
        files: job_files,
        segmenter,
        registry,
        default_model: settings.get("model")?,
        read_options: http::read_options,
        config: jobs_config(settings)?,
    }));
    jobs.model(None)
        .map_err(|e| Failure::new(e.code(), e.to_string()))?;
    jobs.recover()
        .await
        .map_err(|e| Failure::new(e.code(), e.to_string()))?;
    let router = http::router(Arc::clone(&jobs), http_config(settings)?, Some(metrics));
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("cannot listen at {listen}: {e}")))?;
    let address = listener
        .local_addr()
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    println!("listening on http://{address}");
    telemetry::serving(address, jobs.segmenter().engine());

    let runner = tokio::spawn(Arc::clone(&jobs).run());
    let stopping = Arc::clone(&jobs);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            asked_to_stop().await;
            tracing::info!("stopping: running jobs may go on for the grace time");
            stopping.close();
        })
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("the server failed: {e}")))?;
    runner
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("the runner failed: {e}")))
}

/// Returns at SIGTERM or SIGINT.
async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals cannot be received: stop the process by force");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
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
fn open_engine(settings: &Settings) -> Result<(Registry, Segmenter), Failure> {
    let folder = settings
        .optional::<PathBuf>("models")?
        .map_or_else(find_folder, Ok)?;
    let registry = Registry::open(&folder)?;
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
        observer: telemetry::engine,
    })?;
    let limits = Limits {
        max_axis: settings.get("max_axis")?,
        max_voxels: settings.get("max_voxels")?,
    };
    let segmenter = Segmenter::new(engine, limits);
    let named: String = settings.get("precision")?;
    let precision = Precision::ALL
        .into_iter()
        .find(|p| p.name() == named)
        .ok_or_else(|| settings.wrong("precision", "must be f32 or bf16"))?;
    for model in registry.models() {
        segmenter.verify(model, precision)?;
    }
    Ok((registry, segmenter))
}

fn jobs_config(settings: &Settings) -> Result<JobsConfig, Failure> {
    let seconds = |key| Ok::<_, config::Error>(Duration::from_secs(settings.get(key)?));
    Ok(JobsConfig {
        workers: settings.get("workers")?,
        queue: settings.get("queue")?,
        lease: seconds("lease_s")?.max(Duration::from_secs(1)),
        retries: settings.get("retries")?,
        results_ttl: seconds("results_ttl_s")?,
        keep_inputs: settings.get("keep_inputs")?,
        grace: seconds("grace_s")?,
    })
}

fn http_config(settings: &Settings) -> Result<HttpConfig, Failure> {
    Ok(HttpConfig {
        max_body_bytes: settings.get("max_body_bytes")?,
        max_part_bytes: settings.get("max_part_bytes")?,
        max_wait: Duration::from_secs(settings.get("max_wait_s")?),
    })
}
