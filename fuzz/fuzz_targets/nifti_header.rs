//! The guard sees the first bytes of whatever is sent.
#![no_main]
use dawson_imaging::nifti::{Header, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let limits = Limits::CLINICAL;
    let Ok(header) = Header::read(file, limits) else {
        return;
    };
    // What the guard lets pass keeps its promises.
    assert!(header.shape.iter().all(|n| (1..=limits.max_axis).contains(n)));
    let voxels: usize = header.shape.iter().product();
    assert!(voxels <= limits.max_voxels && header.data_bytes() == voxels * header.datatype.bytes());
    assert!(header.slope.is_finite() && header.slope != 0.0 && header.intercept.is_finite());
    if let Ok(placement) = header.spatial.placement(header.shape) {
        assert!(placement.grid.spacing_mm().iter().all(|s| s.is_finite() && *s > 0.0));
    }
});
