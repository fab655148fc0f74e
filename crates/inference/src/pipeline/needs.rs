//! What a study will need, told from the headers of its scans alone.
use dawson_imaging::grid::Grid;
use dawson_imaging::nifti::Header;
use dawson_imaging::study::Contrast;
use dawson_imaging::tile::Tiling;

use super::Settings;
use crate::models::{Manifest, Voting};

/// Volumes of a contrast on its own grid that are held at once: as stored and as numbers of its type while it
/// is decoded; then as decoded, and in the study's order.
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

/// What a scan unpacks to, told from its header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScanSize {
    contrast: Contrast,
    shape: [usize; 3],
    /// None if its place in the world is not known: then it is refused when it is decoded.
    spacing_mm: Option<[f64; 3]>,
    voxel_bytes: usize,
    file_bytes: u64,
}

impl ScanSize {
    /// Of a NIfTI file of `file_bytes`.
    #[must_use]
    pub fn of_header(contrast: Contrast, header: &Header, file_bytes: u64) -> Self {
        let placement = header.spatial.placement(header.shape).ok();
        Self {
            contrast,
            shape: header.shape,
            spacing_mm: placement.map(|placement| placement.grid.spacing_mm()),
            voxel_bytes: header.datatype.bytes(),
            file_bytes,
        }
    }

    /// Of a DICOM series on a grid, in files of `file_bytes` together.
    #[must_use]
    pub fn of_grid(contrast: Contrast, grid: &Grid, file_bytes: u64) -> Self {
        Self {
            contrast,
            shape: grid.shape(),
            spacing_mm: Some(grid.spacing_mm()),
            voxel_bytes: size_of::<f32>(),
            file_bytes,
        }
    }
}

impl Needs {
    /// What a study of these scans needs with a model.
    ///
    /// The brain's box is not known yet, so the FLAIR's whole field of view stands for it; the truth
    /// is less.
    #[must_use]
    pub fn of(scans: &[ScanSize], manifest: &Manifest, settings: &Settings) -> Self {
        let mut memory = 0.0;
        // Of the study's grid, the axes in the FLAIR's order.
        let mut shape = [0; 3];
        let mut images = 0.0;
        for scan in scans {
            let voxels: f64 = scan.shape.iter().map(|&n| n as f64).product();
            let widest = scan.voxel_bytes.max(4) as f64;
            memory += scan.file_bytes as f64 + voxels * widest * NATIVE_VOLUMES;
            if manifest.input.contrasts.contains(&scan.contrast) {
                images += 1.0;
            }
            if scan.contrast == Contrast::Flair {
                memory += voxels * 4.0 * RESULT_VOLUMES;
                if let Some(found) = scan.spacing_mm {
                    let wanted = manifest.input.spacing_mm;
                    shape = [0, 1, 2]
                        .map(|a| (scan.shape[a] as f64 * found[a] / wanted[a]).ceil() as usize);
                }
            }
        }
        let grid_voxels: f64 = shape.iter().map(|&n| n as f64).product();
        memory += grid_voxels * 4.0 * (images + GRID_VOLUMES);
        let looked_at = match settings.voting {
            Voting::Single => grid_voxels,
            Voting::Full => {
                let patch: f64 = settings.patch.iter().map(|n| n.get() as f64).product();
                let tiling = Tiling {
                    patch: settings.patch,
                    overlap: settings.overlap,
                };
                tiling.count(shape) as f64 * patch
            }
        } * if settings.flips { 2.0 } else { 1.0 };
        Self {
            memory_bytes: memory as u64,
            voxels: looked_at as u64,
        }
    }
}
