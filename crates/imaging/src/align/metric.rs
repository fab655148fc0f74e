//! How much two scans tell of each other: mutual information after Mattes, and its slope.
//!
//! Mattes, Haynor, Vesselle, Lewellen and Eubank, *PET-CT image registration in the chest using
//! free-form deformations*, IEEE Trans. Med. Imaging 22:120 (2003), section II.C. The joint histogram of a
//! fixed set of points is made with Parzen windows: a box for the fixed scan (each point has its bin),
//! a cubic B-spline for the moving one, so that the value has a slope everywhere (Thévenaz and Unser,
//! IEEE Trans. Image Process. 9:2083, 2000). The moving scan is read trilinearly and its slope is that
//! of the same interpolant. Points outside the moving scan's field of view do not count.
//!
//! Sums run over blocks of points in their order, so the number of threads changes no bit.
use glam::{DAffine3, DMat3, DVec3};
use rayon::prelude::*;

use super::pose::{Pose, Slope};
use crate::resample::trilinear;
use crate::volume::{TOGETHER, Volume};

/// Bins of either histogram.
pub(super) const BINS: usize = 32;
/// Points whose sums are made by one thread in one go.
const BLOCK: usize = 2048;

/// Points of the fixed scan with their values' bins.
#[derive(Debug, Clone)]
pub(super) struct Points {
    /// RAS+ mm.
    at: Vec<DVec3>,
    bins: Vec<u8>,
}

impl Points {
    /// Reads the fixed scan at world points; those outside it are left out.
    pub(super) fn read(fixed: &Volume<f32>, range: [f32; 2], world: Vec<DVec3>) -> Self {
        let to_voxels = fixed.grid().affine().inverse();
        let width = (range[1] - range[0]) / BINS as f32;
        let (at, bins) = world
            .into_iter()
            .filter_map(|at| {
                let value = trilinear(fixed, to_voxels.transform_point3(at))?;
                let bin = ((value - range[0]) / width).clamp(0.0, (BINS - 1) as f32);
                Some((at, bin as u8))
            })
            .unzip();
        Self { at, bins }
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }
}

/// A moving scan whose values are places among the bins.
#[derive(Debug, Clone)]
pub(super) struct Moving {
    scan: Volume<f32>,
    to_voxels: DAffine3,
}

impl Moving {
    /// Puts the values of `range` between the second and the last but two bins, so that every window of
    /// four bins is whole; values beyond are put on the ends.
    pub(super) fn new(mut scan: Volume<f32>, range: [f32; 2]) -> Self {
        let first = 1.0;
        let last = (BINS - 2) as f32 - 1e-3;
        let scale = (last - first) / (range[1] - range[0]);
        scan.samples_mut()
            .par_iter_mut()
            .with_min_len(TOGETHER)
            .for_each(|v| *v = (first + (*v - range[0]) * scale).clamp(first, last));
        let to_voxels = scan.grid().affine().inverse();
        Self { scan, to_voxels }
    }
}

/// What the points say at one pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Similarity {
    /// Mutual information, nats.
    pub(super) nats: f64,
    /// The share of the points within the moving scan's field of view.
    pub(super) overlap: f64,
    /// How it changes with the pose.
    pub(super) slope: Slope,
}

/// A point seen on the moving scan.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The place among the bins; NaN outside the field of view.
    place: f32,
    /// Its change per voxel along i, j, k.
    slope: [f32; 3],
}

/// A joint histogram, fixed bin by moving bin.
type Joint = [[f64; BINS]; BINS];

/// Compares the scans at a pose, and tells how that changes with the pose.
pub(super) fn compare(points: &Points, moving: &Moving, pose: &Pose) -> Similarity {
    compared(points, moving, pose, Slopes::Wanted)
}

/// Compares the scans at a pose; the slope is left at 0.
pub(super) fn glance(points: &Points, moving: &Moving, pose: &Pose) -> Similarity {
    compared(points, moving, pose, Slopes::Unwanted)
}

/// Whether the slope is told.
#[derive(Clone, Copy, PartialEq)]
enum Slopes {
    Wanted,
    Unwanted,
}

fn compared(points: &Points, moving: &Moving, pose: &Pose, slopes: Slopes) -> Similarity {
    let to_voxels = moving.to_voxels * pose.motion();
    let blocks: Vec<(Vec<Seen>, Box<Joint>)> = points
        .at
        .par_chunks(BLOCK)
        .zip(points.bins.par_chunks(BLOCK))
        .map(|(at, bins)| look(at, bins, &moving.scan, to_voxels))
        .collect();
    let mut joint = [[0.0; BINS]; BINS];
    for (_, part) in &blocks {
        for (sum, part) in joint.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
            *sum += part;
        }
    }
    let inside: f64 = joint.as_flattened().iter().sum();
    if inside <= 0.0 {
        return Similarity {
            nats: 0.0,
            overlap: 0.0,
            slope: Slope::NONE,
        };
    }
    let (nats, ratios) = information(&mut joint, inside);
    let overlap = inside / points.len() as f64;
    if slopes == Slopes::Unwanted {
        return Similarity {
            nats,
            overlap,
            slope: Slope::NONE,
        };
    }
    let slopes: Vec<(DVec3, DMat3)> = blocks
        .par_iter()
        .zip(
            points
                .at
                .par_chunks(BLOCK)
                .zip(points.bins.par_chunks(BLOCK)),
        )
        .map(|((seen, _), (at, bins))| slope(seen, at, bins, &ratios, pose.centre))
        .collect();
    let (shift, strain) = slopes
        .into_iter()
        .fold((DVec3::ZERO, DMat3::ZERO), |a, b| (a.0 + b.0, a.1 + b.1));
    // From slopes per voxel to slopes per millimetre, and from the point to the turned point.
    let to_world = moving.to_voxels.matrix3.transpose() * (1.0 / inside);
    Similarity {
        nats,
        overlap,
        slope: Slope {
            shift: to_world * shift,
            strain: to_world * strain * pose.linear.transpose(),
        },
    }
}

/// Sees each point on the moving scan and counts it in a histogram.
fn look(
    at: &[DVec3],
    bins: &[u8],
    scan: &Volume<f32>,
    to_voxels: DAffine3,
) -> (Vec<Seen>, Box<Joint>) {
    let mut joint = Box::new([[0.0; BINS]; BINS]);
    let seen = at
        .iter()
        .zip(bins)
        .map(|(&at, &bin)| {
            let seen = see(scan, to_voxels.transform_point3(at));
            if !seen.place.is_nan() {
                let (first, weights) = window(seen.place);
                let row = &mut joint[usize::from(bin)][first..first + 4];
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum += f64::from(weight);
                }
            }
            seen
        })
        .collect();
    (seen, joint)
}

/// The trilinear value and its slope at a place in voxels; beyond the outer centres, up to half a
/// voxel, the outer voxel's.
fn see(scan: &Volume<f32>, at: DVec3) -> Seen {
    let shape = scan.grid().shape();
    let (mut low, mut step, mut part) = ([0; 3], [0; 3], [0.0_f32; 3]);
    let strides = [1, shape[0], shape[0] * shape[1]];
    for a in 0..3 {
        let last = (shape[a] - 1) as f64;
        let x = at[a];
        // The comparison also sends NaN away.
        if !(x >= -0.5 && x <= last + 0.5) {
            return Seen {
                place: f32::NAN,
                slope: [0.0; 3],
            };
        }
        if x >= 0.0 && x < last {
            low[a] = x as usize;
            step[a] = strides[a];
            part[a] = (x - low[a] as f64) as f32;
        } else {
            low[a] = x.clamp(0.0, last) as usize;
        }
    }
    let s = &scan.samples()[low[0] + low[1] * strides[1] + low[2] * strides[2]..];
    // Each of the eight corners; where an axis has no step its two ends are one, and the slope is 0.
    let [i, j, k] = step;
    let [x, y, z] = part;
    let mix = |a: f32, b: f32, part: f32| a + (b - a) * part;
    let (a00, a10, a01, a11) = (s[0], s[j], s[k], s[j + k]);
    let (b00, b10, b01, b11) = (s[i], s[i + j], s[i + k], s[i + j + k]);
    let (c00, c10, c01, c11) = (
        mix(a00, b00, x),
        mix(a10, b10, x),
        mix(a01, b01, x),
        mix(a11, b11, x),
    );
    let (d0, d1) = (mix(c00, c10, y), mix(c01, c11, y));
    let along_i = mix(
        mix(b00 - a00, b10 - a10, y),
        mix(b01 - a01, b11 - a11, y),
        z,
    );
    Seen {
        place: mix(d0, d1, z),
        slope: [along_i, mix(c10 - c00, c11 - c01, z), d1 - d0],
    }
}

/// The first of four bins and the cubic B-spline's weights on them.
fn window(place: f32) -> (usize, [f32; 4]) {
    let middle = place as usize;
    let t = place - middle as f32;
    let u = 1.0 - t;
    let (tt, uu) = (t * t, u * u);
    let weights = [
        uu * u / 6.0,
        2.0 / 3.0 - tt + 0.5 * tt * t,
        2.0 / 3.0 - uu + 0.5 * uu * u,
        tt * t / 6.0,
    ];
    (middle - 1, weights)
}

/// How those weights change with the place.
fn window_slope(place: f32) -> (usize, [f32; 4]) {
    let middle = place as usize;
    let t = place - middle as f32;
    let u = 1.0 - t;
    let slopes = [
        -0.5 * u * u,
        -2.0 * t + 1.5 * t * t,
        2.0 * u - 1.5 * u * u,
        0.5 * t * t,
    ];
    (middle - 1, slopes)
}

/// The mutual information of a histogram of `inside` points, and for each of its cells the logarithm
/// of p(fixed, moving) / p(moving), by which a change of the cell's share counts (equation 15).
fn information(joint: &mut Joint, inside: f64) -> (f64, Box<Joint>) {
    let mut of_moving = [0.0; BINS];
    for row in joint.iter_mut() {
        for (cell, sum) in row.iter_mut().zip(&mut of_moving) {
            *cell /= inside;
            *sum += *cell;
        }
    }
    let mut ratios = Box::new([[0.0; BINS]; BINS]);
    let mut nats = 0.0;
    for (row, ratios) in joint.iter().zip(ratios.iter_mut()) {
        let of_fixed: f64 = row.iter().sum();
        for ((&cell, ratio), of_moving) in row.iter().zip(ratios).zip(of_moving) {
            if cell > 0.0 {
                *ratio = (cell / of_moving).ln();
                nats += cell * (*ratio - of_fixed.ln());
            }
        }
    }
    (nats, ratios)
}

/// The sums over a block of points of the slope along the moving scan's voxels, alone and times the
/// point's place from the centre.
fn slope(
    seen: &[Seen],
    at: &[DVec3],
    bins: &[u8],
    ratios: &Joint,
    centre: DVec3,
) -> (DVec3, DMat3) {
    let (mut shift, mut strain) = (DVec3::ZERO, DMat3::ZERO);
    for ((seen, &at), &bin) in seen.iter().zip(at).zip(bins) {
        if seen.place.is_nan() {
            continue;
        }
        let (first, slopes) = window_slope(seen.place);
        let ratios = &ratios[usize::from(bin)][first..first + 4];
        let by: f64 = ratios
            .iter()
            .zip(slopes)
            .map(|(r, s)| r * f64::from(s))
            .sum();
        let along = DVec3::from(seen.slope.map(f64::from)) * by;
        let from = at - centre;
        shift += along;
        strain.x_axis += along * from.x;
        strain.y_axis += along * from.y;
        strain.z_axis += along * from.z;
    }
    (shift, strain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::align::pose::{Freedom, MOST};
    use crate::chance::Chance;
    use crate::grid::Grid;

    /// Soft hills: a scan with a slope everywhere.
    fn hills(phase: f64) -> Volume<f32> {
        let affine = DAffine3::from_mat3_translation(
            DMat3::from_rotation_x(0.2) * DMat3::from_diagonal(DVec3::new(-2.0, 2.0, 3.0)),
            DVec3::new(40.0, -40.0, -40.0),
        );
        let grid = Grid::new([40, 40, 28], affine).unwrap();
        Volume::from_fn(grid, |at| {
            let p = grid.centre_of(at).0;
            let wave = |x: f64, mm: f64| (x / mm + phase).sin();
            (wave(p.x, 9.0) + wave(p.y + 0.4 * p.x, 11.0) + 0.8 * wave(p.z - 0.2 * p.y, 8.0)) as f32
        })
    }

    fn points(fixed: &Volume<f32>, count: u64) -> Points {
        let chance = Chance::new(3);
        let low = glam::Vec3::splat(-20.0);
        let world = (0..count)
            .map(|n| chance.of(n).point(low, -low).as_dvec3())
            .collect();
        Points::read(fixed, [-2.8, 2.8], world)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_slope_is_what_a_small_step_changes(shift in [-4.0_f64..4.0, -4.0..4.0, -4.0..4.0],
                                                  turn in [-0.2_f64..0.2, -0.2..0.2, -0.2..0.2],
                                                  affine in proptest::bool::ANY) {
            let freedom = if affine { Freedom::Affine } else { Freedom::Rigid };
            let points = points(&hills(0.0), 3000);
            let moving = Moving::new(hills(0.6), [-2.8, 2.8]);
            let pose = Pose::still(DVec3::new(2.0, 1.0, -3.0)).moved(shift.into(), turn.into());
            let slope = compare(&points, &moving, &pose).slope.along(freedom, 30.0);
            let size = slope.iter().map(|x| x * x).sum::<f64>().sqrt();
            for n in 0..freedom.numbers() {
                let mut step = [0.0; MOST];
                step[n] = 2e-3;
                let ahead = compare(&points, &moving, &pose.stepped(&step, freedom, 30.0)).nats;
                step[n] = -2e-3;
                let behind = compare(&points, &moving, &pose.stepped(&step, freedom, 30.0)).nats;
                let found = (ahead - behind) / 4e-3;
                prop_assert!((found - slope[n]).abs() < 0.02 * size, "{n}: {found} {}", slope[n]);
            }
        }

        #[test]
        fn a_window_s_weights_are_one_together_and_centred_on_the_place(place in 1.0_f32..30.0) {
            let (first, weights) = window(place);
            let sum: f32 = weights.iter().sum();
            let centre: f32 = weights.iter().enumerate().map(|(n, w)| (first + n) as f32 * w).sum();
            prop_assert!((sum - 1.0).abs() < 1e-6 && (centre - place).abs() < 1e-4);
            prop_assert!(first + 3 < BINS);
            let (_, slopes) = window_slope(place);
            let (_, ahead) = window((place + 1e-2).min(place.floor() + 0.999));
            let step = (place + 1e-2).min(place.floor() + 0.999) - place;
            for n in 0..4 {
                prop_assert!(((ahead[n] - weights[n]) / step - slopes[n]).abs() < 0.03);
            }
        }
    }

    #[test]
    fn a_scan_tells_most_of_itself_where_it_lies() {
        let points = points(&hills(0.0), 5000);
        let same = Moving::new(hills(0.0), [-2.8, 2.8]);
        let at = |mm: f64| {
            let pose = Pose::still(DVec3::ZERO).moved(DVec3::new(mm, 0.0, 0.0), DVec3::ZERO);
            compare(&points, &same, &pose).nats
        };
        assert!(at(0.0) > at(0.5) && at(0.0) > at(-0.5) && at(0.5) > at(3.0));
    }

    #[test]
    fn the_information_of_a_small_histogram_is_what_paper_gives() {
        // Two fixed bins, each with its own moving bin: one bit, ln 2 nats. And none if they mix.
        let mut joint = [[0.0; BINS]; BINS];
        (joint[3][5], joint[9][20]) = (7.0, 7.0);
        assert!((information(&mut joint, 14.0).0 - 2.0_f64.ln()).abs() < 1e-12);
        let mut joint = [[0.0; BINS]; BINS];
        for (f, m) in [(3, 5), (3, 20), (9, 5), (9, 20)] {
            joint[f][m] = 3.0;
        }
        assert!(information(&mut joint, 12.0).0.abs() < 1e-12);
    }

    #[test]
    fn points_outside_the_moving_field_of_view_do_not_count() {
        let fixed = hills(0.0);
        let points = points(&fixed, 4000);
        let moving = Moving::new(hills(0.0), [-2.8, 2.8]);
        let pose = |mm: f64| Pose::still(DVec3::ZERO).moved(DVec3::new(mm, 0.0, 0.0), DVec3::ZERO);
        let near = compare(&points, &moving, &pose(0.0));
        let halves = [-40.0, 40.0].map(|mm| compare(&points, &moving, &pose(mm)).overlap);
        let far = compare(&points, &moving, &pose(500.0));
        assert!((near.overlap - 1.0).abs() < 1e-6);
        assert!(
            halves.iter().all(|half| (0.4..0.7).contains(half)),
            "{halves:?}"
        );
        assert_eq!(
            (far.overlap, far.nats, far.slope.shift),
            (0.0, 0.0, DVec3::ZERO)
        );
    }
}
