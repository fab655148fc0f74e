//! The ONNX Runtime library: found, loaded once, and asked for its last words.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::Error;
use crate::beside;

/// Folders beside the program and above it in which the library may lie.
const PLACES: [&str; 3] = [
    "runtime/onnxruntime",
    "lib/dawson/onnxruntime",
    "onnxruntime",
];
/// The loaded library and its environment, one in a process.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(super) environment: Environment,
    /// Where it was loaded from.
    pub library: PathBuf,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Runtime {
    /// Loads the library at `library`, or the one that [`find_library`] finds.
    ///
    /// A process has one runtime: the first call decides, later ones get the same.
    ///
    /// # Errors
    /// [`Error::LibraryNotFound`], [`Error::LibraryUnusable`].
    pub fn load(library: Option<&Path>) -> Result<Self, Error> {
        static LOADED: OnceLock<Result<Runtime, Error>> = OnceLock::new();
        LOADED
            .get_or_init(|| {
                let library = library.map_or_else(find_library, |p| Ok(p.to_owned()))?;
                Self::load_from(&library)
            })
            .clone()
    }

    fn load_from(library: &Path) -> Result<Self, Error> {
        let unusable = |reason: String| Error::LibraryUnusable { reason };
        // The loader would look for a relative path beside the program first.
        let library = std::path::absolute(library)
            .map_err(|e| unusable(format!("{}: {e}", library.display())))?;
        let last_error = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&last_error);
        let environment = ort::init_from(&library)
            .map_err(|e| unusable(e.to_string()))?
            .with_name("dawson")
            .with_telemetry(false)
            .with_logger(Arc::new(move |level, _, _, _, message| {
                hear(&heard, level, message);
            }))
            .build()
            .map_err(|e| unusable(e.message().to_owned()))?;
        Ok(Self {
            environment,
            library,
            last_error,
        })
    }

    /// The last error that the library logged since it was last asked: it names a missing file
    /// where the returned error only says that a provider did not load.
    pub(super) fn take_last_error(&self) -> Option<String> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The version of the loaded library, such as `1.24.1`.
    #[must_use]
    pub fn version(&self) -> String {
        // The build's description has no version; the file's name or its git tag does.
        let name = self
            .library
            .file_name()
            .map(|n| n.to_string_lossy().into_owned());
        let digits = name.and_then(|n| {
            let from = n.find(|c: char| c.is_ascii_digit())?;
            Some(n[from..].trim_end_matches(".dylib").to_owned())
        });
        digits.unwrap_or_else(|| "unknown".to_owned())
    }
}

fn hear(last: &Mutex<Option<String>>, level: LogLevel, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::debug!(message, "onnx runtime");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
        }
        LogLevel::Warning => tracing::debug!(message, "onnx runtime"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(message, "onnx runtime"),
    }
}

/// Finds the library in `runtime/onnxruntime/` (or `lib/dawson/onnxruntime/`) beside the program or
/// up to four folders above it, or below the working directory.
///
/// # Errors
/// [`Error::LibraryNotFound`] with the folders that were looked at.
pub fn find_library() -> Result<PathBuf, Error> {
    beside::find(&PLACES, library_in).map_err(|searched| Error::LibraryNotFound { searched })
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            let on_a_mac = path.extension().is_some_and(|e| e == "dylib");
            name.starts_with("libonnxruntime.so")
                || (name.starts_with("libonnxruntime.") && on_a_mac)
        })
        .collect();
    found.sort();
    found.pop() // The most specific name carries the version.
}
