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
//! (`chance.rs`), and why nothing is drawn on voxels.
use glam::{DAffine3, DMat3, DVec3, IVec3, Vec3};
use rayon::prelude::*;

pub use self::signal::Tissue;
use crate::chance::{Chance, Waves};
use crate::grid::{Grid, VoxelIndex, VoxelPoint};
use crate::study::Contrast;
use crate::volume::Volume;

mod anatomy;
mod cortex;
mod lesions;
mod midline;
mod paint;
mod pose;
mod shapes;
mod signal;
mod skull;

use anatomy::{Anatomy, Surroundings};

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
    let mut scans: Vec<_> = options
        .contrasts
        .iter()
        .map(|&contrast| (contrast, Volume::filled(grid, 0.0)))
        .collect();
    let [mut lesions, mut brain, mut tissue] = [0_u8; 3].map(|zero| Volume::filled(grid, zero));
    let length = grid.shape()[0];
    let mut rows: Vec<Row> = lesions
        .samples_mut()
        .chunks_mut(length)
        .zip(brain.samples_mut().chunks_mut(length))
        .zip(tissue.samples_mut().chunks_mut(length))
        .map(|((lesions, brain), tissue)| Row {
            scans: Vec::new(),
            lesions,
            brain,
            tissue,
        })
        .collect();
    for (contrast, scan) in &mut scans {
        for (row, samples) in rows.iter_mut().zip(scan.samples_mut().chunks_mut(length)) {
            row.scans.push((*contrast, samples));
        }
    }
    rows.into_par_iter()
        .enumerate()
        .for_each(|(n, row)| scanner.scan(n, row));
    Phantom {
        scans,
        lesions,
        brain,
        tissue,
    }
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
        let Row {
            mut scans,
            lesions,
            brain,
            tissue,
        } = row;
        for i in 0..lesions.len() {
            let centre = self.world([i, first[1], first[2]]);
            let Some(voxel) = self.voxel(centre) else {
                continue;
            };
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
        self.grid
            .world(VoxelPoint(DVec3::from(at.map(|n| n as f64))))
            .0
            .as_vec3()
    }

    /// Averages the sub-samples of a voxel; `None` if nothing but background was met.
    fn voxel(&self, centre: Vec3) -> Option<Voxel> {
        let share = 1.0 / self.samples.len() as f32;
        let mut voxel = Voxel {
            signals: [0.0; 5],
            tissue: Tissue::Background,
            brain: 0.0,
            lesion: 0.0,
        };
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
        let most =
            Tissue::ALL
                .into_iter()
                .zip(votes)
                .fold((Tissue::Background, 0), |best, next| {
                    if next.1 > best.1 { next } else { best }
                });
        voxel.tissue = most.0;
        met.then_some(voxel)
    }
}

/// How many sub-samples each axis of a voxel needs.
fn per_axis(grid: &Grid) -> [usize; 3] {
    grid.spacing_mm()
        .map(|mm| (mm / SAMPLE_MM).ceil().max(1.0) as usize)
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

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::components::{Connectivity, label};

    /// The standard head of one seed: made once, looked at by many tests.
    fn standard_head() -> &'static Phantom {
        static HEAD: OnceLock<Phantom> = OnceLock::new();
        HEAD.get_or_init(|| head(&PhantomOptions::standard(3)))
    }

    /// Eight axial slices through the ventricles of the head of `seed`: soon made.
    fn slab(seed: u64) -> PhantomOptions {
        let grid = standard_grid().crop([0, 0, 86], [182, 218, 8]).unwrap();
        PhantomOptions {
            grid,
            ..PhantomOptions::standard(seed)
        }
    }

    /// Turned 0.3 about an oblique axis, 1.15 mm, covering a head.
    fn oblique() -> Grid {
        let turn = DMat3::from_axis_angle(DVec3::new(1.0, 2.0, -1.0).normalize(), 0.3);
        let matrix3 = turn * DMat3::from_diagonal(DVec3::new(1.15, -1.15, 1.15));
        let middle = DVec3::new(0.0, -18.0, 4.0);
        let translation = middle - matrix3 * (DVec3::new(149.0, 179.0, 149.0) / 2.0);
        Grid::new(
            [150, 180, 150],
            DAffine3 {
                matrix3,
                translation,
            },
        )
        .unwrap()
    }

    fn ml(mask: &Volume<u8>) -> f64 {
        mask.samples().iter().filter(|&&m| m == 1).count() as f64 * mask.grid().voxel_ml()
    }

    /// Centre (world mm) and volume of each lesion of at least 0.2 ml.
    fn large_lesions(mask: &Volume<u8>) -> Vec<(DVec3, f64)> {
        let grid = mask.grid();
        let found = label(grid.shape(), Connectivity::Corners, mask.samples(), |m| {
            m == 1
        });
        let mut lesions = vec![(DVec3::ZERO, 0.0); found.count()];
        for run in &found.runs {
            for offset in run.voxels.clone() {
                let lesion = &mut lesions[run.component];
                lesion.0 += grid.centre_of(grid.index(offset)).0;
                lesion.1 += 1.0;
            }
        }
        let measured = lesions
            .into_iter()
            .map(|(sum, n)| (sum / n, n * grid.voxel_ml()));
        measured.filter(|lesion| lesion.1 >= 0.2).collect()
    }

    /// Mean of a scan over the voxels of one tissue that are no lesion.
    fn mean(phantom: &Phantom, contrast: Contrast, wanted: Tissue) -> f32 {
        let scan = &phantom
            .scans
            .iter()
            .find(|(c, _)| *c == contrast)
            .unwrap()
            .1;
        let (mut sum, mut n) = (0.0, 0.0);
        for (at, &sample) in scan.samples().iter().enumerate() {
            let lesion = phantom.lesions.samples()[at] == 1;
            if phantom.tissue.samples()[at] == wanted.label() && !lesion {
                (sum, n) = (sum + f64::from(sample), n + 1.0);
            }
        }
        (sum / n) as f32
    }

    /// Mean of a scan over the lesions.
    fn lesion_mean(phantom: &Phantom, contrast: Contrast) -> f32 {
        let scan = &phantom
            .scans
            .iter()
            .find(|(c, _)| *c == contrast)
            .unwrap()
            .1;
        let inside = scan.samples().iter().zip(phantom.lesions.samples());
        let (sum, n) = inside
            .filter(|&(_, &lesion)| lesion == 1)
            .fold((0.0, 0.0), |(sum, n), (&sample, _)| (sum + sample, n + 1.0));
        sum / n
    }

    #[test]
    fn a_seed_is_one_head_whatever_the_threads_and_another_seed_is_another() {
        let made_by = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| head(&slab(seed)))
        };
        let first = made_by(1, 3);
        assert_eq!(first, made_by(3, 3));
        let other = made_by(1, 4);
        assert_ne!(first.brain, other.brain);
        assert_ne!(first.lesions, other.lesions);
    }

    #[test]
    fn the_same_voxels_in_another_order_are_the_same_picture() {
        let options = slab(3);
        let shape = options.grid.shape();
        // k runs fastest and backwards, then i forwards, then j backwards.
        let affine = options.grid.affine();
        let axes = crate::grid::columns(affine.matrix3);
        let turned = DAffine3 {
            matrix3: DMat3::from_cols(-axes[2], axes[0], -axes[1]),
            translation: affine.transform_point3(DVec3::new(
                0.0,
                shape[1] as f64 - 1.0,
                shape[2] as f64 - 1.0,
            )),
        };
        let grid = Grid::new([shape[2], shape[0], shape[1]], turned).unwrap();
        let straight = head(&options);
        let turned = head(&PhantomOptions { grid, ..options });
        assert!(ml(&straight.lesions) > 0.5);
        let there = |[i, j, k]: VoxelIndex| [shape[2] - 1 - k, i, shape[1] - 1 - j];
        for at in 0..straight.brain.grid().voxels() {
            let at = straight.brain.grid().index(at);
            assert_eq!(straight.lesions.at(at), turned.lesions.at(there(at)));
            assert_eq!(straight.tissue.at(at), turned.tissue.at(there(at)));
            for ((_, one), (_, other)) in straight.scans.iter().zip(&turned.scans) {
                // The world point of a voxel differs by rounding, its noise does not.
                assert!((one.at(at) - other.at(there(at))).abs() < 0.5);
            }
        }
    }

    #[test]
    fn the_lesions_lie_at_the_same_places_of_the_world_on_an_oblique_grid() {
        let straight = standard_head();
        let options = PhantomOptions {
            contrasts: Vec::new(),
            ..PhantomOptions::standard(3)
        };
        let turned = head(&PhantomOptions {
            grid: oblique(),
            ..options
        });
        assert!((ml(&turned.lesions) / ml(&straight.lesions) - 1.0).abs() < 0.06);
        assert!((ml(&turned.brain) / ml(&straight.brain) - 1.0).abs() < 0.01);
        let (here, there) = (
            large_lesions(&straight.lesions),
            large_lesions(&turned.lesions),
        );
        assert!(here.len() >= 5);
        for (centre, volume_ml) in here.iter().filter(|lesion| lesion.1 > 0.3) {
            let same = |other: &&(DVec3, f64)| other.0.distance(*centre) < 1.0;
            let other = there.iter().find(same).unwrap();
            assert!(
                (other.1 / volume_ml - 1.0).abs() < 0.12,
                "{volume_ml} ml, {} ml",
                other.1
            );
        }
    }

    #[test]
    fn a_thick_slice_is_the_mean_of_the_thin_ones_it_spans() {
        let options = slab(3);
        let affine = options.grid.affine();
        let thick_affine = DAffine3 {
            matrix3: affine.matrix3 * DMat3::from_diagonal(DVec3::new(1.0, 1.0, 4.0)),
            translation: affine.translation + affine.matrix3.z_axis * 1.5,
        };
        let grid = Grid::new([182, 218, 2], thick_affine).unwrap();
        let thin = head(&options);
        let thick = head(&PhantomOptions { grid, ..options });
        assert!((ml(&thick.brain) / ml(&thin.brain) - 1.0).abs() < 0.01);
        // What fills less than half of a slice is lost, the rest rounded up.
        let kept = ml(&thick.lesions) / ml(&thin.lesions);
        assert!((0.8..1.1).contains(&kept), "{kept}");
        let (mut squares, mut n) = (0.0, 0.0);
        for at in (0..grid.voxels()).map(|offset| grid.index(offset)) {
            let spanned = [0, 1, 2, 3].map(|k| [at[0], at[1], 4 * at[2] + k]);
            if spanned.iter().any(|&at| thin.brain.at(at) == 0) || thick.brain.at(at) == 0 {
                continue;
            }
            let [thin, thick] = [&thin, &thick].map(|phantom| &phantom.scans[0].1);
            let mean = spanned.iter().map(|&at| thin.at(at)).sum::<f32>() / 4.0;
            (squares, n) = (squares + f64::from(thick.at(at) - mean).powi(2), n + 1.0);
        }
        // The noise of one sample and of the mean of four: 0.042 x 310 x sqrt(1.25) is 14.6.
        let difference = (squares / n).sqrt();
        assert!((12.0..17.0).contains(&difference), "{difference}");
    }

    #[test]
    fn the_brain_is_as_large_as_people_have_it() {
        let brain = &standard_head().brain;
        assert!((1100.0..1500.0).contains(&ml(brain)), "{} ml", ml(brain));
        let (mut low, mut high) = ([usize::MAX; 3], [0; 3]);
        for (offset, _) in brain.samples().iter().enumerate().filter(|&(_, &b)| b == 1) {
            for (axis, at) in brain.grid().index(offset).into_iter().enumerate() {
                (low[axis], high[axis]) = (low[axis].min(at), high[axis].max(at));
            }
        }
        let extent: Vec<_> = (0..3).map(|a| high[a] + 1 - low[a]).collect();
        assert!((120..=150).contains(&extent[0]), "{extent:?}");
        assert!((155..=180).contains(&extent[1]), "{extent:?}");
        assert!((115..=145).contains(&extent[2]), "{extent:?}");
        let whole = label(
            brain.grid().shape(),
            Connectivity::Faces,
            brain.samples(),
            |b| b == 1,
        );
        let largest = whole.voxels.iter().max().unwrap();
        assert!(*largest as f64 / 1000.0 > 0.998 * ml(brain));
    }

    #[test]
    fn each_contrast_has_its_order_of_tissues() {
        let phantom = standard_head();
        let of = |contrast, tissue| mean(phantom, contrast, tissue);
        let (white, grey, fluid) = (Tissue::WhiteMatter, Tissue::Cortex, Tissue::Ventricle);
        for (contrast, ascending) in [
            (Contrast::Flair, [fluid, white, grey]),
            (Contrast::T1w, [fluid, grey, white]),
            (Contrast::T2w, [white, grey, fluid]),
            (Contrast::T1gd, [fluid, grey, white]),
        ] {
            let [low, middle, high] = ascending.map(|tissue| of(contrast, tissue));
            assert!(
                low * 1.05 < middle && middle * 1.05 < high,
                "{contrast}: {low} {middle} {high}"
            );
        }
        assert!(of(Contrast::Pdw, white) * 1.05 < of(Contrast::Pdw, grey));
        let [flair, t1w, t2w, pdw, _] = Contrast::ALL;
        for bright in [flair, t2w, pdw] {
            assert!(
                lesion_mean(phantom, bright) > 1.1 * of(bright, grey),
                "{bright}"
            );
        }
        assert!(lesion_mean(phantom, t1w) < 0.95 * of(t1w, white));
        assert!(lesion_mean(phantom, t2w) < 0.9 * of(t2w, fluid));
    }

    #[test]
    fn a_lesion_enhances_after_contrast_agent_and_most_do_not() {
        let phantom = standard_head();
        let (before, after) = (&phantom.scans[1].1, &phantom.scans[4].1);
        let lesions = phantom.lesions.samples();
        let grid = phantom.lesions.grid();
        let found = label(grid.shape(), Connectivity::Corners, lesions, |l| l == 1);
        let mut rise = vec![0.0; found.count()];
        for run in &found.runs {
            for at in run.voxels.clone() {
                let more = after.samples()[at] / 540.0 - before.samples()[at] / 520.0;
                rise[run.component] += more / found.voxels[run.component] as f32;
            }
        }
        let active = rise.iter().filter(|&&rise| rise > 0.25).count();
        assert!((1..=2).contains(&active), "{rise:?}");
    }

    #[test]
    fn lesions_add_up_to_their_load_and_lie_where_lesions_may() {
        let phantom = standard_head();
        let load_ml = ml(&phantom.lesions);
        assert!((load_ml / 8.0 - 1.0).abs() < 0.15, "{load_ml} ml");
        for (lesion, tissue) in phantom
            .lesions
            .samples()
            .iter()
            .zip(phantom.tissue.samples())
        {
            let tissue = Tissue::ALL[usize::from(*tissue)];
            assert!(*lesion == 0 || tissue.hosts_lesions(), "{tissue:?}");
        }
    }

    #[test]
    fn a_load_of_nothing_is_a_head_without_lesions() {
        let with = head(&slab(3));
        let without = head(&PhantomOptions {
            lesion_load_ml: 0.0,
            ..slab(3)
        });
        assert!(ml(&with.lesions) > 0.5);
        assert_eq!(ml(&without.lesions).to_bits(), 0.0_f64.to_bits());
        assert_eq!(with.brain, without.brain);
        // Far from lesions the scans are the same: the difference is the lesions and their halo.
        let same = |n: usize| {
            let pairs = with.scans[n]
                .1
                .samples()
                .iter()
                .zip(without.scans[n].1.samples());
            pairs.filter(|(a, b)| (*a - *b).abs() < 1.0).count()
        };
        assert!(same(0) > with.brain.samples().len() * 85 / 100);
    }

    #[test]
    fn stripping_takes_the_skull_and_nothing_of_the_brain() {
        let stripped = head(&slab(5));
        let kept = head(&PhantomOptions {
            skull: Skull::Kept,
            ..slab(5)
        });
        assert_eq!(
            (&stripped.brain, &stripped.lesions),
            (&kept.brain, &kept.lesions)
        );
        let labels = |phantom: &Phantom, wanted: Tissue| {
            phantom
                .tissue
                .samples()
                .iter()
                .filter(|&&t| t == wanted.label())
                .count()
        };
        for tissue in [Tissue::Bone, Tissue::Fat, Tissue::Skin] {
            assert!(
                labels(&stripped, tissue) == 0 && labels(&kept, tissue) > 1000,
                "{tissue:?}"
            );
        }
        for ((_, stripped_scan), (_, kept_scan)) in stripped.scans.iter().zip(&kept.scans) {
            let pairs = stripped_scan.samples().iter().zip(kept_scan.samples());
            for ((stripped, kept), brain) in pairs.zip(kept.brain.samples()) {
                let wanted = if *brain == 1 { *kept } else { 0.0 };
                // At the rim the two differ by what lies beyond it.
                assert!(
                    (stripped - wanted).abs() < 0.2 * wanted.max(0.5),
                    "{stripped} {kept}"
                );
            }
        }
    }

    #[test]
    fn labels_are_the_places_in_the_list_of_tissues() {
        for (n, tissue) in Tissue::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(tissue.label()), n);
        }
    }
}
