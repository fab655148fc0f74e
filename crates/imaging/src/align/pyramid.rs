//! A scan at several sizes of voxel, and where the head is on it.
//!
//! Coarser levels are means over whole blocks of voxels: nothing is interpolated, each voxel of a scan
//! counts once, and the cost is one look at it. Values that are no numbers become 0 on the way.
use std::iter::StepBy;
use std::ops::Range;

use glam::{DAffine3, DMat3, DVec3, Vec3};
use rayon::prelude::*;

use crate::brain::on_faces;
use crate::chance::Chance;
use crate::grid::{Grid, GridError, VoxelPoint};
use crate::normalise::quantile;
use crate::volume::Volume;

/// Values beyond this have no meaning in a scan and would overflow the sum of a block.
const ABSURD: f32 = 1e30;
/// What differs from the air around the head by this share of the image's range belongs to the head
/// (as in Smith, Hum. Brain Mapp. 17:143, 2002).
const NOT_AIR: f64 = 0.1;
/// The quantiles between which an image's range lies.
const RANGE: [f64; 2] = [0.02, 0.98];
/// The quantiles of a head's values beyond which all values count as one.
const CLIPPED: [f64; 2] = [0.005, 0.995];
/// Voxels of the coarsest level by which the head is enlarged, so that its outline counts.
const RIM: usize = 2;

/// The same scan with voxels of about `spacing_mm`, or its own where those are larger, block by block.
pub(super) fn shrunk(volume: &Volume<f32>, spacing_mm: f64) -> Volume<f32> {
    let grid = volume.grid();
    let (shape, spacing) = (grid.shape(), grid.spacing_mm());
    let block = [0, 1, 2].map(|a| ((spacing_mm / spacing[a]).round() as usize).clamp(1, shape[a]));
    let Ok(target) = blocks_of(grid, block) else {
        return volume.map(sound); // Blocks of a few millimetres are a grid if the voxels are one.
    };
    let (row, slice) = (shape[0], shape[0] * shape[1]);
    let [ni, nj, _] = target.shape();
    let share = 1.0 / block.iter().product::<usize>() as f32;
    let samples = volume.samples();
    let mut out = Volume::filled(target, 0.0);
    out.samples_mut()
        .par_chunks_mut(ni)
        .enumerate()
        .for_each_init(Vec::new, |sums: &mut Vec<f32>, (n, out)| {
            // Rows first: whole ones are added many samples at a time.
            sums.clear();
            sums.resize(ni * block[0], 0.0);
            for k in n / nj * block[2]..(n / nj + 1) * block[2] {
                for j in n % nj * block[1]..(n % nj + 1) * block[1] {
                    for (sum, &value) in sums.iter_mut().zip(&samples[j * row + k * slice..]) {
                        *sum += sound(value);
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(block[0])) {
                *out = sums.iter().sum::<f32>() * share;
            }
        });
    out
}

fn sound(value: f32) -> f32 {
    if value.abs() < ABSURD { value } else { 0.0 }
}

/// The grid whose voxels are blocks of another's; what does not fill a block is left out.
fn blocks_of(grid: &Grid, block: [usize; 3]) -> Result<Grid, GridError> {
    let scale = DVec3::from(block.map(|n| n as f64));
    let first = (scale - DVec3::ONE) * 0.5;
    let affine =
        grid.affine() * DAffine3::from_mat3_translation(DMat3::from_diagonal(scale), first);
    Grid::new([0, 1, 2].map(|a| grid.shape()[a] / block[a]), affine)
}

/// A head on the coarsest level of its scan.
#[derive(Debug, Clone)]
pub(super) struct Head {
    grid: Grid,
    /// Offsets of the voxels of the head and of a rim around it, ascending.
    voxels: Vec<usize>,
    /// The middle of the head's voxels, RAS+ mm.
    pub(super) centre: DVec3,
    /// Root of the mean square distance of its voxels to the centre.
    pub(super) radius_mm: f64,
    /// The range of the values of those voxels, but for a few of the lowest and highest.
    pub(super) range: [f32; 2],
}

impl Head {
    /// Looks for the head on a coarse level; `None` if all is of one brightness.
    ///
    /// The head differs from what is commonest on the faces, and a voxel belongs to it, too, that has
    /// head on both sides along each of the axes: ventricles, bone.
    pub(super) fn find(coarse: &Volume<f32>) -> Option<Self> {
        let grid = *coarse.grid();
        let mut values = coarse.samples().to_vec();
        let [low, high] = RANGE.map(|q| quantile(&mut values, q));
        let air = middle_of_faces(coarse);
        let least = NOT_AIR * (high - low);
        let differs: Vec<bool> = coarse
            .samples()
            .iter()
            .map(|&v| (f64::from(v) - air).abs() > least)
            .collect();
        let inside = enclosed(grid.shape(), &differs);
        let places = |inside: &[bool]| -> Vec<usize> {
            let numbered = inside.iter().enumerate();
            numbered.filter(|(_, i)| **i).map(|(n, _)| n).collect()
        };
        let head = places(&inside);
        if head.is_empty() {
            return None;
        }
        let at = |&offset: &usize| grid.centre_of(grid.index(offset)).0;
        let centre = head.iter().map(at).sum::<DVec3>() / head.len() as f64;
        let squares: f64 = head.iter().map(|n| at(n).distance_squared(centre)).sum();
        let voxels = places(&widened(grid.shape(), inside, RIM));
        let mut values: Vec<f32> = voxels.iter().map(|&n| coarse.samples()[n]).collect();
        let range = CLIPPED.map(|q| quantile(&mut values, q) as f32);
        Some(Self {
            grid,
            voxels,
            centre,
            // A single voxel has no extent; a millimetre keeps angles finite.
            radius_mm: (squares / head.len() as f64).sqrt().max(1.0),
            range,
        })
        .filter(|head| head.range[0] < head.range[1])
    }

    /// Points all over the head, RAS+ mm: one at a random place of each of `count` equal parts of the
    /// list of its voxels (stratified).
    pub(super) fn points(&self, count: usize, chance: Chance) -> Vec<DVec3> {
        let all = self.voxels.len() as f64;
        (0..count)
            .map(|n| {
                let draw = chance.of(n as u64);
                let part = (n as f64 + f64::from(draw.of(4).unit())) / count as f64;
                let voxel = self.voxels[((part * all) as usize).min(self.voxels.len() - 1)];
                let within = draw.point(Vec3::splat(-0.5), Vec3::splat(0.5));
                let at = DVec3::from(self.grid.index(voxel).map(|n| n as f64));
                self.grid.world(VoxelPoint(at + within.as_dvec3())).0
            })
            .collect()
    }
}

/// The median of the values on the six faces: air, or the background of a stripped scan.
fn middle_of_faces(volume: &Volume<f32>) -> f64 {
    let mut values = Vec::new();
    on_faces(volume.grid().shape(), |at| {
        values.push(volume.samples()[at]);
    });
    quantile(&mut values, 0.5)
}

/// The voxels that lie between two of `marked`, or on one, along each of the three axes.
fn enclosed(shape: [usize; 3], marked: &[bool]) -> Vec<bool> {
    let mut inside = vec![true; marked.len()];
    for line in lines(shape) {
        let first = line.clone().position(|at| marked[at]);
        let last = line.clone().rposition(|at| marked[at]);
        for (n, at) in line.enumerate() {
            inside[at] &= first.is_some_and(|f| f <= n) && last.is_some_and(|l| n <= l);
        }
    }
    inside
}

/// The voxels that have one of `marked` within `by` steps along the axes, taken one after the other.
fn widened(shape: [usize; 3], mut marked: Vec<bool>, by: usize) -> Vec<bool> {
    for line in lines(shape) {
        let before: Vec<bool> = line.clone().map(|at| marked[at]).collect();
        for (n, at) in line.enumerate() {
            let near = n.saturating_sub(by)..(n + by + 1).min(before.len());
            marked[at] = before[near].contains(&true);
        }
    }
    marked
}

/// The offsets of every line of voxels along the first axis, then the second, then the third.
fn lines(shape: [usize; 3]) -> impl Iterator<Item = StepBy<Range<usize>>> {
    let strides = [1, shape[0], shape[0] * shape[1]];
    [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
        .into_iter()
        .flat_map(move |[along, b, c]| {
            let starts = (0..shape[c])
                .flat_map(move |y| (0..shape[b]).map(move |x| x * strides[b] + y * strides[c]));
            let past = (shape[along] - 1) * strides[along] + 1;
            starts.map(move |start| (start..start + past).step_by(strides[along]))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{VoxelIndex, WorldPoint};

    fn grid(shape: [usize; 3], spacing: [f64; 3]) -> Grid {
        let affine = DAffine3::from_mat3_translation(
            DMat3::from_rotation_y(0.2) * DMat3::from_diagonal(DVec3::from(spacing)),
            DVec3::new(3.0, -40.0, 7.0),
        );
        Grid::new(shape, affine).unwrap()
    }

    #[test]
    fn a_coarse_voxel_is_the_mean_of_its_block_and_lies_in_its_middle() {
        let fine = grid([9, 6, 4], [0.5, 1.0, 4.0]);
        let ramp = |at: DVec3| (at.x + 2.0 * at.y - 0.5 * at.z) as f32;
        let scan = Volume::from_fn(fine, |at| ramp(fine.centre_of(at).0));
        let coarse = shrunk(&scan, 2.0);
        assert_eq!(coarse.grid().shape(), [2, 3, 4]);
        for (n, value) in coarse.samples().iter().enumerate() {
            let at = coarse.grid().centre_of(coarse.grid().index(n)).0;
            assert!((value - ramp(at)).abs() < 1e-3, "{value} {}", ramp(at));
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_nothing() {
        let fine = grid([2, 2, 1], [1.0; 3]);
        let scan = Volume::new(fine, vec![f32::NAN, f32::INFINITY, -f32::MAX, 8.0]).unwrap();
        assert_eq!(shrunk(&scan, 2.0).samples(), [2.0]);
    }

    #[test]
    fn a_head_holds_what_it_encloses_and_a_rim() {
        let cube = grid([20, 20, 20], [4.0; 3]);
        let shell = |at: VoxelIndex| {
            at.iter().all(|n| (5..15).contains(n)) && at.contains(&5)
                || at.contains(&14) && at.iter().all(|n| (5..15).contains(n))
        };
        let scan = Volume::from_fn(cube, |at| if shell(at) { 90.0 } else { 10.0 });
        let head = Head::find(&scan).unwrap();
        assert_eq!(head.voxels.len(), 14 * 14 * 14);
        let middle = cube.world(VoxelPoint(DVec3::splat(9.5))).0;
        assert!((head.centre - middle).length() < 1e-9);
        assert!(Head::find(&Volume::filled(cube, 10.0)).is_none());
    }

    #[test]
    fn points_are_spread_over_the_whole_head_and_differ_by_seed() {
        let cube = grid([20, 20, 20], [4.0; 3]);
        let scan = Volume::from_fn(cube, |at| {
            if at.iter().all(|n| (5..15).contains(n)) {
                90.0
            } else {
                10.0 + (at[0] % 2) as f32
            }
        });
        let head = Head::find(&scan).unwrap();
        let points = head.points(1372, Chance::new(1));
        assert_eq!(points, head.points(1372, Chance::new(1)));
        assert_ne!(points, head.points(1372, Chance::new(2)));
        // Half a point for each of the head's voxels: no two parts of the list are the same voxel.
        let mut voxels: Vec<usize> = points
            .iter()
            .map(|&at| {
                cube.offset(
                    cube.voxel(WorldPoint(at))
                        .0
                        .round()
                        .to_array()
                        .map(|x| x as usize),
                )
            })
            .collect();
        voxels.dedup();
        assert!(voxels.len() > 1300, "{}", voxels.len());
        assert!(voxels.iter().all(|v| head.voxels.binary_search(v).is_ok()));
    }
}
