//! Where the moving head lies for the fixed one, and how a search moves it.
//!
//! A pose is a map of world points; it turns about the fixed head's centre, so that turning and
//! shifting hardly depend on each other. A search steps in numbers that are all millimetres: a shift,
//! and angles (or the entries of a strain) times the head's radius.
use glam::{DAffine3, DMat3, DQuat, DVec3};

/// Numbers of an affine step: three of the shift, nine of the strain.
pub(super) const MOST: usize = 12;

/// What a registration may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freedom {
    /// Three angles and three shifts.
    Rigid,
    /// Twelve: scaling and shearing too, for scans that their gradients stretch.
    Affine,
}

impl Freedom {
    /// How many numbers a step has.
    pub(super) fn numbers(self) -> usize {
        match self {
            Self::Rigid => 6,
            Self::Affine => MOST,
        }
    }
}

/// A step of a search or a slope along it; numbers beyond [`Freedom::numbers`] are 0.
pub(super) type Step = [f64; MOST];

/// The slope of a value, as a map's points feel it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slope {
    /// Per millimetre of shift.
    pub(super) shift: DVec3,
    /// Per strain: the entry in row r and column c belongs to the matrix with one 1 there, applied to
    /// the turned point.
    pub(super) strain: DMat3,
}

impl Slope {
    /// No slope, or none that is asked for.
    pub(super) const NONE: Self = Self {
        shift: DVec3::ZERO,
        strain: DMat3::ZERO,
    };
}

/// The map `x ↦ linear · (x − centre) + centre + shift` from the fixed world to the moving one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    pub(super) centre: DVec3,
    pub(super) linear: DMat3,
    pub(super) shift: DVec3,
}

impl Pose {
    /// The headers' own word: nothing moves.
    pub(super) fn still(centre: DVec3) -> Self {
        Self {
            centre,
            linear: DMat3::IDENTITY,
            shift: DVec3::ZERO,
        }
    }

    /// The same, shifted and then turned about the head's centre by a rotation vector in radians.
    pub(super) fn moved(self, shift: DVec3, turn: DVec3) -> Self {
        Self {
            linear: rotation(turn) * self.linear,
            shift: self.shift + shift,
            ..self
        }
    }

    /// As a map of world points.
    pub(super) fn motion(&self) -> DAffine3 {
        DAffine3 {
            matrix3: self.linear,
            translation: self.centre + self.shift - self.linear * self.centre,
        }
    }

    /// Takes a step; `radius_mm` turns its angles and strains into millimetres.
    pub(super) fn stepped(self, step: &Step, freedom: Freedom, radius_mm: f64) -> Self {
        let shift = DVec3::from_slice(&step[..3]);
        match freedom {
            Freedom::Rigid => self.moved(shift, DVec3::from_slice(&step[3..6]) / radius_mm),
            Freedom::Affine => Self {
                linear: self.linear + strain(step) * (1.0 / radius_mm) * self.linear,
                shift: self.shift + shift,
                ..self
            },
        }
    }

    /// The mean distance by which two poses put the points of a ball of `radius_mm` apart, about.
    pub(super) fn apart_mm(&self, other: &Self, radius_mm: f64) -> f64 {
        let turned = self.linear - other.linear;
        let squares: f64 = turned.to_cols_array().iter().map(|x| x * x).sum();
        let across = (self.shift - other.shift).length_squared();
        (across + squares / 3.0 * radius_mm * radius_mm).sqrt()
    }

    /// The angle of the rotation in degrees; of an affine pose, that of the nearest rotation.
    pub(super) fn rotation_deg(&self) -> f64 {
        let [_, _, _, w] = DQuat::from_mat3(&nearest_rotation(self.linear)).to_array();
        2.0 * w.abs().min(1.0).acos().to_degrees()
    }
}

impl Slope {
    /// The slope along each number of a step.
    pub(super) fn along(&self, freedom: Freedom, radius_mm: f64) -> Step {
        let mut slope = [0.0; MOST];
        slope[..3].copy_from_slice(&self.shift.to_array());
        let rows = self.strain.transpose().to_cols_array();
        match freedom {
            // A small turn about x is the strain that takes y to z and z to minus y, and so on.
            Freedom::Rigid => {
                let [_, xy, xz, yx, _, yz, zx, zy, _] = rows;
                slope[3..6].copy_from_slice(&[zy - yz, xz - zx, yx - xy]);
            }
            Freedom::Affine => slope[3..].copy_from_slice(&rows),
        }
        for number in &mut slope[3..] {
            *number /= radius_mm;
        }
        slope
    }
}

/// The rotation by a vector: its length in radians about its direction (Rodrigues).
fn rotation(vector: DVec3) -> DMat3 {
    DMat3::from_quat(DQuat::from_scaled_axis(vector))
}

/// The matrix of the nine last numbers, row by row.
fn strain(step: &Step) -> DMat3 {
    let mut rows = [0.0; 9];
    rows.copy_from_slice(&step[3..]);
    DMat3::from_cols_array(&rows).transpose()
}

/// The rotation nearest to a matrix: the limit of its mean with its inverse transpose (Higham,
/// SIAM J. Sci. Stat. Comput. 7:1160, 1986).
fn nearest_rotation(matrix: DMat3) -> DMat3 {
    (0..8).fold(matrix, |m, _| (m + m.inverse().transpose()) * 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_reported_in_degrees_and_leaves_the_centre_where_it_is() {
        let centre = DVec3::new(10.0, -20.0, 30.0);
        let pose = Pose::still(centre).moved(
            DVec3::new(1.0, 2.0, 3.0),
            DVec3::new(0.0, 0.0, 12.0_f64.to_radians()),
        );
        assert!((pose.rotation_deg() - 12.0).abs() < 1e-9);
        let moved = pose.motion().transform_point3(centre) - centre;
        assert!((moved - DVec3::new(1.0, 2.0, 3.0)).length() < 1e-12);
        let stretched = Pose {
            linear: pose.linear * DMat3::from_diagonal(DVec3::new(1.05, 1.0, 0.96)),
            ..pose
        };
        assert!((stretched.rotation_deg() - 12.0).abs() < 0.1);
    }

    #[test]
    fn an_affine_step_stays_an_affine_map_and_a_rigid_one_stays_rigid() {
        let step = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let rigid = Pose::still(DVec3::ONE).stepped(&step, Freedom::Rigid, 60.0);
        let square = rigid.linear.transpose() * rigid.linear;
        assert!(square.abs_diff_eq(DMat3::IDENTITY, 1e-12));
        let affine = Pose::still(DVec3::ONE).stepped(&step, Freedom::Affine, 60.0);
        assert!(
            (affine.linear.row(0) - DVec3::new(1.0 + 4.0 / 60.0, 5.0 / 60.0, 0.1)).length() < 1e-12
        );
    }
}
