//! The settings of `dawson serve`: one table of keys, four places to say them.
//!
//! A flag of the command line goes before a variable `DAWSON_…`, that before `dawson.toml`, that
//! before the default. Every key has all of these, since flags, variables and file are all read by
//! this one table; unknown keys of the file are refused. The outcome remembers where each value came
//! from, and `--print-config` shows it.
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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

/// Settings whose values are never shown.
const SECRET: [&str; 2] = ["callback_secret", "database"];

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
        help: "A study that arrives image by image is whole once nothing has come for so many seconds, …",
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

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said another.
    Default,
    /// The file of that name.
    File(PathBuf),
    /// The variable of that name.
    Variable(String),
    /// The flag of that name.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why the settings do not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is no TOML.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that is not known.
    #[error("{}: key '{key}' is not known", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value that does not hold.
    #[error("{key} = '{value}' (from {from}): {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it came from.
        from: Source,
        /// What is wrong.
        reason: String,
    },
}

/// Every setting with its value and where it came from.
#[derive(Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Source)>,
}

impl Settings {
    /// Puts the layers over each other.
    ///
    /// `flags` and `variable` give what was said for a key's flag and variable, if anything.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::UnknownKey`]
    pub fn layered(
        file: Option<(PathBuf, String)>,
        variable: impl Fn(&str) -> Option<String>,
        flag: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, Error> {
        let written = file
            .map(|(path, text)| from_file(&path, &text).map(|values| (path, values)))
            .transpose()?;
        let values = KEYS.iter().map(|key| {
            let variable_name = format!("DAWSON_{}", key.name.to_ascii_uppercase());
            let in_file = || {
                let (path, values) = written.as_ref()?;
                Some((values.get(key.name)?.clone(), Source::File(path.clone())))
            };
            let found = flag(key.name)
                .map(|value| (value, Source::Flag(flag_name(key.name))))
                .or_else(|| {
                    variable(&variable_name)
                        .map(|value| (value, Source::Variable(variable_name.clone())))
                })
                .or_else(in_file)
                .unwrap_or_else(|| (key.default.to_owned(), Source::Default));
            (key.name, found)
        });
        Ok(Self {
            values: values.collect(),
        })
    }

    /// A value; `None` if it is empty.
    ///
    /// # Errors
    /// [`Error::Value`]
    pub fn optional<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, Error> {
        let Some((value, from)) = self.values.get(key) else {
            let reason = "is not in the table of settings".to_owned();
            return Err(Error::Value {
                key,
                value: String::new(),
                from: Source::Default,
                reason,
            });
        };
        if value.is_empty() {
            return Ok(None);
        }
        value.parse().map(Some).map_err(|e: T::Err| Error::Value {
            key,
            value: shown(key, value).to_owned(),
            from: from.clone(),
            // A parser may quote what it does not understand.
            reason: if SECRET.contains(&key) {
                "does not hold".to_owned()
            } else {
                e.to_string()
            },
        })
    }

    /// A value that must be there.
    ///
    /// # Errors
    /// [`Error::Value`]
    pub fn get<T: FromStr<Err: fmt::Display>>(&self, key: &'static str) -> Result<T, Error> {
        self.optional(key)?
            .ok_or_else(|| self.wrong(key, "must not be empty"))
    }

    /// A time in seconds, fractions allowed.
    ///
    /// # Errors
    /// [`Error::Value`]
    pub fn seconds(&self, key: &'static str) -> Result<Duration, Error> {
        Duration::try_from_secs_f64(self.get(key)?).map_err(|e| self.wrong(key, e.to_string()))
    }

    /// Says that a value does not hold.
    #[must_use]
    pub fn wrong(&self, key: &'static str, reason: impl Into<String>) -> Error {
        let (value, from) = self
            .values
            .get(key)
            .cloned()
            .unwrap_or_else(|| (String::new(), Source::Default));
        Error::Value {
            key,
            value: shown(key, &value).to_owned(),
            from,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Settings {
    /// `dawson.toml` with the outcome, each line with where it came from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in KEYS {
            if let Some((value, source)) = self.values.get(key.name) {
                let quoted = toml::Value::String(shown(key.name, value).to_owned());
                writeln!(f, "{} = {quoted}  # {source}", key.name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value, unless it is a secret.
fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    if SECRET.contains(&key) && !value.is_empty() {
        "(not shown)"
    } else {
        value
    }
}

/// The flag of a key.
#[must_use]
pub fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Keys of a file; numbers and truth values may be written as such.
fn from_file(path: &std::path::Path, text: &str) -> Result<BTreeMap<String, String>, Error> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::File {
        path: path.to_owned(),
        reason: e.message().to_owned(),
    })?;
    table
        .into_iter()
        .map(|(key, value)| {
            if !KEYS.iter().any(|known| known.name == key) {
                return Err(Error::UnknownKey {
                    path: path.to_owned(),
                    key,
                });
            }
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(n) => n.to_string(),
                toml::Value::Float(n) => n.to_string(),
                toml::Value::Boolean(b) => b.to_string(),
                other => {
                    let reason = format!(
                        "{key} must be a string, a number or a truth value, not {}",
                        other.type_str()
                    );
                    return Err(Error::File {
                        path: path.to_owned(),
                        reason,
                    });
                }
            };
            Ok((key, text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(
        file: &str,
        variables: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Settings, Error> {
        let find = |all: &[(&str, &str)], name: &str| {
            all.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        let file = Some((PathBuf::from("dawson.toml"), file.to_owned()));
        Settings::layered(file, |name| find(variables, name), |name| find(flags, name))
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
        let variables = [("DAWSON_WORKERS", "4"), ("DAWSON_QUEUE", "7")];
        let found = layered(
            "workers = 3\nqueue = 6\nbatch = 2\n",
            &variables,
            &[("workers", "5")],
        )
        .unwrap();
        let numbers =
            ["workers", "queue", "batch", "retries"].map(|k| found.get::<usize>(k).unwrap());
        assert_eq!(numbers, [5, 7, 2, 3]);
        let shown = found.to_string();
        assert!(
            shown.contains("workers = \"5\"  # flag --workers"),
            "{shown}"
        );
        assert!(
            shown.contains("queue = \"7\"  # variable DAWSON_QUEUE"),
            "{shown}"
        );
        assert!(shown.contains("batch = \"2\"  # dawson.toml"), "{shown}");
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        for key in SECRET {
            let found = layered("", &[], &[(key, "canary-7f3a")]).unwrap();
            let parsed = found.get::<u8>(key).unwrap_err();
            let said = [
                found.to_string(),
                format!("{found:?}"),
                parsed.to_string(),
                format!("{parsed:?}"),
                found.wrong(key, "is not right").to_string(),
            ];
            for text in said {
                assert!(!text.contains("canary"), "{text}");
                assert!(text.contains("(not shown)"), "{text}");
            }
        }
        // Whatever sounds like a secret is one.
        let words = ["secret", "password", "token"];
        for key in KEYS {
            let sounds = words.iter().any(|word| key.name.contains(word));
            assert!(!sounds || SECRET.contains(&key.name), "{}", key.name);
        }
    }

    #[test]
    fn a_typo_in_the_file_and_a_value_that_does_not_hold_are_refused_by_name() {
        let typo = layered("wokers = 3", &[], &[]).unwrap_err().to_string();
        assert_eq!(typo, "dawson.toml: key 'wokers' is not known");
        let wrong = layered("", &[("DAWSON_WORKERS", "many")], &[])
            .unwrap()
            .get::<usize>("workers")
            .unwrap_err();
        assert!(
            wrong
                .to_string()
                .starts_with("workers = 'many' (from variable DAWSON_WORKERS)"),
            "{wrong}"
        );
    }
}
