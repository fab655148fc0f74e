//! Where lesions lie, and what they do to the picture.
//!
//! Lesions are ellipsoids with a ragged border, placed in world millimetres by zone as in the criteria
//! of McDonald (Thompson et al. 2018): at the ventricles, long axis away from the wall (Dawson's
//! fingers); below the cortex; in deep white matter; below the tentorium. They grow only where
//! [`Tissue::hosts_lesions`](super::Tissue) says so. Shares and sizes were chosen to look like.
use glam::{IVec3, Mat3, Vec3};

use super::anatomy::{Anatomy, Depths, Paint, Surroundings};
use super::shapes::coverage;
use super::signal::{LESION, Signals};
use crate::chance::Chance;

/// Millilitres are counted on a lattice of this spacing, whatever grid is asked for.
const COUNTING_MM: f32 = 1.0;

/// Longest and shortest half-axis of a lesion, mm.
const RADIUS_MM: [f32; 2] = [1.6, 10.0];

/// The box, RAS+ mm, that places are drawn from; lesions are rare at the frontal pole.
const BOX_MM: [Vec3; 2] = [Vec3::new(-66.0, -100.0, -52.0), Vec3::new(66.0, 52.0, 70.0)];

/// Tries to find a place before a lesion is given up, and lesions tried before the load is.
const TRIES: u64 = 4000;
const LESIONS_MAX: u64 = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Periventricular,
    Juxtacortical,
    Deep,
    Infratentorial,
}

/// One lesion.
#[derive(Debug, Clone)]
struct Lesion {
    centre: Vec3,
    /// Rows are its axes, the long one first.
    axes: Mat3,
    radii: Vec3,
    ragged: Chance,
    /// Brightness of this lesion against the usual one.
    gain: f32,
    /// How much darker than white matter on T1w, against the usual one.
    black: f32,
    /// Peak of the enhancement on T1gd, 0 if it is not active.
    enhancement: f32,
}

impl Lesion {
    /// Depth below its border at `world`, mm; `None` when far away.
    fn depth(&self, world: Vec3) -> Option<f32> {
        let away = world - self.centre;
        let reach = self.radii.x * 1.7 + 4.0;
        if away.length_squared() > reach * reach {
            return None;
        }
        let least = self.radii.min_element();
        let ragged = 1.0
            + 0.34 * self.ragged.noise(world / (0.8 * least + 1.0))
            + 0.12 * self.ragged.of(1).noise(world / 1.6);
        Some((1.0 - (self.axes * away / self.radii).length() * ragged) * least)
    }

    fn scaled(&self, factor: f32) -> Self {
        let [least, most] = RADIUS_MM.map(Vec3::splat);
        Self {
            radii: (self.radii * factor).clamp(least * 0.8, most),
            ..self.clone()
        }
    }
}

/// All lesions of one head.
#[derive(Debug, Clone)]
pub(super) struct Lesions(Vec<Lesion>);

impl Lesions {
    /// Places lesions until they add up to `load_ml`.
    pub(super) fn new(chance: Chance, anatomy: &Anatomy, load_ml: f64) -> Self {
        let mut lesions = Self(Vec::new());
        let mut left_ml = load_ml;
        let enough_ml = (0.02 * load_ml).max(0.008);
        for n in 0..LESIONS_MAX {
            if left_ml <= enough_ml {
                break;
            }
            let Some(mut lesion) = place(chance.of(n), anatomy, load_ml, &lesions) else {
                continue;
            };
            let mut ml = lesions.added_ml(&lesion, anatomy);
            for _ in 0..3 {
                if ml <= left_ml * 1.05 {
                    break;
                }
                lesion = lesion.scaled((left_ml / ml).cbrt().max(0.3) as f32);
                ml = lesions.added_ml(&lesion, anatomy);
            }
            // A crumb is no lesion; a last one that will not shrink any further is left out.
            if ml >= 0.012 && ml <= left_ml * 1.05 + enough_ml {
                left_ml -= ml;
                lesions.0.push(lesion);
            }
        }
        lesions.activate(chance.of(LESIONS_MAX));
        lesions
    }

    /// Lets one or two of the larger lesions enhance.
    fn activate(&mut self, chance: Chance) {
        let mut by_size: Vec<usize> = (0..self.0.len()).collect();
        by_size.sort_by(|&a, &b| {
            self.0[b]
                .radii
                .element_product()
                .total_cmp(&self.0[a].radii.element_product())
        });
        let active = if chance.of(1).unit() < 0.5 { 1 } else { 2 };
        // Not the largest: those are old.
        for &n in by_size.iter().skip(by_size.len() / 4).take(active) {
            self.0[n].enhancement = chance.of(2).between(0.75, 1.0);
        }
    }

    /// What `lesion` adds to what is there, millilitres.
    fn added_ml(&self, lesion: &Lesion, anatomy: &Anatomy) -> f64 {
        let reach = Vec3::splat(lesion.radii.x * 1.7 + 1.0);
        let low = ((lesion.centre - reach) / COUNTING_MM).floor().as_ivec3();
        let high = ((lesion.centre + reach) / COUNTING_MM).ceil().as_ivec3();
        let mut inside = 0_usize;
        for z in low.z..=high.z {
            for y in low.y..=high.y {
                for x in low.x..=high.x {
                    let world = IVec3::new(x, y, z).as_vec3() * COUNTING_MM;
                    if lesion.depth(world).is_none_or(|depth| depth < 0.0) || self.covers(world) {
                        continue;
                    }
                    let paint = anatomy.at(world, COUNTING_MM, Surroundings::Left);
                    inside += usize::from(paint.is_some_and(|paint| paint.host >= 0.5));
                }
            }
        }
        inside as f64 * f64::from(COUNTING_MM).powi(3) / 1000.0
    }

    fn covers(&self, world: Vec3) -> bool {
        self.0
            .iter()
            .any(|lesion| lesion.depth(world).is_some_and(|depth| depth >= 0.0))
    }

    /// Paints the lesions over `paint`; returns how much of the point is lesion.
    pub(super) fn paint(&self, world: Vec3, softness_mm: f32, paint: &mut Paint) -> f32 {
        if paint.host <= 0.0 {
            return 0.0;
        }
        let mut inside = 0.0_f32;
        let mut strongest: Option<(f32, Signals)> = None;
        for lesion in &self.0 {
            let Some(depth) = lesion.depth(world) else {
                continue;
            };
            inside = inside.max(coverage(depth, softness_mm));
            // The border is softer than a voxel: inflammation fades out.
            let share = coverage(depth, softness_mm + 0.9);
            let halo = 0.16 * (depth.min(0.0) / 2.0).exp();
            let share = share.max(halo);
            if strongest.is_none_or(|(most, _)| share > most) {
                strongest = Some((share, lesion.signals(depth, world)));
            }
        }
        if let Some((share, signals)) = strongest {
            for (signal, lesion) in paint.signals.iter_mut().zip(signals) {
                *signal += share * paint.host * (lesion - *signal);
            }
        }
        if paint.host >= 0.5 { inside } else { 0.0 }
    }
}

impl Lesion {
    /// Its signals at a depth below its border.
    fn signals(&self, depth: f32, world: Vec3) -> Signals {
        let core = (depth / self.radii.min_element()).clamp(0.0, 1.0);
        let texture = 1.0 + 0.10 * self.ragged.of(2).noise(world / 2.5);
        let excess = self.gain * texture * (0.86 + 0.28 * core);
        let mut signals = LESION.map(|signal| 1.0 + (signal - 1.0) * excess);
        let black = self.black * (0.6 + 0.8 * core);
        signals[1] = 1.0 + (LESION[1] - 1.0) * black;
        // Small active lesions enhance as a whole, larger ones as a ring.
        let ring = if self.radii.min_element() < 3.5 {
            1.0
        } else {
            1.0 - 0.8 * core
        };
        signals[4] = 1.0 + (LESION[4] - 1.0) * black + self.enhancement * ring;
        signals
    }
}

/// Looks for a place for one more lesion.
fn place(chance: Chance, anatomy: &Anatomy, load_ml: f64, others: &Lesions) -> Option<Lesion> {
    let zone = match chance.of(1).unit() {
        u if u < 0.42 => Zone::Periventricular,
        u if u < 0.62 => Zone::Juxtacortical,
        u if u < 0.89 => Zone::Deep,
        _ => Zone::Infratentorial,
    };
    // A wide spread of sizes; patients with a higher load have larger lesions.
    let spread = (0.5 * chance.of(2).normals()[0]).exp().clamp(0.55, 2.6);
    let size = spread * ((load_ml / 8.0).max(1e-3).powf(0.2) as f32).clamp(0.75, 1.35);
    let stretch = match zone {
        Zone::Periventricular => chance.of(3).between(1.5, 2.3),
        _ => chance.of(3).between(1.0, 1.5),
    };
    let radius = size
        * if zone == Zone::Infratentorial {
            2.4
        } else {
            3.4
        };
    let [least, most] = RADIUS_MM;
    let flat = chance.of(4).between(0.8, 1.0);
    let radii = Vec3::new(radius * stretch, radius, radius * flat)
        .clamp(Vec3::splat(least), Vec3::splat(most));
    let at = |world| anatomy.at(world, COUNTING_MM, Surroundings::Left);
    for n in 0..TRIES {
        let draw = chance.of(100 + n);
        let seat = draw.point(BOX_MM[0], BOX_MM[1]);
        let Some(paint) = at(seat) else { continue };
        if paint.host < 0.9 || !suits(zone, paint.depths, radii.y) {
            continue;
        }
        let long = match zone {
            Zone::Periventricular => away_from_ventricle(anatomy, seat)?,
            _ => draw.of(4).direction(),
        };
        let centre = match zone {
            Zone::Periventricular => seat + long * (0.75 * radii.x),
            _ => seat,
        };
        let apart =
            |other: &Lesion| centre.distance(other.centre) > 0.8 * (radii.y + other.radii.y) + 2.0;
        if !others.0.iter().all(apart) || at(centre).is_none_or(|paint| paint.host < 0.9) {
            continue;
        }
        let across = long.any_orthonormal_vector();
        let draw = chance.of(5);
        return Some(Lesion {
            centre,
            axes: Mat3::from_cols(long, across, long.cross(across)).transpose(),
            radii,
            ragged: chance.of(6),
            gain: draw.of(1).between(0.9, 1.15),
            black: draw.of(2).between(0.4, 1.2),
            enhancement: 0.0,
        });
    }
    None
}

fn suits(zone: Zone, depths: Depths, radius: f32) -> bool {
    let supratentorial = depths.infratentorial < -6.0;
    match zone {
        Zone::Periventricular => supratentorial && (-2.2..-0.3).contains(&depths.ventricle),
        Zone::Juxtacortical => {
            supratentorial
                && (3.2..4.0 + 0.5 * radius).contains(&depths.pial)
                && depths.ventricle < -9.0
        }
        Zone::Deep => {
            supratentorial
                && depths.pial > 4.5 + 0.7 * radius
                && (-19.0..-5.0 - radius).contains(&depths.ventricle)
        }
        Zone::Infratentorial => depths.infratentorial > 2.5,
    }
}

/// The direction in which the ventricle recedes; `None` where there is no telling.
fn away_from_ventricle(anatomy: &Anatomy, world: Vec3) -> Option<Vec3> {
    let depth = |step: Vec3| {
        anatomy
            .at(world + step, COUNTING_MM, Surroundings::Left)
            .map(|paint| paint.depths.ventricle)
    };
    let slope = |axis: Vec3| Some(depth(-axis)? - depth(axis)?);
    Vec3::new(slope(Vec3::X)?, slope(Vec3::Y)?, slope(Vec3::Z)?).try_normalize()
}
