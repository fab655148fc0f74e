//! `dawson doctor`: what is there, what is missing, and the exact fix.
use clap::Args as ClapArgs;
use dawson_inference::engine::{Availability, Device, Runtime, availability};
use dawson_inference::problem::Code;

use super::Failure;
use super::engine::EngineArgs;
use super::say::say;

/// The same engine flags as the other commands, so that what they would use is examined.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  dawson doctor --device openvino")]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut missing = 0_usize;
    let mut say = |good: bool, what: &str| {
        missing += usize::from(!good);
        say!("{} {what}", if good { "ok     " } else { "MISSING" });
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    say(
        true,
        &format!("dawson {}, {cores} cores", env!("CARGO_PKG_VERSION")),
    );
    match args.engine.runtime() {
        Ok(runtime) => {
            say(
                true,
                &format!(
                    "ONNX Runtime {} ({})",
                    runtime.version(),
                    runtime.library.display()
                ),
            );
            describe_devices(&runtime);
        }
        Err(failure) => say(false, &failure.detail),
    }
    match args.engine.registry() {
        Ok(registry) => {
            let ids = registry.models().iter().map(|model| model.id());
            for id in ids.chain(registry.anatomy().map(|model| model.id())) {
                say(true, &format!("model {id}, SHA-256 as described"));
            }
            match args.engine.segmenter() {
                Ok(segmenter) => {
                    let device = segmenter.engine().device;
                    let precision = device.precisions()[0];
                    let verified = registry
                        .models()
                        .iter()
                        .map(|model| (model.id(), segmenter.verify(model, precision)));
                    let anatomy = registry
                        .anatomy()
                        .map(|model| (model.id(), segmenter.verify_anatomy()));
                    for (id, outcome) in verified.chain(anatomy) {
                        let good = outcome.is_ok();
                        let found = match outcome {
                            Ok(()) => format!("model {id} answers its golden patch on {device}"),
                            Err(e) => format!("model {id} on {device}: {e}"),
                        };
                        say(good, &found);
                    }
                }
                Err(failure) => say(false, &failure.detail),
            }
        }
        Err(failure) => say(false, &failure.detail),
    }
    if missing == 0 {
        Ok(())
    } else {
        Err(Failure::new(
            Code::DeviceUnavailable,
            format!("{missing} of the above must be mended first"),
        ))
    }
}

/// Devices that are not there are no fault: nobody asked for them yet.
fn describe_devices(runtime: &Runtime) {
    for device in Device::ALL {
        match availability(runtime, device) {
            Availability::Built => say!("ok      device {} is built in", device.kind()),
            Availability::Missing { reason } => {
                say!("-       device {}: {reason}", device.kind());
            }
        }
    }
}
