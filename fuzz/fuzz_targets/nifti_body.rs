//! A whole file, packed or not: it is refused, or it is a scan that keeps what its header promised.
#![no_main]
use dawson_imaging::nifti::{Header, Limits, decode};
use libfuzzer_sys::fuzz_target;

/// Small, so that a run meets its bounds and is quick.
const LIMITS: Limits = Limits {
    max_axis: 64,
    max_voxels: 1 << 15,
    max_bytes: 1 << 18,
};

fuzz_target!(|file: &[u8]| {
    let guarded = Header::read(file, LIMITS);
    let Ok(scan) = decode(file, LIMITS) else {
        return;
    };
    // What is decoded was let pass by the guard, as the same header. By its text: NaN is not NaN.
    let text = |header| format!("{header:?}");
    assert_eq!(guarded.as_ref().map(text), Ok(text(&scan.header)));
    let samples = scan.volume.samples();
    assert_eq!(samples.len(), scan.header.shape.iter().product());
    assert!(samples.iter().all(|v| v.is_finite()) && scan.non_finite <= samples.len());
});
