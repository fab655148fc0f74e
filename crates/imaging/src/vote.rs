//! Many patches' probabilities become one.
//!
//! Where patches overlap, each votes with a weight that is largest at its middle, where the network
//! saw most around a voxel. Votes are summed in f32 in the order in which they are added and divided
//! by the summed weights, so the same votes in the same order give the same bits.
use rayon::prelude::*;

use crate::grid::Grid;
use crate::volume::Volume;

/// How a patch's voxels weigh in the vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// Quadratic B-spline, the paper's: 0 at the rim, at overlap ½ the weights sum to a constant.
    BSpline2,
    /// Normal density with a standard deviation of an eighth of the patch, as nnU-Net and MONAI.
    Gaussian,
    /// All the same.
    Uniform,
}

impl Weighting {
    /// Every weighting.
    pub const ALL: [Self; 3] = [Self::BSpline2, Self::Gaussian, Self::Uniform];

    /// The name in `model.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BSpline2 => "bspline2",
            Self::Gaussian => "gaussian",
            Self::Uniform => "uniform",
        }
    }

    /// Weights along one axis of `n` voxels; a patch's weight is the product over its axes.
    ///
    /// Quadratic B-spline: with t = 1 − |2 (x + ½) / n − 1|, 2 t² where t ≤ ½, else 1 − 2 (1 − t)²
    /// (Hashemi et al. 2018, section on patch fusion).
    #[must_use]
    pub fn along_axis(self, n: usize) -> Vec<f32> {
        let weight = |x: usize| {
            let from_middle = 2.0 * (x as f64 + 0.5) / n as f64 - 1.0;
            match self {
                Self::BSpline2 => {
                    let t = 1.0 - from_middle.abs();
                    if t <= 0.5 {
                        2.0 * t * t
                    } else {
                        1.0 - 2.0 * (1.0 - t) * (1.0 - t)
                    }
                }
                Self::Gaussian => (-0.5 * (4.0 * from_middle).powi(2)).exp(),
                Self::Uniform => 1.0,
            }
        };
        (0..n).map(|x| weight(x) as f32).collect()
    }
}

/// The votes on a grid so far.
#[derive(Debug, Clone)]
pub struct Votes {
    weights: [Vec<f32>; 3],
    sum: Volume<f32>,
    weight: Vec<f32>,
}

impl Votes {
    /// No votes yet, for patches of `patch` voxels on `grid`.
    #[must_use]
    pub fn new(grid: Grid, patch: [usize; 3], weighting: Weighting) -> Self {
        Self {
            weights: patch.map(|n| weighting.along_axis(n)),
            sum: Volume::filled(grid, 0.0),
            weight: Volume::filled(grid, 0.0).into_samples(),
        }
    }

    /// The votes of patches of `patch` voxels beside those of one look at everything, whose word counts everywhere as
    /// much as a patch's does at its middle.
    #[must_use]
    pub fn beside(look: Volume<f32>, patch: [usize; 3], weighting: Weighting) -> Self {
        Self {
            weights: patch.map(|n| weighting.along_axis(n)),
            weight: vec![1.0; look.grid().voxels()],
            sum: look,
        }
    }

    /// Adds the probabilities (i fastest) of the patch that starts at `start`; what lies outside
    /// the grid is dropped.
    ///
    /// # Panics
    /// If `probabilities` are fewer than the patch has voxels.
    pub fn add(&mut self, start: [isize; 3], probabilities: &[f32]) {
        let shape = self.sum.grid().shape();
        let patch = [0, 1, 2].map(|a| self.weights[a].len());
        let range = |a: usize| {
            let first = (-start[a]).max(0);
            let past = (shape[a] as isize - start[a]).min(patch[a] as isize);
            first as usize..past.max(first) as usize
        };
        let (planes, rows, row) = (range(2), range(1), range(0));
        let plane = shape[0] * shape[1];
        // Where the patch begins on the grid, inside it: not negative, since `range` begins there.
        let first = [0, 1, 2].map(|a| (start[a] + range(a).start as isize) as usize);
        let weights = &self.weights;
        self.sum
            .samples_mut()
            .par_chunks_mut(plane.max(1))
            .zip(self.weight.par_chunks_mut(plane.max(1)))
            .skip(first[2])
            .zip(planes)
            .for_each(|((sums, totals), k)| {
                for (n, j) in rows.clone().enumerate() {
                    let weight_jk = weights[1][j] * weights[2][k];
                    let at = first[0] + shape[0] * (first[1] + n);
                    let from = patch[0] * (j + patch[1] * k);
                    let votes = probabilities[from + row.start..from + row.end]
                        .iter()
                        .zip(&weights[0][row.clone()]);
                    let cells = sums[at..at + row.len()]
                        .iter_mut()
                        .zip(&mut totals[at..at + row.len()]);
                    for ((sum, total), (&probability, &weight_i)) in cells.zip(votes) {
                        let weight = weight_i * weight_jk;
                        *sum += weight * probability;
                        *total += weight;
                    }
                }
            });
    }

    /// The weighted means; 0 where nobody voted.
    #[must_use]
    pub fn fused(self) -> Volume<f32> {
        let Self {
            mut sum, weight, ..
        } = self;
        sum.samples_mut()
            .par_iter_mut()
            .zip(&weight)
            .for_each(|(sum, &weight)| {
                *sum = if weight > 0.0 { *sum / weight } else { 0.0 };
            });
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use glam::DAffine3;
    use proptest::prelude::*;

    use super::*;
    use crate::tile::Tiling;

    proptest! {
        #[test]
        fn patches_of_one_field_fuse_to_that_field(shape in [3_usize..30, 3..30, 3..30],
                                                   patch in [4_usize..16, 4..16, 4..16],
                                                   overlap in 0.0_f64..0.8, n in 0_usize..3) {
            let grid = Grid::new(shape, DAffine3::IDENTITY).unwrap();
            let field = Volume::from_fn(grid, |[i, j, k]| ((i * 7 + j * 5 + k * 3) % 11) as f32 / 11.0);
            let tiling = Tiling { patch: patch.map(|n| NonZeroUsize::new(n).unwrap()), overlap };
            let mut votes = Votes::new(grid, patch, Weighting::ALL[n]);
            for start in tiling.starts(shape) {
                let mut cut = vec![9.0; patch.iter().product()];
                field.copy_box(start, patch, &mut cut);
                votes.add(start, &cut);
            }
            for (a, b) in votes.fused().samples().iter().zip(field.samples()) {
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn at_half_overlap_the_spline_s_weights_sum_to_one() {
        let weights = Weighting::BSpline2.along_axis(64);
        for x in 0..32 {
            assert!((weights[x] + weights[x + 32] - 1.0).abs() < 1e-6);
        }
        assert!(weights[0] < 1e-3 && weights[32] > 0.99);
    }

    #[test]
    fn beside_a_look_at_everything_a_patch_counts_by_its_weight_and_only_where_it_is() {
        let grid = Grid::new([6, 4, 4], DAffine3::IDENTITY).unwrap();
        let look = Volume::filled(grid, 0.2);
        let mut votes = Votes::beside(look, [4, 4, 4], Weighting::BSpline2);
        votes.add([2, 0, 0], &[1.0; 64]);
        let weight = |x: usize| Weighting::BSpline2.along_axis(4)[x];
        let fused = votes.fused();
        for (i, along_i) in [(0, 0.0), (1, 0.0), (2, weight(0)), (4, weight(2))] {
            let patch = along_i * weight(1) * weight(1);
            let want = (0.2 + patch) / (1.0 + patch);
            assert!((fused.at([i, 1, 1]) - want).abs() < 1e-6, "{i}");
        }
    }

    #[test]
    fn the_nearer_middle_weighs_more() {
        let grid = Grid::new([6, 4, 4], DAffine3::IDENTITY).unwrap();
        let mut votes = Votes::new(grid, [4, 4, 4], Weighting::BSpline2);
        votes.add([0, 0, 0], &[0.0; 64]);
        votes.add([2, 0, 0], &[1.0; 64]);
        let fused = votes.fused();
        let row: Vec<f32> = (0..6).map(|i| fused.at([i, 1, 1])).collect();
        assert_eq!((row[0], row[1], row[4], row[5]), (0.0, 0.0, 1.0, 1.0));
        assert!(row[2] < 0.5 && row[3] > 0.5 && (row[2] + row[3] - 1.0).abs() < 1e-6);
    }
}
