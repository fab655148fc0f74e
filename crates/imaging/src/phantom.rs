//! Heads whose lesions are known: synthetic MRI of a person with multiple sclerosis.
//!
//! [`head`] makes scans of a head that never was, in up to five contrasts, with the truth beside them:
//! which voxels are lesion, brain, which tissue. It serves as fixture of tests, as load of benchmarks
//! and as sample of the demonstration; it is no model of disease and no substitute for a scan when a
//! network is judged.
//!
//! The anatomy is a function of the world position and the seed alone. A grid only says where it is
//! looked at, so the same seed on another grid, in another orientation or in thick slices is the same
//! head with the same lesions. That is why everything is described by distances to surfaces
//! (`phantom/anatomy.rs`, `phantom/cortex.rs`) and chance is a hash of the place
//! (`phantom/chance.rs`), and why nothing is drawn on voxels.
use glam::{DAffine3, DMat3, DVec3, IVec3, Vec3};
use rayon::prelude::*;

pub use self::signal::Tissue;
use crate::grid::{Grid, VoxelIndex, VoxelPoint};
use crate::study::Contrast;
use crate::volume::Volume;

mod anatomy;
mod chance;
mod cortex;
mod lesions;
mod shapes;
mod signal;

use anatomy::{Anatomy, Surroundings};
use chance::{Chance, Waves};
use lesions::Lesions;
use signal::{Signals, acquire, place};

/// Sub-samples of a voxel are at most this far apart, mm.
const SAMPLE_MM: f64 = 1.2;

/// What is outside the brain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skull {
    /// Scalp, skull, face and neck, as far as the grid reaches.
    Kept,
    /// Zeros.
    Stripped,
}

/// Which head to make.
#[derive(Debug, Clone, PartialEq)]
pub struct PhantomOptions {
    /// Whose head; the same number is the same head.
    pub seed: u64,
    /// The voxels to sample it at.
    pub grid: Grid,
    /// Whether the skull is in the picture.
    pub skull: Skull,
    /// Volume of all lesions together, millilitres: met within 15 per cent up to about 30; 0 for none.
    pub lesion_load_ml: f64,
    /// The scans to make, in this order.
    pub contrasts: Vec<Contrast>,
}

impl PhantomOptions {
    /// A stripped head with 8 ml of lesions in every contrast on the 1 mm grid of the MNI152 template
    /// (182 x 218 x 182 voxels, LAS), the form in which labelled cases are published.
    #[must_use]
    pub fn standard(seed: u64) -> Self {
        Self {
            seed,
            grid: standard_grid(),
            skull: Skull::Stripped,
            lesion_load_ml: 8.0,
            contrasts: Contrast::ALL.to_vec(),
        }
    }
}

/// The 1 mm grid of MNI152 in LAS order.
fn standard_grid() -> Grid {
    let affine = DAffine3 {
        matrix3: DMat3::from_diagonal(DVec3::new(-1.0, 1.0, 1.0)),
        translation: DVec3::new(90.0, -126.0, -72.0),
    };
    match Grid::new([182, 218, 182], affine) {
        Ok(grid) => grid,
        Err(_) => unreachable!("the figures above are a grid"),
    }
}

/// A head, sampled on a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Phantom {
    /// The scans, in the order asked for; not negative, white matter at some hundreds.
    pub scans: Vec<(Contrast, Volume<f32>)>,
    /// The truth: 1 where at least half of a voxel is lesion.
    pub lesions: Volume<u8>,
    /// 1 where at least half of a voxel is brain, the fluid in its sulci and ventricles included.
    pub brain: Volume<u8>,
    /// What most of a voxel is made of: [`Tissue::label`]s. Lesions keep the tissue they grew in.
    pub tissue: Volume<u8>,
}

/// Makes a head.
///
/// The loop over voxels runs in the caller's rayon pool; the result does not depend on its size.
///
/// ```
/// use dawson_imaging::grid::Grid;
/// use dawson_imaging::phantom::{PhantomOptions, head};
/// use glam::{DAffine3, DMat3, DVec3};
///
/// let affine = DAffine3::from_mat3_translation(
///     DMat3::from_diagonal(DVec3::splat(8.0)),
///     DVec3::new(-88.0, -120.0, -72.0),
/// );
/// let grid = Grid::new([22, 27, 20], affine)?;
/// let phantom = head(&PhantomOptions { grid, ..PhantomOptions::standard(7) });
/// let brain_voxels = phantom.brain.samples().iter().filter(|&&b| b == 1).count();
/// let brain_ml = brain_voxels as f64 * grid.voxel_ml();
/// assert!((1000.0..1700.0).contains(&brain_ml));
/// # Ok::<(), dawson_imaging::grid::GridError>(())
/// ```
#[must_use]
pub fn head(options: &PhantomOptions) -> Phantom {
    let chance = Chance::new(options.seed);
    let anatomy = Anatomy::new(chance.of(1));
    let lesions = Lesions::new(chance.of(2), &anatomy, options.lesion_load_ml);
    let scanner = Scanner {
        anatomy,
        lesions,
        grid: options.grid,
        surroundings: match options.skull {
            Skull::Kept => Surroundings::Painted,
            Skull::Stripped => Surroundings::Left,
        },
        samples: samples(&options.grid),
        softness_mm: softness_mm(&options.grid),
        bias: [3, 4, 5, 6, 7].map(|n| Waves::new(chance.of(n), 3, 260.0, 0.3)),
        noise: chance.of(8),
    };
    let grid = options.grid;
    let mut scans: Vec<_> =
        options.contrasts.iter().map(|&contrast| (contrast, Volume::filled(grid, 0.0))).collect();
    let [mut lesions, mut brain, mut tissue] = [0_u8; 3].map(|zero| Volume::filled(grid, zero));
    let length = grid.shape()[0];
    let mut rows: Vec<Row> = lesions
        .samples_mut()
        .chunks_mut(length)
        .zip(brain.samples_mut().chunks_mut(length))
        .zip(tissue.samples_mut().chunks_mut(length))
        .map(|((lesions, brain), tissue)| Row { scans: Vec::new(), lesions, brain, tissue })
        .collect();
    for (contrast, scan) in &mut scans {
        for (row, samples) in rows.iter_mut().zip(scan.samples_mut().chunks_mut(length)) {
            row.scans.push((*contrast, samples));
        }
    }
    rows.into_par_iter().enumerate().for_each(|(n, row)| scanner.scan(n, row));
    Phantom { scans, lesions, brain, tissue }
}

/// One row of voxels of every volume.
struct Row<'a> {
    scans: Vec<(Contrast, &'a mut [f32])>,
    lesions: &'a mut [u8],
    brain: &'a mut [u8],
    tissue: &'a mut [u8],
}

/// A head, and how it is looked at.
struct Scanner {
    anatomy: Anatomy,
    lesions: Lesions,
    grid: Grid,
    surroundings: Surroundings,
    /// Places of the sub-samples of a voxel, mm from its centre.
    samples: Vec<Vec3>,
    softness_mm: f32,
    /// Smooth brightness of each contrast's coil.
    bias: [Waves; 5],
    noise: Chance,
}

/// What a voxel holds, averaged over its sub-samples.
struct Voxel {
    signals: Signals,
    tissue: Tissue,
    brain: f32,
    lesion: f32,
}

impl Scanner {
    /// Fills the row that begins at voxel `n` x row length.
    fn scan(&self, n: usize, row: Row<'_>) {
        let first = self.grid.index(n * self.grid.shape()[0]);
        let Row { mut scans, lesions, brain, tissue } = row;
        for i in 0..lesions.len() {
            let centre = self.world([i, first[1], first[2]]);
            let Some(voxel) = self.voxel(centre) else { continue };
            let inside = voxel.brain >= 0.5;
            if !inside && self.surroundings == Surroundings::Left {
                continue;
            }
            tissue[i] = voxel.tissue.label();
            brain[i] = u8::from(inside);
            lesions[i] = u8::from(inside && voxel.lesion >= 0.5);
            for (contrast, samples) in &mut scans {
                let n = place(*contrast);
                let bias = 1.0 + 0.022 * self.bias[n].at(centre);
                let noise = self.noise.of(n as u64).at(pigeonhole(centre)).normals();
                samples[i] = acquire(*contrast, voxel.signals[n], bias, noise);
            }
        }
    }

    fn world(&self, at: VoxelIndex) -> Vec3 {
        self.grid.world(VoxelPoint(DVec3::from(at.map(|n| n as f64)))).0.as_vec3()
    }

    /// Averages the sub-samples of a voxel; `None` if nothing but background was met.
    fn voxel(&self, centre: Vec3) -> Option<Voxel> {
        let share = 1.0 / self.samples.len() as f32;
        let mut voxel =
            Voxel { signals: [0.0; 5], tissue: Tissue::Background, brain: 0.0, lesion: 0.0 };
        let mut votes = [0_u16; Tissue::ALL.len()];
        let mut met = false;
        for &offset in &self.samples {
            let world = centre + offset;
            let Some(mut paint) = self.anatomy.at(world, self.softness_mm, self.surroundings)
            else {
                votes[0] += 1;
                continue;
            };
            met = true;
            voxel.lesion += share * self.lesions.paint(world, self.softness_mm, &mut paint);
            voxel.brain += share * paint.brain;
            for (sum, signal) in voxel.signals.iter_mut().zip(paint.signals) {
                *sum += share * signal;
            }
            votes[usize::from(paint.tissue.label())] += 1;
        }
        let most = Tissue::ALL.into_iter().zip(votes).fold((Tissue::Background, 0), |best, next| {
            if next.1 > best.1 { next } else { best }
        });
        voxel.tissue = most.0;
        met.then_some(voxel)
    }
}

/// How many sub-samples each axis of a voxel needs.
fn per_axis(grid: &Grid) -> [usize; 3] {
    grid.spacing_mm().map(|mm| (mm / SAMPLE_MM).ceil().max(1.0) as usize)
}

/// Places of the sub-samples of a voxel, mm from its centre.
fn samples(grid: &Grid) -> Vec<Vec3> {
    let [ni, nj, nk] = per_axis(grid);
    let along = |n: usize, s: usize| (s as f64 + 0.5) / n as f64 - 0.5;
    let step = grid.affine().matrix3;
    (0..ni * nj * nk)
        .map(|s| {
            let at = DVec3::new(
                along(ni, s % ni),
                along(nj, s / ni % nj),
                along(nk, s / (ni * nj)),
            );
            (step * at).as_vec3()
        })
        .collect()
}

/// The size of a sub-sample, with a little blur on top as every scanner has.
fn softness_mm(grid: &Grid) -> f32 {
    let parts: usize = per_axis(grid).iter().product();
    let size_mm = (grid.voxel_ml() * 1000.0 / parts as f64).cbrt();
    (1.5 * size_mm).max(0.6) as f32
}

/// Where in the world, to a 64th of a millimetre, a voxel lies: the same place has the same noise in
/// every orientation. The shift keeps round millimetres away from the edges.
fn pigeonhole(world: Vec3) -> IVec3 {
    (world * 64.0 + 0.37).floor().as_ivec3()
}
