//! Interpolation between grids whose axes run along one another.
//!
//! There the mean of trilinear values within a new voxel is a product of one weighted sum per axis
//! (as for any tensor-product kernel), so three passes over lines take the place of eight samples for
//! each of many points.
use std::ops::Range;

use glam::{DAffine3, DVec3};
use rayon::prelude::*;

use super::SAME_VOXELS;
use crate::grid::{Grid, columns};
use crate::volume::{Volume, filled};

/// What one new voxel takes of a line of old ones.
#[derive(Debug, Clone, Default)]
struct Taps {
    /// The first old voxel.
    first: usize,
    /// The weights of that one and those after it.
    weights: Vec<f32>,
    /// The share of its points that lie in the field of view.
    inside: f32,
}

/// The way from a target to a source whose axes run along the target's.
#[derive(Debug)]
pub(super) struct Separable {
    /// For each source axis: the target axis along it, and the taps of that axis's voxels.
    along: [(usize, Vec<Taps>); 3],
}

impl Separable {
    /// The way, if the axes of both grids are parallel over all of the target.
    pub(super) fn between(
        source: [usize; 3],
        target: [usize; 3],
        to_source: DAffine3,
        points: [usize; 3],
    ) -> Option<Self> {
        let mut along = [const { None }; 3];
        for (a, step) in columns(to_source.matrix3).into_iter().enumerate() {
            let size = step.abs();
            let s = (0..3).max_by(|&x, &y| size[x].total_cmp(&size[y]))?;
            let astray = (size.element_sum() - size[s]) * target[a] as f64;
            let place: &mut Option<_> = &mut along[s];
            if astray > SAME_VOXELS || place.is_some() {
                return None;
            }
            let start = to_source.translation[s];
            let taps = (0..target[a]).map(|n| taps(source[s], start, step[s], n, points[a]));
            *place = Some((a, taps.collect()));
        }
        let [i, j, k] = along;
        Some(Self {
            along: [i?, j?, k?],
        })
    }

    /// The source on the target's grid.
    pub(super) fn interpolate(
        &self,
        source: &Volume<f32>,
        target: &Grid,
        outside: f32,
    ) -> Volume<f32> {
        let [of_i, of_j, of_k] = &self.along;
        let [ni, nj, _] = source.grid().shape();
        // Of a plane, only what lies next to it is looked at.
        let (seen_i, seen_j) = (reach(&of_i.1), reach(&of_j.1));
        let (wide, high) = (seen_i.len(), seen_j.len());
        if wide * high * reach(&of_k.1).len() == 0 {
            return Volume::filled(*target, outside);
        }
        let shape = [of_i.1.len(), of_j.1.len(), of_k.1.len()];
        let mut values = filled(shape.iter().product(), 0.0_f32);
        // Slice by slice, so that what is between the passes stays near the processor.
        let workspace = || (vec![0.0; wide * high], vec![0.0; wide * shape[1]]);
        values
            .par_chunks_mut(shape[0] * shape[1])
            .zip(&of_k.1)
            .for_each_init(workspace, |(slice, rows), (out, of_k)| {
                slice.fill(0.0);
                for (k, &weight) in (of_k.first..).zip(&of_k.weights) {
                    for (out, j) in slice.chunks_mut(wide).zip(seen_j.clone()) {
                        let row = seen_i.start + ni * (j + nj * k);
                        add(&source.samples()[row..row + wide], weight, out);
                    }
                }
                rows.fill(0.0);
                for (out, taps) in rows.chunks_mut(wide).zip(&of_j.1) {
                    let lines = slice
                        .chunks(wide)
                        .skip(taps.first - seen_j.start.min(taps.first));
                    for (line, &weight) in lines.zip(&taps.weights) {
                        add(line, weight, out);
                    }
                }
                for (out, row) in out.chunks_mut(shape[0]).zip(rows.chunks(wide)) {
                    for (out, taps) in out.iter_mut().zip(&of_i.1) {
                        let values = &row[taps.first - seen_i.start.min(taps.first)..];
                        *out = taps.weights.iter().zip(values).map(|(w, v)| w * v).sum();
                    }
                }
            });
        // Into the order of the target's axes.
        let mut strides = [0; 3];
        for (s, stride) in [1, shape[0], shape[0] * shape[1]].into_iter().enumerate() {
            strides[self.along[s].0] = stride;
        }
        let inside = |a: usize, n: usize| {
            let of_axis = self.along.iter().find(|(axis, _)| *axis == a);
            of_axis.map_or(0.0, |(_, taps)| taps[n].inside)
        };
        let [mi, mj, _] = target.shape();
        let inside_i: Vec<f32> = (0..mi).map(|i| inside(0, i)).collect();
        let mut out = Volume::filled(*target, 0.0);
        out.samples_mut()
            .par_chunks_mut(mi)
            .enumerate()
            .for_each(|(row, out)| {
                let (j, k) = (row % mj, row / mj);
                let start = j * strides[1] + k * strides[2];
                let inside_row = inside(1, j) * inside(2, k);
                for (i, out) in out.iter_mut().enumerate() {
                    let beyond = outside * (1.0 - inside_row * inside_i[i]);
                    *out = values[start + i * strides[0]] + beyond;
                }
            });
        out
    }
}

/// What voxel `n` of a line takes of `length` old ones, by the rules of `resample`: points beyond half
/// a voxel from the outer centres are outside, within that the outer voxel's value is used.
fn taps(length: usize, start: f64, step: f64, n: usize, points: usize) -> Taps {
    let last = (length - 1) as f64;
    let share = 1.0 / points as f64;
    let mut weights: Vec<(usize, f64)> = Vec::with_capacity(2 * points);
    let mut inside = 0;
    for p in 0..points {
        let x = start + step * (n as f64 + super::place(p, points));
        let within = x >= -0.5 - 1e-9 && x <= last + 0.5 + 1e-9;
        if within {
            inside += 1;
            let x = x.clamp(0.0, last);
            let low = x as usize;
            let part = x - low as f64;
            weights.push((low, (1.0 - part) * share));
            if part > 0.0 {
                weights.push((low + 1, part * share));
            }
        }
    }
    let Some(first) = weights.iter().map(|(at, _)| *at).min() else {
        return Taps::default();
    };
    let end = weights.iter().map(|(at, _)| *at).max().unwrap_or(first) + 1;
    let mut sums = vec![0.0; end - first];
    for (at, weight) in weights {
        sums[at - first] += weight;
    }
    Taps {
        first,
        weights: sums.into_iter().map(|w| w as f32).collect(),
        inside: (f64::from(inside) * share) as f32,
    }
}

/// The old voxels of a line that any new one takes something of.
fn reach(taps: &[Taps]) -> Range<usize> {
    let some = || taps.iter().filter(|taps| !taps.weights.is_empty());
    let first = some().map(|taps| taps.first).min().unwrap_or(0);
    let past = some().map(|taps| taps.first + taps.weights.len()).max();
    first..past.unwrap_or(0)
}

/// Adds a line times its weight.
fn add(line: &[f32], weight: f32, out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(line) {
        *out += weight * value;
    }
}

/// The number of points within a new voxel along each axis of the target.
pub(super) fn points(to_source: DAffine3, most: usize) -> [usize; 3] {
    columns(to_source.matrix3).map(|step: DVec3| {
        // A hair above a whole number is rounding, not one more voxel.
        let spans = (step.abs().max_element() - 1e-3).ceil() as usize;
        spans.clamp(1, most)
    })
}
