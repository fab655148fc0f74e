//! What `dawson serve` needs of its settings for the wire: limits, keys, TLS, and where it may listen.
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use dawson_inference::problem::Code;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use crate::config::Settings;
use crate::http::{AccessConfig, HttpConfig, ListenConfig, MetricsAccess, Pace};
use crate::keys::KeyFile;
use crate::telemetry;
use crate::tls::{Pair, Tls, Within};

/// The keys' file below the state.
const KEYS_FILE: &str = "keys.toml";
/// So many connections wait until they are accepted. Whoever comes beyond them is not heard, and tries again after a
/// second; the usual 128 are too few for a morning at which all come.
const BACKLOG: u32 = 4096;
/// How often the keys' file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the keys are.
pub(super) fn keys_file(settings: &Settings) -> Result<PathBuf, Failure> {
    match settings.optional("keys_file")? {
        Some(path) => Ok(path),
        None => Ok(settings.get::<PathBuf>("state")?.join(KEYS_FILE)),
    }
}

/// Listens at an address.
pub(super) fn listener(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A service that is started again need not wait until the system has forgotten its connections.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|e: std::io::Error| {
        Failure::new(Code::Internal, format!("cannot listen at {address}: {e}"))
    })
}

/// What stands between the wire and the jobs.
pub(super) struct Edge {
    pub(super) listen: SocketAddr,
    pub(super) listening: ListenConfig,
    pub(super) http: HttpConfig,
    pub(super) tls: Option<Arc<Tls>>,
    /// With DICOM nodes.
    pub(super) dicom_tls: Option<Arc<Tls>>,
    keys: Arc<KeyFile>,
}

impl Edge {
    /// Reads the settings, keys and certificate, and refuses to be open to others by mistake.
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        let path = keys_file(settings)?;
        let was_named = settings.optional::<PathBuf>("keys_file")?.is_some();
        let keys =
            Arc::new(KeyFile::open(path).map_err(|e| settings.wrong("keys_file", e.to_string()))?);
        if was_named && keys.keys().is_none() {
            let reason = "there is no such file; dawson keys new makes it";
            return Err(settings.wrong("keys_file", reason).into());
        }
        let pair = pair(settings)?;
        let tls = match &pair {
            None => None,
            Some(pair) => {
                let tls = Tls::open(pair.clone(), None, Within::Http);
                Some(Arc::new(tls.map_err(|e| {
                    Failure::new(Code::InvalidOptions, format!("tls_cert, tls_key: {e}"))
                })?))
            }
        };
        let edge = Self {
            listen: settings.get("listen")?,
            listening: listening(settings)?,
            http: http(settings, &keys)?,
            tls,
            dicom_tls: dicom_tls(settings, pair)?,
            keys,
        };
        edge.check_open(settings)?;
        raise_handles(edge.listening.max_connections);
        Ok(edge)
    }

    /// Beyond this machine, callers must say who they are, and nobody on the way may listen.
    fn check_open(&self, settings: &Settings) -> Result<(), Failure> {
        if self.listen.ip().is_loopback() || settings.get("insecure_no_auth")? {
            return Ok(());
        }
        let has_keys = self.keys.keys().is_some_and(|keys| !keys.all().is_empty());
        let is_private = self.tls.is_some() || settings.get("behind_proxy")?;
        let missing = match (has_keys, is_private) {
            (true, true) => return Ok(()),
            (false, true) => "nothing asks who is calling: make a key with dawson keys new",
            (true, false) => {
                "keys would pass in the clear: give tls_cert and tls_key, or say behind_proxy if a proxy \
                 in front speaks TLS"
            }
            (false, false) => {
                "nothing asks who is calling and nothing is encrypted: make a key with dawson keys new, and \
                 give tls_cert and tls_key or say behind_proxy if a proxy in front speaks TLS"
            }
        };
        let reason = format!(
            "is reached from other machines, but {missing} (or say --insecure-no-auth and let everybody in)"
        );
        Err(settings.wrong("listen", reason).into())
    }

    /// From now on SIGHUP no longer ends the process. What is returned never ends: it reads keys again
    /// when they change, and keys and certificate at SIGHUP, with whatever else `reload` does.
    pub(super) fn keep_fresh<R, F>(
        &self,
        reload: R,
    ) -> Result<impl Future<Output = ()> + Send + use<R, F>, Failure>
    where
        R: Fn() -> F + Send,
        F: Future<Output = ()> + Send,
    {
        let keys = Arc::clone(&self.keys);
        let certificates: Vec<Arc<Tls>> = self.tls.iter().chain(&self.dicom_tls).cloned().collect();
        let mut hangup = signal(SignalKind::hangup()).map_err(|e| {
            Failure::new(Code::Internal, format!("signals cannot be received: {e}"))
        })?;
        Ok(async move {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    _ = look.tick() => {
                        let keys = Arc::clone(&keys);
                        // Few bytes, but of a disk that may be slow.
                        let _read = tokio::task::spawn_blocking(move || {
                            if keys.has_changed() {
                                reload_keys(&keys);
                            }
                        }).await;
                    }
                    _ = hangup.recv() => {
                        let (keys, certificates) = (Arc::clone(&keys), certificates.clone());
                        let _read = tokio::task::spawn_blocking(move || {
                            reload_keys(&keys);
                            for tls in certificates {
                                match tls.reload() {
                                    Ok(()) => telemetry::reloaded("certificate"),
                                    Err(error) => telemetry::reload_failed("certificate", &error),
                                }
                            }
                        }).await;
                        reload().await;
                    }
                }
            }
        })
    }
}

/// The certificate that is shown to whoever calls, if there is one.
fn pair(settings: &Settings) -> Result<Option<Pair>, Failure> {
    match (
        settings.optional("tls_cert")?,
        settings.optional("tls_key")?,
    ) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
        (Some(_), None) => Err(settings.wrong("tls_key", "is needed with tls_cert").into()),
        (None, Some(_)) => Err(settings.wrong("tls_cert", "is needed with tls_key").into()),
    }
}

/// How TLS is spoken with DICOM nodes, if it is.
fn dicom_tls(settings: &Settings, pair: Option<Pair>) -> Result<Option<Arc<Tls>>, Failure> {
    let callers: Option<PathBuf> = settings.optional("dicom_tls_ca")?;
    if !settings.get("dicom_tls")? {
        return match callers {
            None => Ok(None),
            Some(_) => Err(settings
                .wrong("dicom_tls_ca", "belongs to dicom_tls")
                .into()),
        };
    }
    let needed = || settings.wrong("dicom_tls", "needs tls_cert and tls_key");
    let tls = Tls::open(pair.ok_or_else(needed)?, callers, Within::Dicom);
    let wrong = |e| Failure::new(Code::InvalidOptions, format!("dicom_tls: {e}"));
    Ok(Some(Arc::new(tls.map_err(wrong)?)))
}

fn reload_keys(keys: &KeyFile) {
    match keys.reload() {
        Ok(changes) => {
            telemetry::reloaded("keys");
            for id in &changes.added {
                telemetry::key_changed("key_added", id);
            }
            for id in &changes.withdrawn {
                telemetry::key_changed("key_withdrawn", id);
            }
        }
        Err(error) => telemetry::reload_failed("keys", &error),
    }
}

/// A connection takes a handle, its upload another; systems give 1,024 unless asked for more.
fn raise_handles(connections: usize) {
    let wanted = (connections as u64).saturating_mul(2).saturating_add(256);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(got) if got >= wanted => {}
        Ok(got) => telemetry::few_handles(got, wanted),
        Err(error) => tracing::warn!(%error, "the limit of file handles is not known"),
    }
}

/// The words of a list, which commas separate.
fn list(settings: &Settings, key: &'static str) -> Result<Vec<String>, Failure> {
    let text: Option<String> = settings.optional(key)?;
    let words = text.iter().flat_map(|text| text.split(','));
    let words = words.map(|word| word.trim().to_owned());
    Ok(words.filter(|word| !word.is_empty()).collect())
}

fn http(settings: &Settings, keys: &Arc<KeyFile>) -> Result<HttpConfig, Failure> {
    let hosts = list(settings, "hosts")?;
    let mut cors_origins = Vec::new();
    for origin in list(settings, "cors_origins")? {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            ["http", "https"].contains(&scheme)
                && !host.is_empty()
                && !host.contains(['/', '*', '?', '#', '@', ' '])
        });
        let value = HeaderValue::from_str(&origin).ok().filter(|_| is_origin);
        cors_origins.push(value.ok_or_else(|| {
            let reason = format!("'{origin}' is no origin such as https://viewer.example");
            settings.wrong("cors_origins", reason)
        })?);
    }
    Ok(HttpConfig {
        max_body_bytes: settings.get("max_body_bytes")?,
        pace: Pace {
            timeout: settings.seconds("body_timeout_s")?,
            min_bytes_per_s: settings.get::<NonZeroU64>("min_body_rate")?.get(),
        },
        max_parts: settings.get("max_parts")?,
        max_dicom_parts: settings.get("max_dicom_parts")?,
        max_part_bytes: settings.get("max_part_bytes")?,
        max_part_header_bytes: settings.get("max_part_header_bytes")?,
        max_options_bytes: settings.get("max_options_bytes")?,
        max_wait: settings.seconds("max_wait_s")?,
        access: AccessConfig {
            keys: Some(Arc::clone(keys)),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            metrics: if settings.get("metrics_need_key")? {
                MetricsAccess::NeedKey
            } else {
                MetricsAccess::Open
            },
            key_requests: settings.get::<NonZeroUsize>("key_requests")?.get(),
            key_rate_per_s: settings.get::<NonZeroU32>("key_rate_per_s")?,
            key_burst: settings.get::<NonZeroU32>("key_burst")?,
        },
        cors_origins,
    })
}

fn listening(settings: &Settings) -> Result<ListenConfig, Failure> {
    let max_header_bytes = settings.get("max_header_bytes")?;
    if max_header_bytes < 8192 {
        return Err(settings
            .wrong("max_header_bytes", "must be at least 8192")
            .into());
    }
    Ok(ListenConfig {
        max_connections: settings.get::<NonZeroUsize>("max_connections")?.get(),
        header_timeout: settings.seconds("header_timeout_s")?,
        idle_timeout: settings.seconds("idle_timeout_s")?,
        write_timeout: settings.seconds("write_timeout_s")?,
        max_header_bytes,
        max_headers: settings.get("max_headers")?,
        max_streams: settings.get("max_streams")?,
        grace: settings.seconds("upload_grace_s")?,
    })
}
