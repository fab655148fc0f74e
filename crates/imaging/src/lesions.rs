//! From a probability to lesions that can be counted.
//!
//! Counting rule: voxels with a probability of at least the threshold, joined across faces, edges and
//! corners (26 neighbours); components below the minimum volume are dropped; the rest is numbered
//! by size, 1 the largest. Confluent lesions therefore count as one.
use glam::DVec3;

use crate::components::{Connectivity, Run, label};
use crate::grid::{Grid, VoxelPoint, WorldPoint};
use crate::volume::Volume;

/// What counts as a lesion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CountingRule {
    /// The least probability of a lesion's voxel, 0 to 1.
    pub threshold: f32,
    /// The least volume of a lesion in millilitres.
    pub min_lesion_ml: f64,
}

/// One lesion.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesion {
    /// Its value in [`Lesions::instances`], from 1, the largest first.
    pub id: u32,
    /// Its number of voxels.
    pub voxels: usize,
    /// Voxels times the volume of a voxel.
    pub volume_ml: f64,
    /// The mean place of its voxels.
    pub centroid: WorldPoint,
    /// Least and largest x, y and z that its voxels (with their extent) reach.
    pub bbox: [WorldPoint; 2],
    /// The largest distance between the centres of two of its voxels, in millimetres.
    pub largest_extent_mm: f64,
    /// Mean probability over its voxels.
    pub mean_probability: f64,
    /// Largest probability of a voxel.
    pub max_probability: f32,
    /// Whether a voxel lies on a face of the volume: the lesion may go on outside.
    pub touches_border: bool,
}

/// All lesions of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesions {
    /// 0 outside lesions, else [`Lesion::id`].
    pub instances: Volume<u32>,
    /// Largest first.
    pub items: Vec<Lesion>,
}

impl Lesions {
    /// Finds the lesions of a probability (0 to 1), on whose grid they are counted.
    #[must_use]
    pub fn find(probability: &Volume<f32>, rule: CountingRule) -> Self {
        let grid = probability.grid();
        let samples = probability.samples();
        let found = label(grid.shape(), Connectivity::Corners, samples, |p| {
            p >= rule.threshold
        });
        // A ten-thousandth less still counts (as in `evaluate`): headers say 0.99999 mm.
        let least = (rule.min_lesion_ml / grid.voxel_ml() * (1.0 - 1e-4)).ceil() as usize;
        let mut order: Vec<usize> = (0..found.count())
            .filter(|&c| found.voxels[c] >= least.max(1))
            .collect();
        order.sort_by_key(|&c| (std::cmp::Reverse(found.voxels[c]), c));
        let mut runs_of = vec![Vec::new(); found.count()];
        for run in &found.runs {
            runs_of[run.component].push(run);
        }
        let mut instances = Volume::filled(*grid, 0);
        let mut items = Vec::with_capacity(order.len());
        for (n, &component) in order.iter().enumerate() {
            let id = n as u32 + 1;
            for run in &runs_of[component] {
                instances.samples_mut()[run.voxels.clone()].fill(id);
            }
            items.push(measure(id, &runs_of[component], probability));
        }
        Self { instances, items }
    }

    /// 1 inside lesions, 0 outside.
    #[must_use]
    pub fn mask(&self) -> Volume<u8> {
        self.instances.map(|id| u8::from(id != 0))
    }

    /// Volume of all lesions in millilitres.
    #[must_use]
    pub fn volume_ml(&self) -> f64 {
        let voxels: usize = self.items.iter().map(|lesion| lesion.voxels).sum();
        voxels as f64 * self.instances.grid().voxel_ml()
    }
}

fn measure(id: u32, runs: &[&Run], probability: &Volume<f32>) -> Lesion {
    let grid = probability.grid();
    let shape = grid.shape();
    let (mut voxels, mut sum, mut max) = (0_usize, 0.0_f64, 0.0_f32);
    let mut centre = DVec3::ZERO;
    let (mut low, mut high) = ([usize::MAX; 3], [0_usize; 3]);
    let mut ends = Vec::with_capacity(2 * runs.len());
    for run in runs {
        let first = grid.index(run.voxels.start);
        let last = grid.index(run.voxels.end - 1);
        for a in 0..3 {
            low[a] = low[a].min(first[a]);
            high[a] = high[a].max(last[a]);
        }
        for &p in &probability.samples()[run.voxels.clone()] {
            sum += f64::from(p);
            max = max.max(p);
        }
        let (start, end) = (grid.centre_of(first).0, grid.centre_of(last).0);
        voxels += run.voxels.len();
        centre += (start + end) / 2.0 * run.voxels.len() as f64;
        ends.extend([start, end]);
    }
    Lesion {
        id,
        voxels,
        volume_ml: voxels as f64 * grid.voxel_ml(),
        centroid: WorldPoint(centre / voxels as f64),
        bbox: bbox(grid, runs),
        largest_extent_mm: largest_distance(&ends),
        mean_probability: sum / voxels as f64,
        max_probability: max,
        touches_border: (0..3).any(|a| low[a] == 0 || high[a] + 1 == shape[a]),
    }
}

/// The world box around the corners of all voxels.
fn bbox(grid: &Grid, runs: &[&Run]) -> [WorldPoint; 2] {
    let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
    for run in runs {
        for at in [run.voxels.start, run.voxels.end - 1] {
            let centre = DVec3::from(grid.index(at).map(|n| n as f64));
            for corner in 0..8_u8 {
                let half = |bit: u8| if corner >> bit & 1 == 0 { -0.5 } else { 0.5 };
                let offset = DVec3::new(half(0), half(1), half(2));
                let at = grid.world(VoxelPoint(centre + offset)).0;
                low = low.min(at);
                high = high.max(at);
            }
        }
    }
    [WorldPoint(low), WorldPoint(high)]
}

/// The largest distance between two of the points.
///
/// The points are the ends of a lesion's rows of voxels: nothing lies further out than those. Two
/// far points along some direction give a distance d that is nearly the largest. With all points
/// within R of a centre, a pair further apart than d has both its ends at least d − R from it, which
/// leaves few points to be compared, even where the lesion is a whole head.
fn largest_distance(points: &[DVec3]) -> f64 {
    let (low, high) = points
        .iter()
        .fold((DVec3::INFINITY, DVec3::NEG_INFINITY), |(low, high), &p| {
            (low.min(p), high.max(p))
        });
    let centre = (low + high) / 2.0;
    let radius = points
        .iter()
        .map(|p| p.distance(centre))
        .fold(0.0, f64::max);
    let directions = (0..13).map(|n| {
        let n = n + 14; // The half of a 3 x 3 x 3 box around 0 that follows its middle.
        DVec3::from([n % 3 - 1, n / 3 % 3 - 1, n / 9 - 1].map(f64::from))
    });
    let mut largest = directions
        .filter_map(|along| {
            let by_place = |a: &&DVec3, b: &&DVec3| a.dot(along).total_cmp(&b.dot(along));
            let (first, last) = (
                points.iter().min_by(by_place)?,
                points.iter().max_by(by_place)?,
            );
            Some(first.distance(*last))
        })
        .fold(0.0, f64::max);
    let far: Vec<DVec3> = points
        .iter()
        .copied()
        .filter(|p| p.distance(centre) >= largest - radius - 1e-9)
        .collect();
    for (n, a) in far.iter().enumerate() {
        for b in &far[n + 1..] {
            largest = largest.max(a.distance(*b));
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use glam::DAffine3;
    use proptest::prelude::*;

    use super::*;

    fn volume(shape: [usize; 3], inside: impl Fn([usize; 3]) -> f32) -> Volume<f32> {
        let affine = DAffine3 {
            matrix3: glam::DMat3::from_diagonal(DVec3::new(-1.0, 2.0, 3.0)),
            translation: DVec3::new(10.0, 20.0, 30.0),
        };
        Volume::from_fn(Grid::new(shape, affine).unwrap(), inside)
    }

    const RULE: CountingRule = CountingRule {
        threshold: 0.5,
        min_lesion_ml: 0.0,
    };

    #[test]
    fn a_lesion_is_measured_in_the_world() {
        let two = volume([8, 8, 8], |[i, j, k]| {
            let inside = (2..4).contains(&i) && j == 3 && (4..6).contains(&k);
            if inside { 0.5 + i as f32 / 10.0 } else { 0.2 }
        });
        let found = Lesions::find(&two, RULE);
        let lesion = &found.items[0];
        assert_eq!(
            (found.items.len(), lesion.voxels, lesion.touches_border),
            (1, 4, false)
        );
        assert!((lesion.volume_ml - 0.024).abs() < 1e-12);
        assert!((lesion.centroid.0 - DVec3::new(7.5, 26.0, 43.5)).length() < 1e-9);
        assert!((lesion.bbox[0].0 - DVec3::new(6.5, 25.0, 40.5)).length() < 1e-9);
        assert!((lesion.bbox[1].0 - DVec3::new(8.5, 27.0, 46.5)).length() < 1e-9);
        assert!((lesion.largest_extent_mm - 10.0_f64.sqrt()).abs() < 1e-9);
        assert!(
            (lesion.mean_probability - 0.75).abs() < 1e-6
                && (lesion.max_probability - 0.8).abs() < 1e-6
        );
    }

    #[test]
    fn lesions_that_touch_at_a_corner_are_one_and_small_ones_are_dropped() {
        let three = volume([9, 9, 9], |at| {
            f32::from(matches!(at, [1, 1, 1] | [2, 2, 2] | [7, 7, 7]))
        });
        let found = Lesions::find(&three, RULE);
        assert_eq!(
            found.items.iter().map(|l| l.voxels).collect::<Vec<_>>(),
            [2, 1]
        );
        let rule = CountingRule {
            min_lesion_ml: 0.012,
            ..RULE
        };
        let found = Lesions::find(&three, rule);
        assert_eq!(found.items.len(), 1);
        assert_eq!(
            found.mask().samples().iter().filter(|&&m| m == 1).count(),
            2
        );
        assert!((found.volume_ml() - 0.012).abs() < 1e-12);
    }

    #[test]
    fn a_lesion_on_a_face_touches_the_border() {
        let edge = volume([4, 4, 4], |at| f32::from(at == [3, 1, 1]));
        assert!(Lesions::find(&edge, RULE).items[0].touches_border);
    }

    #[test]
    fn a_probability_of_exactly_the_threshold_belongs_to_a_lesion() {
        let on_it = Lesions::find(
            &volume([4, 4, 4], |at| if at == [1, 1, 1] { 0.5 } else { 0.0 }),
            RULE,
        );
        assert_eq!(on_it.items.len(), 1);
    }

    #[test]
    fn nothing_above_the_threshold_is_no_lesion() {
        let none = Lesions::find(&volume([4, 4, 4], |_| 0.49), RULE);
        assert!(none.items.is_empty() && none.volume_ml() == 0.0);
    }

    proptest! {
        #[test]
        fn the_largest_extent_is_that_of_all_pairs_of_voxels(seed in any::<u64>()) {
            let mut state = seed | 1;
            let random = volume([6, 6, 6], |_| 0.0).map(|_: f32| 0.0_f32);
            let mut random = random;
            for sample in random.samples_mut() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *sample = if state >> 62 == 0 { 1.0 } else { 0.0 };
            }
            let found = Lesions::find(&random, RULE);
            for lesion in &found.items {
                let ids = found.instances.samples();
                let places: Vec<DVec3> = (0..216).filter(|&at| ids[at] == lesion.id)
                    .map(|at| random.grid().centre_of(random.grid().index(at)).0).collect();
                let mut want = 0.0_f64;
                for a in &places {
                    for b in &places {
                        want = want.max(a.distance(*b));
                    }
                }
                prop_assert!((lesion.largest_extent_mm - want).abs() < 1e-9);
            }
        }
    }
}
