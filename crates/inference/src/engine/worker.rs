//! The thread that owns the sessions: takes patches, fills batches, answers.
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::device::{Device, DeviceChoice, Precision};
use super::providers::{Availability, availability};
use super::runtime::Runtime;
use super::session::{Cancel, OpenSession, SessionKey};
use super::{EngineConfig, Error, Happening, Network, Observer};

/// One patch to be computed.
#[derive(Debug)]
pub struct Patch {
    /// The network.
    pub network: Arc<Network>,
    /// Voxels, `[i, j, k]`.
    pub shape: [usize; 3],
    /// The numbers to compute in.
    pub precision: Precision,
    /// Normalised intensities, `[c, k, j, i]`, i fastest.
    pub image: Vec<f32>,
    /// The caller's number for it, given back with the answer.
    pub number: usize,
    /// Tells that nobody waits any more.
    pub cancel: Arc<Cancel>,
    /// Where the answer goes.
    pub answer: Sender<Answer>,
}

impl Patch {
    /// The session that computes it with others like it, `batch` in all.
    fn key(&self, batch: usize) -> SessionKey {
        SessionKey::new(&self.network, self.shape, self.precision, batch)
    }
}

/// What became of a patch.
#[derive(Debug)]
pub struct Answer {
    /// [`Patch::number`].
    pub number: usize,
    /// Its probabilities.
    pub outcome: Result<Probabilities, Error>,
}

/// The network's answer for one patch.
#[derive(Debug)]
pub struct Probabilities {
    /// One for each voxel, i fastest.
    pub values: Vec<f32>,
    /// Seconds inside `Session::run`, divided by the patches that shared the batch.
    pub run_s: f64,
}

/// What the engine runs on.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// The device in use.
    pub device: Device,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
    /// CPU threads for a patch.
    pub threads: usize,
    /// The most patches of a batch.
    pub batch: usize,
}

enum Order {
    Compute(Patch),
    Open {
        key: SessionKey,
        done: Sender<Result<(), Error>>,
    },
    GetReady(Ahead),
}

/// A session that a study will want, opened when there is nothing else to do.
struct Ahead {
    key: SessionKey,
    cancel: Arc<Cancel>,
}

/// The sessions of one device, behind a bounded channel.
///
/// Dropping it lets the thread end what it has begun.
#[derive(Debug)]
pub struct Engine {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    info: EngineInfo,
}

impl Engine {
    /// Loads the runtime, settles the device and starts the thread.
    ///
    /// # Errors
    /// [`Error::LibraryNotFound`], [`Error::LibraryUnusable`], [`Error::DeviceUnavailable`].
    pub fn start(config: &EngineConfig) -> Result<Self, Error> {
        let runtime = Runtime::load(config.library.as_deref())?;
        let device = settle(&runtime, config.device)?;
        let threads = config.threads.map_or_else(all_cores, NonZeroUsize::get);
        let info = EngineInfo {
            device,
            runtime_version: runtime.version(),
            threads,
            batch: config.batch.get(),
        };
        let (orders, inbox) = bounded(config.queue.get());
        let worker = Worker {
            runtime,
            engine_cache: config.engine_cache.clone(),
            devices: std::iter::once(device)
                .chain(config.failover.iter().copied())
                .collect(),
            threads,
            batch: config.batch.get(),
            max_sessions: config.max_sessions.get(),
            sessions: VecDeque::new(),
            too_large: Vec::new(),
            ahead: None,
            observer: config.observer,
        };
        let thread = std::thread::Builder::new()
            .name(format!("engine-{}", device.kind()))
            .spawn(move || worker.work(&inbox))
            .map_err(|e| Error::DeviceUnavailable {
                device,
                reason: format!("no thread for it: {e}"),
            })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
            info,
        })
    }

    /// What it runs on.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Whether its thread still works.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Hands over a patch; waits while the queue is full.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the engine's thread has ended.
    pub fn submit(&self, patch: Patch) -> Result<(), Error> {
        self.order(Order::Compute(patch))
    }

    /// Opens the session for patches of `shape` now, so that the first study does not wait for it.
    ///
    /// # Errors
    /// What opening can cause: [`Error::DeviceUnavailable`], [`Error::PrecisionUnavailable`],
    /// [`Error::ModelUnusable`], [`Error::OutOfMemory`].
    pub fn open(
        &self,
        network: &Arc<Network>,
        shape: [usize; 3],
        precision: Precision,
    ) -> Result<(), Error> {
        let (done, opened) = bounded(1);
        let key = SessionKey::new(network, shape, precision, 1);
        self.order(Order::Open { key, done })?;
        opened.recv().unwrap_or(Err(Error::Stopped))
    }

    /// Opens that session as soon as no patch waits, unless another would have to be closed for it; nobody waits for it. If
    /// it cannot be opened, the first patch will say so. Where patches share batches it is not known which session will be
    /// wanted, and nothing is done.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the engine's thread has ended.
    pub fn get_ready(
        &self,
        network: &Arc<Network>,
        shape: [usize; 3],
        precision: Precision,
        cancel: &Arc<Cancel>,
    ) -> Result<(), Error> {
        if self.info.batch > 1 {
            return Ok(());
        }
        let ahead = Ahead {
            key: SessionKey::new(network, shape, precision, 1),
            cancel: Arc::clone(cancel),
        };
        let orders = self.orders.as_ref().ok_or(Error::Stopped)?;
        match orders.try_send(Order::GetReady(ahead)) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Error::Stopped),
        }
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        let orders = self.orders.as_ref().ok_or(Error::Stopped)?;
        orders.send(order).map_err(|_| Error::Stopped)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.orders = None; // The thread ends once its channel is empty and closed.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread had panicked");
        }
    }
}

fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The device that was named, if the library has it, or the first that it has.
fn settle(runtime: &Runtime, choice: DeviceChoice) -> Result<Device, Error> {
    match choice {
        DeviceChoice::Named(device) => match availability(runtime, device) {
            Availability::Built => Ok(device),
            Availability::Missing { reason } => Err(Error::DeviceUnavailable { device, reason }),
        },
        DeviceChoice::Auto => Ok(Device::ALL
            .into_iter()
            // TensorRT builds engines for minutes at its first start: by name only.
            .filter(|&device| match device {
                Device::TensorRt(_) => false,
                Device::Cuda(_) => has_gpu(),
                Device::OpenVino | Device::Cpu => true,
            })
            .find(|&device| availability(runtime, device) == Availability::Built)
            .unwrap_or(Device::Cpu)),
    }
}

/// Whether an NVIDIA driver answers; without one the GPU providers load and then fail.
fn has_gpu() -> bool {
    std::path::Path::new("/dev/nvidiactl").exists()
}

struct Worker {
    runtime: Runtime,
    /// [`EngineConfig::engine_cache`].
    engine_cache: Option<PathBuf>,
    /// The device in use, then those that may take over.
    devices: VecDeque<Device>,
    threads: usize,
    batch: usize,
    max_sessions: usize,
    /// The most recently used last.
    sessions: VecDeque<OpenSession>,
    /// The batches that memory did not suffice for, the least of each network and shape: none as large is tried again.
    too_large: Vec<SessionKey>,
    /// The last session that was asked for ahead.
    ahead: Option<Ahead>,
    observer: Observer,
}

impl Worker {
    fn work(mut self, inbox: &Receiver<Order>) {
        let mut waiting: VecDeque<Patch> = VecDeque::new();
        loop {
            if waiting.is_empty() && inbox.is_empty() {
                self.open_ahead();
            }
            if waiting.is_empty() {
                match inbox.recv() {
                    Ok(order) => self.take(order, &mut waiting),
                    Err(_) => return, // Closed and empty.
                }
            }
            while let Ok(order) = inbox.try_recv() {
                self.take(order, &mut waiting);
                if waiting.len() >= self.batch {
                    break; // Enough for a batch; the rest stays where its senders feel it.
                }
            }
            waiting.retain(|patch| !patch.cancel.is_cancelled());
            let limit = waiting
                .front()
                .map_or(self.batch, |first| self.limit(first));
            let batch = next_batch(&mut waiting, limit);
            if !batch.is_empty() {
                self.compute(batch);
            }
        }
    }

    fn take(&mut self, order: Order, waiting: &mut VecDeque<Patch>) {
        match order {
            Order::Compute(patch) => waiting.push_back(patch),
            Order::Open { key, done } => {
                let opened = self.session(&key).map(|_| ());
                if done.send(opened).is_err() {
                    tracing::debug!("nobody waits for the session that was opened");
                }
            }
            Order::GetReady(ahead) => self.ahead = Some(ahead),
        }
    }

    /// Opens the session that was asked for ahead, if there is room for it and somebody still wants it.
    fn open_ahead(&mut self) {
        let room = self.sessions.len() < self.max_sessions;
        let wanted = self
            .ahead
            .take()
            .filter(|ahead| room && !ahead.cancel.is_cancelled());
        if let Some(Ahead { key, .. }) = wanted
            && let Err(error) = self.session(&key)
        {
            tracing::debug!(%error, "a session could not be opened ahead");
        }
    }

    /// Runs a batch; when memory runs out, in halves.
    fn compute(&mut self, mut batch: Vec<Patch>) {
        while let Some(first) = batch.first() {
            let size = self.limit(first).min(batch.len());
            let key = first.key(size);
            let rest = batch.split_off(size);
            match self.run(&key, &mut batch) {
                Ok(run) => {
                    answer_all(batch, run);
                    batch = rest;
                }
                Err(error) => {
                    if self.recover(&error, key) {
                        batch.extend(rest);
                    } else {
                        for patch in batch {
                            answer(&patch, Err(error.clone()));
                        }
                        batch = rest;
                    }
                }
            }
        }
    }

    /// The most patches of a batch with `patch` in it: half of the batch that did not fit.
    fn limit(&self, patch: &Patch) -> usize {
        let asked = patch.key(self.batch);
        let failed = self.too_large.iter().find(|key| key.is_like(&asked));
        failed.map_or(self.batch, |key| key.batch / 2)
    }

    fn run(&mut self, key: &SessionKey, batch: &mut [Patch]) -> Result<Run, Error> {
        let Some(first) = batch.first() else {
            return Err(Error::Stopped);
        };
        let one_study = batch.iter().all(|p| Arc::ptr_eq(&p.cancel, &first.cancel));
        let cancel = one_study.then(|| Arc::clone(&first.cancel));
        let mut joined: Vec<f32>;
        let images = if let [one] = &mut *batch {
            &mut one.image
        } else {
            joined = batch.iter().flat_map(|p| p.image.iter().copied()).collect();
            &mut joined
        };
        let took = self.session(key)?.run(images, cancel.as_deref())?;
        let probabilities = std::mem::take(images);
        (self.observer)(Happening::Batch {
            device: self.device(),
            patches: batch.len(),
            took,
        });
        Ok(Run {
            probabilities,
            took,
        })
    }

    /// The device in use.
    fn device(&self) -> Device {
        self.devices.front().copied().unwrap_or(Device::Cpu)
    }

    /// The open session for `key`, opened if need be; the least recently used one is closed first
    /// if there would be too many.
    fn session(&mut self, key: &SessionKey) -> Result<&mut OpenSession, Error> {
        let open = match self.sessions.iter().position(|s| s.key() == key) {
            Some(at) => self.sessions.remove(at),
            None => None,
        };
        let session = if let Some(session) = open {
            session
        } else {
            while self.sessions.len() >= self.max_sessions {
                self.sessions.pop_front();
            }
            let device = self.device();
            let cache = self.engine_cache.as_deref();
            let opened =
                OpenSession::open(&self.runtime, device, key.clone(), self.threads, cache)?;
            (self.observer)(Happening::SessionOpened { device });
            opened
        };
        self.sessions.push_back(session);
        self.sessions.back_mut().ok_or(Error::Stopped)
    }

    /// Sees to a failed batch; whether it is worth another try.
    fn recover(&mut self, error: &Error, key: SessionKey) -> bool {
        let others = self.sessions.iter().filter(|s| *s.key() != key).count();
        let next = Next::after(error, key.batch, others, self.devices.len());
        let device = self.device();
        match error {
            Error::OutOfMemory { .. } => (self.observer)(Happening::OutOfMemory { device }),
            Error::Cancelled | Error::Stopped => {}
            _ => (self.observer)(Happening::Failed { device }),
        }
        match next {
            Next::Halve => {
                tracing::warn!(%device, patches = key.batch, "memory does not suffice for a batch, half of it from now on");
                self.too_large.retain(|failed| !failed.is_like(&key));
                self.too_large.push(key);
            }
            Next::Rebuild => (self.observer)(Happening::Rebuilt { device }),
            Next::FailOver => {
                self.devices.pop_front();
                self.too_large.clear();
                let (from, to) = (device, self.device());
                tracing::error!(%from, %to, %error, "the device failed, another takes over");
                (self.observer)(Happening::FailedOver { from, to });
            }
            Next::GiveUp => {}
        }
        // A session that failed is not trusted with the next study, and what it took of the memory only its end gives back.
        if next != Next::GiveUp
            || matches!(
                error,
                Error::DeviceFailed { .. } | Error::OutOfMemory { .. }
            )
        {
            self.sessions.clear();
        }
        next != Next::GiveUp
    }
}

/// What is tried next after a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The same patches in two halves, no other session open.
    Halve,
    /// The one patch again, no other session open.
    Rebuild,
    /// The next device that is allowed.
    FailOver,
    /// The caller is told.
    GiveUp,
}

impl Next {
    /// Out of memory: halve the batch, then close every other session, then another device. A device
    /// that failed: another one. Anything else is not the device's fault.
    fn after(error: &Error, patches: usize, other_sessions: usize, devices: usize) -> Self {
        let other_device = if devices > 1 {
            Self::FailOver
        } else {
            Self::GiveUp
        };
        match error {
            Error::OutOfMemory { .. } if patches > 1 => Self::Halve,
            Error::OutOfMemory { .. } if other_sessions > 0 => Self::Rebuild,
            Error::OutOfMemory { .. }
            | Error::DeviceFailed { .. }
            | Error::DeviceUnavailable { .. } => other_device,
            _ => Self::GiveUp,
        }
    }
}

/// Takes the first patch and those behind it that can share a batch with it, `limit` at the most;
/// as many as the largest power of two, so that few sessions serve all sizes.
fn next_batch(waiting: &mut VecDeque<Patch>, limit: usize) -> Vec<Patch> {
    let Some(first) = waiting.front() else {
        return Vec::new();
    };
    let key = first.key(1);
    let fits = |p: &Patch| p.key(1) == key;
    let fitting = waiting.iter().filter(|p| fits(p)).count().min(limit);
    let size = if fitting == 0 {
        1
    } else {
        1 << fitting.ilog2()
    };
    let mut chosen: Vec<usize> = (0..waiting.len())
        .filter(|&n| fits(&waiting[n]))
        .take(size)
        .collect();
    let mut batch = Vec::with_capacity(chosen.len());
    while let Some(at) = chosen.pop() {
        batch.extend(waiting.remove(at));
    }
    batch.reverse();
    batch
}

/// What a batch gave.
struct Run {
    /// `[n, class, k, j, i]`, i fastest.
    probabilities: Vec<f32>,
    took: Duration,
}

fn answer_all(mut batch: Vec<Patch>, run: Run) {
    let run_s = run.took.as_secs_f64() / batch.len().max(1) as f64;
    if batch.len() == 1
        && let Some(patch) = batch.pop()
    {
        answer(
            &patch,
            Ok(Probabilities {
                values: run.probabilities,
                run_s,
            }),
        );
        return;
    }
    let voxels = run.probabilities.len() / batch.len().max(1);
    for (patch, values) in batch
        .into_iter()
        .zip(run.probabilities.chunks_exact(voxels.max(1)))
    {
        answer(
            &patch,
            Ok(Probabilities {
                values: values.to_vec(),
                run_s,
            }),
        );
    }
}

fn answer(patch: &Patch, outcome: Result<Probabilities, Error>) {
    if patch
        .answer
        .send(Answer {
            number: patch.number,
            outcome,
        })
        .is_err()
    {
        tracing::debug!(patch = patch.number, "nobody waits for this patch any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Error = Error::OutOfMemory {
        device: Device::Cuda(0),
        shape: [64; 3],
    };

    #[test]
    fn out_of_memory_halves_then_rebuilds_then_fails_over_then_gives_up() {
        assert_eq!(Next::after(&MEMORY, 8, 3, 2), Next::Halve);
        assert_eq!(Next::after(&MEMORY, 1, 1, 2), Next::Rebuild);
        assert_eq!(Next::after(&MEMORY, 1, 0, 2), Next::FailOver);
        assert_eq!(Next::after(&MEMORY, 1, 0, 1), Next::GiveUp);
    }

    fn network(sha256: &str) -> Arc<Network> {
        Arc::new(Network {
            id: "network@1".to_owned(),
            onnx: Vec::new(),
            sha256: sha256.to_owned(),
            channels: 1,
            output: String::new(),
            classes: 1,
        })
    }

    #[test]
    fn patches_of_several_studies_share_a_batch_and_others_keep_their_turn() {
        let (one, other) = (network("one"), network("other"));
        let (small, large) = ([32; 3], [64; 3]);
        let asked = [
            (&one, small, Precision::F32), // 0
            (&one, large, Precision::F32),
            (&one, small, Precision::F32), // 2
            (&other, small, Precision::F32),
            (&one, small, Precision::Bf16),
            (&one, small, Precision::F32), // 5
            (&one, small, Precision::F32), // 6
            (&one, small, Precision::F32), // 7
        ];
        let patch = |(number, (network, shape, precision)): (usize, (&Arc<Network>, _, _))| Patch {
            network: Arc::clone(network),
            shape,
            precision,
            image: Vec::new(),
            number,
            cancel: Arc::default(), // Each of a study of its own.
            answer: bounded(1).0,
        };
        let mut waiting: VecDeque<Patch> = asked.into_iter().enumerate().map(patch).collect();
        let mut next = |limit| {
            let batch = next_batch(&mut waiting, limit);
            batch.iter().map(|patch| patch.number).collect::<Vec<_>>()
        };
        assert_eq!(next(4), [0, 2, 5, 6]);
        assert_eq!(next(4), [1]);
        assert_eq!(next(1), [3]);
        assert_eq!(next(4), [4]);
        assert_eq!(next(4), [7]);
        assert!(next(4).is_empty());
        // A power of two, whatever fits: few sessions serve all sizes.
        let three = std::iter::repeat_n((&one, small, Precision::F32), 3);
        let mut waiting: VecDeque<Patch> = three.enumerate().map(patch).collect();
        assert_eq!(next_batch(&mut waiting, 8).len(), 2);
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn a_batch_is_at_most_half_of_what_did_not_fit_of_its_shape() {
        let network = network("one");
        let patch = |shape| Patch {
            network: Arc::clone(&network),
            shape,
            precision: Precision::F32,
            image: Vec::new(),
            number: 0,
            cancel: Arc::default(),
            answer: bounded(1).0,
        };
        let mut worker = Worker {
            runtime: Runtime::load(None).unwrap(),
            engine_cache: None,
            devices: VecDeque::from([Device::Cpu]),
            threads: 1,
            batch: 8,
            max_sessions: 1,
            sessions: VecDeque::new(),
            too_large: Vec::new(),
            ahead: None,
            observer: crate::engine::unobserved,
        };
        let (small, large) = (patch([32; 3]), patch([64; 3]));
        assert_eq!(worker.limit(&large), 8);
        for (failed, limit) in [(8, 4), (4, 2)] {
            assert!(worker.recover(&MEMORY, large.key(failed)));
            assert_eq!((worker.limit(&large), worker.limit(&small)), (limit, 8));
        }
        assert!(!worker.recover(&MEMORY, large.key(1)));
    }

    #[test]
    fn a_failed_device_is_replaced_only_if_another_is_allowed() {
        let failed = Error::DeviceFailed {
            device: Device::Cuda(0),
            reason: String::new(),
        };
        assert_eq!(Next::after(&failed, 4, 1, 2), Next::FailOver);
        assert_eq!(Next::after(&failed, 4, 1, 1), Next::GiveUp);
        assert_eq!(Next::after(&Error::Cancelled, 4, 1, 2), Next::GiveUp);
    }
}
