//! Execution providers: is one there, if not why, and the options it runs with.
//!
//! The options follow measurements: OpenVINO with static shapes, its precision said explicitly and
//! without pinning; the CPU provider without memory patterns (half the memory, the same time); CUDA
//! without TF32, so that f32 means f32.
use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};

use super::device::{Device, Precision};
use super::runtime::Runtime;

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

/// The provider of a device with its options; fails rather than fall back.
pub(super) fn provider(
    device: Device,
    precision: Precision,
    threads: usize,
) -> ExecutionProviderDispatch {
    match device {
        Device::Cpu => ep::CPU::default().with_arena_allocator(true).build(),
        Device::OpenVino => ep::OpenVINO::default()
            .with_device_type("CPU")
            .with_num_threads(threads)
            .with_arbitrary_config("load_config", openvino_options(precision))
            .build(),
        Device::Cuda(number) => ep::CUDA::default()
            .with_device_id(number as i32)
            .with_tf32(false)
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Exhaustive)
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
            .build(),
        Device::TensorRt(number) => ep::TensorRT::default()
            .with_device_id(number as i32)
            .with_bf16(precision == Precision::Bf16)
            .with_timing_cache(true)
            .build(),
    }
    .error_on_failure()
}

fn openvino_options(precision: Precision) -> String {
    let hint = match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    format!(r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{hint}","ENABLE_CPU_PINNING":false}}}}"#)
}
