//! A volume brought onto another grid.
//!
//! Both ways of a study go through here: the contrasts onto the model's grid, and the probability
//! back onto the FLAIR's own. Where two grids have the same voxels in another order, samples are
//! copied and nothing is interpolated. Else the value is trilinear; where the new voxels are larger
//! than the old ones it is the mean of evenly spread points within the new voxel, so that nothing
//! thin is missed between samples. Registration is not done here: a transform may be passed in.
mod separable;

use std::ops::Range;

use glam::{DAffine3, DVec3};
use rayon::prelude::*;

use self::separable::{Separable, points};
use crate::grid::{Grid, columns};
use crate::volume::Volume;

/// Grids whose corners agree to this many voxels hold the same voxels.
const SAME_VOXELS: f64 = 1e-3;

/// The most points along one axis of a new voxel.
const MAX_POINTS: usize = 32;

/// How a volume came onto a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// Voxel for voxel, at most with its axes in another order or direction.
    Exact,
    /// Interpolated.
    Linear,
}

/// Brings `source` onto `target`; points outside the source's field of view get `outside`.
///
/// The field of view reaches half a voxel beyond the outer voxels' centres; there the outer voxel's
/// value is used. A new voxel that spans more than one old voxel along an axis of the target is the
/// mean over as many points along that axis as it spans voxels (rounded up).
#[must_use]
pub fn resample(source: &Volume<f32>, target: &Grid, outside: f32) -> (Volume<f32>, Resampling) {
    resample_moved(source, target, DAffine3::IDENTITY, outside)
}

/// As [`resample`], with `motion` taking world points of the target to world points of the source
/// (the result of a registration), both RAS+ millimetres.
#[must_use]
pub fn resample_moved(
    source: &Volume<f32>,
    target: &Grid,
    motion: DAffine3,
    outside: f32,
) -> (Volume<f32>, Resampling) {
    let to_source = source.grid().affine().inverse() * motion * target.affine();
    if let Some(copy) = copied(source, target, to_source, outside) {
        return (copy, Resampling::Exact);
    }
    let counts = points(to_source, MAX_POINTS);
    let shapes = (source.grid().shape(), target.shape());
    let volume = match Separable::between(shapes.0, shapes.1, to_source, counts) {
        Some(way) => way.interpolate(source, target, outside),
        None => interpolate(source, target, to_source, counts, outside),
    };
    (volume, Resampling::Linear)
}

/// Copies `source` onto `target` voxel by voxel; `None` if their voxels are not the same ones.
#[must_use]
pub fn reorder<T: Copy + Send + Sync>(
    source: &Volume<T>,
    target: &Grid,
    outside: T,
) -> Option<Volume<T>> {
    copied(source, target, target.to_voxels_of(source.grid()), outside)
}

fn copied<T: Copy + Send + Sync>(
    source: &Volume<T>,
    target: &Grid,
    to_source: DAffine3,
    outside: T,
) -> Option<Volume<T>> {
    let steps = Steps::exact(to_source, target.shape())?;
    Some(steps.copy(source, target, outside))
}

/// The value of the nearest voxel of `source` at each voxel of `target`; `outside` beyond its field of
/// view. For labels and masks, whose values have no mean.
#[must_use]
pub fn nearest<T: Copy + Send + Sync>(source: &Volume<T>, target: &Grid, outside: T) -> Volume<T> {
    if let Some(copy) = reorder(source, target, outside) {
        return copy;
    }
    let to_source = target.to_voxels_of(source.grid());
    let [step_i, step_j, step_k] = columns(to_source.matrix3);
    // Half a voxel on, and cut: the nearest one.
    let origin = to_source.translation + 0.5;
    let shape = source.grid().shape();
    let [ni, nj, _] = target.shape();
    let mut out = Volume::filled(*target, outside);
    out.samples_mut()
        .par_chunks_mut(ni)
        .enumerate()
        .for_each(|(row, out)| {
            let start = origin + step_j * (row % nj) as f64 + step_k * (row / nj) as f64;
            let inside = amid(shape, start, step_i, ni);
            for (n, out) in out[inside.clone()].chunks_mut(STRETCH).enumerate() {
                let start = start + step_i * (inside.start + n * STRETCH) as f64;
                for (out, at) in out.iter_mut().zip(Walk::from(start, step_i)) {
                    *out = source.at(at.map(whole));
                }
            }
        });
    out
}

/// A map between voxels that only reorders, reverses and shifts axes by whole voxels.
struct Steps {
    /// Voxel of the source for voxel `[0, 0, 0]` of the target.
    first: [isize; 3],
    /// For each target axis: the source axis it follows, and +1 or −1.
    axes: [(usize, isize); 3],
}

impl Steps {
    /// The steps that `to_source` takes, if they are whole ones over all of `shape`.
    #[expect(clippy::float_cmp, reason = "rounded numbers are compared")]
    fn exact(to_source: DAffine3, shape: [usize; 3]) -> Option<Self> {
        let first = to_source.translation.round();
        let mut axes = [(0, 0); 3];
        let mut rounded = [DVec3::ZERO; 3];
        for (a, column) in columns(to_source.matrix3).into_iter().enumerate() {
            let step = column.round();
            let along = step.to_array().iter().position(|s| s.abs() == 1.0)?;
            if step.abs().element_sum() != 1.0 || axes[..a].iter().any(|&(used, _)| used == along) {
                return None;
            }
            axes[a] = (along, step[along] as isize);
            rounded[a] = step;
        }
        let [x, y, z] = rounded;
        let whole = DAffine3 {
            matrix3: glam::DMat3::from_cols(x, y, z),
            translation: first,
        };
        let far = DVec3::from(shape.map(|n| (n - 1) as f64));
        let corners = [
            DVec3::ZERO,
            far,
            far * DVec3::X,
            far * DVec3::Y,
            far * DVec3::Z,
        ];
        let apart = |at: DVec3| {
            (to_source.transform_point3(at) - whole.transform_point3(at))
                .abs()
                .max_element()
        };
        corners
            .into_iter()
            .all(|at| apart(at) < SAME_VOXELS)
            .then_some(Self {
                first: first.to_array().map(|c| c as isize),
                axes,
            })
    }

    fn copy<T: Copy + Send + Sync>(
        &self,
        source: &Volume<T>,
        target: &Grid,
        outside: T,
    ) -> Volume<T> {
        let shape = source.grid().shape();
        let strides = [1, shape[0] as isize, (shape[0] * shape[1]) as isize];
        let samples = source.samples();
        let [ni, nj, _] = target.shape();
        let mut out = Volume::filled(*target, outside);
        out.samples_mut()
            .par_chunks_mut(ni)
            .enumerate()
            .for_each(|(row, out)| {
                let (j, k) = ((row % nj) as isize, (row / nj) as isize);
                let mut at = self.first;
                at[self.axes[1].0] += j * self.axes[1].1;
                at[self.axes[2].0] += k * self.axes[2].1;
                let (along, step) = self.axes[0];
                let crosswise = (0..3).filter(|&a| a != along);
                if crosswise
                    .into_iter()
                    .any(|a| at[a] < 0 || at[a] >= shape[a] as isize)
                {
                    return;
                }
                let row_start: isize = (0..3)
                    .filter(|&a| a != along)
                    .map(|a| at[a] * strides[a])
                    .sum();
                // The part of the row that lies inside, and where that begins in the source.
                let (last, begun) = (shape[along] as isize - 1, at[along]);
                let (low, high) = if step > 0 {
                    (-begun, last - begun)
                } else {
                    (begun - last, begun)
                };
                let inside = low.max(0) as usize..((high + 1).max(0) as usize).min(out.len());
                let Some(out) = out.get_mut(inside.clone()).filter(|out| !out.is_empty()) else {
                    return;
                };
                let place = begun + inside.start as isize * step;
                let from = (row_start + place * strides[along]) as usize;
                match (strides[along], step) {
                    (1, 1) => out.copy_from_slice(&samples[from..from + out.len()]),
                    (1, _) => {
                        let backwards = samples[from + 1 - out.len()..=from].iter().rev();
                        out.iter_mut().zip(backwards).for_each(|(o, s)| *o = *s);
                    }
                    (stride, _) => {
                        for (n, out) in out.iter_mut().enumerate() {
                            *out = samples[(from as isize + n as isize * step * stride) as usize];
                        }
                    }
                }
            });
        out
    }
}

/// Where the `n`th of evenly spread points lies within a voxel.
fn place(n: usize, of: usize) -> f64 {
    (n as f64 + 0.5) / of as f64 - 0.5
}

/// Offsets, in voxels of the target, of the points whose mean a new voxel is.
fn points_within_a_voxel(counts: [usize; 3]) -> Vec<DVec3> {
    let mut points = Vec::with_capacity(counts.iter().product());
    for k in 0..counts[2] {
        for j in 0..counts[1] {
            for i in 0..counts[0] {
                points.push(DVec3::new(
                    place(i, counts[0]),
                    place(j, counts[1]),
                    place(k, counts[2]),
                ));
            }
        }
    }
    points
}

fn interpolate(
    source: &Volume<f32>,
    target: &Grid,
    to_source: DAffine3,
    counts: [usize; 3],
    outside: f32,
) -> Volume<f32> {
    let starts: Vec<DVec3> = points_within_a_voxel(counts)
        .into_iter()
        .map(|p| to_source.transform_point3(p))
        .collect();
    let [step_i, step_j, step_k] = columns(to_source.matrix3);
    let share = 1.0 / starts.len() as f32;
    let shape = source.grid().shape();
    let [ni, nj, _] = target.shape();
    let mut out = Volume::filled(*target, 0.0);
    out.samples_mut()
        .par_chunks_mut(ni)
        .enumerate()
        .for_each(|(row, out)| {
            let to_row = step_j * (row % nj) as f64 + step_k * (row / nj) as f64;
            for &start in &starts {
                let start = start + to_row;
                let at = |i: usize| start + step_i * i as f64;
                let amid = amid(shape.map(|n| n - 1), start, step_i, ni);
                let edges = (0..amid.start).chain(amid.end..ni);
                for i in edges {
                    out[i] += trilinear(source, at(i)).unwrap_or(outside);
                }
                for (n, out) in out[amid.clone()].chunks_mut(STRETCH).enumerate() {
                    add_between(source, at(amid.start + n * STRETCH), step_i, out);
                }
            }
            for out in out {
                *out *= share;
            }
        });
    out
}

/// The points of a row, `start + step * i` for i below `length`, that surely lie between 0 and `far` along every axis.
fn amid(far: [usize; 3], start: DVec3, step: DVec3, length: usize) -> Range<usize> {
    // A hair within: rounding must not lead beyond.
    const HAIR: f64 = 1e-6;
    let (mut first, mut past) = (0.0_f64, length as f64);
    for a in 0..3 {
        let [low, high] = [HAIR, far[a] as f64 - HAIR];
        if step[a].abs() < 1e-12 {
            if !(low..=high).contains(&start[a]) {
                return 0..0;
            }
        } else {
            let ends = [low, high].map(|end| (end - start[a]) / step[a]);
            first = first.max(ends[0].min(ends[1]).ceil());
            past = past.min(ends[0].max(ends[1]).floor() + 1.0);
        }
    }
    // Casts cut what is negative or no number to 0.
    let first = (first as usize).min(length);
    first..(past as usize).max(first)
}

/// Voxels of a row whose places are counted up from the first one's.
const STRETCH: usize = 1024;

/// Places along a row in steps of 2⁻³² voxels: the whole part and the part beyond it are the halves of one number, and no
/// place needs more than an addition.
struct Walk {
    at: [i64; 3],
    step: [i64; 3],
}

impl Walk {
    fn from(start: DVec3, step: DVec3) -> Self {
        let fixed = |x: DVec3| (x * 4_294_967_296.0).to_array().map(|x| x as i64);
        Self {
            at: fixed(start),
            step: fixed(step),
        }
    }
}

impl Iterator for Walk {
    type Item = [i64; 3];

    fn next(&mut self) -> Option<[i64; 3]> {
        let at = self.at;
        self.at = [0, 1, 2].map(|a| at[a].wrapping_add(self.step[a]));
        Some(at)
    }
}

fn whole(at: i64) -> usize {
    (at >> 32) as usize
}

/// The part of a voxel beyond the whole ones, by 24 bits: more do not change a sample.
fn part(at: i64) -> f32 {
    ((at as u32) >> 8) as i32 as f32 * (1.0 / 16_777_216.0)
}

/// Adds to each voxel of a stretch the [`trilinear`] value at its place, all of which lie between the centres of voxels.
fn add_between(source: &Volume<f32>, start: DVec3, step: DVec3, out: &mut [f32]) {
    let [ni, nj, _] = source.grid().shape();
    let samples = source.samples();
    for (out, at) in out.iter_mut().zip(Walk::from(start, step)) {
        let ([i, j, k], [along_i, along_j, along_k]) = (at.map(whole), at.map(part));
        let of_row = |at: usize| match samples[at..] {
            [a, b, ..] => a + (b - a) * along_i,
            _ => 0.0,
        };
        let of_slice = |at: usize| {
            let (a, b) = (of_row(at), of_row(at + ni));
            a + (b - a) * along_j
        };
        let first = i + ni * (j + nj * k);
        let (a, b) = (of_slice(first), of_slice(first + ni * nj));
        *out += a + (b - a) * along_k;
    }
}

/// The trilinear value at a place in voxels of `source`; `None` outside its field of view.
pub(crate) fn trilinear(source: &Volume<f32>, at: DVec3) -> Option<f32> {
    let shape = source.grid().shape();
    let mut low = [0_usize; 3];
    let mut high = [0_usize; 3];
    let mut part = [0_f32; 3];
    for a in 0..3 {
        let last = (shape[a] - 1) as f64;
        let x = at[a];
        // The comparison also sends NaN away; a hair outside is rounding.
        let within = x >= -0.5 - 1e-9 && x <= last + 0.5 + 1e-9;
        if !within {
            return None;
        }
        let x = x.clamp(0.0, last);
        low[a] = x as usize;
        high[a] = (low[a] + 1).min(shape[a] - 1);
        part[a] = (x - low[a] as f64) as f32;
    }
    let s = source.samples();
    let (row, slice) = (shape[0], shape[0] * shape[1]);
    let along_i = |j: usize, k: usize| {
        let base = j * row + k * slice;
        let (a, b) = (s[base + low[0]], s[base + high[0]]);
        a + (b - a) * part[0]
    };
    let along_j = |k: usize| {
        let (a, b) = (along_i(low[1], k), along_i(high[1], k));
        a + (b - a) * part[1]
    };
    let (a, b) = (along_j(low[2]), along_j(high[2]));
    Some(a + (b - a) * part[2])
}

#[cfg(test)]
mod tests {
    use glam::DMat3;
    use proptest::prelude::*;

    use super::*;
    use crate::grid::{Orientation, VoxelPoint};

    fn oriented(n: usize, shape: [usize; 3], spacing: [f64; 3], angle: f64) -> Grid {
        let o = Orientation::all()[n];
        let mut axes = [DVec3::ZERO; 3];
        for a in 0..3 {
            axes[a][o.world_axis[a]] = if o.reversed[a] {
                -spacing[a]
            } else {
                spacing[a]
            };
        }
        let turn = DMat3::from_euler(glam::EulerRot::XYZ, angle, -angle, angle / 2.0);
        let matrix3 = turn * DMat3::from_cols(axes[0], axes[1], axes[2]);
        Grid::new(
            shape,
            DAffine3 {
                matrix3,
                translation: DVec3::new(3.0, -7.0, 11.0),
            },
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn axis_by_axis_is_the_same_as_point_by_point(n in 0_usize..48, m in 0_usize..48,
                                                      spacing in prop::array::uniform3(0.4_f64..3.5),
                                                      seed in 0_u32..1000, shift in -4.0_f64..4.0) {
            let value = |[i, j, k]: [usize; 3]| {
                let mixed = (i as u32 * 31 + j as u32 * 131 + k as u32 * 491 + seed).wrapping_mul(2_654_435_761);
                (mixed >> 16) as f32 / 65536.0
            };
            let source = Volume::from_fn(oriented(n, [11, 7, 9], [0.9, 1.3, 1.7], 0.0), value);
            let grid = oriented(m, [8, 9, 7], spacing, 0.0);
            let affine = DAffine3::from_translation(DVec3::new(shift, -shift, 0.3)) * grid.affine();
            let target = Grid::new(grid.shape(), affine).unwrap();
            let to_source = target.to_voxels_of(source.grid());
            let counts = points(to_source, MAX_POINTS);
            let way = Separable::between(source.grid().shape(), target.shape(), to_source, counts).unwrap();
            let quick = way.interpolate(&source, &target, -0.25);
            let slow = interpolate(&source, &target, to_source, counts, -0.25);
            for (a, b) in quick.samples().iter().zip(slow.samples()) {
                prop_assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
            let turned = DAffine3::from_rotation_z(0.01) * to_source;
            prop_assert!(Separable::between([11, 7, 9], [8, 9, 7], turned, counts).is_none());
        }

        #[test]
        fn another_order_of_the_axes_loses_and_moves_nothing(n in 0_usize..48, angle in -0.5_f64..0.5) {
            let grid = oriented(n, [5, 6, 7], [0.8, 1.1, 3.0], angle);
            let volume = Volume::from_fn(grid, |[i, j, k]| (i + 10 * j + 100 * k) as f32);
            let (there, how) = resample(&volume, &grid.canonical(), -1.0);
            prop_assert_eq!(how, Resampling::Exact);
            let (back, how) = resample(&there, &grid, -1.0);
            prop_assert_eq!(how, Resampling::Exact);
            prop_assert_eq!(back, volume);
        }

        #[test]
        fn a_box_that_reaches_outside_holds_what_lies_there(n in 0_usize..48, m in 0_usize..48,
                                                            start in prop::array::uniform3(-7_isize..8)) {
            let grid = oriented(n, [5, 6, 7], [1.0; 3], 0.0);
            let volume = Volume::from_fn(grid, |[i, j, k]| (i + 10 * j + 100 * k) as u32);
            // Axes in the order of another orientation, through the same voxels.
            let axes = oriented(m, [1; 3], [1.0; 3], 0.0).affine().matrix3;
            let affine = DAffine3 { matrix3: axes, translation: grid.affine().translation };
            let target = Grid::new([4, 3, 5], affine).unwrap().crop(start, [4, 3, 5]).unwrap();
            let found = reorder(&volume, &target, 999).unwrap();
            let to_volume = target.to_voxels_of(&grid);
            for (offset, &value) in found.samples().iter().enumerate() {
                let at = DVec3::from(target.index(offset).map(|n| n as f64));
                let there = to_volume.transform_point3(at).round().to_array().map(|x| x as isize);
                let inside = (0..3).all(|a| (0..grid.shape()[a] as isize).contains(&there[a]));
                let wanted = if inside { volume.at(there.map(|x| x as usize)) } else { 999 };
                prop_assert_eq!(value, wanted);
            }
        }

        #[test]
        fn a_linear_ramp_keeps_its_value_at_every_world_point(n in 0_usize..48, angle in -0.5_f64..0.5,
                                                              spacing in 0.6_f64..2.5) {
            let ramp = |at: DVec3| (0.5 * at.x - 0.25 * at.y + 2.0 * at.z) as f32;
            let grid = oriented(n, [24, 24, 24], [1.0, 1.0, 1.0], angle);
            let volume = Volume::from_fn(grid, |at| ramp(grid.centre_of(at).0));
            let target = oriented(5, [9, 9, 9], [spacing; 3], 0.1);
            let centre = |g: &Grid, n: f64| g.world(VoxelPoint(DVec3::splat((n - 1.0) / 2.0))).0;
            let shift = centre(&grid, 24.0) - centre(&target, 9.0);
            let affine = DAffine3::from_translation(shift) * target.affine();
            let target = Grid::new([9, 9, 9], affine).unwrap();
            let (out, _) = resample(&volume, &target, f32::NAN);
            for (offset, value) in out.samples().iter().enumerate() {
                let at = grid.voxel(target.centre_of(target.index(offset))).0;
                if at.min_element() > spacing && at.max_element() < 23.0 - spacing {
                    let want = ramp(target.centre_of(target.index(offset)).0);
                    prop_assert!((value - want).abs() < 1e-3, "{value} {want}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_amid_a_row_is_the_same_as_the_slow_one(turn in -0.6_f64..0.6, spacing in 0.4_f64..2.0,
                                                   shift in prop::array::uniform3(-6.0_f64..6.0)) {
            let source = Volume::from_fn(oriented(7, [12, 9, 10], [1.0, 1.1, 0.9], 0.2), |[i, j, k]| {
                ((i * 31 + j * 131 + k * 491) % 97) as f32
            });
            let grid = oriented(9, [13, 8, 11], [spacing; 3], turn);
            let affine = DAffine3::from_translation(DVec3::from(shift)) * grid.affine();
            let target = Grid::new(grid.shape(), affine).unwrap();
            let to_source = target.to_voxels_of(source.grid());
            let found = interpolate(&source, &target, to_source, [1, 1, 1], -7.0);
            let [step_i, step_j, step_k] = columns(to_source.matrix3);
            for (offset, value) in found.samples().iter().enumerate() {
                let [i, j, k] = target.index(offset).map(|n| n as f64);
                let start = to_source.transform_point3(DVec3::ZERO) + (step_j * j + step_k * k);
                let slow = trilinear(&source, start + step_i * i).unwrap_or(-7.0);
                prop_assert!((value - slow).abs() < 1e-4, "{value} and {slow}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_nearest_voxel_is_the_one_that_a_place_lies_in(turn in -0.6_f64..0.6, spacing in 0.4_f64..3.0,
                                                             shift in prop::array::uniform3(-6.0_f64..6.0)) {
            let grid = oriented(7, [12, 9, 10], [1.0, 1.1, 0.9], 0.2);
            let source = Volume::from_fn(grid, |[i, j, k]| (1 + i + 12 * (j + 9 * k)) as u32);
            let other = oriented(9, [13, 8, 11], [spacing; 3], turn);
            let affine = DAffine3::from_translation(DVec3::from(shift)) * other.affine();
            let target = Grid::new(other.shape(), affine).unwrap();
            let found = nearest(&source, &target, 0);
            let to_source = target.to_voxels_of(&grid);
            for (offset, &value) in found.samples().iter().enumerate() {
                let at = target.index(offset).map(|n| n as f64);
                let at = to_source.transform_point3(at.into()) + 0.5;
                // On a face either side is right.
                if (at - at.round()).abs().min_element() < 1e-5 {
                    continue;
                }
                let inside = (0..3).all(|a| at[a] > 0.0 && at[a] < grid.shape()[a] as f64);
                let wanted = if inside { source.at([0, 1, 2].map(|a| at[a] as usize)) } else { 0 };
                prop_assert_eq!(value, wanted, "at {}", at);
            }
        }
    }

    #[test]
    fn a_thin_lesion_between_the_new_voxels_centres_is_not_missed() {
        let fine = Grid::new([1, 1, 40], DAffine3::IDENTITY).unwrap();
        let thin = Volume::from_fn(fine, |[_, _, k]| f32::from(k == 20));
        let thick = fine.with_spacing([1.0, 1.0, 4.0]).unwrap();
        let (out, how) = resample(&thin, &thick, 0.0);
        assert_eq!(how, Resampling::Linear);
        let total: f32 = out.samples().iter().sum();
        assert!((total - 0.25).abs() < 1e-6, "{:?}", out.samples());
    }

    #[test]
    fn outside_the_field_of_view_lies_the_value_for_outside() {
        let grid = Grid::new([4, 4, 4], DAffine3::IDENTITY).unwrap();
        let volume = Volume::filled(grid, 2.0);
        let shifted = Grid::new(
            [4, 4, 4],
            DAffine3::from_translation(DVec3::new(2.2, 0.0, 0.0)),
        )
        .unwrap();
        let (out, _) = resample(&volume, &shifted, -5.0);
        assert_eq!(&out.samples()[..4], [2.0, 2.0, -5.0, -5.0]);
        let whole = Grid::new(
            [4, 4, 4],
            DAffine3::from_translation(DVec3::new(2.0, 0.0, 0.0)),
        )
        .unwrap();
        let (out, how) = resample(&volume, &whole, -5.0);
        assert_eq!(
            (&out.samples()[..4], how),
            ([2.0, 2.0, -5.0, -5.0].as_slice(), Resampling::Exact)
        );
    }
}
