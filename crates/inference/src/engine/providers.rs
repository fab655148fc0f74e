//! Execution providers: is one there, if not why, and the options it runs with.
//!
//! The options follow measurements: OpenVINO with static shapes, its precision said explicitly and
//! without pinning; the CPU provider without memory patterns (half the memory, the same time); CUDA
//! without TF32, so that f32 means f32.
use std::path::{Path, PathBuf};

use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};

use super::device::{Device, Precision};
use super::runtime::Runtime;
use super::session::SessionKey;

/// Engines of a network that are kept: each box of a head and each patch that a request asks for has one.
const MOST_ENGINES: usize = 32;

/// Whether a kind of device can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// The library was built with it; whether its hardware answers shows when a session is opened.
    Built,
    /// It cannot be used, and why.
    Missing {
        /// What is missing, and the fix.
        reason: String,
    },
}

/// Tells whether the loaded library was built with a device's provider.
#[must_use]
pub fn availability(_loaded: &Runtime, device: Device) -> Availability {
    let built = match device {
        Device::Cpu => Ok(true),
        Device::OpenVino => ep::OpenVINO::default().is_built(),
        Device::Cuda(_) => ep::CUDA::default().is_built(),
        Device::TensorRt(_) => ep::TensorRT::default().is_built(),
    };
    match built {
        Ok(true) => Availability::Built,
        Ok(false) => Availability::Missing {
            reason: format!(
                "this ONNX Runtime was built without {}: {}",
                device.kind(),
                fix(device)
            ),
        },
        Err(e) => Availability::Missing {
            reason: e.message().to_owned(),
        },
    }
}

/// `is_available` of a provider as a method, since it needs the type alone.
trait Built: ExecutionProvider {
    fn is_built(&self) -> ort::Result<bool> {
        Self::is_available()
    }
}

impl<E: ExecutionProvider> Built for E {}

fn fix(device: Device) -> &'static str {
    match device {
        Device::Cpu => "",
        Device::OpenVino => "`make setup` fetches the build with OpenVINO on x86-64 Linux",
        Device::Cuda(_) | Device::TensorRt(_) => {
            "`python3 tools/fetch_runtime.py --cuda` fetches the CUDA build; CUDA 12, cuDNN 9 and, for \
             TensorRT, libnvinfer 10 must be installed"
        }
    }
}

/// The provider of a device with its options; fails rather than fall back. `engines` is [`engine_folder`]'s.
pub(super) fn provider(
    device: Device,
    precision: Precision,
    threads: usize,
    engines: Option<&Path>,
) -> ExecutionProviderDispatch {
    match device {
        Device::Cpu => ep::CPU::default().with_arena_allocator(true).build(),
        Device::OpenVino => openvino(precision, threads).build(),
        Device::Cuda(number) => cuda(number).build(),
        Device::TensorRt(number) => tensorrt(number, precision, engines).build(),
    }
    .error_on_failure()
}

fn openvino(precision: Precision, threads: usize) -> ep::OpenVINO {
    let hint = match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let options =
        format!(r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{hint}","ENABLE_CPU_PINNING":false}}}}"#);
    ep::OpenVINO::default()
        .with_device_type("CPU")
        .with_num_threads(threads)
        .with_arbitrary_config("load_config", options)
}

fn cuda(number: u32) -> ep::CUDA {
    ep::CUDA::default()
        .with_device_id(number as i32)
        .with_tf32(false)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Exhaustive)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
}

fn tensorrt(number: u32, precision: Precision, engines: Option<&Path>) -> ep::TensorRT {
    let plain = ep::TensorRT::default()
        .with_device_id(number as i32)
        .with_bf16(precision == Precision::Bf16);
    match engines {
        None => plain,
        Some(folder) => plain
            .with_engine_cache(true)
            .with_engine_cache_path(folder.display())
            .with_timing_cache(true)
            .with_timing_cache_path(of_network(folder).display()),
    }
}

/// The folder, made if need be, where TensorRT keeps the engines of one session; none for another device, or where it
/// cannot be made.
///
/// The runtime names an engine by the network's layers and the GPU, neither by weights nor by shape, and loads it for any that
/// is so named (microsoft/onnxruntime issues 6455 and 32254): hence a folder for each.
pub(super) fn engine_folder(cache: &Path, device: Device, key: &SessionKey) -> Option<PathBuf> {
    let Device::TensorRt(_) = device else {
        return None;
    };
    let [i, j, k] = key.shape;
    let session = format!("{i}x{j}x{k}-batch{}-{}", key.batch, key.precision);
    let folder = cache.join(&key.network.sha256).join(session);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "engines cannot be kept and are built at each start");
        return None;
    }
    forget_all_but(MOST_ENGINES, of_network(&folder));
    Some(folder)
}

/// Removes the folders of a network that changed longest ago; those that cannot be read or removed stay.
fn forget_all_but(most: usize, network: &Path) {
    let folders = std::fs::read_dir(network).into_iter().flatten().flatten();
    let mut dated: Vec<_> = folders
        .filter_map(|entry| {
            let data = entry.metadata().ok().filter(std::fs::Metadata::is_dir)?;
            Some((data.modified().ok()?, entry.path()))
        })
        .collect();
    dated.sort();
    let surplus = dated.len().saturating_sub(most);
    for (_, folder) in dated.drain(..surplus) {
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "an old engine cannot be removed");
        }
    }
}

/// Where all sessions of a network keep how long its layers took: an engine for another shape is built sooner with it.
fn of_network(folder: &Path) -> &Path {
    folder.parent().unwrap_or(folder)
}

/// Removes what was kept for a session; whether anything was.
pub(super) fn forget_engines(folder: &Path) -> bool {
    let files = [folder, of_network(folder)]
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    files
        .filter(|file| std::fs::remove_file(file.path()).is_ok())
        .count()
        > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Network;

    /// The options as the runtime is told them, `name: value`.
    fn told(provider: &impl std::fmt::Debug) -> String {
        format!("{provider:?}").replace('"', "")
    }

    #[test]
    fn options_are_those_that_keep_f32_whole_and_engines_apart() {
        let gpu = told(&cuda(3));
        for option in [
            "device_id: 3",
            "use_tf32: false",
            "cudnn_conv_algo_search: EXHAUSTIVE",
            "arena_extend_strategy: kSameAsRequested",
        ] {
            assert!(gpu.contains(option), "{option}: {gpu}");
        }
        let bare = told(&tensorrt(0, Precision::F32, None));
        assert!(bare.contains("trt_bf16_enable: false"), "{bare}");
        assert!(!bare.contains("cache"), "{bare}");
        let kept = told(&tensorrt(
            1,
            Precision::Bf16,
            Some(Path::new("/engines/of a network/of one")),
        ));
        for option in [
            "device_id: 1",
            "trt_bf16_enable: true",
            "trt_engine_cache_enable: true",
            "trt_engine_cache_path: /engines/of a network/of one",
            "trt_timing_cache_enable: true",
            "trt_timing_cache_path: /engines/of a network}",
        ] {
            assert!(kept.contains(option), "{option}: {kept}");
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "stands for what a library writes"
    )]
    fn no_two_sessions_share_a_folder_of_engines_and_a_broken_one_is_forgotten() {
        let cache = std::env::temp_dir().join(format!("dawson-engines-{}", std::process::id()));
        let key = |sha256: &str, shape, precision, batch| {
            let network = Network {
                id: "network@1".to_owned(),
                onnx: Vec::new(),
                sha256: sha256.to_owned(),
                channels: 1,
                output: String::new(),
                classes: 1,
            };
            SessionKey::new(&Arc::new(network), shape, precision, batch)
        };
        let (device, small) = (Device::TensorRt(0), [32, 48, 64]);
        let keys = [
            key("aa", small, Precision::F32, 1),
            key("bb", small, Precision::F32, 1),
            key("aa", [64, 48, 32], Precision::F32, 1),
            key("aa", small, Precision::Bf16, 1),
            key("aa", small, Precision::F32, 2),
        ];
        let folders: std::collections::BTreeSet<PathBuf> = keys
            .iter()
            .map(|key| engine_folder(&cache, device, key).unwrap())
            .collect();
        assert_eq!(folders.len(), keys.len());
        assert!(folders.iter().all(|folder| folder.is_dir()));
        assert_eq!(engine_folder(&cache, Device::Cuda(0), &keys[0]), None);

        let folder = engine_folder(&cache, device, &keys[0]).unwrap();
        assert!(!forget_engines(&folder));
        let (half, timing) = (folder.join("half.engine"), cache.join("aa/all.timing"));
        let of_another = cache.join("bb/all.timing");
        for file in [&half, &timing, &of_another] {
            std::fs::write(file, b"half").unwrap();
        }
        assert!(forget_engines(&folder));
        assert!(!half.exists() && !timing.exists() && of_another.exists());
        assert!(folders.iter().all(|folder| folder.is_dir()));

        // Those that were built last stay.
        for side in 0..MOST_ENGINES + 8 {
            let last = engine_folder(&cache, device, &key("cc", [side; 3], Precision::F32, 1));
            std::fs::write(last.unwrap().join("one.engine"), b"").unwrap();
        }
        let kept = std::fs::read_dir(cache.join("cc")).unwrap().count();
        assert_eq!(kept, MOST_ENGINES);
        assert!(cache.join("cc/39x39x39-batch1-f32/one.engine").exists());
        assert!(!cache.join("cc/0x0x0-batch1-f32").exists());

        // Where nothing can be kept, engines are built at each start.
        let file = cache.join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(engine_folder(&file, device, &keys[0]), None);
        std::fs::remove_dir_all(&cache).unwrap();
    }
}
