//! What fuzzing found worth keeping is fed again, by the compiler that builds the program.
use std::path::PathBuf;

use dawson::pacs::dimse::Command;
use dawson_imaging::dicom;
use dawson_imaging::nifti::{Header, Limits, decode};
use dawson_inference::models::Manifest;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = std::fs::read_dir(folder.join(target)).unwrap();
    let found: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(!found.is_empty());
    found
}

#[test]
fn what_fuzzing_kept_is_refused_or_read_and_ends_nothing() {
    let small = Limits {
        max_axis: 64,
        max_voxels: 1 << 15,
        max_bytes: 1 << 18,
    };
    let (mut headers, mut scans, mut manifests) = (0, 0, 0);
    for file in corpus("nifti_header") {
        headers += usize::from(Header::read(&file, Limits::CLINICAL).is_ok());
    }
    for file in corpus("nifti_body") {
        if let Ok(scan) = decode(&file, small) {
            scans += 1;
            let voxels: usize = scan.header.shape.iter().product();
            assert_eq!(scan.volume.samples().len(), voxels);
            assert!(scan.volume.samples().iter().all(|v| v.is_finite()));
        }
    }
    for text in corpus("manifest") {
        let parsed = std::str::from_utf8(&text).map(Manifest::parse);
        manifests += usize::from(matches!(parsed, Ok(Ok(_))));
    }
    let (mut images, mut commands) = (0, 0);
    for file in corpus("dicom") {
        if dicom::Head::read(&file, &dicom::Limits::CLINICAL).is_ok() {
            images += 1;
        }
        // One slice makes no volume, and that is said.
        if let Ok(study) = dicom::Study::read([file], &dicom::Limits::CLINICAL) {
            assert!(
                study
                    .stacks
                    .iter()
                    .all(|stack| study.decode(stack).is_err())
            );
        }
    }
    for bytes in corpus("dimse") {
        commands += usize::from(Command::decode(&bytes).is_ok());
    }
    // Both sides of each were met.
    assert!(headers > 5 && scans > 5 && manifests >= 2 && images >= 6 && commands >= 2);
}
