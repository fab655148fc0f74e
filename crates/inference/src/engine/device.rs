//! What a network can run on.
use std::fmt;
use std::str::FromStr;

/// A device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// ONNX Runtime's own kernels.
    Cpu,
    /// OpenVINO on the CPU.
    OpenVino,
    /// CUDA on the GPU of that number.
    Cuda(u32),
    /// TensorRT on the GPU of that number.
    TensorRt(u32),
}

impl Device {
    /// Every kind of device, the one to be preferred first.
    pub const ALL: [Self; 4] = [Self::TensorRt(0), Self::Cuda(0), Self::OpenVino, Self::Cpu];

    /// The kind's name, without the number.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::Cuda(_) => "cuda",
            Self::TensorRt(_) => "tensorrt",
        }
    }

    /// The precisions that it computes in, the default first.
    #[must_use]
    pub fn precisions(self) -> &'static [Precision] {
        match self {
            Self::Cpu | Self::Cuda(_) => &[Precision::F32],
            Self::OpenVino | Self::TensorRt(_) => &[Precision::F32, Precision::Bf16],
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu | Self::OpenVino => f.write_str(self.kind()),
            Self::Cuda(n) | Self::TensorRt(n) => write!(f, "{}:{n}", self.kind()),
        }
    }
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no device, must be auto, cpu, openvino, cuda, cuda:N, tensorrt or tensorrt:N"
)]
pub struct UnknownDevice {
    found: String,
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice {
            found: text.to_owned(),
        };
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, Some(number.parse::<u32>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (kind, number) {
            ("cpu", None) => Ok(Self::Cpu),
            ("openvino", None) => Ok(Self::OpenVino),
            ("cuda", n) => Ok(Self::Cuda(n.unwrap_or(0))),
            ("tensorrt", n) => Ok(Self::TensorRt(n.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

/// A device that was asked for, or the best that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first of [`Device::ALL`] that is there.
    Auto,
    /// This one and no other.
    Named(Device),
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        if text == "auto" {
            Ok(Self::Auto)
        } else {
            text.parse().map(Self::Named)
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(device) => device.fmt(f),
        }
    }
}

/// The numbers in which a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats: reproducible, the default.
    F32,
    /// bfloat16 in the convolutions: about twice as fast where the hardware has it.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_back_as_they_are_written() {
        for device in [
            Device::Cpu,
            Device::OpenVino,
            Device::Cuda(0),
            Device::Cuda(3),
            Device::TensorRt(1),
        ] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
    }

    #[test]
    fn what_is_no_device_is_refused_with_the_list() {
        for text in ["gpu", "cpu:0", "cuda:x", "cuda:-1", "", "openvino:1"] {
            let refused = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(refused.contains("tensorrt:N"), "{refused}");
        }
    }
}
