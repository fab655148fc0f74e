//! One session: a model at one static shape, batch and precision on one device.
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::TensorRef;

use super::device::{Device, Precision};
use super::providers;
use super::runtime::Runtime;
use super::{Error, Network};

/// A caller's word that a study is no longer wanted.
///
/// It is looked at between patches. Where the device honours it (the CPU provider does), a patch
/// that is being computed stops at its next layer; OpenVINO ends the patch first.
#[derive(Default)]
pub struct Cancel {
    asked: AtomicBool,
    running: Mutex<Option<Arc<RunOptions<NoSelectedOutputs>>>>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cancel({})", self.is_cancelled())
    }
}

impl Cancel {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(options) = running.as_ref()
            && let Err(e) = options.terminate()
        {
            tracing::warn!(error = e.message(), "a running patch could not be stopped");
        }
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn set_running(&self, options: Option<Arc<RunOptions<NoSelectedOutputs>>>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }
}

/// What a session is opened for.
#[derive(Debug, Clone)]
pub(super) struct SessionKey {
    pub(super) network: Arc<Network>,
    /// `[i, j, k]`
    pub(super) shape: [usize; 3],
    pub(super) batch: usize,
    pub(super) precision: Precision,
}

impl SessionKey {
    pub(super) fn new(
        network: &Arc<Network>,
        shape: [usize; 3],
        precision: Precision,
        batch: usize,
    ) -> Self {
        Self {
            network: Arc::clone(network),
            shape,
            batch,
            precision,
        }
    }

    /// The same but for the number of patches.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.network.sha256 == other.network.sha256
            && self.shape == other.shape
            && self.precision == other.precision
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.is_like(other) && self.batch == other.batch
    }
}

/// An open session.
pub(super) struct OpenSession {
    session: Session,
    key: SessionKey,
    device: Device,
}

impl OpenSession {
    pub(super) fn open(
        runtime: &Runtime,
        device: Device,
        key: SessionKey,
        threads: usize,
        engine_cache: Option<&Path>,
    ) -> Result<Self, Error> {
        if !device.precisions().contains(&key.precision) {
            return Err(Error::PrecisionUnavailable {
                device,
                precision: key.precision,
                available: device.precisions().to_vec(),
            });
        }
        let engines = engine_cache.and_then(|cache| providers::engine_folder(cache, device, &key));
        let mut built = build(runtime, device, &key, threads, engines.as_deref());
        if let (Err(reason), Some(folder)) = (&built, &engines)
            && reason.contains("deserialize")
            && !is_out_of_memory(reason)
        {
            tracing::warn!(folder = %folder.display(), reason, "a kept engine does not load and is built anew");
            let engines = providers::forget_engines(folder).then_some(folder.as_path());
            built = build(runtime, device, &key, threads, engines);
        }
        let session = built.map_err(|reason| failed_to_open(device, &key, reason))?;
        Ok(Self {
            session,
            key,
            device,
        })
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Runs a batch: `images` holds `batch` times the channels of a patch, `[n, c, k, j, i]`, and what was told of
    /// them, `[n, class, k, j, i]`, takes their place; after an error they are as they were.
    ///
    /// `cancel` is given where all patches of the batch belong to one study. Returns how long it took.
    pub(super) fn run(
        &mut self,
        images: &mut Vec<f32>,
        cancel: Option<&Cancel>,
    ) -> Result<Duration, Error> {
        let device = self.device;
        let failed = |e: &ort::Error| classify(device, self.key.shape, e.message());
        let [i, j, k] = self.key.shape;
        let channels = self.key.network.channels;
        let shape = [self.key.batch, channels, k, j, i];
        let tensor =
            TensorRef::from_array_view((shape, images.as_slice())).map_err(|e| failed(&e))?;
        // Fresh options for each run: once terminated, they would end the next run too.
        let options = Arc::new(RunOptions::new().map_err(|e| failed(&e))?);
        if let Some(cancel) = cancel {
            cancel.set_running(Some(Arc::clone(&options)));
        }
        let started = Instant::now();
        let expected = self.key.batch * self.key.network.classes * i * j * k;
        let outcome = match self
            .session
            .run_with_options(ort::inputs![tensor], &*options)
        {
            Ok(outputs) => {
                let took = started.elapsed();
                let told = probabilities(&outputs, &self.key.network, expected);
                told.map(|told| {
                    // Where the answer is no longer than the images, the system need not clear pages for it.
                    images.clear();
                    images.extend_from_slice(told);
                    took
                })
            }
            Err(_) if cancel.is_some_and(Cancel::is_cancelled) => Err(Error::Cancelled),
            Err(e) => Err(classify(device, self.key.shape, e.message())),
        };
        if let Some(cancel) = cancel {
            cancel.set_running(None);
        }
        outcome
    }
}

/// Opens a session, or says why not: the runtime's words, and what it logged where they leave that out.
fn build(
    runtime: &Runtime,
    device: Device,
    key: &SessionKey,
    threads: usize,
    engines: Option<&Path>,
) -> Result<Session, String> {
    let [i, j, k] = key.shape.map(|n| n as i64);
    let open = || {
        let mut builder = Session::builder(&runtime.environment)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?
            .with_dimension_override("batch", key.batch as i64)?
            .with_dimension_override("depth", k)?
            .with_dimension_override("height", j)?
            .with_dimension_override("width", i)?
            .with_execution_providers([providers::provider(
                device,
                key.precision,
                threads,
                engines,
            )])?;
        if device != Device::Cpu {
            builder = builder.with_disable_cpu_fallback()?;
        }
        builder.commit_from_memory(&key.network.onnx)
    };
    runtime.take_last_error();
    open().map_err(|e: ort::Error| {
        let reason = e.message().to_owned();
        match runtime.take_last_error() {
            Some(detail) if !reason.contains(&detail) => format!("{reason} ({detail})"),
            _ => reason,
        }
    })
}

fn failed_to_open(device: Device, key: &SessionKey, reason: String) -> Error {
    if is_out_of_memory(&reason) {
        return Error::OutOfMemory {
            device,
            shape: key.shape,
        };
    }
    let about_the_device = device != Device::Cpu && reason.to_lowercase().contains("provider");
    if about_the_device {
        Error::DeviceUnavailable { device, reason }
    } else {
        Error::ModelUnusable {
            model: key.network.id.clone(),
            device,
            reason,
        }
    }
}

fn classify(device: Device, shape: [usize; 3], reason: &str) -> Error {
    if is_out_of_memory(reason) {
        Error::OutOfMemory { device, shape }
    } else {
        Error::DeviceFailed {
            device,
            reason: reason.to_owned(),
        }
    }
}

/// The runtime has no code for it, so its words must do.
fn is_out_of_memory(reason: &str) -> bool {
    const WORDS: [&str; 7] = [
        "out of memory",
        "outofmemory",
        "failed to allocate memory",
        "bad_alloc",
        "available memory of",
        "cuda failure 2",
        "cudnn_status_alloc_failed",
    ];
    let reason = reason.to_lowercase();
    WORDS.iter().any(|words| reason.contains(words))
}

fn probabilities<'a>(
    outputs: &'a ort::session::SessionOutputs<'_>,
    network: &Network,
    expected: usize,
) -> Result<&'a [f32], Error> {
    let wrong = |found: String| Error::NotProbabilities {
        model: network.id.clone(),
        found,
        expected,
    };
    let name = network.output.as_str();
    let output = outputs
        .get(name)
        .ok_or_else(|| wrong(format!("no output named {name}")))?;
    let (_, values) = output
        .try_extract_tensor::<f32>()
        .map_err(|e| wrong(format!("no tensor of 32-bit floats: {}", e.message())))?;
    if values.len() != expected {
        return Err(wrong(format!("{} values", values.len())));
    }
    // NaN fails the comparison too. Counted, not searched: a loop without a way out is computed many values at a time.
    let is_wrong = |v: &&f32| !(-1e-4..=1.0 + 1e-4).contains(*v);
    if values.iter().filter(is_wrong).count() == 0 {
        return Ok(values);
    }
    let value = values.iter().find(is_wrong).unwrap_or(&f32::NAN);
    Err(wrong(format!("the value {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_the_place_of_the_images_and_an_error_leaves_them() {
        let runtime = Runtime::load(None).unwrap();
        let network = |output: &str| Network {
            id: "brain-anatomy".to_owned(),
            onnx: include_bytes!("../../../../models/brain-anatomy/0.2.0/model.onnx").to_vec(),
            sha256: String::new(),
            channels: 1,
            output: output.to_owned(),
            classes: 10,
        };
        let shape = [32; 3];
        let shown = vec![0.5; 32 * 32 * 32];
        for (output, is_there) in [("nothing", false), ("probability", true)] {
            let key = SessionKey::new(&Arc::new(network(output)), shape, Precision::F32, 1);
            let mut session = OpenSession::open(&runtime, Device::Cpu, key, 1, None).unwrap();
            let mut images = shown.clone();
            let outcome = session.run(&mut images, None);
            if is_there {
                outcome.unwrap();
                assert_eq!(images.len(), shown.len() * 10);
                let first: f32 = images.iter().step_by(shown.len()).sum();
                assert!((first - 1.0).abs() < 1e-3, "{first}");
            } else {
                assert!(matches!(outcome, Err(Error::NotProbabilities { .. })));
                assert_eq!(images, shown);
            }
        }
    }

    #[test]
    fn running_out_of_memory_is_told_from_other_failures() {
        let cases = [
            (
                "bfc_arena.cc: Failed to allocate memory for requested buffer of size 9",
                true,
            ),
            ("CUDA failure 2: out of memory ; GPU=0", true),
            ("std::bad_alloc", true),
            ("Error Code 2: OutOfMemory", true),
            (
                "CUDA failure 700: an illegal memory access was encountered",
                false,
            ),
        ];
        for (reason, memory) in cases {
            let found = classify(Device::Cuda(0), [64, 64, 64], reason);
            assert_eq!(
                matches!(found, Error::OutOfMemory { .. }),
                memory,
                "{reason}"
            );
        }
    }
}
