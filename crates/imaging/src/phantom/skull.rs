//! What lies around the brain: scalp, skull, face, neck and the venous sinuses.
//!
//! The outline is measured; what is below the skin was chosen to look like, and is there so that
//! preprocessing has something to take away.
use glam::Vec3;

use super::paint::Brush;
use super::shapes::{Ellipsoid, Tube, coverage, union_of};
use super::signal::Tissue;
use crate::chance::Chance;

/// Outline of head and neck, right half; fitted to the 14 label maps that reach below the brain.
const HEAD: [[f32; 8]; 5] = [
    [5.0, -15.2, -1.1, 79.6, 106.6, 91.6, -0.12, 0.10],
    [37.4, 9.3, -58.5, 40.0, 59.0, 85.7, -0.32, 0.09],
    [3.8, 77.6, -64.1, 14.5, 7.3, 22.3, -0.32, 2.07],
    [12.6, -52.3, -32.0, 59.5, 71.1, 123.7, -0.16, -0.82],
    [-24.4, 22.0, -81.3, 66.8, 54.5, 75.4, -0.05, 0.55],
];

/// Transverse and sigmoid sinus.
const SINUS: [[f32; 4]; 5] = [
    [0.0, -104.0, 4.0, 3.4],
    [6.0, -103.0, -9.0, 3.6],
    [38.0, -86.0, -19.0, 3.6],
    [57.0, -58.0, -25.0, 3.6],
    [54.0, -44.0, -42.0, 3.4],
];

/// Everything outside the brain.
#[derive(Debug, Clone)]
pub(super) struct Surface {
    chance: Chance,
    skull_mm: f32,
    head: [Ellipsoid; 5],
    sinus: Tube,
    face: Face,
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

impl Surface {
    pub(super) fn new(chance: Chance) -> Self {
        let ellipsoid = Ellipsoid::new;
        Self {
            chance,
            skull_mm: chance.of(7).between(5.5, 7.0),
            head: HEAD.map(ellipsoid),
            sinus: Tube::new(&SINUS, 1.0),
            face: Face {
                orbit: ellipsoid([31.0, 48.0, -37.0, 16.0, 27.0, 16.0, 0.0, 0.35]),
                eye: ellipsoid([35.0, 60.0, -38.0, 12.2, 12.6, 12.2, 0.0, 0.0]),
                lens: ellipsoid([35.5, 69.0, -38.0, 4.4, 2.4, 4.4, 0.0, 0.0]),
                nerve: Tube::new(
                    &[
                        [34.0, 48.0, -38.0, 1.8],
                        [20.0, 26.0, -30.0, 1.8],
                        [7.0, 10.0, -20.0, 1.8],
                    ],
                    1.0,
                ),
                nose: ellipsoid([0.0, 52.0, -58.0, 9.0, 30.0, 20.0, -0.2, 0.0]),
                frontal_sinus: ellipsoid([9.0, 72.0, -20.0, 9.0, 4.5, 10.0, -0.2, 0.0]),
                maxillary_sinus: ellipsoid([28.0, 44.0, -64.0, 11.0, 15.0, 14.0, 0.0, 0.2]),
                sphenoid_sinus: ellipsoid([4.0, 12.0, -36.0, 9.0, 11.0, 8.0, 0.0, 0.0]),
                airway: Tube::new(
                    &[
                        [0.0, 16.0, -66.0, 7.0],
                        [0.0, 4.0, -86.0, 6.5],
                        [0.0, -2.0, -150.0, 8.0],
                    ],
                    1.0,
                ),
                mouth: ellipsoid([0.0, 40.0, -98.0, 22.0, 30.0, 18.0, 0.0, 0.0]),
                mastoid: ellipsoid([52.0, -38.0, -46.0, 9.0, 12.0, 14.0, 0.0, 0.0]),
                spine: Tube::new(
                    &[
                        [0.0, -26.0, -78.0, 9.0],
                        [0.0, -33.0, -100.0, 12.0],
                        [0.0, -33.0, -150.0, 12.5],
                    ],
                    1.0,
                ),
                temporalis: ellipsoid([62.0, 12.0, -20.0, 14.0, 34.0, 44.0, 0.0, -0.25]),
            },
        }
    }

    /// Paints scalp, skull, face and neck around a cavity of depth `inner`.
    pub(super) fn paint(&self, brush: &mut Brush, p: Vec3, inner: f32) {
        let side = p.with_x(p.x.abs());
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
        let plane = 0.6 - 11.0 * self.chance.of(32).noise(p / 19.0).abs();
        brush.fill(plane.min(fascia).min(4.0 * below_vault - 2.0), Tissue::Fat);
        let face = &self.face;
        brush.fill(
            face.temporalis.depth(side).min(fascia + 1.0),
            Tissue::Muscle,
        );
        brush.fill(face.mouth.depth(side), Tissue::Muscle);
        // The vault: two tables with marrow in between; thinner at the temples.
        let thin = coverage(side.x - 52.0, 20.0) * coverage(10.0 - side.z, 30.0);
        let thick = self.skull_mm * (1.0 - 0.35 * thin) + 0.8 * slow;
        let skull = inner + thick;
        brush.fill(skull.min(head - 3.0), Tissue::Bone);
        brush.fill(
            (skull - 1.4).min(-inner - 1.5).min(head - 4.0) - 0.5 * rough.max(0.0),
            Tissue::Marrow,
        );
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
        for cave in [
            &face.maxillary_sinus,
            &face.frontal_sinus,
            &face.sphenoid_sinus,
            &face.nose,
        ] {
            let depth = cave.depth(side).min(head - 4.0);
            brush.fill(depth + 1.8, Tissue::Bone);
            brush.fill(depth + 0.9, Tissue::Mucosa);
            brush.fill(depth, Tissue::Background);
        }
        // Conchae and septum of the nose.
        let nose = face.nose.depth(side).min(head - 4.0);
        let shelf = (1.6 - (4.0 * (side.z / 4.2 - 0.18 * side.x).sin().abs())).min(side.x - 2.2);
        brush.fill(
            nose.min(shelf.max(0.8 - side.x) + 0.5 * rough),
            Tissue::Mucosa,
        );
        brush.fill(face.airway.depth(side), Tissue::Background);
        let mastoid = face.mastoid.depth(side).min(head - 6.0);
        brush.fill(mastoid, Tissue::Bone);
        brush.fill(mastoid.min(rough * 4.0), Tissue::Background);
    }

    /// Paints the venous sinuses between the skull and a brain of depth `brain`.
    pub(super) fn paint_sinuses(&self, brush: &mut Brush, side: Vec3, inner: f32, brain: f32) {
        if brush.tissue != Tissue::Csf && inner > 4.0 {
            return;
        }
        // The sagittal sinus: a prism with its base on the skull.
        let sagittal = (5.0 - inner * 0.9 - side.x)
            .min(side.z + 20.0)
            .min(62.0 - side.y);
        let sinus = if inner < 8.0 { sagittal } else { -20.0 };
        brush.fill(
            sinus.max(self.sinus.depth(side)).min(-brain),
            Tissue::Vessel,
        );
    }
}
