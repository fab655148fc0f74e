//! Samples on a grid.
//!
//! A [`Volume`] owns its samples in file order (i runs fastest) and knows where they lie. It does
//! not interpolate ([`crate::resample`]) and knows no file format ([`crate::nifti`]).
use std::ops::Range;

use rayon::prelude::*;

use crate::grid::{Grid, VoxelIndex};

/// Samples that one thread takes in one go: enough to be worth sharing out.
pub const TOGETHER: usize = 1 << 16;

/// So many times the same value, written by all threads: most of what much memory costs is that the system gives its
/// pages one by one.
#[must_use]
pub fn filled<T: Copy + Send + Sync>(count: usize, value: T) -> Vec<T> {
    let values = rayon::iter::repeat_n(value, count);
    values.with_min_len(TOGETHER).collect()
}

/// Samples of one kind on a [`Grid`].
#[derive(Debug, Clone, PartialEq)]
pub struct Volume<T> {
    grid: Grid,
    samples: Vec<T>,
}

/// The samples are not as many as the grid has voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{samples} samples on a grid of {voxels} voxels")]
pub struct LengthMismatch {
    samples: usize,
    voxels: usize,
}

impl<T: Copy + Send + Sync> Volume<T> {
    /// Puts `samples` (i fastest) on `grid`.
    ///
    /// # Errors
    /// [`LengthMismatch`] if there is not one sample for each voxel.
    pub fn new(grid: Grid, samples: Vec<T>) -> Result<Self, LengthMismatch> {
        if samples.len() == grid.voxels() {
            Ok(Self { grid, samples })
        } else {
            Err(LengthMismatch {
                samples: samples.len(),
                voxels: grid.voxels(),
            })
        }
    }

    /// A volume with the same value everywhere.
    #[must_use]
    pub fn filled(grid: Grid, value: T) -> Self {
        let samples = filled(grid.voxels(), value);
        Self { grid, samples }
    }

    /// A volume whose value at each voxel is computed from the voxel's index.
    #[must_use]
    pub fn from_fn(grid: Grid, mut value: impl FnMut(VoxelIndex) -> T) -> Self {
        let [ni, nj, nk] = grid.shape();
        let mut samples = Vec::with_capacity(grid.voxels());
        for k in 0..nk {
            for j in 0..nj {
                samples.extend((0..ni).map(|i| value([i, j, k])));
            }
        }
        Self { grid, samples }
    }

    /// Where the samples lie.
    #[must_use]
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The samples, i fastest.
    #[must_use]
    pub fn samples(&self) -> &[T] {
        &self.samples
    }

    /// The samples, i fastest, to be changed in place.
    pub fn samples_mut(&mut self) -> &mut [T] {
        &mut self.samples
    }

    /// Gives the samples away.
    #[must_use]
    pub fn into_samples(self) -> Vec<T> {
        self.samples
    }

    /// The sample of a voxel.
    ///
    /// # Panics
    /// If `at` is outside the grid.
    #[must_use]
    pub fn at(&self, at: VoxelIndex) -> T {
        self.samples[self.grid.offset(at)]
    }

    /// The same grid with each sample replaced by what `f` makes of it.
    #[must_use]
    pub fn map<U: Copy>(&self, f: impl Fn(T) -> U) -> Volume<U> {
        Volume {
            grid: self.grid,
            samples: self.samples.iter().map(|&s| f(s)).collect(),
        }
    }

    /// The samples of a box of this volume; what lies outside gets `outside`.
    ///
    /// `start` is the first voxel of the box and may be negative; the result lies on
    /// `grid`, which must be this grid cropped there (see [`Grid::crop`]).
    #[must_use]
    pub fn cropped(&self, start: [isize; 3], grid: Grid, outside: T) -> Self {
        let mut out = Self::filled(grid, outside);
        let [ni, nj, _] = grid.shape();
        let planes = out.samples.par_chunks_mut(ni * nj).enumerate();
        planes.for_each(|(k, plane)| {
            let start = [start[0], start[1], start[2] + k as isize];
            self.copy_box(start, [ni, nj, 1], plane);
        });
        out
    }

    /// Copies the box of `shape` voxels from `start` into `out` (i fastest); voxels of `out` that
    /// lie outside this volume are left as they are.
    ///
    /// # Panics
    /// If `out` is shorter than the box.
    pub fn copy_box(&self, start: [isize; 3], shape: [usize; 3], out: &mut [T]) {
        rows_in_common(self.grid.shape(), start, shape, |ours, boxed| {
            out[boxed].copy_from_slice(&self.samples[ours]);
        });
    }

    /// Puts what `map` makes of the samples of a box (i fastest) of `shape` voxels from `start` into this volume; those
    /// that lie outside it are dropped.
    ///
    /// # Panics
    /// If `from` is shorter than the box.
    pub fn paste(
        &mut self,
        start: [isize; 3],
        shape: [usize; 3],
        from: &[T],
        map: impl Fn(T) -> T + Sync,
    ) {
        let [ni, nj, _] = self.grid.shape();
        let planes = self.samples.par_chunks_mut(ni * nj).enumerate();
        planes.for_each(|(k, plane)| {
            let start = [start[0], start[1], start[2] - k as isize];
            rows_in_common([ni, nj, 1], start, shape, |ours, boxed| {
                for (ours, &boxed) in plane[ours].iter_mut().zip(&from[boxed]) {
                    *ours = map(boxed);
                }
            });
        });
    }
}

/// Calls `each` with the offsets of every row that a volume of the shape `whole` and a box of `shape` voxels from `start`
/// have in common: in the volume, and in the box.
fn rows_in_common(
    whole: [usize; 3],
    start: [isize; 3],
    shape: [usize; 3],
    mut each: impl FnMut(Range<usize>, Range<usize>),
) {
    // The part of a box's axis that lies inside: first and past-the-last voxel of the box.
    let [(i0, i1), (j0, j1), (k0, k1)] = [0, 1, 2].map(|axis| {
        let (start, length) = (start[axis], shape[axis]);
        let first = start.min(0).unsigned_abs().min(length);
        let past = (whole[axis] as isize)
            .saturating_sub(start)
            .clamp(0, length as isize) as usize;
        (first, past.max(first))
    });
    if i0 == i1 {
        return;
    }
    let from = |at: usize, axis: usize| (at as isize + start[axis]) as usize;
    for k in k0..k1 {
        for j in j0..j1 {
            let ours = from(i0, 0) + whole[0] * (from(j, 1) + whole[1] * from(k, 2));
            let boxed = i0 + shape[0] * (j + shape[1] * k);
            each(ours..ours + (i1 - i0), boxed..boxed + (i1 - i0));
        }
    }
}

#[cfg(test)]
mod tests {
    use glam::DAffine3;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_box_holds_what_the_slow_way_finds(shape in [1_usize..7, 1..7, 1..7],
                                               start in [-8_isize..8, -8..8, -8..8],
                                               size in [1_usize..9, 1..9, 1..9]) {
            let grid = Grid::new(shape, DAffine3::IDENTITY).unwrap();
            let volume = Volume::from_fn(grid, |[i, j, k]| (i + 10 * j + 100 * k) as i32);
            let cropped = volume.cropped(start, grid.crop(start, size).unwrap(), -1);
            let want = Volume::from_fn(*cropped.grid(), |at| {
                let there: Vec<isize> = (0..3).map(|a| at[a] as isize + start[a]).collect();
                let within = (0..3).all(|a| there[a] >= 0 && (there[a] as usize) < shape[a]);
                if within {
                    (there[0] + 10 * there[1] + 100 * there[2]) as i32
                } else {
                    -1
                }
            });
            let mut back = Volume::filled(grid, -1);
            back.paste(start, size, cropped.samples(), |n| 2 * n);
            let kept = Volume::from_fn(grid, |at| {
                let inside = |a: usize| (0..size[a] as isize).contains(&(at[a] as isize - start[a]));
                if (0..3).all(inside) { 2 * volume.at(at) } else { -1 }
            });
            prop_assert_eq!(back, kept);
            prop_assert_eq!(cropped, want);
        }
    }
}
