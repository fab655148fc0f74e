//! How the cortex is folded.
//!
//! Gyri are what sulci leave. A sulcus is a sheet that goes into the brain at right angles to its
//! surface; the sheets are the zero set of a random field of one wavelength, looked up at the nearest
//! point of the surface so that it hardly changes with depth. The distance to the nearest sheet, cut
//! off at the sulcus' own depth, joins the distance to the outer surface: cortex is what lies within
//! its thickness of either. The fields are smooth and cost much, so they are computed once on a
//! lattice and interpolated; the creases come from comparing distances afterwards.
use glam::{UVec3, Vec3};
use rayon::prelude::*;

use super::shapes::{Ellipsoid, common, union_of};
use crate::chance::{Chance, Waves};

/// Six ellipsoids whose union is the outline of a cerebrum without its sulci, right half.
///
/// Fitted (mean error 0.5 mm) to the mean outline of 20 adult brains, the label maps that come with
/// `SynthSeg` (Billot et al. 2023), in MNI millimetres.
const CEREBRUM: [[f32; 8]; 6] = [
    [27.9, -9.0, 20.3, 35.8, 62.8, 42.7, 0.11, 0.41],
    [14.7, -42.6, 37.1, 44.1, 53.7, 32.5, 0.41, 0.34],
    [18.8, -75.7, 11.4, 37.3, 21.4, 35.5, -0.77, 0.60],
    [41.8, -8.9, -9.4, 25.0, 41.3, 28.1, -0.78, 0.32],
    [36.1, -56.5, 3.5, 25.3, 53.3, 21.2, -0.42, -0.57],
    [4.7, 16.5, 21.9, 53.8, 62.1, 37.6, -0.57, -0.37],
];

/// Wavelengths of the two fields, mm: gyri are half as wide.
const MAIN_MM: f32 = 25.0;
const SMALL_MM: f32 = 17.0;

/// Spacing of the lattice, mm: the shortest wave is some seven times as long.
const STEP_MM: f32 = 2.0;

/// Corner of the lattice and its points along x, y, z: a box around the cerebrum. No point lies on
/// the midline, since the hemispheres are folded each in its own way.
const CORNER: Vec3 = Vec3::new(-81.0, -118.0, -62.0);
const POINTS: UVec3 = UVec3::new(82, 103, 76);

/// Where the right hemisphere looks its folds up: far from where the left one does.
const OTHER_HEMISPHERE: Vec3 = Vec3::new(0.0, 0.0, 500.0);

/// Sheets further away than this are all the same, mm.
const REACH_MM: f32 = 9.0;

/// The smooth fields at one place, millimetres where nothing else is said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fold {
    /// Depth below the outline of the cerebrum.
    pub hull: f32,
    /// Distance to the nearest main sulcus, signed by the side.
    pub main: f32,
    /// Distance to the nearest small sulcus, signed by the side.
    pub small: f32,
    /// How deep the main sulcus goes here.
    pub reach: f32,
    /// Two shifts that make drawn sheets wander.
    pub wander: [f32; 2],
    /// Slow variation for thickness and brightness, about −1..1.
    pub slow: f32,
}

impl Fold {
    fn to_array(self) -> [f32; 7] {
        let [a, b] = self.wander;
        [
            self.hull, self.main, self.small, self.reach, a, b, self.slow,
        ]
    }

    fn from_array([hull, main, small, reach, a, b, slow]: [f32; 7]) -> Self {
        Self {
            hull,
            main,
            small,
            reach,
            wander: [a, b],
            slow,
        }
    }
}

/// The folding of one cerebrum.
#[derive(Debug, Clone)]
pub(super) struct Cortex {
    lattice: Vec<[f32; 7]>,
}

impl Cortex {
    pub(super) fn new(chance: Chance) -> Self {
        let outline = CEREBRUM.map(Ellipsoid::new);
        let hull = |p: Vec3| union_of(&outline, p.with_x(p.x.abs()), 8.0);
        let fields = Fields {
            main: Waves::new(chance.of(1), 36, MAIN_MM, 0.16),
            small: Waves::new(chance.of(2), 30, SMALL_MM, 0.2),
            reach: Waves::new(chance.of(3), 16, 30.0, 0.3),
            wander: [
                Waves::new(chance.of(4), 14, 30.0, 0.3),
                Waves::new(chance.of(5), 14, 30.0, 0.3),
            ],
            slow: Waves::new(chance.of(6), 12, 45.0, 0.4),
        };
        let mut lattice = vec![[0.0; 7]; POINTS.element_product() as usize];
        let plane = (POINTS.x * POINTS.y) as usize;
        lattice
            .par_chunks_mut(plane)
            .enumerate()
            .for_each(|(k, nodes)| {
                for (n, node) in nodes.iter_mut().enumerate() {
                    let index = UVec3::new(n as u32 % POINTS.x, n as u32 / POINTS.x, k as u32);
                    let p = CORNER + STEP_MM * index.as_vec3();
                    *node = fields.at(p, hull).to_array();
                }
            });
        // Distances need the gradient of the folded field, which needs its neighbours.
        let rms = |wavelength: f32| std::f32::consts::TAU / wavelength;
        let main = distances(&lattice, 1, 0.22 * rms(MAIN_MM));
        let small = distances(&lattice, 2, 0.25 * rms(SMALL_MM));
        for ((node, main), small) in lattice.iter_mut().zip(main).zip(small) {
            (node[1], node[2]) = (main, small);
        }
        Self { lattice }
    }

    /// The fields at `p`, interpolated linearly; outside the box those of its nearest point, with the
    /// depth lessened by the distance to the box.
    pub(super) fn at(&self, p: Vec3) -> Fold {
        let last = POINTS.as_vec3() - 1.0;
        let wanted = (p - CORNER) / STEP_MM;
        let place = wanted.clamp(Vec3::ZERO, last - 1e-3);
        let cell = place.as_uvec3();
        let t = place - cell.as_vec3();
        let mut sum = [0.0; 7];
        for corner in 0..8_u32 {
            let step = UVec3::new(corner & 1, corner >> 1 & 1, corner >> 2);
            let near = Vec3::select(step.cmpeq(UVec3::ONE), t, 1.0 - t);
            let weight = near.element_product();
            let node = &self.lattice[offset(cell + step)];
            for (s, v) in sum.iter_mut().zip(node) {
                *s += weight * v;
            }
        }
        let mut fold = Fold::from_array(sum);
        fold.hull -= STEP_MM * wanted.distance(place);
        fold
    }
}

/// The random fields that the lattice is filled from.
struct Fields {
    main: Waves,
    small: Waves,
    reach: Waves,
    wander: [Waves; 2],
    slow: Waves,
}

impl Fields {
    /// The fields at one lattice point; `main` and `small` still as values, not distances.
    fn at(&self, p: Vec3, hull: impl Fn(Vec3) -> f32) -> Fold {
        let depth = hull(p);
        let mut fold = Fold {
            hull: depth,
            ..Fold::default()
        };
        if !(-8.0..45.0).contains(&depth) {
            return fold;
        }
        // The surface that sulci start from: the outline, or the medial wall if that is nearer.
        let surface = |p: Vec3| common(hull(p), p.x.abs(), 9.0);
        let slope = |axis: Vec3| surface(p + axis) - surface(p - axis);
        let inwards = Vec3::new(slope(Vec3::X), slope(Vec3::Y), slope(Vec3::Z)).normalize_or_zero();
        let here = surface(p);
        let start = p - inwards * (0.8 * here.clamp(-8.0, 24.0));
        let start = if p.x < 0.0 {
            start
        } else {
            start + OTHER_HEMISPHERE
        };
        fold.main = self.main.at(start);
        fold.small = self.small.at(start);
        fold.reach = (15.0 + 5.0 * self.reach.at(start)).clamp(5.0, 24.0);
        fold.wander = [2.2 * self.wander[0].at(p), 2.2 * self.wander[1].at(p)];
        fold.slow = 0.6 * self.slow.at(p);
        fold
    }
}

fn offset(at: UVec3) -> usize {
    (at.x + POINTS.x * (at.y + POINTS.y * at.z)) as usize
}

/// Turns the values of one field into signed distances to its zero set: value / slope, the slope not
/// below `least` (radians per mm), so that crests between two sheets do not run away.
fn distances(lattice: &[[f32; 7]], field: usize, least: f32) -> Vec<f32> {
    let value = |at: UVec3| lattice[offset(at)][field];
    let slope = |at: UVec3, axis: UVec3, last: u32, along: u32| {
        let before = if along > 0 { at - axis } else { at };
        let after = if along < last { at + axis } else { at };
        // Not across the midline.
        let left = |at: UVec3| at.x < POINTS.x.div_ceil(2);
        let before = if left(before) == left(at) { before } else { at };
        let after = if left(after) == left(at) { after } else { at };
        let steps = (after - before).element_sum().max(1) as f32;
        (value(after) - value(before)) / (steps * STEP_MM)
    };
    let plane = POINTS.x * POINTS.y;
    (0..lattice.len() as u32)
        .into_par_iter()
        .map(|n| {
            let at = UVec3::new(n % POINTS.x, n % plane / POINTS.x, n / plane);
            let gradient = Vec3::new(
                slope(at, UVec3::X, POINTS.x - 1, at.x),
                slope(at, UVec3::Y, POINTS.y - 1, at.y),
                slope(at, UVec3::Z, POINTS.z - 1, at.z),
            );
            let distance = value(at) / gradient.length().hypot(least);
            distance.clamp(-REACH_MM, REACH_MM)
        })
        .collect()
}
