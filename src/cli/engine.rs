//! The flags about engine and models that several commands share.
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dawson_imaging::nifti::Limits;
use dawson_inference::engine::{DeviceChoice, Engine, EngineConfig, Precision, Runtime};
use dawson_inference::models::{Model, Registry, find_folder};
use dawson_inference::pipeline::Segmenter;

use super::Failure;

/// What computes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// auto, cpu, openvino, cuda[:N] or tensorrt[:N]
    #[arg(long, default_value = "auto", env = "DAWSON_DEVICE")]
    device: DeviceChoice,
    /// CPU threads for a patch [default: all cores]
    #[arg(long, env = "DAWSON_THREADS")]
    threads: Option<NonZeroUsize>,
    /// The most patches of a batch
    #[arg(long, default_value = "1", env = "DAWSON_BATCH")]
    batch: NonZeroUsize,
    /// The ONNX Runtime library [default: searched beside the program]
    #[arg(long, value_name = "FILE", env = "DAWSON_RUNTIME_LIBRARY")]
    runtime_library: Option<PathBuf>,
    /// The folder where TensorRT keeps the engines that it builds [default: ~/.cache/dawson]
    #[arg(long, value_name = "DIR", env = "DAWSON_ENGINE_CACHE")]
    engine_cache: Option<PathBuf>,
    #[command(flatten)]
    models: ModelsArg,
}

/// Where the networks are.
#[derive(Debug, Args)]
pub(super) struct ModelsArg {
    /// The folder of networks [default: searched beside the program]
    #[arg(long, value_name = "DIR", env = "DAWSON_MODELS")]
    models: Option<PathBuf>,
}

impl ModelsArg {
    pub(super) fn registry(&self) -> Result<Registry, Failure> {
        let folder = self.models.clone().map_or_else(find_folder, Ok)?;
        Ok(Registry::open(&folder)?)
    }
}

impl EngineArgs {
    pub(super) fn registry(&self) -> Result<Registry, Failure> {
        self.models.registry()
    }

    pub(super) fn runtime(&self) -> Result<Runtime, Failure> {
        Ok(Runtime::load(self.runtime_library.as_deref())?)
    }

    pub(super) fn segmenter(&self) -> Result<Segmenter, Failure> {
        let engine = Engine::start(&EngineConfig {
            library: self.runtime_library.clone(),
            threads: self.threads,
            batch: self.batch,
            engine_cache: self
                .engine_cache
                .clone()
                .or_else(|| Some(std::env::home_dir()?.join(".cache/dawson"))),
            ..EngineConfig::new(self.device)
        })?;
        let anatomy = self.registry()?.anatomy().cloned();
        Ok(Segmenter::new(engine, Limits::CLINICAL).with_anatomy(anatomy))
    }

    /// The engine, and the model `name`, verified on it, in its own precision if none is asked for.
    pub(super) fn open(
        &self,
        name: &str,
        precision: Option<Precision>,
    ) -> Result<(Segmenter, Arc<Model>), Failure> {
        let model = self.registry()?.get(name)?;
        let segmenter = self.segmenter()?;
        let precision = precision.unwrap_or(model.manifest.patches.precision);
        segmenter.verify(&model, precision)?;
        segmenter.verify_anatomy()?;
        Ok((segmenter, model))
    }
}
