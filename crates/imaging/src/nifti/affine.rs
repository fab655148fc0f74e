//! Where a scan lies in the world: sform, else qform, else pixdim, as the standard orders them.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "vectors of floats do not overflow into a panic"
)]
use glam::{DAffine3, DMat3, DQuat, DVec3};

use super::Error;
use super::header::Version;
use crate::grid::{Grid, columns};

/// The header fields that place voxels in the world, kept as they were found so that a result can
/// carry the very same ones. Floats are widened from NIfTI-1's 32 bits without loss.
#[derive(Debug, Clone, PartialEq)]
pub struct SpatialFields {
    /// The edition that the fields come from and are written in.
    pub version: Version,
    /// `pixdim[0]` is qfac; 1 to 3 are spacings.
    pub pixdim: [f64; 8],
    /// Units of space (bits 0-2) and time (bits 3-5).
    pub xyzt_units: i32,
    /// 0 if the quaternion means nothing.
    pub qform_code: i32,
    /// 0 if the rows mean nothing.
    pub sform_code: i32,
    /// `quatern_b`, `quatern_c`, `quatern_d`.
    pub quatern: [f64; 3],
    /// `qoffset_x`, `qoffset_y`, `qoffset_z`.
    pub qoffset: [f64; 3],
    /// `srow_x`, `srow_y`, `srow_z`.
    pub srow: [[f64; 4]; 3],
}

/// Which fields an affine was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffineSource {
    /// The three rows of the affine.
    Sform,
    /// Quaternion, offset and spacings.
    Qform,
    /// Spacings alone: left and right are unknown.
    Pixdim,
}

impl AffineSource {
    /// The field's name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sform => "sform",
            Self::Qform => "qform",
            Self::Pixdim => "pixdim",
        }
    }
}

/// A scan's grid, how it was found, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Shape and affine.
    pub grid: Grid,
    /// The fields that were believed.
    pub source: AffineSource,
    /// Where sform and qform are both set: how far apart they put the corner that differs most.
    pub disagreement_mm: Option<f64>,
}

impl SpatialFields {
    /// Fields that describe `grid`: sform and, where the axes are at right angles, the same qform.
    #[must_use]
    pub fn of(grid: &Grid) -> Self {
        let affine = grid.affine();
        let spacing = grid.spacing_mm();
        let row = |r: usize| {
            let m = affine.matrix3;
            let [x, y, z] = columns(m).map(|c| c.to_array());
            let at = |v: [f64; 3]| v.get(r).copied().unwrap_or(0.0);
            [at(x), at(y), at(z), at(affine.translation.to_array())]
        };
        let (quatern, qfac, right_angled) = quaternion(affine.matrix3);
        let [di, dj, dk] = spacing;
        Self {
            version: Version::One,
            pixdim: [qfac, di, dj, dk, 0.0, 0.0, 0.0, 0.0],
            xyzt_units: 2,
            qform_code: i32::from(right_angled),
            sform_code: 1,
            quatern,
            qoffset: affine.translation.to_array(),
            srow: [row(0), row(1), row(2)],
        }
    }

    /// The grid of an image of `shape` voxels.
    ///
    /// # Errors
    /// [`Error::Affine`] if the believed fields do not make a grid, [`Error::Quaternion`].
    pub fn placement(&self, shape: [usize; 3]) -> Result<Placement, Error> {
        let source = match (self.sform_code, self.qform_code) {
            (1.., _) => AffineSource::Sform,
            (_, 1..) => AffineSource::Qform,
            _ => AffineSource::Pixdim,
        };
        let affine = match source {
            AffineSource::Sform => self.sform(),
            AffineSource::Qform => self.qform()?,
            AffineSource::Pixdim => {
                DAffine3::from_mat3(DMat3::from_diagonal(self.spacings() * self.unit_mm()))
            }
        };
        let grid = Grid::new(shape, affine).map_err(|reason| Error::Affine {
            field: source.name(),
            reason,
        })?;
        let disagreement_mm = (source == AffineSource::Sform && self.qform_code > 0)
            .then(|| self.qform().map(|qform| grid.disagreement_mm(qform)))
            .and_then(Result::ok);
        Ok(Placement {
            grid,
            source,
            disagreement_mm,
        })
    }

    /// Millimetres in the header's unit of space (metres, micrometres, else millimetres).
    fn unit_mm(&self) -> f64 {
        match self.xyzt_units & 7 {
            1 => 1000.0,
            3 => 0.001,
            _ => 1.0,
        }
    }

    fn spacings(&self) -> DVec3 {
        let [_, i, j, k, ..] = self.pixdim;
        DVec3::new(i, j, k).abs()
    }

    fn sform(&self) -> DAffine3 {
        let [x, y, z] = self.srow;
        let ([xi, xj, xk, xo], [yi, yj, yk, yo], [zi, zj, zk, zo]) = (x, y, z);
        let mm = self.unit_mm();
        DAffine3 {
            matrix3: DMat3::from_cols(
                DVec3::new(xi, yi, zi),
                DVec3::new(xj, yj, zj),
                DVec3::new(xk, yk, zk),
            ) * mm,
            translation: DVec3::new(xo, yo, zo) * mm,
        }
    }

    /// nifti1.h, method 2: rotation by the quaternion `[a, b, c, d]`, third axis times qfac.
    fn qform(&self) -> Result<DAffine3, Error> {
        let [b, c, d] = self.quatern;
        let squared = b * b + c * c + d * d;
        // Written in 32 bits, a half turn may come out a little longer than 1.
        if !squared.is_finite() || squared > 1.0 + 1e-4 {
            return Err(Error::Quaternion { found: squared });
        }
        let a = (1.0 - squared).max(0.0).sqrt();
        let turn = DMat3::from_quat(DQuat::from_xyzw(b, c, d, a).normalize());
        let [qfac, ..] = self.pixdim;
        let mut spacings = self.spacings() * self.unit_mm();
        if qfac < 0.0 {
            spacings.z = -spacings.z;
        }
        Ok(DAffine3 {
            matrix3: turn * DMat3::from_diagonal(spacings),
            translation: DVec3::from(self.qoffset) * self.unit_mm(),
        })
    }
}

/// The quaternion (b, c, d) of a matrix's rotation, its qfac, and whether its axes are at right
/// angles, so that the quaternion tells the whole truth.
fn quaternion(matrix: DMat3) -> ([f64; 3], f64, bool) {
    let [x, y, z] = columns(matrix).map(DVec3::normalize);
    let right_angled = x.dot(y).abs().max(y.dot(z).abs()).max(z.dot(x).abs()) < 1e-6;
    let qfac = if x.cross(y).dot(z) < 0.0 { -1.0 } else { 1.0 };
    let turn = DQuat::from_mat3(&DMat3::from_cols(x, y, z * qfac)).normalize();
    let sign = if turn.w < 0.0 { -1.0 } else { 1.0 };
    (
        [turn.x * sign, turn.y * sign, turn.z * sign],
        qfac,
        right_angled,
    )
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests index what they made")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grid::Orientation;

    fn grid(n: usize, angle: f64) -> Grid {
        let o = Orientation::all()[n];
        let mut axes = [DVec3::ZERO; 3];
        for a in 0..3 {
            axes[a][o.world_axis[a]] = if o.reversed[a] { -1.0 } else { 1.0 };
        }
        let turn = DMat3::from_euler(glam::EulerRot::XYZ, angle, angle / 3.0, -angle / 2.0);
        let spacing = DMat3::from_diagonal(DVec3::new(0.5, 0.75, 4.0));
        let matrix3 = turn * DMat3::from_cols(axes[0], axes[1], axes[2]) * spacing;
        Grid::new(
            [20, 30, 10],
            DAffine3 {
                matrix3,
                translation: DVec3::new(-1.5, 20.0, 7.25),
            },
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn sform_and_qform_of_a_grid_agree(n in 0_usize..48, angle in -0.6_f64..0.6) {
            let grid = grid(n, angle);
            let both = SpatialFields::of(&grid);
            let found = both.placement(grid.shape()).unwrap();
            prop_assert_eq!(found.source, AffineSource::Sform);
            prop_assert!(found.disagreement_mm.unwrap() < 1e-6);
            prop_assert!(grid.disagreement_mm(found.grid.affine()) < 1e-9);
            let qform = SpatialFields { sform_code: 0, srow: [[9.0; 4]; 3], ..both };
            let found = qform.placement(grid.shape()).unwrap();
            prop_assert_eq!(found.source, AffineSource::Qform);
            prop_assert!(grid.disagreement_mm(found.grid.affine()) < 1e-6);
        }
    }

    #[test]
    fn a_disagreement_is_measured_in_millimetres_at_the_worst_corner() {
        let grid = grid(0, 0.0);
        let mut fields = SpatialFields::of(&grid);
        fields.qoffset[0] += 3.0;
        let found = fields.placement(grid.shape()).unwrap();
        assert!((found.disagreement_mm.unwrap() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn without_codes_only_the_spacings_are_believed() {
        let grid = grid(17, 0.3);
        let fields = SpatialFields {
            sform_code: 0,
            qform_code: 0,
            ..SpatialFields::of(&grid)
        };
        let found = fields.placement(grid.shape()).unwrap();
        assert_eq!(found.source, AffineSource::Pixdim);
        assert_eq!(found.grid.orientation().to_string(), "RAS");
    }

    #[test]
    fn a_singular_sform_is_refused_and_not_replaced_by_the_qform() {
        let grid = grid(0, 0.0);
        let fields = SpatialFields {
            srow: [[0.0; 4]; 3],
            ..SpatialFields::of(&grid)
        };
        let refused = fields.placement(grid.shape());
        assert!(
            matches!(refused, Err(Error::Affine { field: "sform", .. })),
            "{refused:?}"
        );
        let long = SpatialFields {
            sform_code: 0,
            quatern: [1.0, 1.0, 0.0],
            ..fields
        };
        assert!(matches!(
            long.placement(grid.shape()),
            Err(Error::Quaternion { .. })
        ));
    }
}
