//! Models are data: a folder with a network, its description and its card.
//!
//! `models/<name>/<version>/{model.onnx, model.toml, MODEL_CARD.md}`. A model is verified by SHA-256
//! when it is read, and the very bytes that were verified are the ones that the engine gets. A new
//! network is a new folder; no code changes.
mod anatomy;
pub mod golden;
mod manifest;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::beside;
use crate::engine::Network;
pub use anatomy::AnatomyManifest;
pub use manifest::{Golden, Heading, Input, Made, Manifest, Output, Patches, Voting};
use sha2::{Digest, Sha256};

/// Folders beside the program that may hold the models.
const PLACES: [&str; 2] = ["models", "share/dawson/models"];

/// A verified network.
#[derive(Debug)]
pub struct Model {
    /// Its description.
    pub manifest: Manifest,
    /// The verified ONNX file, as the engine takes it.
    pub network: Arc<Network>,
    /// Its folder.
    pub folder: PathBuf,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No folder with models.
    #[error("no models were found (looked in {searched:?}): name their folder by --models")]
    NotFound {
        /// Folders that were looked at.
        searched: Vec<PathBuf>,
    },
    /// A file that cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: std::io::Error,
    },
    /// A description that is not valid.
    #[error("model.toml, {key}: {reason}")]
    Manifest {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another folder than its name and version say.
    #[error("{} holds model {found}", folder.display())]
    Misplaced {
        /// The folder.
        folder: PathBuf,
        /// Name and version in `model.toml`.
        found: String,
    },
    /// A network that is not the one described.
    #[error("model {model}: the network's SHA-256 is {found}, model.toml says {expected}")]
    Checksum {
        /// Name and version.
        model: String,
        /// Of the file.
        found: String,
        /// In `model.toml`.
        expected: String,
    },
    /// A network that computes something else than it did when it was made.
    #[error(
        "model {model}: its golden patch gives {found}, expected {expected} within {tolerance}"
    )]
    Golden {
        /// Name and version.
        model: String,
        /// A probability.
        found: f32,
        /// What it should be.
        expected: f32,
        /// How far it may be off.
        tolerance: f32,
    },
    /// The golden patch could not be run.
    #[error(transparent)]
    Engine(crate::engine::Error),
    /// No model of that name.
    #[error("there is no model '{asked}'; installed: {}", installed.join(", "))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// `name@version` of those there are.
        installed: Vec<String>,
    },
}

/// What `task` says in the description of an anatomy network.
const ANATOMY: &str = "anatomy";

/// A verified network that tells the parts of a head.
#[derive(Debug)]
pub struct AnatomyModel {
    /// Its description.
    pub manifest: AnatomyManifest,
    /// The verified ONNX file, as the engine takes it.
    pub network: Arc<Network>,
    /// Its folder.
    pub folder: PathBuf,
}

/// What a folder holds.
enum Read {
    Lesions(Model),
    Anatomy(AnatomyModel),
}

fn read(folder: &Path) -> Result<Read, Error> {
    let text = read_file(folder, "model.toml")?;
    let text = String::from_utf8_lossy(&text);
    let task = text
        .parse::<toml::Table>()
        .ok()
        .and_then(|table| Some(table.get("task")?.as_str()?.to_owned()));
    let folder = folder.to_owned();
    match task.as_deref() {
        None | Some("lesions") => {
            let manifest = Manifest::parse(&text)?;
            let channels = manifest.input.contrasts.len();
            let output = manifest.output.name.clone();
            let network = verified(&folder, &manifest.heading, channels, output, 1)?;
            Ok(Read::Lesions(Model {
                manifest,
                network,
                folder,
            }))
        }
        Some(ANATOMY) => {
            let manifest = AnatomyManifest::parse(&text)?;
            let (output, classes) = (manifest.output.clone(), manifest.classes.len());
            let network = verified(&folder, &manifest.heading, 1, output, classes)?;
            Ok(Read::Anatomy(AnatomyModel {
                manifest,
                network,
                folder,
            }))
        }
        Some(other) => Err(Error::Manifest {
            key: "task".to_owned(),
            reason: format!("'{other}' is not known, must be \"lesions\" or \"{ANATOMY}\""),
        }),
    }
}

fn read_file(folder: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|reason| Error::Read { path, reason })
}

/// The network of a folder, if it lies where its heading says and is the one that it names.
fn verified(
    folder: &Path,
    heading: &Heading,
    channels: usize,
    output: String,
    classes: usize,
) -> Result<Arc<Network>, Error> {
    let id = format!("{}@{}", heading.name, heading.version);
    let named = |folder: Option<&Path>| {
        folder
            .and_then(Path::file_name)
            .map(|n| n.to_string_lossy().into_owned())
    };
    if named(Some(folder)).as_deref() != Some(&heading.version)
        || named(folder.parent()).as_deref() != Some(&heading.name)
    {
        return Err(Error::Misplaced {
            folder: folder.to_owned(),
            found: id,
        });
    }
    let onnx = read_file(folder, &heading.file)?;
    let sha256 = hex::encode(Sha256::digest(&onnx));
    if sha256 != heading.sha256 {
        return Err(Error::Checksum {
            model: id,
            found: sha256,
            expected: heading.sha256.clone(),
        });
    }
    Ok(Arc::new(Network {
        id,
        onnx,
        sha256,
        channels,
        output,
        classes,
    }))
}

impl AnatomyModel {
    /// `name@version`
    #[must_use]
    pub fn id(&self) -> String {
        self.network.id.clone()
    }
}

impl Model {
    /// Reads and verifies the model in a folder.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Manifest`], [`Error::Misplaced`], [`Error::Checksum`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        match read(folder)? {
            Read::Lesions(model) => Ok(model),
            Read::Anatomy(_) => Err(Error::Manifest {
                key: "task".to_owned(),
                reason: "this network finds no lesions".to_owned(),
            }),
        }
    }

    /// `name@version`
    #[must_use]
    pub fn id(&self) -> String {
        self.network.id.clone()
    }

    /// SHA-256 of its ONNX file.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.network.sha256
    }

    /// The text of its model card.
    ///
    /// # Errors
    /// [`Error::Read`] if there is none.
    pub fn card(&self) -> Result<String, Error> {
        let path = self.folder.join("MODEL_CARD.md");
        std::fs::read_to_string(&path).map_err(|reason| Error::Read { path, reason })
    }
}

/// The models of a folder.
#[derive(Debug, Clone)]
pub struct Registry {
    models: Vec<Arc<Model>>,
    anatomy: Vec<Arc<AnatomyModel>>,
}

impl Registry {
    /// Reads and verifies every model below `folder`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if none finds lesions; what [`Model::read`] says about the first that fails.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (mut models, mut anatomy) = (Vec::new(), Vec::new());
        for name in subfolders(folder)? {
            for version in subfolders(&name)? {
                if version.join("model.toml").is_file() {
                    match read(&version)? {
                        Read::Lesions(model) => models.push(Arc::new(model)),
                        Read::Anatomy(model) => anatomy.push(Arc::new(model)),
                    }
                }
            }
        }
        if models.is_empty() {
            return Err(Error::NotFound {
                searched: vec![folder.to_owned()],
            });
        }
        let key = |h: &Heading| (h.name.clone(), version_key(&h.version));
        models.sort_by_key(|m: &Arc<Model>| key(&m.manifest.heading));
        anatomy.sort_by_key(|m: &Arc<AnatomyModel>| key(&m.manifest.heading));
        Ok(Self { models, anatomy })
    }

    /// The network that tells the parts of a head, the newest there is.
    #[must_use]
    pub fn anatomy(&self) -> Option<&Arc<AnatomyModel>> {
        self.anatomy.last()
    }

    /// Every model, by name and ascending version.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model `name@version`, or the newest version of `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`]
    pub fn get(&self, asked: &str) -> Result<Arc<Model>, Error> {
        self.models
            .iter()
            .rev()
            .find(|m| m.manifest.heading.name == asked || m.id() == asked)
            .cloned()
            .ok_or_else(|| Error::Unknown {
                asked: asked.to_owned(),
                installed: self.models.iter().map(|m| m.id()).collect(),
            })
    }
}

/// `0.10.0` comes after `0.9.1`: numbers are compared as numbers, the rest as text.
fn version_key(version: &str) -> Vec<(u64, String)> {
    version
        .split(['.', '-'])
        .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
        .collect()
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |reason| Error::Read {
        path: folder.to_owned(),
        reason,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Finds the folder of models beside the program or up to four folders above it, or in the working
/// directory.
///
/// # Errors
/// [`Error::NotFound`] with the folders that were looked at.
pub fn find_folder() -> Result<PathBuf, Error> {
    let folder = |folder: &Path| folder.is_dir().then(|| folder.to_owned());
    beside::find(&PLACES, folder).map_err(|searched| Error::NotFound { searched })
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "scratch files of tests need not survive a power cut"
)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let mut versions = ["0.10.0", "0.9.1", "1.0.0", "0.9.10"];
        versions.sort_by_key(|v| version_key(v));
        assert_eq!(versions, ["0.9.1", "0.9.10", "0.10.0", "1.0.0"]);
    }

    #[test]
    fn a_changed_network_is_refused() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/ms-lesion/0.1.0");
        let scratch = std::env::temp_dir().join(format!("dawson-models-{}", std::process::id()));
        let folder = scratch.join("ms-lesion/0.1.0");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(shipped.join("model.toml"), folder.join("model.toml")).unwrap();
        let mut onnx = std::fs::read(shipped.join("model.onnx")).unwrap();
        std::fs::write(folder.join("model.onnx"), &onnx).unwrap();
        assert!(Model::read(&folder).is_ok());
        let middle = onnx.len() / 2;
        onnx[middle] ^= 1;
        std::fs::write(folder.join("model.onnx"), &onnx).unwrap();
        assert!(matches!(Model::read(&folder), Err(Error::Checksum { .. })));
        let other = scratch.join("other/0.1.0");
        std::fs::create_dir_all(other.parent().unwrap()).unwrap();
        std::fs::rename(&folder, &other).unwrap();
        assert!(matches!(Model::read(&other), Err(Error::Misplaced { .. })));
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
