//! A contrast laid on the FLAIR: rigid registration by mutual information.
//!
//! The patient moves between two series of an examination, and headers know nothing of it. [`register`]
//! finds the motion by which one scan tells most of the other, whatever their contrasts, grids and
//! slice thickness, with or without skull. It says how far it went, what that gained, and when not to
//! trust it. A motion that gains nothing is not applied: then the answer is the identity, bit for bit,
//! and nothing gets interpolated that need not be.
//!
//! The answer is a map of world points ([`Alignment::motion`]); no voxel is resampled here (see
//! [`crate::resample::resample_moved`]). The same scans and settings give the same bits, whatever the
//! number of threads in the caller's rayon pool.
//!
//! The way there: both scans at three sizes of voxel (`align/pyramid.rs`), their mutual information at
//! points of the fixed head (`align/metric.rs`), climbed by a quasi-Newton search (`align/search.rs`) from
//! the headers and, where those are not clearly right, from other places.
use glam::{DAffine3, DVec3};
use rayon::prelude::*;

pub use self::pose::Freedom;
pub use self::verdict::{Alignment, Doubt, Side, Similarities};
use crate::chance::Chance;
use crate::volume::Volume;

mod metric;
mod pose;
mod pyramid;
mod search;
mod verdict;

use metric::{Moving, Points, Similarity, glance};
use pose::Pose;
use pyramid::{Head, shrunk};
use search::{Found, Reach, climb};
use verdict::{hardly_similar, too_far, unmoved};

/// A way to look at the scans: their voxels, how many points are compared, how fine a step counts.
struct Level {
    /// Voxels of about this size, or the scan's own where those are larger.
    spacing_mm: f64,
    points: usize,
    shortest_mm: f64,
}

/// From the first look to the last.
const LEVELS: [Level; 3] = [
    Level {
        spacing_mm: 4.0,
        points: 4096,
        shortest_mm: 0.2,
    },
    Level {
        spacing_mm: 2.0,
        points: 12_288,
        shortest_mm: 0.05,
    },
    Level {
        spacing_mm: 1.0,
        points: 24_576,
        shortest_mm: 0.02,
    },
];
/// The points at which the result is judged: others than those it was found with.
const JUDGED: usize = 32_768;
/// The most steps of a search; it seldom takes fifteen.
const STEPS: usize = 40;
/// Angles of the other starts, radians (14 degrees), about each axis.
const TURNS: [f64; 2] = [-0.25, 0.25];
/// The headers are clearly right if the top next to them is higher than this many times any other start.
const CLEARLY: f64 = 1.1;
/// Poses further apart than this are different ones, mm.
const ANOTHER_MM: f64 = 10.0;
/// A top that is another pose and this share of the highest casts doubt on it.
const RIVAL: f64 = 0.95;
/// A motion must raise the similarity to this many times what it is by the headers.
const WORTH: f64 = 1.005;
/// Less of the fixed head within the moving field of view is no ground for a comparison.
const LEAST_OVERLAP: f64 = 0.3;
/// How far the head is turned to see what outlines alone tell, radians (45 degrees).
const ASTRAY: f64 = std::f64::consts::FRAC_PI_4;

/// What a request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// The headers are believed.
    None,
    /// Each contrast is turned and shifted onto the FLAIR.
    Rigid,
    /// And stretched.
    Affine,
}

impl Align {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::None, Self::Rigid, Self::Affine];

    /// The name on the wire and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rigid => "rigid",
            Self::Affine => "affine",
        }
    }

    /// The choice with that [`Align::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// What a motion may be; `None` if there is to be no registration.
    #[must_use]
    pub fn freedom(self) -> Option<Freedom> {
        match self {
            Self::None => None,
            Self::Rigid => Some(Freedom::Rigid),
            Self::Affine => Some(Freedom::Affine),
        }
    }
}

/// What is asked of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What the motion may be.
    pub freedom: Freedom,
    /// Whose chance draws the points; the same number draws the same.
    pub seed: u64,
}

/// Finds how `moving` lies for `fixed`.
///
/// Maximises mutual information after Mattes et al. (IEEE Trans. Med. Imaging 22:120, 2003) over rigid
/// (or affine) motions; see [`Alignment`] for direction and units. Any two scans have an answer: what is
/// wrong with them is its [`Doubt`]. Values that are not finite count as 0.
///
/// ```
/// use dawson_imaging::align::{Freedom, Settings, register};
/// use dawson_imaging::grid::Grid;
/// use dawson_imaging::volume::Volume;
/// use glam::{DAffine3, DVec3};
///
/// let grid = Grid::new([40, 40, 40], DAffine3::from_scale(DVec3::splat(4.0)))?;
/// let egg = |centre: DVec3| Volume::from_fn(grid, |at| {
///     let from = (grid.centre_of(at).0 - centre) / DVec3::new(40.0, 55.0, 48.0);
///     if from.length() < 1.0 { 100.0 + 50.0 * (from.y * 4.0).sin() as f32 } else { 0.0 }
/// });
/// let (fixed, moving) = (egg(DVec3::splat(78.0)), egg(DVec3::new(78.0, 84.0, 78.0)));
/// let settings = Settings { freedom: Freedom::Rigid, seed: 1 };
/// let found = register(&fixed, &moving, &settings);
/// assert!((found.translation_mm - DVec3::new(0.0, 6.0, 0.0)).length() < 0.5);
/// # Ok::<(), dawson_imaging::grid::GridError>(())
/// ```
#[must_use]
pub fn register(fixed: &Volume<f32>, moving: &Volume<f32>, settings: &Settings) -> Alignment {
    Fixed::new(fixed, settings).register(moving)
}

/// A scan that others are laid on: looked at once, used for each of them.
#[derive(Debug, Clone)]
pub struct Fixed {
    freedom: Freedom,
    seen: Option<SeenHead>,
}

/// Where the fixed head is and what the comparisons need of it.
#[derive(Debug, Clone)]
struct SeenHead {
    centre: DVec3,
    radius_mm: f64,
    /// For each level.
    points: [Points; 3],
    judged: Points,
}

impl Fixed {
    /// Looks at the scan.
    #[must_use]
    pub fn new(scan: &Volume<f32>, settings: &Settings) -> Self {
        let levels = levels(scan);
        let seen = Head::find(&levels[0]).map(|head| {
            let chance = Chance::new(settings.seed);
            let read = |level: &Volume<f32>, points, purpose| {
                Points::read(level, head.range, head.points(points, chance.of(purpose)))
            };
            SeenHead {
                centre: head.centre,
                radius_mm: head.radius_mm,
                points: [0, 1, 2].map(|n| read(&levels[n], LEVELS[n].points, n as u64)),
                judged: read(&levels[2], JUDGED, 3),
            }
        });
        Self {
            freedom: settings.freedom,
            seen,
        }
    }

    /// Finds how `moving` lies for this scan; as [`register`].
    #[must_use]
    pub fn register(&self, moving: &Volume<f32>) -> Alignment {
        let Some(seen) = &self.seen else {
            return unmoved(Doubt::NothingToSee { side: Side::Fixed });
        };
        let levels = levels(moving);
        let Some(head) = Head::find(&levels[0]) else {
            return unmoved(Doubt::NothingToSee { side: Side::Moving });
        };
        let moving = levels.map(|level| Moving::new(level, head.range));
        let first = seen.first_look(&moving[0], head.centre);
        if worth(&first.best.similarity) <= 0.0 {
            let share = first.best.similarity.overlap;
            return Alignment {
                overlap: share,
                ..unmoved(Doubt::LittleOverlap { share })
            };
        }
        let mut pose = first.best.pose;
        for n in 1..LEVELS.len() {
            let reach = seen.reach(n, self.freedom);
            pose = climb(&seen.points[n], &moving[n], pose, reach).pose;
        }
        seen.judge(&moving[2], pose, first.rival)
    }
}

/// What the first look at coarse voxels found.
struct FirstLook {
    best: Found,
    /// Another place that fits nearly as well.
    rival: Option<Doubt>,
}

impl SeenHead {
    fn reach(&self, level: usize, freedom: Freedom) -> Reach {
        Reach {
            freedom,
            radius_mm: self.radius_mm,
            longest_mm: LEVELS[level].spacing_mm,
            shortest_mm: LEVELS[level].shortest_mm,
            steps: STEPS,
            least_overlap: LEAST_OVERLAP,
        }
    }

    /// Climbs from the headers; where the top is not clearly higher than other starts, from those too.
    fn first_look(&self, moving: &Moving, middle: DVec3) -> FirstLook {
        let up = |start: Pose| {
            climb(
                &self.points[0],
                moving,
                start,
                self.reach(0, Freedom::Rigid),
            )
        };
        let still = Pose::still(self.centre);
        let from_headers = up(still);
        let middles = still.moved(middle - self.centre, DVec3::ZERO);
        let apart_mm = |a: &Pose, b: &Pose| a.apart_mm(b, self.radius_mm);
        let starts: Vec<Pose> = std::iter::once(middles)
            .chain(turned(still))
            .chain(turned(middles))
            .filter(|start| apart_mm(start, &from_headers.pose) > ANOTHER_MM)
            .collect();
        let elsewhere = starts
            .par_iter()
            .map(|start| worth(&glance(&self.points[0], moving, start)))
            .reduce(|| 0.0, f64::max);
        if worth(&from_headers.similarity) > CLEARLY * elsewhere {
            return FirstLook {
                best: from_headers,
                rival: None,
            };
        }
        let tops: Vec<Found> = starts.into_par_iter().map(up).collect();
        let value = |found: &Found| worth(&found.similarity);
        let best = tops.iter().fold(from_headers, |best, top| {
            if value(top) > value(&best) {
                *top
            } else {
                best
            }
        });
        let rival = tops
            .iter()
            .filter(|top| apart_mm(&top.pose, &best.pose) > ANOTHER_MM)
            .max_by(|a, b| value(a).total_cmp(&value(b)))
            .filter(|top| value(top) > RIVAL * value(&best))
            .map(|top| Doubt::StartsDisagree {
                apart_mm: apart_mm(&top.pose, &best.pose),
                rival: value(top),
                best: value(&best),
            });
        FirstLook { best, rival }
    }

    /// Holds what was found against the headers and against chance.
    fn judge(&self, moving: &Moving, pose: Pose, rival: Option<Doubt>) -> Alignment {
        let at = |pose: &Pose| glance(&self.judged, moving, pose);
        let still = Pose::still(self.centre);
        let (by_headers, found) = (at(&still), at(&pose));
        let better = worth(&found) > WORTH * worth(&by_headers);
        let (kept, seen) = if better {
            (pose, found)
        } else {
            (still, by_headers)
        };
        let astray = [DVec3::X, DVec3::Y, DVec3::Z]
            .map(|axis| worth(&at(&kept.moved(DVec3::ZERO, axis * ASTRAY))))
            .into_iter()
            .fold(0.0, f64::max);
        let similarity = Similarities {
            before: worth(&by_headers),
            after: worth(&seen),
            astray,
        };
        let alignment = Alignment {
            motion: if better {
                kept.motion()
            } else {
                DAffine3::IDENTITY
            },
            rotation_deg: if better { kept.rotation_deg() } else { 0.0 },
            translation_mm: kept.shift,
            similarity,
            overlap: seen.overlap,
            doubt: None,
        };
        if let Some(doubt) = hardly_similar(&alignment) {
            return Alignment {
                similarity: Similarities {
                    after: similarity.before,
                    ..similarity
                },
                overlap: by_headers.overlap,
                ..unmoved(doubt)
            };
        }
        Alignment {
            doubt: too_far(&alignment).or(rival),
            ..alignment
        }
    }
}

/// The scan at each of the levels.
fn levels(scan: &Volume<f32>) -> [Volume<f32>; 3] {
    let fine = shrunk(scan, LEVELS[2].spacing_mm);
    let middle = shrunk(&fine, LEVELS[1].spacing_mm);
    [shrunk(&middle, LEVELS[0].spacing_mm), middle, fine]
}

/// The pose with the head turned either way about each axis.
fn turned(pose: Pose) -> impl Iterator<Item = Pose> {
    [DVec3::X, DVec3::Y, DVec3::Z]
        .into_iter()
        .flat_map(move |axis| TURNS.map(|angle| pose.moved(DVec3::ZERO, axis * angle)))
}

/// The similarity, as far as there is enough in common to speak of one.
fn worth(similarity: &Similarity) -> f64 {
    if similarity.overlap >= LEAST_OVERLAP {
        similarity.nats
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use glam::{DMat3, EulerRot};

    use super::*;
    use crate::grid::Grid;
    use crate::phantom::{PhantomOptions, Skull, head};
    use crate::study::Contrast;

    const RIGID: Settings = Settings {
        freedom: Freedom::Rigid,
        seed: 5,
    };

    /// A grid over the whole of a phantom's head, its axes near those of the world.
    fn over_head(spacing_mm: [f64; 3]) -> Grid {
        let extent = DVec3::new(182.0, 218.0, 182.0);
        let spacing = DVec3::from(spacing_mm);
        let shape = (extent / spacing).floor();
        let affine = DAffine3::from_mat3_translation(
            DMat3::from_diagonal(spacing * DVec3::new(-1.0, 1.0, 1.0)),
            DVec3::new(91.0, -127.0, -73.0) + 0.5 * spacing * DVec3::new(-1.0, 1.0, 1.0),
        );
        Grid::new(shape.to_array().map(|n| n as usize), affine).unwrap()
    }

    fn scan(contrast: Contrast, grid: Grid, skull: Skull) -> Volume<f32> {
        let phantom = head(&PhantomOptions {
            grid,
            skull,
            contrasts: vec![contrast],
            ..PhantomOptions::standard(4)
        });
        phantom.scans.into_iter().next().unwrap().1
    }

    /// A motion of a patient: shifts in mm, turns in degrees about the middle of the head.
    fn motion(shift: [f64; 3], turn_deg: [f64; 3]) -> DAffine3 {
        let [x, y, z] = turn_deg.map(f64::to_radians);
        let middle = DVec3::new(0.0, -18.0, 4.0);
        DAffine3::from_translation(middle + DVec3::from(shift))
            * DAffine3::from_mat3(DMat3::from_euler(EulerRot::XYZ, x, y, z))
            * DAffine3::from_translation(-middle)
    }

    /// The same scan of a patient who lay elsewhere by `motion`, under the header of one who did not.
    fn moved(contrast: Contrast, grid: Grid, skull: Skull, motion: DAffine3) -> Volume<f32> {
        let place = Grid::new(grid.shape(), motion.inverse() * grid.affine()).unwrap();
        Volume::new(grid, scan(contrast, place, skull).into_samples()).unwrap()
    }

    /// The mean over a head-sized cloud of points of the distance between two maps, mm.
    fn apart_mm(a: DAffine3, b: DAffine3) -> f64 {
        let chance = Chance::new(8);
        let middle = DVec3::new(0.0, -18.0, 4.0);
        let at = |n| middle + 70.0 * chance.of(n).direction().as_dvec3();
        let apart = |n| (a.transform_point3(at(n)) - b.transform_point3(at(n))).length();
        (0..500).map(apart).sum::<f64>() / 500.0
    }

    const KNOWN: ([f64; 3], [f64; 3]) = ([7.0, -9.0, 5.0], [4.0, -6.0, 8.0]);

    /// A FLAIR in thick slices with its skull, and a T1w of the same patient moved by [`KNOWN`].
    fn pair() -> &'static [Volume<f32>; 2] {
        static PAIR: OnceLock<[Volume<f32>; 2]> = OnceLock::new();
        PAIR.get_or_init(|| {
            let flair = scan(Contrast::Flair, over_head([1.5, 1.5, 4.0]), Skull::Kept);
            let grid = over_head([2.0, 2.0, 2.5]);
            [
                flair,
                moved(Contrast::T1w, grid, Skull::Kept, motion(KNOWN.0, KNOWN.1)),
            ]
        })
    }

    #[test]
    fn a_known_motion_between_contrasts_grids_and_slices_is_found() {
        let [flair, t1w] = pair();
        let found = register(flair, t1w, &RIGID);
        let truth = motion(KNOWN.0, KNOWN.1);
        assert!(
            apart_mm(found.motion, truth) < 0.7,
            "{}",
            apart_mm(found.motion, truth)
        );
        assert_eq!(found.doubt, None);
        assert!(found.similarity.after > 1.2 * found.similarity.before);
        let turn = truth.matrix3.determinant()
            * (truth.matrix3.x_axis.x + truth.matrix3.y_axis.y + truth.matrix3.z_axis.z);
        let angle = ((turn - 1.0) / 2.0).acos().to_degrees();
        assert!(
            (found.rotation_deg - angle).abs() < 0.7,
            "{}",
            found.rotation_deg
        );
    }

    #[test]
    fn the_way_back_is_the_inverse_of_the_way_there() {
        let [flair, t1w] = pair();
        let (there, back) = (register(flair, t1w, &RIGID), register(t1w, flair, &RIGID));
        let round = apart_mm(back.motion * there.motion, DAffine3::IDENTITY);
        assert!(round < 0.7, "{round}");
    }

    #[test]
    fn threads_change_no_bit_and_the_seed_hardly_anything() {
        let [flair, t1w] = pair();
        let with = |threads, seed| {
            let settings = Settings { seed, ..RIGID };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| register(flair, t1w, &settings))
        };
        let one = with(1, 5);
        assert_eq!(one, with(3, 5));
        let other = with(2, 6);
        assert_ne!(one.motion, other.motion);
        assert!(apart_mm(one.motion, other.motion) < 0.3);
    }

    #[test]
    fn scans_that_lie_well_are_left_where_they_lie_bit_for_bit() {
        let flair = &pair()[0];
        let found = register(flair, flair, &RIGID);
        assert_eq!(found.motion, DAffine3::IDENTITY);
        assert_eq!(
            (found.rotation_deg.to_bits(), found.translation_mm),
            (0, DVec3::ZERO)
        );
        assert_eq!(
            found.similarity.before.to_bits(),
            found.similarity.after.to_bits()
        );
        assert_eq!(found.doubt, None);
        let t2w = scan(Contrast::T2w, *flair.grid(), Skull::Kept);
        assert_eq!(register(flair, &t2w, &RIGID).motion, DAffine3::IDENTITY);
    }

    #[test]
    fn stripped_scans_far_apart_by_their_headers_meet_and_the_way_is_doubted() {
        let grid = over_head([2.0, 2.0, 3.0]);
        let flair = scan(Contrast::Flair, grid, Skull::Stripped);
        let truth = motion([300.0, -40.0, 90.0], [3.0, 2.0, -5.0]);
        let far = Grid::new(grid.shape(), truth * grid.affine()).unwrap();
        let t2w = Volume::new(
            far,
            scan(Contrast::T2w, grid, Skull::Stripped).into_samples(),
        );
        let found = register(&flair, &t2w.unwrap(), &RIGID);
        assert!(
            apart_mm(found.motion, truth) < 0.5,
            "{}",
            apart_mm(found.motion, truth)
        );
        assert!(
            matches!(found.doubt, Some(Doubt::LargeMotion { .. })),
            "{found:?}"
        );
        assert!(found.similarity.before.abs() < 1e-12);
    }

    #[test]
    fn a_stretch_is_found_if_it_is_asked_for() {
        let grid = over_head([2.0, 2.0, 3.0]);
        let flair = scan(Contrast::Flair, grid, Skull::Stripped);
        let stretch =
            DAffine3::from_scale(DVec3::new(1.0, 1.04, 0.98)) * motion([2.0; 3], [2.0; 3]);
        let t1w = moved(Contrast::T1w, grid, Skull::Stripped, stretch);
        let affine = register(
            &flair,
            &t1w,
            &Settings {
                freedom: Freedom::Affine,
                ..RIGID
            },
        );
        assert!(
            apart_mm(affine.motion, stretch) < 0.5,
            "{}",
            apart_mm(affine.motion, stretch)
        );
        let rigid = register(&flair, &t1w, &RIGID);
        assert!(apart_mm(rigid.motion, stretch) > 0.8);
        let square = rigid.motion.matrix3.transpose() * rigid.motion.matrix3;
        assert!(square.abs_diff_eq(DMat3::IDENTITY, 1e-9));
    }

    #[test]
    fn a_motion_is_doubted_by_what_is_too_large_about_it() {
        let by = |matrix3: DMat3, rotation_deg, shift_mm| {
            let doubtless = unmoved(Doubt::LittleOverlap { share: 0.0 });
            too_far(&Alignment {
                motion: DAffine3::from_mat3(matrix3),
                rotation_deg,
                translation_mm: DVec3::new(0.0, shift_mm, 0.0),
                ..doubtless
            })
        };
        assert_eq!(by(DMat3::IDENTITY, 44.0, 59.0), None);
        let large = |doubt| matches!(doubt, Some(Doubt::LargeMotion { .. }));
        assert!(large(by(DMat3::IDENTITY, 46.0, 0.0)) && large(by(DMat3::IDENTITY, 0.0, 61.0)));
        let strained = |doubt| matches!(doubt, Some(Doubt::LargeStrain { .. }));
        let turn = DMat3::from_rotation_x(0.5);
        assert_eq!(
            by(
                turn * DMat3::from_diagonal(DVec3::new(1.0, 1.1, 0.9)),
                29.0,
                0.0
            ),
            None
        );
        assert!(strained(by(
            turn * DMat3::from_diagonal(DVec3::new(1.0, 1.2, 1.0)),
            29.0,
            0.0
        )));
        let sheared = DMat3::from_cols(DVec3::X, DVec3::new(0.4, 1.0, 0.0), DVec3::Z);
        assert!(strained(by(sheared, 0.0, 0.0)));
    }

    #[test]
    fn noise_a_ball_and_a_thin_slab_are_doubted_and_not_moved() {
        let flair = &pair()[0];
        let grid = over_head([3.0; 3]);
        let chance = Chance::new(1);
        let noise = Volume::from_fn(grid, |at| 100.0 * chance.of(grid.offset(at) as u64).unit());
        let ball = Volume::from_fn(grid, |at| {
            let away = (grid.centre_of(at).0 - DVec3::new(3.0, -15.0, 9.0)).length();
            if away < 80.0 { 100.0 } else { 0.0 }
        });
        for (name, odd) in [("noise", noise), ("ball", ball)] {
            let found = register(flair, &odd, &RIGID);
            assert!(
                matches!(found.doubt, Some(Doubt::NearChance { .. })),
                "{name}: {found:?}"
            );
            assert_eq!(found.motion, DAffine3::IDENTITY, "{name}");
        }
        let slab = grid
            .crop([0, 0, 20], [grid.shape()[0], grid.shape()[1], 4])
            .unwrap();
        let slab = scan(Contrast::T1w, slab, Skull::Kept);
        let found = register(flair, &slab, &RIGID);
        assert!(
            matches!(found.doubt, Some(Doubt::LittleOverlap { .. })),
            "{found:?}"
        );
        assert_eq!(found.motion, DAffine3::IDENTITY);
    }

    #[test]
    fn no_scan_is_too_odd_for_an_answer() {
        let of = |shape, value: fn(usize) -> f32| {
            let grid = Grid::new(shape, DAffine3::from_scale(DVec3::new(1.0, 2.0, 5.0))).unwrap();
            let samples = (0..grid.voxels()).map(value).collect();
            Volume::new(grid, samples).unwrap()
        };
        let odd = [
            of([1, 1, 1], |_| 3.0),
            of([7, 1, 9], |_| 0.0),
            of([30, 30, 4], |_| f32::NAN),
            of([30, 30, 4], |n| {
                if n % 3 == 0 { f32::INFINITY } else { n as f32 }
            }),
            of([40, 40, 1], |n| (n % 17) as f32),
            of([2, 2, 2], |n| n as f32),
            of([60, 1, 1], |n| n as f32 * 1e30),
            of([20, 20, 20], |n| if n == 4210 { f32::MAX } else { 0.0 }),
            of([20, 20, 20], |n| if n == 4210 { 1e-38 } else { 0.0 }),
        ];
        for fixed in &odd {
            for moving in &odd {
                for freedom in [Freedom::Rigid, Freedom::Affine] {
                    let found = register(fixed, moving, &Settings { freedom, seed: 1 });
                    assert!(found.motion.is_finite() && found.similarity.after.is_finite());
                }
            }
        }
        let blank = register(&odd[1], &odd[4], &RIGID);
        let side = Side::Fixed;
        assert_eq!(blank.doubt, Some(Doubt::NothingToSee { side }));
        let blank = register(&odd[4], &odd[2], &RIGID);
        let side = Side::Moving;
        assert_eq!(blank.doubt, Some(Doubt::NothingToSee { side }));
    }
}
