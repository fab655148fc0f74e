//! Where one head stands, how large it is and how it is bent.
use glam::{EulerRot, Mat3, Vec3};

use crate::chance::{Chance, Waves};

/// Where one head stands: from world millimetres to the standard space.
#[derive(Debug, Clone)]
pub(super) struct Pose {
    turn: Mat3,
    centre_mm: Vec3,
    bend: [Waves; 3],
    /// World millimetres per millimetre of the standard space.
    pub scale: f32,
}

/// The standard space's point that a head turns and grows about.
const MIDDLE: Vec3 = Vec3::new(0.0, -18.0, 8.0);

impl Pose {
    pub(super) fn new(chance: Chance) -> Self {
        let draw = |n, spread: f32| chance.of(n).between(-spread, spread);
        let scale = 0.94 * (1.0 + draw(1, 0.025));
        let axes = Vec3::new(
            1.0 + draw(2, 0.02),
            1.0 + draw(3, 0.02),
            1.0 + draw(4, 0.02),
        ) * scale;
        let turn = Mat3::from_euler(EulerRot::XYZ, draw(5, 0.06), draw(6, 0.03), draw(7, 0.04));
        Self {
            turn: Mat3::from_diagonal(axes.recip()) * turn,
            centre_mm: Vec3::new(draw(8, 1.5), -18.0 + draw(9, 2.0), 9.0 + draw(10, 2.0)),
            bend: [11, 12, 13].map(|n| Waves::new(chance.of(n), 6, 110.0, 0.3)),
            scale,
        }
    }

    /// Whether a point of the world is certainly outside the skull's cavity.
    pub(super) fn is_far(&self, world: Vec3) -> bool {
        let away = (world - self.centre_mm) / Vec3::new(86.0, 108.0, 96.0);
        away.length_squared() > 1.0
    }

    /// The point of the standard space at a point of the world.
    pub(super) fn standard(&self, world: Vec3) -> Vec3 {
        let p = MIDDLE + self.turn * (world - self.centre_mm);
        p + 1.1 * Vec3::new(self.bend[0].at(p), self.bend[1].at(p), self.bend[2].at(p))
    }
}
