//! What lies where in one head.
//!
//! Everything is described in a standard space, MNI millimetres with the patient's left at negative
//! x; a head of its own is that standard moved, turned, scaled and bent a little. A point is painted
//! as an artist would: head, skull, fluid, brain, nuclei, ventricles, each over what is there, and with
//! a soft edge, so that a voxel at a border holds a mixture. Positions and radii of nuclei and
//! ventricles are near the mean of 20 adult brains (the label maps that come with `SynthSeg`), then
//! moved by hand until slices looked right.
use glam::{IVec3, Vec2, Vec3};

use super::cortex::{Cortex, Fold};
use super::midline::{Callosum, Ventricle};
use super::paint::Brush;
use super::pose::Pose;
use super::shapes::{Ellipsoid, Tube, common, coverage, union, union_of};
use super::signal::{Palette, Signals, Tissue};
use super::skull::Surface;
use crate::chance::Chance;

/// Outline of the cerebellum, right half; fitted as the cerebrum's, and the top of the vermis.
const CEREBELLUM: [[f32; 8]; 3] = [
    [0.0, -51.0, -10.0, 10.0, 12.0, 9.5, -0.6, 0.0],
    [23.0, -64.7, -36.2, 32.1, 27.2, 20.0, -0.42, 0.33],
    [7.1, -54.5, -21.2, 16.4, 34.7, 15.2, -0.41, -0.89],
];

/// Outline of midbrain, pons and medulla, right half; fitted as the cerebrum's, and the tectum.
const BRAINSTEM: [[f32; 8]; 4] = [
    [0.0, -35.0, -4.0, 8.5, 5.5, 8.0, 0.3, 0.0],
    [0.9, -28.3, -28.5, 11.6, 13.7, 18.3, -0.92, -0.74],
    [5.2, -30.5, -12.2, 10.2, 6.1, 12.7, -0.06, 0.69],
    [2.6, -40.3, -42.4, 8.4, 6.0, 23.4, -0.26, -0.69],
];

/// The cavity of the skull, right half; fitted as the cerebrum's (mean error 1 mm).
const CAVITY: [[f32; 8]; 3] = [
    [-4.5, 0.3, 26.4, 68.5, 83.1, 49.3, -0.47, -0.39],
    [18.8, -46.4, 4.0, 48.7, 69.7, 61.9, -0.94, 2.66],
    [33.1, -14.8, -8.2, 35.0, 32.1, 49.7, -0.94, 3.09],
];

/// Centre lines, `[x, y, z, radius]`.
const CORD: [[f32; 4]; 3] = [
    [0.0, -44.0, -52.0, 7.0],
    [0.0, -50.0, -70.0, 6.0],
    [0.0, -54.0, -150.0, 5.5],
];

const FORNIX: [[f32; 4]; 5] = [
    [2.0, 2.0, -4.0, 1.4],
    [1.8, 2.0, 8.0, 1.7],
    [2.4, -10.0, 15.5, 1.8],
    [7.0, -29.0, 17.5, 1.7],
    [19.0, -38.0, 6.0, 1.5],
];

const CAUDATE: [[f32; 4]; 5] = [
    [14.0, 19.0, 1.0, 6.0],
    [15.0, 9.0, 11.0, 5.2],
    [17.0, -3.0, 18.5, 3.4],
    [20.5, -15.0, 21.5, 2.4],
    [27.0, -29.0, 17.0, 1.6],
];

const HIPPOCAMPUS: [[f32; 4]; 4] = [
    [21.0, -8.0, -21.0, 4.2],
    [26.0, -16.0, -18.0, 4.6],
    [29.5, -27.0, -11.0, 3.8],
    [25.0, -37.0, -2.0, 3.0],
];

const PLEXUS: [[f32; 4]; 4] = [
    [9.5, -6.0, 16.0, 1.0],
    [14.0, -24.0, 17.0, 1.6],
    [23.5, -38.0, 11.0, 2.2],
    [30.0, -36.0, 1.0, 1.4],
];

/// Tissue is not of one brightness: factors at the bright end of its unevenness.
const GRAIN: Signals = [1.04, 0.985, 1.03, 1.015, 0.985];

/// The box, right half, outside which there are no nuclei, ventricles or callosum.
const DEEP_MM: Span = Span {
    low: Vec3::new(0.0, -70.0, -36.0),
    high: Vec3::new(46.0, 42.0, 42.0),
};

/// A box.
struct Span {
    low: Vec3,
    high: Vec3,
}

impl Span {
    fn contains(&self, p: Vec3) -> bool {
        p.cmpge(self.low).all() && p.cmple(self.high).all()
    }
}

/// Factors of the brighter parts of normal tissue: limbic cortex, the rim of the ventricles.
const BRIGHTER: Signals = [1.05, 1.0, 1.03, 1.02, 1.0];

/// A point painted: what it is made of and how bright it is in each contrast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    /// Relative signals (white matter = 1).
    pub signals: Signals,
    /// What covers at least half of it, the last such paint.
    pub tissue: Tissue,
    /// How much of it belongs to the brain with the fluid in its sulci.
    pub brain: f32,
    /// How much of it may turn into a lesion.
    pub host: f32,
    /// Where it lies in the brain.
    pub depths: Depths,
}

/// Depths of a point in parts of the brain, mm of the standard space, negative outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depths {
    /// Below the pial surface of the cerebrum, sulci taken out.
    pub pial: f32,
    /// In a lateral ventricle.
    pub ventricle: f32,
    /// In brainstem or cerebellum.
    pub infratentorial: f32,
}

/// Whether scalp, skull and face are painted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surroundings {
    Painted,
    Left,
}

/// A point with what all parts of the brain ask of it.
struct Spot {
    /// The point in the standard space, and mirrored to the right half.
    p: Vec3,
    side: Vec3,
    fold: Fold,
    callosum: Callosum,
    /// Depths in the two parts below the tentorium.
    cerebellum: f32,
    brainstem: f32,
}

/// One head.
#[derive(Debug, Clone)]
pub(super) struct Anatomy {
    chance: Chance,
    palette: Palette,
    cortex: Cortex,
    pose: Pose,
    surface: Surface,
    /// Half the width of the gap in a usual sulcus, mm.
    sulcus_mm: f32,
    cortex_mm: f32,
    cavity: [Ellipsoid; 3],
    cerebellum: [Ellipsoid; 3],
    brainstem: [Ellipsoid; 4],
    cord: Tube,
    ventricle: Ventricle,
    fornix: Tube,
    plexus: Tube,
    caudate: Tube,
    hippocampus: Tube,
    nuclei: Nuclei,
}

/// Solids inside the brain that have no fine shape.
#[derive(Debug, Clone)]
struct Nuclei {
    putamen: Ellipsoid,
    pallidum: Ellipsoid,
    thalamus: Ellipsoid,
    hypothalamus: Ellipsoid,
    amygdala: Ellipsoid,
    third: Ellipsoid,
    fourth: Ellipsoid,
    cistern: Ellipsoid,
    aqueduct: Tube,
    peduncle: Tube,
    capsule: Tube,
    /// Where no sulcus may reach.
    core: Ellipsoid,
}

impl Anatomy {
    pub(super) fn new(chance: Chance) -> Self {
        let draw = |n, low, high| chance.of(n).between(low, high);
        let wide = draw(1, 0.72, 1.12);
        let ellipsoid = Ellipsoid::new;
        Self {
            chance,
            palette: Palette::new(chance.of(2)),
            cortex: Cortex::new(chance.of(3)),
            pose: Pose::new(chance.of(4)),
            surface: Surface::new(chance.of(10)),
            sulcus_mm: draw(5, 0.25, 0.5),
            cortex_mm: draw(6, 2.5, 2.9),
            cavity: CAVITY.map(ellipsoid),
            cerebellum: CEREBELLUM.map(ellipsoid),
            brainstem: BRAINSTEM.map(ellipsoid),
            cord: Tube::new(&CORD, 1.0),
            ventricle: Ventricle::new(wide),
            fornix: Tube::new(&FORNIX, 1.0),
            plexus: Tube::new(&PLEXUS, 1.0),
            caudate: Tube::new(&CAUDATE, draw(8, 0.95, 1.05)),
            hippocampus: Tube::new(&HIPPOCAMPUS, draw(9, 0.95, 1.05)),
            nuclei: Nuclei {
                putamen: ellipsoid([27.0, 1.0, 0.0, 5.2, 18.5, 10.5, 0.0, 0.28]),
                pallidum: ellipsoid([20.5, -3.5, -1.0, 4.0, 10.5, 5.8, 0.0, 0.45]),
                thalamus: ellipsoid([11.0, -18.0, 7.0, 8.2, 14.5, 9.3, 0.0, 0.38]),
                hypothalamus: ellipsoid([0.0, -4.0, -9.0, 7.5, 9.0, 7.0, 0.0, 0.0]),
                amygdala: ellipsoid([23.0, -3.0, -19.0, 6.5, 6.5, 6.5, 0.0, 0.0]),
                third: ellipsoid([0.0, -12.0, -1.0, 0.7 + 1.1 * wide, 14.0, 8.0, 0.3, 0.0]),
                fourth: ellipsoid([0.0, -45.5, -30.0, 6.5, 4.0, 9.0, -0.25, 0.0]),
                cistern: ellipsoid([0.0, -42.0, -1.0, 7.0, 4.0, 5.5, 0.5, 0.0]),
                aqueduct: Tube::new(&[[0.0, -29.0, -4.0, 1.0], [0.0, -40.0, -21.0, 1.2]], 1.0),
                peduncle: Tube::new(&[[9.0, -33.0, -33.0, 7.0], [22.0, -50.0, -36.0, 7.0]], 1.0),
                capsule: Tube::new(
                    &[
                        [8.0, -22.0, -14.0, 5.5],
                        [15.0, -15.0, -4.0, 5.0],
                        [21.0, -12.0, 8.0, 5.0],
                    ],
                    1.0,
                ),
                core: ellipsoid([0.0, -14.0, 11.0, 33.0, 46.0, 17.0, 0.1, 0.0]),
            },
        }
    }

    /// Paints the point at `world` (RAS+ mm) as a ball of `softness_mm` would average it; `None` where
    /// nothing is to be painted.
    pub(super) fn at(&self, world: Vec3, softness_mm: f32, with: Surroundings) -> Option<Paint> {
        if with == Surroundings::Left && self.pose.is_far(world) {
            return None;
        }
        let p = self.pose.standard(world);
        let side = p.with_x(p.x.abs());
        let cavity = union_of(&self.cavity, side, 12.0);
        if with == Surroundings::Left && cavity < -10.0 {
            return None;
        }
        let mut brush = Brush::new(&self.palette, softness_mm / self.pose.scale);
        let stem = union_of(&self.brainstem, side, 5.0);
        let spot = Spot {
            p,
            side,
            fold: self.cortex.at(p),
            callosum: Callosum::at(side),
            cerebellum: union_of(&self.cerebellum, side, 8.0),
            brainstem: union(stem, self.cord.depth(side), 4.0),
        };
        let hull = spot.fold.hull;
        let infratentorial = spot.cerebellum.max(spot.brainstem);
        // The skull follows the brain: its cavity is smooth, but nowhere far from it.
        let near = union(hull + 3.2, infratentorial + 3.5, 16.0);
        let inner = cavity.min(near).max(hull + 1.8).max(infratentorial + 1.8);
        if inner < brush.softness {
            if with == Surroundings::Left && inner < -brush.softness {
                return None;
            }
            if with == Surroundings::Painted {
                self.surface.paint(&mut brush, p, inner);
            }
        }
        brush.fill(inner, Tissue::Csf);
        let (mut brain, mut depths) = (
            0.0,
            Depths {
                pial: -20.0,
                ventricle: -20.0,
                infratentorial,
            },
        );
        if inner > -brush.softness {
            let ventricle = self.ventricle.depth(side);
            // White matter surrounds the ventricles: no sulcus comes near.
            let pial = self.pial(&spot).max((ventricle + 6.0).min(hull));
            depths = Depths {
                pial,
                ventricle: ventricle.min(-spot.callosum.band),
                infratentorial,
            };
            brain = self.paint_brain(&mut brush, &spot, depths);
            self.surface
                .paint_sinuses(&mut brush, side, inner, hull.max(spot.cerebellum));
        }
        let grain = self.chance.of(20).noise(p / 6.5)
            + 0.5 * self.chance.of(26).noise(p / 3.0)
            + 0.6 * spot.fold.slow;
        brush.tint(grain, GRAIN);
        let Brush {
            signals,
            tissue,
            host,
            ..
        } = brush;
        Some(Paint {
            signals,
            tissue,
            brain,
            host,
            depths,
        })
    }

    /// Paints everything inside the skull; returns how much of the point is brain.
    fn paint_brain(&self, brush: &mut Brush, spot: &Spot, depths: Depths) -> f32 {
        let Spot {
            side,
            cerebellum,
            brainstem,
            ..
        } = *spot;
        let nuclei = &self.nuclei;
        if depths.pial > -brush.softness {
            self.paint_cerebrum(brush, spot, depths);
        }
        // Fluid around the brainstem and below the tentorium, then what swims in it.
        brush.fill(nuclei.cistern.depth(side), Tissue::Csf);
        if side.z < 2.0 {
            brush.fill(brainstem + 2.2, Tissue::Csf);
            brush.fill(cerebellum + 1.3, Tissue::Csf);
        }
        if cerebellum > -brush.softness {
            self.paint_cerebellum(brush, spot);
        }
        if side.z < 4.0 {
            brush.fill(brainstem, Tissue::Brainstem);
            brush.fill(nuclei.peduncle.depth(side), Tissue::CerebellarWhite);
            let capsule = nuclei.capsule.depth(side).min(brainstem + 4.0);
            brush.fill(capsule, Tissue::WhiteMatter);
            brush.fill(nuclei.aqueduct.depth(side), Tissue::Ventricle);
            brush.fill(nuclei.fourth.depth(side), Tissue::Ventricle);
        }
        // As brain extraction leaves it: notched where sulci open, cut below the medulla.
        let hull = spot.fold.hull;
        let cerebrum = (hull - 2.0).max(depths.pial.min(hull) + 0.6);
        let outer = union(cerebrum, cerebellum.max(brainstem) + 0.5, 5.0);
        coverage(common(outer, side.z + 66.0, 1.0), brush.softness)
    }

    /// Depth below the pial surface of the cerebrum, sulci and fissures taken out.
    fn pial(&self, spot: &Spot) -> f32 {
        let Spot {
            p,
            side,
            fold,
            callosum,
            ..
        } = *spot;
        let rough = self.chance.of(24).noise(p / 5.5);
        let medial = (side.x - 0.7).max(callosum.bridge);
        let outer = common(fold.hull, medial, 2.0);
        if outer < -4.0 {
            return outer;
        }
        // Some sulci are open, some closed; all are wider where they begin.
        let open = (1.0 + 0.45 * fold.wander[0]).clamp(0.0, 1.9);
        let gap = self.sulcus_mm * open + 1.25 * (-outer.max(0.0) / 2.4).exp();
        let below = |distance: f32, reach: f32| distance.hypot((outer - reach).max(0.0)) - gap;
        let main = below(fold.main + 0.8 * rough, fold.reach);
        let small = below(fold.small - 0.8 * rough, 5.0 + 1.4 * fold.wander[1]) + 0.35 * gap;
        let sulci = main.min(small).min(self.drawn_sulci(spot));
        let folded = common(outer, sulci, 3.0);
        // Sulci end before they reach nuclei and ventricles.
        folded.max((self.nuclei.core.depth(side) + 2.0).min(outer))
    }

    /// Distance to the sulci that every brain has, less half their width: the lateral (Sylvian)
    /// fissure with the insula, the cingulate, parieto-occipital and calcarine sulcus.
    fn drawn_sulci(&self, spot: &Spot) -> f32 {
        let [a, b] = spot.fold.wander;
        let Vec3 { x, y, z } = spot.side;
        let slit = |distance: f32, beyond: f32| distance.hypot(beyond.max(0.0));
        let rise = -3.0 - 0.45 * (y - 5.0);
        let sylvian = slit(
            (z - rise) * 0.91 + 0.9 * a + 0.009 * (x - 48.0).powi(2),
            (37.0 - x).max(y - 17.0).max(-44.0 - y),
        ) - 0.7;
        let bend = 0.012 * (z - rise - 3.0) * (z - rise - 3.0) + 0.006 * (y - 2.0) * (y - 2.0);
        let insula = slit(
            x + bend - 40.0 + 0.4 * b,
            (rise - 12.0 - z)
                .max(z - rise - 17.0)
                .max(y - 24.0)
                .max(-24.0 - y),
        ) - 0.6;
        let cingulate = slit(
            spot.callosum.shell + 12.0 + 1.5 * a,
            (x - 6.5 - b).max(2.0 - z).max(-38.0 - y),
        ) - self.sulcus_mm;
        let segment = |from: Vec2, to: Vec2| {
            let at = Vec2::new(y + 0.6 * a, z + 0.6 * b);
            let t = ((at - from).dot(to - from) / (to - from).length_squared()).clamp(0.0, 1.0);
            (at - from - (to - from) * t).length()
        };
        let parietal = slit(
            segment(Vec2::new(-58.0, 9.0), Vec2::new(-82.0, 46.0)),
            x - 17.0,
        ) - self.sulcus_mm;
        let calcarine = slit(
            segment(Vec2::new(-52.0, 3.0), Vec2::new(-98.0, 2.0)),
            x - 19.0,
        ) - self.sulcus_mm;
        sylvian
            .min(insula)
            .min(cingulate)
            .min(parietal)
            .min(calcarine)
    }

    /// Paints cortex and white matter, then what lies deep in it.
    fn paint_cerebrum(&self, brush: &mut Brush, spot: &Spot, depths: Depths) {
        let Spot {
            side,
            fold,
            callosum,
            ..
        } = *spot;
        let pial = depths.pial;
        brush.fill(pial, Tissue::Cortex);
        // Limbic and insular cortex are brighter on FLAIR than the occipital pole.
        let insular = 10.0 - 0.4 * side.distance(Vec3::new(36.0, 2.0, 0.0));
        let limbic = coverage(insular, 8.0).max(coverage(callosum.shell + 14.0, 6.0));
        brush.tint(coverage(pial, 1.0) * limbic, BRIGHTER);
        brush.fill(
            pial - self.cortex_mm - 0.35 * fold.slow,
            Tissue::WhiteMatter,
        );
        brush.fill(
            common(callosum.band, 15.0 - side.x, 3.0),
            Tissue::WhiteMatter,
        );
        if DEEP_MM.contains(side) {
            self.paint_deep(brush, spot, depths.ventricle);
        }
    }

    /// Paints nuclei, ventricles and what hangs in them.
    fn paint_deep(&self, brush: &mut Brush, spot: &Spot, ventricle: f32) {
        let Spot {
            p, side, callosum, ..
        } = *spot;
        let nuclei = &self.nuclei;
        // Between the bodies, below the callosum: fluid and the fornix.
        let velum = (2.6 - side.x)
            .min(callosum.inside)
            .min(side.z - 6.0)
            .min(-8.0 - side.y);
        brush.fill(velum, Tissue::Csf);
        brush.fill(self.hippocampus.depth(side), Tissue::Hippocampus);
        brush.fill(nuclei.amygdala.depth(side), Tissue::Hippocampus);
        brush.fill(nuclei.hypothalamus.depth(side), Tissue::Thalamus);
        // A thin bright rim and caps at the horns: normal, and not a lesion.
        let rim = (1.0 - (-ventricle / 2.5 - 0.2).abs()).max(0.0);
        brush.tint(rim, BRIGHTER);
        brush.fill(ventricle, Tissue::Ventricle);
        let ragged = 0.5 * self.chance.of(21).noise(p / 2.5);
        brush.fill(
            (self.plexus.depth(side) + ragged).min(ventricle),
            Tissue::ChoroidPlexus,
        );
        let septum = common(
            common(0.6 - side.x, callosum.inside, 1.0),
            (side.y + 14.0).min(side.z + 1.0),
            1.0,
        );
        brush.fill(septum.min(ventricle + 6.0), Tissue::WhiteMatter);
        brush.fill(self.fornix.depth(side), Tissue::WhiteMatter);
        brush.fill(self.caudate.depth(side), Tissue::Caudate);
        brush.fill(nuclei.putamen.depth(side), Tissue::Putamen);
        brush.fill(nuclei.pallidum.depth(side), Tissue::Pallidum);
        brush.fill(nuclei.thalamus.depth(side), Tissue::Thalamus);
        brush.fill(nuclei.third.depth(side), Tissue::Ventricle);
    }

    /// Folia are sheets that fan out from the middle of the cerebellum.
    fn paint_cerebellum(&self, brush: &mut Brush, spot: &Spot) {
        let Spot {
            p,
            fold,
            cerebellum: depth,
            ..
        } = *spot;
        let hub = Vec2::new(-46.0, -33.0);
        let at = Vec2::new(p.y, p.z) - hub;
        let bend = 0.004 * p.x.abs().powi(2)
            + 1.6 * self.chance.of(22).noise(p / 14.0)
            + 1.3 * self.chance.of(25).noise(p / 6.0)
            + 0.3 * fold.wander[0];
        let radius = at.length().max(12.0);
        let angle = at.y.atan2(-at.x) + bend / 28.0;
        let fan = |per_radian: f32| {
            let turn = angle * per_radian;
            (
                (turn - turn.round()).abs() * radius / per_radian,
                turn.round() as i32,
            )
        };
        let (main, which) = fan(4.1);
        let reach = self
            .chance
            .of(23)
            .at(IVec3::new(which, 0, 0))
            .between(6.0, 12.0);
        let (small, _) = fan(10.3);
        let middle = 0.3 * (15.0 - at.length()).max(0.0);
        let slit = |distance: f32, reach: f32| distance.hypot((depth - reach).max(0.0));
        let pial = depth
            .min(middle + slit(main, reach) - 0.45)
            .min(middle + slit(small, 4.5));
        brush.fill(pial, Tissue::CerebellarCortex);
        brush.fill((pial - 1.6).min(depth - 3.0), Tissue::CerebellarWhite);
    }
}
