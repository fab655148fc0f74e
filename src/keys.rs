//! Who may call: API keys, in one file that holds no key.
//!
//! A key is 256 random bits behind a prefix that scanners of leaked secrets can find. The file holds
//! its SHA-256, and that is enough: a hash that is slow on purpose protects words that people think of,
//! not random bits. Revoked keys stay in the file, so that the id in a job's row keeps its meaning.
//! This room reads and writes the file; what a scope opens is the wire's business.
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::files::{self, Existing};

/// What a key starts with.
pub const PREFIX: &str = "dawson_";
/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// The longest name of a key.
const MAX_NAME: usize = 60;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Submit studies, and cancel and erase its own.
    Submit,
    /// Submit them as urgent.
    Urgent,
    /// See its own jobs and fetch their results.
    Read,
    /// All of this, for everybody's jobs, and the operator's routes.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: &[Self] = &[Self::Submit, Self::Urgent, Self::Read, Self::Admin];

    /// Its name on the wire and in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Urgent => "urgent",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no scope.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no scope; there are submit, urgent, read and admin")]
pub struct NoScope(String);

impl FromStr for Scope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Self, NoScope> {
        let found = Self::ALL.iter().copied().find(|s| s.name() == text);
        found.ok_or_else(|| NoScope(text.to_owned()))
    }
}

/// Why the keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written; the system's words name it.
    #[error("{0}")]
    File(io::Error),
    /// Others may write the file, and so let themselves in.
    #[error("{}: others may write it (mode {mode:03o}): chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds no keys as this program writes them.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key cannot be made so.
    #[error("{0}")]
    Refused(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Stands for the key in rows and logs.
    pub id: String,
    /// Whose it is, in the operator's words.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is no longer taken.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    hash: [u8; 32],
}

impl Key {
    /// Whether it may do that; an admin may do everything.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Whether it is taken at that time.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked.is_some() {
            KeyState::Revoked
        } else if self.expires.is_some_and(|at| at <= now) {
            KeyState::Expired
        } else {
            KeyState::Valid
        }
    }
}

/// Whether a key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    Valid,
    /// Its time is over.
    Expired,
    /// The operator took it back.
    Revoked,
}

impl KeyState {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The file's form.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    name: String,
    scopes: BTreeSet<Scope>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
    sha256: String,
}

impl Entry {
    fn of(key: &Key) -> Self {
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            scopes: key.scopes.clone(),
            created: key.created.to_string(),
            expires: key.expires.map(|at| at.to_string()),
            revoked: key.revoked.map(|at| at.to_string()),
            sha256: hex::encode(key.hash),
        }
    }

    fn key(self) -> Result<Key, String> {
        let Self {
            id,
            name,
            scopes,
            created,
            expires,
            revoked,
            sha256,
        } = self;
        let time = |field: &str, text: String| {
            text.parse::<Timestamp>()
                .map_err(|e| format!("key {id}: {field}: {e}"))
        };
        Ok(Key {
            created: time("created", created)?,
            expires: expires.map(|t| time("expires", t)).transpose()?,
            revoked: revoked.map(|t| time("revoked", t)).transpose()?,
            hash: bytes(&sha256)
                .ok_or_else(|| format!("key {id}: sha256 must be 64 hexadecimal digits"))?,
            id,
            name,
            scopes,
        })
    }
}

/// All keys, in the order in which they were made.
#[derive(Debug, Default, Clone)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Open`], [`Error::Malformed`]
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match files::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::File(e)),
        };
        let mode = std::fs::metadata(path)
            .map_err(|e| Error::File(files::named(path, &e)))?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o022 != 0 {
            let path = path.to_owned();
            return Err(Error::Open { path, mode });
        }
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|_| malformed("not UTF-8".to_owned()))?;
        let document: Document =
            toml::from_str(&text).map_err(|e| malformed(e.message().to_owned()))?;
        let keys = document.key.into_iter().map(Entry::key);
        keys.collect::<Result<_, _>>()
            .map(|keys| Some(Self(keys)))
            .map_err(malformed)
    }

    /// The keys.
    #[must_use]
    pub fn all(&self) -> &[Key] {
        &self.0
    }

    /// The key of that text. Every hash is looked at, each in the same time.
    #[must_use]
    pub fn find(&self, secret: &str) -> Option<&Key> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.hash.ct_eq(&hash)) {
                found = Some(key);
            }
        }
        found
    }

    fn write(&self, path: &Path) -> Result<(), Error> {
        let document = Document {
            key: self.0.iter().map(Entry::of).collect(),
        };
        let text = toml::to_string(&document).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        let text = format!(
            "# Keys of `dawson keys`: hashes, no secrets. Changes are seen by a running server.\n\n{text}"
        );
        files::write_private(path, text.as_bytes(), Existing::Replace).map_err(Error::File)
    }
}

/// What a new key shall be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// From when on it is no longer taken.
    pub expires: Option<Timestamp>,
}

/// Makes a key; returns its text, which is written down nowhere, and what is kept of it.
///
/// # Errors
/// [`Error`]
pub fn create(path: &Path, new: NewKey, now: Timestamp) -> Result<(String, Key), Error> {
    let shown: String = new.name.chars().filter(|c| !c.is_control()).collect();
    if shown != new.name || shown.trim().is_empty() || shown.chars().count() > MAX_NAME {
        let reason = format!("a name has 1 to {MAX_NAME} characters, none of them a control");
        return Err(Error::Refused(reason));
    }
    if new.scopes.is_empty() {
        return Err(Error::Refused("a key needs at least one scope".to_owned()));
    }
    if new.expires.is_some_and(|at| at <= now) {
        return Err(Error::Refused(
            "the key would have expired already".to_owned(),
        ));
    }
    let mut random = [0; KEY_BYTES];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    let secret = format!("{PREFIX}{}", hex::encode(random));
    let key = Key {
        id: ulid::Ulid::generate().to_string(),
        name: new.name,
        scopes: new.scopes,
        created: now,
        expires: new.expires,
        revoked: None,
        hash: Sha256::digest(secret.as_bytes()).into(),
    };
    change(path, |keys| {
        let taken = |k: &&Key| k.name == key.name && k.revoked.is_none();
        if let Some(other) = keys.0.iter().find(taken) {
            let reason = format!(
                "there is a key named '{}' already: {}",
                other.name, other.id
            );
            return Err(Error::Refused(reason));
        }
        keys.0.push(key.clone());
        Ok(())
    })?;
    Ok((secret, key))
}

/// Revokes a key, by its id or its name.
///
/// # Errors
/// [`Error`]
pub fn revoke(path: &Path, which: &str, now: Timestamp) -> Result<Key, Error> {
    change(path, |keys| {
        let found = keys
            .0
            .iter_mut()
            .find(|k| (k.id == which || k.name == which) && k.revoked.is_none());
        let Some(key) = found else {
            let reason = format!("there is no key '{which}' that could be revoked");
            return Err(Error::Refused(reason));
        };
        key.revoked = Some(now);
        Ok(key.clone())
    })
}

/// Reads, changes and writes the file; one process at a time.
fn change<T>(path: &Path, with: impl FnOnce(&mut Keys) -> Result<T, Error>) -> Result<T, Error> {
    let file = |e: io::Error| Error::File(files::named(path, &e));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(file)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    // Held until it is closed.
    let lock = File::create(PathBuf::from(beside)).map_err(file)?;
    lock.lock().map_err(file)?;
    let mut keys = Keys::read(path)?.unwrap_or_default();
    let done = with(&mut keys)?;
    keys.write(path)?;
    Ok(done)
}

/// What a change of the file brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids of keys that are new.
    pub added: Vec<String>,
    /// Ids of keys that are no longer taken.
    pub withdrawn: Vec<String>,
}

/// The keys of a running server: read again when the file changes.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    /// `None` as long as there was no file: nobody is asked who they are.
    keys: Option<Arc<Keys>>,
    seen: Option<Seen>,
}

/// What tells one version of the file from another.
type Seen = (SystemTime, u64, u64);

impl KeyFile {
    /// Reads the file if it is there.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Open`], [`Error::Malformed`]
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let seen = look(&path);
        let keys = Keys::read(&path)?.map(Arc::new);
        Ok(Self {
            path,
            current: RwLock::new(Current { keys, seen }),
        })
    }

    /// The keys; `None` if nobody is asked who they are.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.keys.clone()
    }

    /// Whether the file is another one than was read last.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        look(&self.path) != current.seen
    }

    /// Reads the file again. Once there were keys there are keys: a file that is gone or broken leaves
    /// those that were read last.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Open`], [`Error::Malformed`]; also if the file is gone.
    pub fn reload(&self) -> Result<Changes, Error> {
        let seen = look(&self.path);
        let read = Keys::read(&self.path);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.seen = seen;
        let Some(new) = read? else {
            if current.keys.is_none() {
                return Ok(Changes::default());
            }
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::File(files::named(&self.path, &gone)));
        };
        let taken = |keys: &Keys| -> Vec<String> {
            let valid = keys.all().iter().filter(|k| k.revoked.is_none());
            valid.map(|k| k.id.clone()).collect()
        };
        let before = current.keys.as_deref().map(taken).unwrap_or_default();
        let after = taken(&new);
        let changes = Changes {
            added: after
                .iter()
                .filter(|id| !before.contains(id))
                .cloned()
                .collect(),
            withdrawn: before
                .into_iter()
                .filter(|id| !after.contains(id))
                .collect(),
        };
        current.keys = Some(Arc::new(new));
        Ok(changes)
    }
}

fn look(path: &Path) -> Option<Seen> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let read = hex::decode_to_slice(text, &mut bytes);
    read.is_ok().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("dawson-keys-{}", ulid::Ulid::generate())))
        }

        fn file(&self) -> PathBuf {
            self.0.join("keys.toml")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    fn new(name: &str) -> NewKey {
        NewKey {
            name: name.to_owned(),
            scopes: [Scope::Submit, Scope::Read].into(),
            expires: None,
        }
    }

    #[test]
    fn a_key_is_found_by_its_text_and_the_file_holds_only_its_hash() {
        let scratch = Scratch::new();
        let now = Timestamp::UNIX_EPOCH;
        let (secret, made) = create(&scratch.file(), new("pacs"), now).unwrap();
        assert!(secret.starts_with(PREFIX) && secret.len() == PREFIX.len() + 64);
        let text = std::fs::read_to_string(scratch.file()).unwrap();
        assert!(!text.contains(&secret[PREFIX.len()..]), "{text}");
        let mode = std::fs::metadata(scratch.file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let keys = Keys::read(&scratch.file()).unwrap().unwrap();
        assert_eq!(keys.find(&secret), Some(&made));
        assert_eq!(keys.find(&secret.replace("dawson_", "")), None);
        assert_eq!(keys.find(""), None);
        assert!(made.may(Scope::Read) && !made.may(Scope::Admin) && !made.may(Scope::Urgent));
        let again = create(&scratch.file(), new("pacs"), now).unwrap_err();
        assert!(again.to_string().contains("already"), "{again}");
    }

    #[test]
    fn a_key_ends_by_time_or_by_hand_and_its_entry_stays() {
        let scratch = Scratch::new();
        let now = Timestamp::from_second(1000).unwrap();
        let later = Timestamp::from_second(2000).unwrap();
        let timed = NewKey {
            expires: Some(later),
            ..new("timed")
        };
        let (_, timed) = create(&scratch.file(), timed, now).unwrap();
        assert_eq!(timed.state(now), KeyState::Valid);
        assert_eq!(timed.state(later), KeyState::Expired);
        let past = NewKey {
            expires: Some(now),
            ..new("past")
        };
        assert!(create(&scratch.file(), past, now).is_err());
        let revoked = revoke(&scratch.file(), "timed", now).unwrap();
        assert_eq!(revoked.state(now), KeyState::Revoked);
        assert!(revoke(&scratch.file(), &timed.id, now).is_err());
        assert_eq!(Keys::read(&scratch.file()).unwrap().unwrap().all().len(), 1);
        // The name is free again.
        create(&scratch.file(), new("timed"), now).unwrap();
    }

    #[test]
    fn a_running_server_sees_changes_and_never_opens_by_a_fault() {
        let scratch = Scratch::new();
        let now = Timestamp::UNIX_EPOCH;
        let server = KeyFile::open(scratch.file()).unwrap();
        assert!(server.keys().is_none() && !server.has_changed());
        assert_eq!(server.reload().unwrap(), Changes::default());
        let (_, first) = create(&scratch.file(), new("first"), now).unwrap();
        assert!(server.has_changed());
        assert_eq!(server.reload().unwrap().added, [first.id.as_str()]);
        revoke(&scratch.file(), "first", now).unwrap();
        assert_eq!(server.reload().unwrap().withdrawn, [first.id.as_str()]);
        assert!(!server.has_changed());
        files::write_private(&scratch.file(), b"key = 5", Existing::Replace).unwrap();
        assert!(server.reload().is_err());
        std::fs::remove_file(scratch.file()).unwrap();
        assert!(server.has_changed());
        let gone = server.reload().unwrap_err().to_string();
        assert!(gone.contains("keys.toml"), "{gone}");
        assert_eq!(server.keys().unwrap().all().len(), 1);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let scratch = Scratch::new();
        create(&scratch.file(), new("first"), Timestamp::UNIX_EPOCH).unwrap();
        std::fs::set_permissions(scratch.file(), PermissionsExt::from_mode(0o622)).unwrap();
        let refused = Keys::read(&scratch.file()).unwrap_err().to_string();
        assert!(
            refused.contains("mode 622") && refused.contains("chmod 600"),
            "{refused}"
        );
    }
}
