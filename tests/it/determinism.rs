//! The same study gives the same bytes, whatever else is computed and however.
use std::num::NonZeroUsize;
use std::path::Path;

use dawson_imaging::study::Contrast;
use dawson_inference::engine::{Device, EngineConfig};
use dawson_inference::models::Registry;
use dawson_inference::pipeline::{Asked, Segmentation, Segmenter};

use super::support::{engine_config, segment, segment_by, segmenter, study};

const CONTRASTS: [Contrast; 3] = [Contrast::Flair, Contrast::T1w, Contrast::T2w];

/// Mask, instances and probability as they would be sent.
fn bytes(segmenter: &Segmenter) -> Vec<Vec<u8>> {
    without_report(&segment(segmenter, study(&CONTRASTS), &Asked::default()).unwrap())
}

fn without_report(found: &Segmentation) -> Vec<Vec<u8>> {
    let artifacts = found.artifacts(1_767_348_900_000).unwrap();
    artifacts
        .into_iter()
        .filter(|a| a.name != "report.json")
        .map(|a| a.bytes)
        .collect()
}

#[test]
fn results_are_the_same_at_1_2_and_8_studies_at_once() {
    let config = EngineConfig {
        batch: NonZeroUsize::new(4).unwrap(),
        ..engine_config("auto")
    };
    let segmenter = segmenter(&config);
    let want = bytes(&segmenter);
    for at_once in [1, 2, 8] {
        let all: Vec<_> = std::thread::scope(|scope| {
            let studies: Vec<_> = (0..at_once)
                .map(|_| scope.spawn(|| bytes(&segmenter)))
                .collect();
            studies.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| *one == want), "{at_once} at once");
    }
}

#[test]
fn results_are_the_same_at_any_batch_and_thread_count_that_the_device_promises() {
    // Only OpenVINO promises it for threads and batches (see docs/devices.md); it is the default here.
    let default = segmenter(&engine_config("auto"));
    let want = bytes(&default);
    if default.engine().device != Device::OpenVino {
        eprintln!(
            "skipped: this machine's default device is {}",
            default.engine().device
        );
        return;
    }
    for (batch, threads) in [(1, 1), (2, 2), (8, 1)] {
        let config = EngineConfig {
            batch: NonZeroUsize::new(batch).unwrap(),
            threads: NonZeroUsize::new(threads),
            ..engine_config("openvino")
        };
        assert_eq!(
            bytes(&segmenter(&config)),
            want,
            "batch {batch}, {threads} threads"
        );
    }
}

#[test]
fn the_cpu_device_repeats_itself_with_its_own_settings() {
    let one = bytes(&segmenter(&engine_config("cpu")));
    let other = bytes(&segmenter(&engine_config("cpu")));
    assert_eq!(one, other);
}

/// The networks that ship, all three contrasts and two looks: what a request gets.
#[test]
fn the_shipped_networks_give_the_same_bytes_at_any_thread_count_and_beside_one_another() {
    let registry = Registry::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap();
    let model = registry.get("ms-lesion").unwrap();
    let bytes = |segmenter: &Segmenter| {
        let found = segment_by(&model, segmenter, study(&CONTRASTS), &Asked::default());
        without_report(&found.unwrap())
    };
    let of_threads = |threads| {
        let config = EngineConfig {
            threads: NonZeroUsize::new(threads),
            ..engine_config("openvino")
        };
        segmenter(&config).with_anatomy(registry.anatomy().cloned())
    };
    if segmenter(&engine_config("auto")).engine().device != Device::OpenVino {
        eprintln!("skipped: OpenVINO is not this machine's default device");
        return;
    }
    let two = of_threads(2);
    let want = bytes(&two);
    assert!(
        want.iter().any(|file| file.len() > 10_000),
        "nothing was found"
    );
    std::thread::scope(|scope| {
        let studies = [(); 2].map(|()| scope.spawn(|| bytes(&two)));
        for study in studies {
            assert_eq!(study.join().unwrap(), want, "two at once");
        }
    });
    drop(two);
    assert_eq!(bytes(&of_threads(1)), want, "one thread");
}
