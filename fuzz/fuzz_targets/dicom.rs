//! A DICOM file, and the series that it makes with copies of itself at other places: refused by name, or a volume
//! of as many voxels as its headers promised.
#![no_main]
use dawson_imaging::dicom::{Head, Limits, Study};
use libfuzzer_sys::fuzz_target;

/// Small, so that a run meets its bounds and is quick.
const LIMITS: Limits = Limits {
    max_file_bytes: 1 << 20,
    max_elements: 2_000,
    max_axis: 64,
    max_samples: 1 << 16,
    max_fragments: 256,
    ..Limits::CLINICAL
};

/// What seeds have where a slice has its place and its name; each copy gets others.
const PLACE: &[u8] = b"\\-10\\0000";
const NAME: &[u8] = b"1.2.3.9000";

fuzz_target!(|file: &[u8]| {
    let head = Head::read(file, &LIMITS);
    let files = (0..12).map(|k| {
        let place = format!("\\-10\\{:04}", 8 * k);
        let name = format!("1.2.3.9{k:03}");
        replaced(&replaced(file, PLACE, place.as_bytes()), NAME, name.as_bytes())
    });
    let Ok(study) = Study::read(files, &LIMITS) else {
        return;
    };
    // What is in a study was let pass at the door.
    assert!(head.is_ok());
    for stack in &study.stacks {
        let (grid, scan) = (stack.grid(), study.decode(stack));
        if let Ok(scan) = scan {
            let samples = scan.volume.samples();
            assert_eq!(grid.map(|grid| grid.voxels()), Ok(samples.len()));
            assert!(samples.iter().all(|v| v.is_finite()) && scan.non_finite <= samples.len());
        }
    }
});

fn replaced(file: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut all = file.to_vec();
    if let Some(at) = file.windows(what.len()).position(|window| window == what) {
        all[at..at + by.len()].copy_from_slice(by);
    }
    all
}
