//! The networks that jobs run with, and their exchange while jobs run.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use dawson_inference::models::{self, Registry};
use dawson_inference::pipeline::{Precision, Segmenter};

use super::{Error, Jobs};
use crate::telemetry;

/// Networks of one folder, and what computes with them. A job keeps those that it began with.
#[derive(Debug)]
pub struct Networks {
    /// Those that find lesions, and the one that tells the parts of a head.
    pub registry: Registry,
    /// What computes.
    pub segmenter: Segmenter,
    /// Where they lie.
    pub folder: PathBuf,
    /// What their golden patches are computed in.
    pub precision: Precision,
}

impl Networks {
    /// Reads every network below `folder` and verifies each on the engine of `segmenter`.
    ///
    /// # Errors
    /// What [`Registry::open`] and [`Segmenter::verify`] find.
    pub fn open(
        folder: PathBuf,
        precision: Precision,
        segmenter: Segmenter,
    ) -> Result<Self, models::Error> {
        let registry = Registry::open(&folder)?;
        let segmenter = segmenter.with_anatomy(registry.anatomy().cloned());
        for model in registry.models() {
            segmenter.verify(model, precision)?;
        }
        segmenter.verify_anatomy()?;
        Ok(Self {
            registry,
            segmenter,
            folder,
            precision,
        })
    }
}

impl Jobs {
    /// The networks that the next job gets.
    #[must_use]
    pub fn networks(&self) -> Arc<Networks> {
        let networks = self.networks.read();
        Arc::clone(&networks.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads and verifies the folder of networks again, and gives the next jobs what is there. Jobs that
    /// run keep theirs; if anything is wrong, all keep what there was.
    ///
    /// # Errors
    /// [`Error::Reload`], also if the network for requests that name none is gone.
    pub async fn reload(&self) -> Result<Arc<Networks>, Error> {
        let _one_at_a_time = self.reloading.lock().await;
        let now = self.networks();
        let fresh = tokio::task::spawn_blocking(move || {
            Networks::open(now.folder.clone(), now.precision, now.segmenter.clone())
        });
        let checked = match fresh.await {
            Ok(Ok(fresh)) => match fresh.registry.get(&self.default_model) {
                Ok(_) => Ok(fresh),
                Err(error) => Err(told(&error)),
            },
            Ok(Err(error)) => Err(told(&error)),
            Err(failed) => Err(failed.to_string()),
        };
        match checked {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                let place = self.networks.write();
                *place.unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
                telemetry::reloaded("models");
                Ok(fresh)
            }
            Err(reason) => {
                telemetry::reload_failed("models", &reason);
                Err(Error::Reload(reason))
            }
        }
    }
}

/// What is wrong, without the folders of this machine.
fn told(error: &models::Error) -> String {
    let last = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    match error {
        models::Error::NotFound { .. } => "no network that finds lesions is there".to_owned(),
        models::Error::Read { path, reason } => format!("{}: {reason}", last(path)),
        models::Error::Misplaced { folder, found } => {
            format!("the folder {} holds {found}", last(folder))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_no_folder_of_the_machine() {
        let read = models::Error::Read {
            path: PathBuf::from("/srv/secret/models/ms-lesion/0.1.0/model.onnx"),
            reason: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        let elsewhere = models::Error::Misplaced {
            folder: PathBuf::from("/srv/secret/models/a/1"),
            found: "b@2".to_owned(),
        };
        let gone = models::Error::NotFound {
            searched: vec![PathBuf::from("/srv/secret/models")],
        };
        for error in [read, elsewhere, gone] {
            let reason = told(&error);
            assert!(!reason.is_empty() && !reason.contains('/'), "{reason}");
        }
    }
}
