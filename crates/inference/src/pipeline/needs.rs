//! What a study will need, told from the headers of its scans alone.
use dawson_imaging::grid::Grid;
use dawson_imaging::nifti::Header;
use dawson_imaging::study::Contrast;
use dawson_imaging::tile::Tiling;

use super::Settings;
use crate::models::{AnatomyManifest, Manifest, Voting};

/// Volumes of a contrast on its own grid that are held at once: as decoded, and in the study's order. Numbers wider than
/// the samples count by their own width, since those of 16 bytes are held as stored while they are read.
const NATIVE_VOLUMES: f64 = 2.0;
/// Volumes on the study's grid beside the contrasts: votes, weights, probability, the brain.
const GRID_VOLUMES: f64 = 4.0;
/// Volumes on the FLAIR's grid after the network: probability, components, what is being packed.
const RESULT_VOLUMES: f64 = 3.0;

/// Copies of its samples while an image is written without names: as numbers, as a file, packed.
const NAMELESS_COPIES: f64 = 3.0;

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
    /// Samples of the DICOM images behind it and those beside it, of all their frames.
    image_samples: u64,
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
            image_samples: 0,
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
            image_samples: 0,
        }
    }

    /// With so many samples in the images that a de-identified study gives back.
    #[must_use]
    pub fn with_images(self, image_samples: u64) -> Self {
        Self {
            image_samples,
            ..self
        }
    }
}

impl Needs {
    /// What a study of these scans needs with a model, and with an anatomy network if there is one.
    ///
    /// The brain's box is not known yet, so the FLAIR's whole field of view stands for it; the truth
    /// is less.
    #[must_use]
    pub fn of(
        scans: &[ScanSize],
        manifest: &Manifest,
        anatomy: Option<&AnatomyManifest>,
        settings: &Settings,
    ) -> Self {
        let mut memory = 0.0;
        // Of the study's grid and of what the anatomy network sees, the axes in the FLAIR's order.
        let (mut shape, mut seen) = ([0; 3], [0; 3]);
        let anatomy = anatomy.filter(|_| settings.anatomy);
        let mut images = 0.0;
        for scan in scans {
            let voxels: f64 = scan.shape.iter().map(|&n| n as f64).product();
            let widest = scan.voxel_bytes.max(4) as f64;
            memory += scan.file_bytes as f64 + voxels * widest * NATIVE_VOLUMES;
            if settings.de_identify {
                // Headers are kept beside the pixels.
                memory += scan.file_bytes as f64;
                memory += scan.image_samples as f64 * 4.0 * NAMELESS_COPIES;
            }
            if manifest.input.contrasts.contains(&scan.contrast) {
                images += 1.0;
            }
            if scan.contrast == Contrast::Flair {
                memory += voxels * 4.0 * RESULT_VOLUMES;
                if let Some(found) = scan.spacing_mm {
                    let at = |wanted: [f64; 3]| {
                        [0, 1, 2]
                            .map(|a| (scan.shape[a] as f64 * found[a] / wanted[a]).ceil() as usize)
                    };
                    shape = at(manifest.input.spacing_mm);
                    seen = anatomy.map_or(seen, |anatomy| at(anatomy.showing.spacing_mm));
                }
            }
        }
        let voxels = |shape: [usize; 3]| shape.iter().map(|&n| n as f64).product::<f64>();
        let (grid_voxels, seen_voxels) = (voxels(shape), voxels(seen));
        memory += grid_voxels * 4.0 * (images + GRID_VOLUMES);
        // The head, and the probability of each part of it.
        let classes = anatomy.map_or(0, |anatomy| anatomy.classes.len());
        memory += seen_voxels * 4.0 * (1.0 + classes as f64);
        let in_patches = || {
            let patch: f64 = settings.patch.iter().map(|n| n.get() as f64).product();
            let tiling = Tiling {
                patch: settings.patch,
                overlap: settings.overlap,
            };
            tiling.count(shape) as f64 * patch
        };
        let looked_at = match settings.voting {
            Voting::Single => grid_voxels,
            Voting::Full => in_patches(),
            // If there is doubt everywhere.
            Voting::Adaptive => grid_voxels + in_patches(),
        } * if settings.flips { 2.0 } else { 1.0 };
        Self {
            memory_bytes: memory as u64,
            voxels: (looked_at + seen_voxels) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Asked;

    fn needs(anatomy: bool, voting: Voting) -> Needs {
        needs_of(&Asked {
            anatomy: Some(anatomy),
            voting: Some(voting),
            flips: Some(false),
            ..Asked::default()
        })
    }

    fn needs_of(asked: &Asked) -> Needs {
        let manifest = Manifest::parse(include_str!(
            "../../../../models/ms-lesion/0.4.0/model.toml"
        ))
        .unwrap();
        let parts = AnatomyManifest::parse(include_str!(
            "../../../../models/brain-anatomy/0.2.0/model.toml"
        ))
        .unwrap();
        let settings = Settings::resolve(asked, &manifest).unwrap();
        let flair = ScanSize {
            contrast: Contrast::Flair,
            shape: [100, 200, 50],
            spacing_mm: Some([1.0, 1.0, 4.0]),
            voxel_bytes: 2,
            file_bytes: 1000,
            image_samples: 1_000_000,
        };
        Needs::of(&[flair], &manifest, Some(&parts), &settings)
    }

    #[test]
    fn the_anatomy_network_counts_if_it_is_asked() {
        let (with, without) = (needs(true, Voting::Single), needs(false, Voting::Single));
        assert_eq!(without.voxels, 4_000_000);
        assert_eq!(with.voxels, 4_500_000); // At 2 mm: 50 x 100 x 100.
        assert_eq!(with.memory_bytes - without.memory_bytes, 500_000 * 4 * 11);
    }

    #[test]
    fn images_without_names_are_held_beside_the_study() {
        let nameless = needs_of(&Asked {
            de_identify: Some(true),
            ..Asked::default()
        });
        let named = needs_of(&Asked::default());
        assert_eq!(
            nameless.memory_bytes - named.memory_bytes,
            1000 + 1_000_000 * 4 * 3
        );
    }

    #[test]
    fn adaptive_voting_may_cost_as_much_as_both_others() {
        let [single, full, both] = [Voting::Single, Voting::Full, Voting::Adaptive]
            .map(|voting| needs(false, voting).voxels);
        assert_eq!(both, single + full);
    }

    #[test]
    fn a_second_look_costs_as_much_as_the_first() {
        let once = needs(false, Voting::Single);
        let twice = needs_of(&Asked {
            anatomy: Some(false),
            voting: Some(Voting::Single),
            flips: Some(true),
            ..Asked::default()
        });
        assert_eq!(twice.voxels, 2 * once.voxels);
        assert_eq!(twice.memory_bytes, once.memory_bytes);
    }
}
