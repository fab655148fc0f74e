//! What lies where in one head.
//!
//! Everything is described in a standard space, MNI millimetres with the patient's left at negative
//! x; a head of its own is that standard moved, turned, scaled and bent a little. A point is painted
//! as an artist would: head, skull, fluid, brain, nuclei, ventricles, each over what is there, and with
//! a soft edge, so that a voxel at a border holds a mixture. Positions and radii of nuclei and
//! ventricles are near the mean of 20 adult brains (the label maps that come with `SynthSeg`), then
//! moved by hand until slices looked right; face and neck were chosen to look like.
use glam::{Mat3, Vec2, Vec3};

use super::chance::{Chance, Waves};
use super::cortex::{Cortex, Fold};
use super::shapes::{Ellipsoid, Tube, common, coverage, union, union_of};
use super::signal::{Palette, Signals, Tissue};

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

/// Outline of head and neck, right half; fitted to the 14 label maps that reach below the brain.
const HEAD: [[f32; 8]; 5] = [
    [5.0, -15.2, -1.1, 79.6, 106.6, 91.6, -0.12, 0.10],
    [37.4, 9.3, -58.5, 40.0, 59.0, 85.7, -0.32, 0.09],
    [3.8, 77.6, -64.1, 14.5, 7.3, 22.3, -0.32, 2.07],
    [12.6, -52.3, -32.0, 59.5, 71.1, 123.7, -0.16, -0.82],
    [-24.4, 22.0, -81.3, 66.8, 54.5, 75.4, -0.05, 0.55],
];

/// Lateral ventricle, frontal horn and body: at each y a triangle with an outer edge (x, z), an
/// inner edge along the septum (x, upper and lower z), rounded by a radius.
const VENTRICLE: [[f32; 7]; 9] = [
    [35.0, 15.0, 5.0, 13.0, 4.0, 3.0, -1.0],
    [31.0, 14.5, 8.5, 8.0, 7.5, 2.5, 1.0],
    [24.0, 12.5, 13.0, 3.6, 12.5, 2.0, 1.6],
    [14.0, 11.5, 17.0, 2.8, 16.0, 4.0, 1.6],
    [4.0, 11.5, 21.5, 2.7, 20.0, 9.0, 1.7],
    [-8.0, 12.5, 23.5, 2.8, 21.5, 16.0, 1.8],
    [-20.0, 15.5, 24.0, 6.0, 23.0, 18.5, 2.4],
    [-33.0, 20.5, 21.0, 14.0, 20.5, 17.5, 3.4],
    [-44.0, 25.0, 13.0, 20.0, 13.0, 12.0, -2.0],
];

/// Its atrium and occipital horn.
const ATRIUM: [[f32; 4]; 4] = [
    [17.0, -31.0, 19.0, 4.0],
    [23.0, -40.0, 13.0, 6.8],
    [27.0, -50.0, 8.0, 5.2],
    [28.0, -63.0, 6.0, 1.4],
];

const FORNIX: [[f32; 4]; 5] = [
    [2.0, 2.0, -4.0, 1.4],
    [1.8, 2.0, 8.0, 1.7],
    [2.4, -10.0, 15.5, 1.8],
    [7.0, -29.0, 17.5, 1.7],
    [19.0, -38.0, 6.0, 1.5],
];

/// Its temporal horn.
const TEMPORAL_HORN: [[f32; 4]; 4] =
    [[26.0, -40.0, 9.0, 4.6], [35.5, -32.0, -7.0, 2.4], [34.5, -18.0, -15.0, 1.9], [30.5, -8.0, -21.0, 1.7]];

const CAUDATE: [[f32; 4]; 5] = [
    [14.0, 19.0, 1.0, 6.0],
    [15.0, 9.0, 11.0, 5.2],
    [17.0, -3.0, 18.5, 3.4],
    [20.5, -15.0, 21.5, 2.4],
    [27.0, -29.0, 17.0, 1.6],
];

const HIPPOCAMPUS: [[f32; 4]; 4] =
    [[21.0, -8.0, -21.0, 4.2], [26.0, -16.0, -18.0, 4.6], [29.5, -27.0, -11.0, 3.8], [25.0, -37.0, -2.0, 3.0]];

const PLEXUS: [[f32; 4]; 4] =
    [[9.5, -6.0, 16.0, 1.0], [14.0, -24.0, 17.0, 1.6], [23.5, -38.0, 11.0, 2.2], [30.0, -36.0, 1.0, 1.4]];

const SINUS: [[f32; 4]; 5] = [
    [0.0, -104.0, 4.0, 3.4],
    [6.0, -103.0, -9.0, 3.6],
    [38.0, -86.0, -19.0, 3.6],
    [57.0, -58.0, -25.0, 3.6],
    [54.0, -44.0, -42.0, 3.4],
];

/// Tissue is not of one brightness: factors at the bright end of its unevenness.
const GRAIN: Signals = [1.04, 0.985, 1.03, 1.015, 0.985];

/// The box, right half, outside which there are no nuclei, ventricles or callosum.
const DEEP_MM: Span = Span { low: Vec3::new(0.0, -70.0, -36.0), high: Vec3::new(46.0, 42.0, 42.0) };

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
    /// Depth below the pial surface of the cerebrum, mm.
    pub pial: f32,
    /// Depth in a lateral ventricle, mm: negative outside.
    pub ventricle: f32,
    /// Depth in brainstem or cerebellum, mm: negative outside.
    pub infratentorial: f32,
}

/// Paints one point, paint over paint.
struct Brush<'a> {
    palette: &'a Palette,
    softness: f32,
    signals: Signals,
    tissue: Tissue,
    host: f32,
}

impl Brush<'_> {
    /// Covers what lies deeper than 0 with `tissue`.
    fn fill(&mut self, depth: f32, tissue: Tissue) {
        self.wash(coverage(depth, self.softness), tissue);
    }

    /// Covers a share of the point with `tissue`.
    fn wash(&mut self, share: f32, tissue: Tissue) {
        if share <= 0.0 {
            return;
        }
        for (signal, &new) in self.signals.iter_mut().zip(self.palette.of(tissue)) {
            *signal += share * (new - *signal);
        }
        let host = if tissue.hosts_lesions() { 1.0 } else { 0.0 };
        self.host += share * (host - self.host);
        if share >= 0.5 {
            self.tissue = tissue;
        }
    }

    /// Brightens what is there by a factor per contrast; `share` of it.
    fn tint(&mut self, share: f32, factors: Signals) {
        for (signal, factor) in self.signals.iter_mut().zip(factors) {
            *signal *= 1.0 + share * (factor - 1.0);
        }
    }
}

/// One head.
#[derive(Debug, Clone)]
pub(super) struct Anatomy {
    chance: Chance,
    palette: Palette,
    cortex: Cortex,
    pose: Pose,
    /// Half the width of the gap in a sulcus, mm.
    sulcus_mm: f32,
    cortex_mm: f32,
    skull_mm: f32,
    head: [Ellipsoid; 5],
    cavity: [Ellipsoid; 3],
    cerebellum: [Ellipsoid; 3],
    brainstem: [Ellipsoid; 4],
    cord: Tube,
    /// Factor of the ventricles' width.
    wide: f32,
    atrium: Tube,
    temporal_horn: Tube,
    fornix: Tube,
    plexus: Tube,
    caudate: Tube,
    hippocampus: Tube,
    sinus: Tube,
    nuclei: Nuclei,
    face: Face,
}

/// Solids inside the brain that are single ellipsoids.
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
    core: Ellipsoid,
}

/// Solids outside the brain.
#[derive(Debug, Clone)]
struct Face {
    orbit: Ellipsoid,
    eye: Ellipsoid,
    lens: Ellipsoid,
    nerve: Tube,
    nose: Ellipsoid,
    frontal_sinus: Ellipsoid,
    maxillary_sinus: Ellipsoid,
    sphenoid_sinus: Ellipsoid,
    airway: Tube,
    mouth: Ellipsoid,
    mastoid: Ellipsoid,
    spine: Tube,
    temporalis: Ellipsoid,
}

/// Where one head stands: from world millimetres to the standard space.
#[derive(Debug, Clone)]
struct Pose {
    turn: Mat3,
    centre_mm: Vec3,
    bend: [Waves; 3],
    scale: f32,
}

/// The standard space's point that a head turns and grows about.
const MIDDLE: Vec3 = Vec3::new(0.0, -18.0, 8.0);

impl Pose {
    fn new(chance: Chance) -> Self {
        let draw = |n, spread: f32| chance.of(n).between(-spread, spread);
        let scale = 0.94 * (1.0 + draw(1, 0.025));
        let axes = Vec3::new(1.0 + draw(2, 0.02), 1.0 + draw(3, 0.02), 1.0 + draw(4, 0.02)) * scale;
        let turn = Mat3::from_euler(glam::EulerRot::XYZ, draw(5, 0.06), draw(6, 0.03), draw(7, 0.04));
        Self {
            turn: Mat3::from_diagonal(axes.recip()) * turn,
            centre_mm: Vec3::new(draw(8, 1.5), -18.0 + draw(9, 2.0), 9.0 + draw(10, 2.0)),
            bend: [11, 12, 13].map(|n| Waves::new(chance.of(n), 6, 110.0, 0.3)),
            scale,
        }
    }

    fn standard(&self, world: Vec3) -> Vec3 {
        let p = MIDDLE + self.turn * (world - self.centre_mm);
        p + 1.1 * Vec3::new(self.bend[0].at(p), self.bend[1].at(p), self.bend[2].at(p))
    }
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
            sulcus_mm: draw(5, 0.25, 0.5),
            cortex_mm: draw(6, 2.5, 2.9),
            skull_mm: draw(7, 5.5, 7.0),
            head: HEAD.map(ellipsoid),
            cavity: CAVITY.map(ellipsoid),
            cerebellum: CEREBELLUM.map(ellipsoid),
            brainstem: BRAINSTEM.map(ellipsoid),
            cord: Tube::new(&[[0.0, -44.0, -52.0, 7.0], [0.0, -50.0, -70.0, 6.0], [0.0, -54.0, -150.0, 5.5]], 1.0),
            wide,
            atrium: Tube::new(&ATRIUM, wide),
            temporal_horn: Tube::new(&TEMPORAL_HORN, wide),
            fornix: Tube::new(&FORNIX, 1.0),
            plexus: Tube::new(&PLEXUS, 1.0),
            caudate: Tube::new(&CAUDATE, draw(8, 0.95, 1.05)),
            hippocampus: Tube::new(&HIPPOCAMPUS, draw(9, 0.95, 1.05)),
            sinus: Tube::new(&SINUS, 1.0),
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
                capsule: Tube::new(&[[8.0, -22.0, -14.0, 5.5], [15.0, -15.0, -4.0, 5.0], [21.0, -12.0, 8.0, 5.0]], 1.0),
                core: ellipsoid([0.0, -14.0, 11.0, 33.0, 46.0, 17.0, 0.1, 0.0]),
            },
            face: Face {
                orbit: ellipsoid([31.0, 48.0, -37.0, 16.0, 27.0, 16.0, 0.0, 0.35]),
                eye: ellipsoid([35.0, 60.0, -38.0, 12.2, 12.6, 12.2, 0.0, 0.0]),
                lens: ellipsoid([35.5, 69.0, -38.0, 4.4, 2.4, 4.4, 0.0, 0.0]),
                nerve: Tube::new(&[[34.0, 48.0, -38.0, 1.8], [20.0, 26.0, -30.0, 1.8], [7.0, 10.0, -20.0, 1.8]], 1.0),
                nose: ellipsoid([0.0, 52.0, -58.0, 9.0, 30.0, 20.0, -0.2, 0.0]),
                frontal_sinus: ellipsoid([9.0, 72.0, -20.0, 9.0, 4.5, 10.0, -0.2, 0.0]),
                maxillary_sinus: ellipsoid([28.0, 44.0, -64.0, 11.0, 15.0, 14.0, 0.0, 0.2]),
                sphenoid_sinus: ellipsoid([4.0, 12.0, -36.0, 9.0, 11.0, 8.0, 0.0, 0.0]),
                airway: Tube::new(&[[0.0, 16.0, -66.0, 7.0], [0.0, 4.0, -86.0, 6.5], [0.0, -2.0, -150.0, 8.0]], 1.0),
                mouth: ellipsoid([0.0, 40.0, -98.0, 22.0, 30.0, 18.0, 0.0, 0.0]),
                mastoid: ellipsoid([52.0, -38.0, -46.0, 9.0, 12.0, 14.0, 0.0, 0.0]),
                spine: Tube::new(&[[0.0, -26.0, -78.0, 9.0], [0.0, -33.0, -100.0, 12.0], [0.0, -33.0, -150.0, 12.5]], 1.0),
                temporalis: ellipsoid([62.0, 12.0, -20.0, 14.0, 34.0, 44.0, 0.0, -0.25]),
            },
        }
    }

    /// Standard-space millimetres per world millimetre.
    fn per_world(&self) -> f32 {
        self.pose.scale.recip()
    }

    /// Paints the point at `world` (RAS+ mm) as a ball of `softness_mm` would average it.
    pub(super) fn at(&self, world: Vec3, softness_mm: f32, with: Surroundings) -> Option<Paint> {
        let p = self.pose.standard(world);
        let side = p.with_x(p.x.abs());
        let softness = softness_mm * self.per_world();
        let cavity = union_of(&self.cavity, side, 12.0);
        if with == Surroundings::Left && cavity < -3.0 - softness {
            return None;
        }
        let mut brush = Brush {
            palette: &self.palette,
            softness,
            signals: *self.palette.of(Tissue::Background),
            tissue: Tissue::Background,
            host: 0.0,
        };
        let fold = self.cortex.at(p);
        let cerebellum = union_of(&self.cerebellum, side, 8.0);
        let brainstem = union(union_of(&self.brainstem, side, 5.0), self.cord.depth(side), 4.0);
        let below = cerebellum.max(brainstem);
        // The skull follows the brain: its cavity is smooth, but nowhere far from it.
        let near = union(fold.hull + 3.2, below + 3.5, 16.0);
        let inner = cavity.min(near).max(fold.hull + 1.8).max(below + 1.8);
        if with == Surroundings::Painted && inner < softness {
            self.paint_head(&mut brush, p, side, inner);
        }
        brush.fill(inner, Tissue::Csf);
        let mut paint = Paint {
            signals: brush.signals,
            tissue: brush.tissue,
            brain: 0.0,
            host: 0.0,
            pial: -20.0,
            ventricle: -20.0,
            infratentorial: below,
        };
        if inner > -softness {
            paint.brain = self.paint_brain(&mut brush, &mut paint, p, &fold, [cerebellum, brainstem]);
            self.paint_meninges(&mut brush, side, inner, fold.hull.max(cerebellum));
        }
        let grain = self.chance.of(20).noise(p / 6.5) + 0.5 * self.chance.of(26).noise(p / 3.0) + 0.6 * fold.slow;
        brush.tint(grain, GRAIN);
        Some(Paint { signals: brush.signals, tissue: brush.tissue, host: brush.host, ..paint })
    }

    /// Paints everything inside the skull; returns how much of the point is brain.
    fn paint_brain(&self, brush: &mut Brush, paint: &mut Paint, p: Vec3, fold: &Fold, [cerebellum, brainstem]: [f32; 2]) -> f32 {
        let side = p.with_x(p.x.abs());
        let callosum = Callosum::at(side);
        let rough = self.chance.of(24).noise(p / 5.5);
        let ventricle = self.ventricle(side);
        let pial = self.pial(side, fold, callosum, rough);
        // White matter surrounds the ventricles: no sulcus comes near.
        let pial = pial.max((ventricle + 6.0).min(fold.hull));
        (paint.pial, paint.ventricle) = (pial, ventricle);
        if pial > -brush.softness {
            self.paint_cerebrum(brush, paint, p, fold, callosum);
        }
        // Fluid around the brainstem and below the tentorium, then what swims in it.
        brush.fill(common(self.nuclei.cistern.depth(side), 30.0, 1.0), Tissue::Csf);
        if side.z < 2.0 {
            brush.fill(brainstem + 2.2, Tissue::Csf);
            brush.fill(cerebellum + 1.3, Tissue::Csf);
        }
        if cerebellum > -brush.softness {
            self.paint_cerebellum(brush, p, cerebellum, fold);
        }
        if side.z < 4.0 {
            brush.fill(brainstem, Tissue::Brainstem);
            brush.fill(self.nuclei.peduncle.depth(side), Tissue::CerebellarWhite);
            brush.fill(self.nuclei.capsule.depth(side).min(brainstem + 4.0), Tissue::WhiteMatter);
            brush.fill(self.nuclei.aqueduct.depth(side), Tissue::Ventricle);
            brush.fill(self.nuclei.fourth.depth(side), Tissue::Ventricle);
        }
        // As brain extraction leaves it: notched where sulci open.
        let cerebrum = (fold.hull - 2.0).max(pial.min(fold.hull) + 0.6);
        let outer = union(cerebrum, cerebellum.max(brainstem) + 0.5, 5.0);
        coverage(common(outer, p.z + 66.0, 1.0), brush.softness)
    }

    /// Depth in a lateral ventricle.
    fn ventricle(&self, side: Vec3) -> f32 {
        let body = union(wedge(side, self.wide), self.atrium.depth(side), 4.0);
        union(body, self.temporal_horn.depth(side), 2.0)
    }

    /// Depth below the pial surface of the cerebrum, sulci and fissures taken out.
    fn pial(&self, side: Vec3, fold: &Fold, callosum: Callosum, rough: f32) -> f32 {
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
        let folded = common(outer, main.min(small).min(self.drawn_sulci(side, fold, callosum)), 3.0);
        // Sulci end before they reach nuclei and ventricles.
        folded.max((self.nuclei.core.depth(side) + 2.0).min(outer))
    }

    /// Distance to the sulci that every brain has, less half their width: the lateral (Sylvian)
    /// fissure with the insula, the cingulate, parieto-occipital and calcarine sulcus.
    fn drawn_sulci(&self, side: Vec3, fold: &Fold, callosum: Callosum) -> f32 {
        let [a, b] = fold.wander;
        let Vec3 { x, y, z } = side;
        let slit = |distance: f32, beyond: f32| distance.hypot(beyond.max(0.0));
        let rise = -3.0 - 0.45 * (y - 5.0);
        let sylvian = slit((z - rise) * 0.91 + 0.9 * a + 0.009 * (x - 48.0).powi(2), (37.0 - x).max(y - 17.0).max(-44.0 - y)) - 0.7;
        let bend = 0.012 * (z - rise - 3.0) * (z - rise - 3.0) + 0.006 * (y - 2.0) * (y - 2.0);
        let insula = slit(x + bend - 40.0 + 0.4 * b, (rise - 12.0 - z).max(z - rise - 17.0).max(y - 24.0).max(-24.0 - y)) - 0.6;
        let cingulate = slit(callosum.shell + 12.0 + 1.5 * a, (x - 6.5 - b).max(2.0 - z).max(-38.0 - y)) - self.sulcus_mm;
        let segment = |from: Vec2, to: Vec2| {
            let at = Vec2::new(y + 0.6 * a, z + 0.6 * b);
            let t = ((at - from).dot(to - from) / (to - from).length_squared()).clamp(0.0, 1.0);
            (at - from - (to - from) * t).length()
        };
        let parietal = slit(segment(Vec2::new(-58.0, 9.0), Vec2::new(-82.0, 46.0)), x - 17.0) - self.sulcus_mm;
        let calcarine = slit(segment(Vec2::new(-52.0, 3.0), Vec2::new(-98.0, 2.0)), x - 19.0) - self.sulcus_mm;
        sylvian.min(insula).min(cingulate).min(parietal).min(calcarine)
    }

    fn paint_cerebrum(&self, brush: &mut Brush, paint: &mut Paint, p: Vec3, fold: &Fold, callosum: Callosum) {
        let side = p.with_x(p.x.abs());
        let pial = paint.pial;
        brush.fill(pial, Tissue::Cortex);
        // Limbic and insular cortex are brighter on FLAIR than the occipital pole.
        let limbic = coverage(10.0 - (side - Vec3::new(36.0, 2.0, 0.0)).length() * 0.4, 8.0).max(coverage(callosum.shell + 14.0, 6.0));
        brush.tint(coverage(pial, 1.0) * limbic, [1.05, 1.0, 1.03, 1.02, 1.0]);
        brush.fill(pial - self.cortex_mm - 0.35 * fold.slow, Tissue::WhiteMatter);
        brush.fill(common(callosum.band, 15.0 - side.x, 3.0), Tissue::WhiteMatter);
        if !DEEP_MM.contains(side) {
            return;
        }
        let nuclei = &self.nuclei;
        // Between the bodies, below the callosum: fluid and the fornix.
        let velum = (2.6 - side.x).min(callosum.inside).min(side.z - 6.0).min(-8.0 - side.y);
        brush.fill(velum, Tissue::Csf);
        brush.fill(self.hippocampus.depth(side), Tissue::Hippocampus);
        brush.fill(nuclei.amygdala.depth(side), Tissue::Hippocampus);
        brush.fill(nuclei.hypothalamus.depth(side), Tissue::Thalamus);
        let roof = callosum.band.max(-20.0);
        let ventricle = paint.ventricle;
        paint.ventricle = ventricle.min(-roof);
        // A thin bright rim and caps at the horns: normal, and not a lesion.
        let rim = (1.0 - (-ventricle / 2.5 - 0.2).abs()).max(0.0);
        brush.tint(rim, [1.05, 1.0, 1.03, 1.02, 1.0]);
        brush.fill(common(ventricle, -roof, 1.5), Tissue::Ventricle);
        let ragged = 0.5 * self.chance.of(21).noise(p / 2.5);
        brush.fill((self.plexus.depth(side) + ragged).min(ventricle), Tissue::ChoroidPlexus);
        let septum = common(common(0.6 - side.x, callosum.inside, 1.0), (side.y + 14.0).min(side.z + 1.0), 1.0);
        brush.fill(septum.min(ventricle + 6.0), Tissue::WhiteMatter);
        brush.fill(self.fornix.depth(side), Tissue::WhiteMatter);
        brush.fill(self.caudate.depth(side), Tissue::Caudate);
        brush.fill(nuclei.putamen.depth(side), Tissue::Putamen);
        brush.fill(nuclei.pallidum.depth(side), Tissue::Pallidum);
        brush.fill(nuclei.thalamus.depth(side), Tissue::Thalamus);
        brush.fill(nuclei.third.depth(side), Tissue::Ventricle);
    }

    /// Folia are sheets that fan out from the middle of the cerebellum.
    fn paint_cerebellum(&self, brush: &mut Brush, p: Vec3, depth: f32, fold: &Fold) {
        let hub = Vec2::new(-46.0, -33.0);
        let at = Vec2::new(p.y, p.z) - hub;
        let bend = 0.004 * p.x.abs().powi(2) + 1.6 * self.chance.of(22).noise(p / 14.0) + 1.3 * self.chance.of(25).noise(p / 6.0) + 0.3 * fold.wander[0];
        let radius = at.length().max(12.0);
        let angle = at.y.atan2(-at.x) + bend / 28.0;
        let fan = |per_radian: f32| {
            let turn = angle * per_radian;
            ((turn - turn.round()).abs() * radius / per_radian, turn.round() as i32)
        };
        let (main, which) = fan(4.1);
        let reach = self.chance.of(23).at(glam::IVec3::new(which, 0, 0)).between(5.0, 11.0);
        let (small, _) = fan(10.3);
        let middle = 0.3 * (19.0 - at.length()).max(0.0);
        let slit = |distance: f32, reach: f32| distance.hypot((depth - reach).max(0.0));
        let pial = depth.min(middle + slit(main, reach) - 0.3).min(middle + slit(small, 4.0) + 0.1);
        brush.fill(pial, Tissue::CerebellarCortex);
        brush.fill((pial - 1.5).min(depth - 3.0), Tissue::CerebellarWhite);
    }

    /// Dura, venous sinuses and vessels.
    fn paint_meninges(&self, brush: &mut Brush, side: Vec3, inner: f32, brain: f32) {
        if brush.tissue != Tissue::Csf && inner > 4.0 {
            return;
        }
        // The sagittal sinus: a prism with its base on the skull.
        let sagittal = (5.0 - inner * 0.9 - side.x).min(side.z + 20.0).min(62.0 - side.y);
        let sinus = if inner < 8.0 { sagittal } else { -20.0 };
        brush.fill(sinus.max(self.sinus.depth(side)).min(-brain), Tissue::Vessel);
    }

    /// Paints scalp, skull, face and neck.
    fn paint_head(&self, brush: &mut Brush, p: Vec3, side: Vec3, inner: f32) {
        let head = union_of(&self.head, side, 14.0);
        if head < -brush.softness {
            return;
        }
        let rough = self.chance.of(30).noise(p / 6.0);
        let slow = self.chance.of(31).noise(p / 22.0);
        brush.fill(head, Tissue::Skin);
        brush.fill(head - 1.8 - 0.3 * slow, Tissue::Fat);
        let below_vault = coverage(-24.0 - side.z + 0.25 * side.y.min(0.0), 16.0);
        // Muscle: thin under the scalp, thick at temple, face and neck, streaked with fat.
        let fascia = head - (5.2 + 1.5 * slow + 3.0 * below_vault);
        brush.fill(fascia, Tissue::Muscle);
        let plane = 0.9 - 9.0 * self.chance.of(32).noise(p / 13.0).abs();
        brush.fill(plane.min(fascia).min(4.0 * below_vault - 2.0), Tissue::Fat);
        let face = &self.face;
        brush.fill(face.temporalis.depth(side).min(fascia + 1.0), Tissue::Muscle);
        brush.fill(face.mouth.depth(side), Tissue::Muscle);
        // The vault: two tables with marrow in between; thinner at the temples.
        let thin = coverage(side.x - 52.0, 20.0) * coverage(10.0 - side.z, 30.0);
        let thick = self.skull_mm * (1.0 - 0.35 * thin) + 0.8 * slow;
        let skull = inner + thick;
        brush.fill(skull.min(head - 3.0), Tissue::Bone);
        brush.fill((skull - 1.4).min(-inner - 1.5).min(head - 4.0) - 0.5 * rough.max(0.0), Tissue::Marrow);
        self.paint_face(brush, side, head, rough);
    }

    fn paint_face(&self, brush: &mut Brush, side: Vec3, head: f32, rough: f32) {
        let face = &self.face;
        if side.z > 20.0 {
            return;
        }
        let orbit = face.orbit.depth(side);
        brush.fill((orbit + 1.5).min(head - 3.0), Tissue::Bone);
        brush.fill(orbit.min(head - 1.5), Tissue::Fat);
        brush.fill(face.nerve.depth(side), Tissue::Brainstem);
        let eye = face.eye.depth(side);
        brush.fill(eye + 1.2, Tissue::Muscle);
        brush.fill(eye, Tissue::Vitreous);
        brush.fill(face.lens.depth(side), Tissue::Lens);
        let spine = face.spine.depth(side);
        brush.fill(spine, Tissue::Bone);
        brush.fill(spine - 1.2, Tissue::Marrow);
        for cave in [&face.maxillary_sinus, &face.frontal_sinus, &face.sphenoid_sinus, &face.nose] {
            let depth = cave.depth(side).min(head - 4.0);
            brush.fill(depth + 1.8, Tissue::Bone);
            brush.fill(depth + 0.9, Tissue::Mucosa);
            brush.fill(depth, Tissue::Background);
        }
        // Conchae and septum of the nose.
        let nose = face.nose.depth(side).min(head - 4.0);
        let shelf = (1.6 - (4.0 * (side.z / 4.2 - 0.18 * side.x).sin().abs())).min(side.x - 2.2);
        brush.fill(nose.min(shelf.max(0.8 - side.x) + 0.5 * rough), Tissue::Mucosa);
        brush.fill(face.airway.depth(side), Tissue::Background);
        let mastoid = face.mastoid.depth(side).min(head - 6.0);
        brush.fill(mastoid, Tissue::Bone);
        brush.fill(mastoid.min(rough * 4.0), Tissue::Background);
    }
}

/// Whether scalp, skull and face are painted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surroundings {
    Painted,
    Left,
}

/// Depth in the frontal horn and body of a lateral ventricle, [`VENTRICLE`], `wide` times as wide.
fn wedge(side: Vec3, wide: f32) -> f32 {
    let Some(rows) = VENTRICLE.windows(2).find(|rows| rows[1][0] <= side.y && side.y <= rows[0][0])
    else {
        return -20.0;
    };
    let t = (rows[0][0] - side.y) / (rows[0][0] - rows[1][0]);
    let [_, x_outer, z_outer, x_inner, z_upper, z_lower, radius]: [f32; 7] =
        std::array::from_fn(|n| rows[0][n] + t * (rows[1][n] - rows[0][n]));
    let outer = Vec2::new(x_inner + (x_outer - x_inner) * wide, z_outer);
    let corners = [outer, Vec2::new(x_inner, z_lower), Vec2::new(x_inner, z_upper)];
    radius * wide + triangle(corners, Vec2::new(side.x, side.z))
}

/// Depth in a triangle whose corners run clockwise.
fn triangle(corners: [Vec2; 3], at: Vec2) -> f32 {
    let (mut nearest, mut inside) = (f32::INFINITY, f32::INFINITY);
    for n in 0..3 {
        let (from, to) = (corners[n], corners[(n + 1) % 3]);
        let along = to - from;
        let t = ((at - from).dot(along) / along.length_squared()).clamp(0.0, 1.0);
        nearest = nearest.min(at.distance(from + along * t));
        inside = inside.min((at - from).perp_dot(along) / along.length());
    }
    if inside >= 0.0 { inside } else { -nearest }
}

/// Depths in and around the callosum, in the plane of the midline.
#[derive(Debug, Clone, Copy)]
struct Callosum {
    /// Depth below its outer surface.
    shell: f32,
    /// Depth in the band itself.
    band: f32,
    /// Depth below its inner surface.
    inside: f32,
    /// Depth in what joins the hemispheres: callosum, what lies below it, diencephalon.
    bridge: f32,
}

impl Callosum {
    fn at(side: Vec3) -> Self {
        // The arch rises a little to the sides.
        let at = Vec2::new(side.y + 3.5, side.z - 6.0 - 0.012 * side.x.min(20.0).powi(2));
        let radii = Vec2::new(37.0, 23.5);
        let (k0, k1) = ((at / radii).length(), (at / radii / radii).length().max(1e-6));
        let shell = k0 * (1.0 - k0) / k1;
        let ends = (at.y / radii.y).atan2(at.x / radii.x);
        let thick = 6.0 + 3.5 * (at.x / radii.x).powi(2);
        let open = if at.x > 0.0 { (ends + 0.5) * 20.0 } else { (at.y + 1.0).min(20.0) };
        let band = shell.min(thick - shell).min(open);
        let stem = 15.0 - Vec2::new(side.y + 9.0, side.z + 5.0).length();
        let bridge = shell.min(at.y + 4.0).max(stem).max(band);
        Self { shell, band, inside: shell - thick, bridge }
    }
}
