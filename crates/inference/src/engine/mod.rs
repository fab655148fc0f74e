//! ONNX Runtime: one owner for every session.
//!
//! An [`Engine`] is a thread that owns the sessions of one device. Callers hand it patches through a
//! bounded channel and get probabilities back; patches of several studies that wait together and
//! have the same model, shape and precision share a batch. Shapes are static (a session for each),
//! precision is always said explicitly, so the same patch gives the same bits on the same machine
//! and settings. A device that was asked for and is not there is an error; nothing ever runs
//! silently on another one.
mod device;
mod providers;
mod runtime;
mod session;
mod worker;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use device::{Device, DeviceChoice, Precision};
pub use providers::{Availability, availability};
pub use runtime::{Runtime, find_library};
pub use session::Cancel;
pub use worker::{Answer, Engine, EngineInfo, Patch, Probabilities};

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The device, or `auto` for the best that works.
    pub device: DeviceChoice,
    /// Devices that may take over when the first one fails while it runs; none by default.
    pub failover: Vec<Device>,
    /// The ONNX Runtime library; searched for beside the program if not given.
    pub library: Option<PathBuf>,
    /// CPU threads for one patch; all cores if not given.
    pub threads: Option<NonZeroUsize>,
    /// The most patches of a batch.
    pub batch: NonZeroUsize,
    /// Sessions (one for each model, shape and precision) that are kept open.
    pub max_sessions: NonZeroUsize,
    /// Patches that may wait for the engine; beyond it, callers wait.
    pub queue: NonZeroUsize,
    /// The folder where TensorRT keeps the engines that it built, minutes of work for each session; nothing is kept if not
    /// given.
    pub engine_cache: Option<PathBuf>,
    /// Who is told what happens; [`unobserved`] if nobody counts.
    pub observer: Observer,
}

impl EngineConfig {
    /// One patch at a time on all cores, with room for three sessions and 64 waiting patches; nobody counts.
    #[must_use]
    pub fn new(device: DeviceChoice) -> Self {
        const SESSIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);
        const QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
        Self {
            device,
            failover: Vec::new(),
            library: None,
            threads: None,
            batch: NonZeroUsize::MIN,
            max_sessions: SESSIONS,
            queue: QUEUE,
            engine_cache: None,
            observer: unobserved,
        }
    }
}

/// Is told what happens, on the engine's thread: it must not wait.
pub type Observer = fn(Happening);

/// For an engine that nobody counts.
pub fn unobserved(_: Happening) {}

/// What happens in the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Happening {
    /// A batch was computed.
    Batch {
        /// Where.
        device: Device,
        /// How many patches shared it.
        patches: usize,
        /// Time inside `Session::run`.
        took: Duration,
    },
    /// A session was opened.
    SessionOpened {
        /// Where.
        device: Device,
    },
    /// One patch is tried again with no other session open.
    Rebuilt {
        /// Where.
        device: Device,
    },
    /// Memory did not suffice for a batch.
    OutOfMemory {
        /// Where.
        device: Device,
    },
    /// A batch failed for another reason.
    Failed {
        /// Where.
        device: Device,
    },
    /// A device failed and another took over.
    FailedOver {
        /// The one that failed.
        from: Device,
        /// The one that took over.
        to: Device,
    },
}

/// Why the engine cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No library anywhere.
    #[error(
        "ONNX Runtime was not found (looked in {}): run `make setup`, or name the library by --runtime-library",
        list(searched)
    )]
    LibraryNotFound {
        /// Folders that were looked at.
        searched: Vec<PathBuf>,
    },
    /// A library that does not load.
    #[error("ONNX Runtime does not load: {reason}")]
    LibraryUnusable {
        /// The loader's words.
        reason: String,
    },
    /// A device that is not there.
    #[error("device {device} cannot be used: {reason}")]
    DeviceUnavailable {
        /// What was asked for.
        device: Device,
        /// Why, and the fix.
        reason: String,
    },
    /// A precision that the device does not have.
    #[error(
        "device {device} does not compute in {precision}; it has {}",
        list(available)
    )]
    PrecisionUnavailable {
        /// The device.
        device: Device,
        /// What was asked for.
        precision: Precision,
        /// What there is.
        available: Vec<Precision>,
    },
    /// The model does not load.
    #[error("model {model} does not load on {device}: {reason}")]
    ModelUnusable {
        /// Name and version.
        model: String,
        /// The device.
        device: Device,
        /// The runtime's words.
        reason: String,
    },
    /// Memory ran out although the batch was halved down to one patch.
    #[error("device {device} ran out of memory on a patch of {} x {} x {} voxels", shape[0], shape[1], shape[2])]
    OutOfMemory {
        /// The device.
        device: Device,
        /// The patch, `[i, j, k]`.
        shape: [usize; 3],
    },
    /// The device failed while it ran.
    #[error("device {device} failed: {reason}")]
    DeviceFailed {
        /// The device.
        device: Device,
        /// The runtime's words.
        reason: String,
    },
    /// The network gave something else than probabilities.
    #[error("model {model} gave {found}, must give {expected} values from 0 to 1")]
    NotProbabilities {
        /// Name and version.
        model: String,
        /// What came.
        found: String,
        /// Voxels of the patch.
        expected: usize,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The engine has been stopped.
    #[error("the engine has stopped")]
    Stopped,
}

fn list<T: std::fmt::Debug>(items: &[T]) -> String {
    items
        .iter()
        .map(|i| format!("{i:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A network as the engine needs it.
pub struct Network {
    /// What it is called in errors: `name@version`.
    pub id: String,
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// SHA-256 of `onnx`: two networks with the same one share sessions.
    pub sha256: String,
    /// Channels of its input.
    pub channels: usize,
    /// The name of its output.
    pub output: String,
    /// Probabilities that it gives for each voxel, one volume after the other.
    pub classes: usize,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({}, {} bytes)", self.id, self.onnx.len())
    }
}
