//! The settings of `dawson serve`: one table of keys, four places to say them.
//!
//! A flag of the command line goes before a variable `DAWSON_…`, that before `dawson.toml`, that
//! before the default. Every key has all of these, since flags, variables and file are all read by
//! this one table; unknown keys of the file are refused. The outcome remembers where each value came
//! from, and `--print-config` shows it.
mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use keys::{KEYS, Key};

/// Settings whose values are never shown.
const SECRET: [&str; 2] = ["callback_secret", "database"];

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
