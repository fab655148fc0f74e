//! What a study will need, told from the headers of its scans alone.
use dawson_imaging::nifti::Header;
use dawson_imaging::study::Contrast;

use super::Settings;
use crate::models::{Manifest, Voting};

/// Volumes of a contrast on its own grid that are held at once: as decoded, and in the study's order.
const NATIVE_VOLUMES: f64 = 2.0;
/// Volumes on the study's grid beside the contrasts: votes, weights, probability, the brain.
const GRID_VOLUMES: f64 = 4.0;
/// Volumes on the FLAIR's grid after the network: probability, components, what is being packed.
const RESULT_VOLUMES: f64 = 3.0;

/// What a study is thought to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of memory while it is computed, without what the engine itself holds.
    pub memory_bytes: u64,
    /// Voxels that the network looks at, each as often as it does: what its time goes with.
    pub voxels: u64,
}

impl Needs {
    /// What a study of these scans needs with a model: each with the bytes of its file.
    ///
    /// The brain's box is not known yet, so the FLAIR's whole field of view stands for it; the truth
    /// is less.
    #[must_use]
    pub fn of(scans: &[(Contrast, Header, u64)], manifest: &Manifest, settings: &Settings) -> Self {
        let voxel_mm3: f64 = manifest.input.spacing_mm.iter().product();
        let mut memory = 0.0;
        let mut grid_voxels = 0.0;
        let mut images = 0.0;
        for (contrast, header, file_bytes) in scans {
            let voxels: f64 = header.shape.iter().map(|&n| n as f64).product();
            memory += *file_bytes as f64 + voxels * 4.0 * NATIVE_VOLUMES;
            if manifest.input.contrasts.contains(contrast) {
                images += 1.0;
            }
            if *contrast == Contrast::Flair {
                memory += voxels * 4.0 * RESULT_VOLUMES;
                // What has no place in the world is refused when it is decoded.
                let mm3 = header
                    .spatial
                    .placement(header.shape)
                    .map_or(0.0, |p| p.grid.spacing_mm().iter().product());
                grid_voxels = voxels * mm3 / voxel_mm3;
            }
        }
        memory += grid_voxels * 4.0 * (images + GRID_VOLUMES);
        let looks = match settings.voting {
            Voting::Single => 1.0,
            Voting::Full => (1.0 - settings.overlap).powi(-3),
        } * if settings.flips { 2.0 } else { 1.0 };
        Self {
            memory_bytes: memory as u64,
            voxels: (grid_voxels * looks) as u64,
        }
    }
}
