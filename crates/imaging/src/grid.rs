//! Where voxels lie in the world.
//!
//! A [`Grid`] is a shape in file order and an affine to world millimetres, RAS+ (x to the patient's
//! right, y to the front, z upwards). It is the only place in Dawson that turns voxel coordinates
//! into world ones and back, so that an axis can be mixed up in one place at the most; the three
//! kinds of coordinates are three types. It holds no samples (see [`crate::volume`]).
use std::fmt;

use glam::{DAffine3, DMat3, DVec3};

/// The most voxels that a grid may have: 2³¹ − 1, so that every index fits 32 bits.
pub const MAX_VOXELS: usize = i32::MAX as usize;

/// Spacings below this are not of a scanner, in millimetres.
pub const MIN_SPACING_MM: f64 = 0.01;

/// Spacings above this are not of a scanner, in millimetres.
pub const MAX_SPACING_MM: f64 = 100.0;

/// A shape `[i, j, k]` in file order (i runs fastest) with an affine to RAS+ millimetres.
///
/// The affine takes the *centre* of voxel `[0, 0, 0]` to its translation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    shape: [usize; 3],
    affine: DAffine3,
}

/// A voxel, counted from 0 along each axis of a grid.
pub type VoxelIndex = [usize; 3];

/// A place between voxels, in voxels; `[0, 0, 0]` is the centre of the first voxel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoxelPoint(pub DVec3);

/// A place in the world, RAS+ millimetres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldPoint(pub DVec3);

/// Why a shape and an affine do not make a grid.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// An axis without voxels.
    #[error("axis {axis} has no voxels")]
    EmptyAxis {
        /// 0, 1 or 2.
        axis: usize,
    },
    /// More voxels than [`MAX_VOXELS`].
    #[error("{} x {} x {} voxels are more than {MAX_VOXELS}", shape[0], shape[1], shape[2])]
    TooManyVoxels {
        /// The shape asked for.
        shape: [usize; 3],
    },
    /// NaN or infinity in the affine.
    #[error("the affine holds a value that is not a finite number")]
    NotFinite,
    /// A voxel smaller or larger than any scanner makes it.
    #[error(
        "axis {axis} has a spacing of {spacing_mm} mm, must be {MIN_SPACING_MM} to {MAX_SPACING_MM}"
    )]
    Spacing {
        /// 0, 1 or 2.
        axis: usize,
        /// Its spacing.
        spacing_mm: f64,
    },
    /// Axes that (nearly) lie in one plane: world points have no voxel.
    #[error("the affine is singular: its axes span {volume:.1e} of a box, must be at least 0.1")]
    Singular {
        /// Determinant of the unit axes, 1 for a right-angled grid.
        volume: f64,
    },
}

/// Axis codes of a grid such as `RAS` or `LPI`: where each axis points, nearest anatomical direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    /// For each voxel axis the world axis (0 x, 1 y, 2 z) that it follows most.
    pub world_axis: [usize; 3],
    /// For each voxel axis whether it runs against that world axis.
    pub reversed: [bool; 3],
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CODES: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];
        for (axis, reversed) in self.world_axis.iter().zip(self.reversed) {
            write!(f, "{}", CODES[*axis][usize::from(reversed)])?;
        }
        Ok(())
    }
}

impl Orientation {
    /// Every orientation there is: 6 orders of the axes times 8 directions.
    #[must_use]
    pub fn all() -> Vec<Self> {
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let directions = |n: usize| [n & 1 != 0, n & 2 != 0, n & 4 != 0];
        ORDERS
            .iter()
            .flat_map(|&world_axis| {
                (0..8).map(move |n| Self {
                    world_axis,
                    reversed: directions(n),
                })
            })
            .collect()
    }

    /// Reads three letters such as `RAS`, in any case; `None` if they are not one of the 48.
    #[must_use]
    pub fn parse(codes: &str) -> Option<Self> {
        Self::all()
            .into_iter()
            .find(|o| o.to_string().eq_ignore_ascii_case(codes))
    }
}

impl Grid {
    /// Makes a grid of `shape` voxels whose centres `affine` takes to RAS+ millimetres.
    ///
    /// # Errors
    /// Each [`GridError`]: an empty axis, too many voxels, a value that is not finite, a spacing
    /// outside [`MIN_SPACING_MM`] to [`MAX_SPACING_MM`], a singular affine.
    pub fn new(shape: [usize; 3], affine: DAffine3) -> Result<Self, GridError> {
        if let Some(axis) = shape.iter().position(|&n| n == 0) {
            return Err(GridError::EmptyAxis { axis });
        }
        shape
            .iter()
            .try_fold(1_usize, |all, &n| all.checked_mul(n))
            .filter(|&all| all <= MAX_VOXELS)
            .ok_or(GridError::TooManyVoxels { shape })?;
        if !affine.is_finite() {
            return Err(GridError::NotFinite);
        }
        let axes = columns(affine.matrix3);
        for (axis, column) in axes.iter().enumerate() {
            let spacing_mm = column.length();
            if !(MIN_SPACING_MM..=MAX_SPACING_MM).contains(&spacing_mm) {
                return Err(GridError::Spacing { axis, spacing_mm });
            }
        }
        let [x, y, z] = axes.map(DVec3::normalize);
        let volume = x.cross(y).dot(z).abs();
        if volume < 0.1 {
            return Err(GridError::Singular { volume });
        }
        Ok(Self { shape, affine })
    }

    /// Voxels along each axis, `[i, j, k]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The number of voxels.
    #[must_use]
    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Voxel to RAS+ millimetres.
    #[must_use]
    pub fn affine(&self) -> DAffine3 {
        self.affine
    }

    /// Distance between neighbouring voxels along each axis, in millimetres.
    #[must_use]
    pub fn spacing_mm(&self) -> [f64; 3] {
        columns(self.affine.matrix3).map(DVec3::length)
    }

    /// The volume of one voxel in millilitres.
    #[must_use]
    pub fn voxel_ml(&self) -> f64 {
        self.affine.matrix3.determinant().abs() / 1000.0
    }

    /// The place of a voxel in the samples of a volume: i runs fastest.
    #[must_use]
    pub fn offset(&self, [i, j, k]: VoxelIndex) -> usize {
        i + self.shape[0] * (j + self.shape[1] * k)
    }

    /// The voxel at an offset: the inverse of [`Grid::offset`].
    #[must_use]
    pub fn index(&self, offset: usize) -> VoxelIndex {
        let [ni, nj, _] = self.shape;
        [offset % ni, offset / ni % nj, offset / (ni * nj)]
    }

    /// The world point of a voxel point.
    #[must_use]
    pub fn world(&self, at: VoxelPoint) -> WorldPoint {
        WorldPoint(self.affine.transform_point3(at.0))
    }

    /// The world point of a voxel's centre.
    #[must_use]
    pub fn centre_of(&self, at: VoxelIndex) -> WorldPoint {
        self.world(VoxelPoint(DVec3::from(at.map(|n| n as f64))))
    }

    /// The voxel point of a world point; it may lie outside the grid.
    #[must_use]
    pub fn voxel(&self, at: WorldPoint) -> VoxelPoint {
        VoxelPoint(self.affine.inverse().transform_point3(at.0))
    }

    /// The affine from voxel points of `self` to voxel points of `other`.
    #[must_use]
    pub fn to_voxels_of(&self, other: &Grid) -> DAffine3 {
        other.affine.inverse() * self.affine
    }

    /// The nearest anatomical direction of each axis.
    ///
    /// Of the six ways to assign voxel axes to world axes, the one whose cosines add up to most.
    #[must_use]
    pub fn orientation(&self) -> Orientation {
        let cosines = columns(self.affine.matrix3).map(|c| c.normalize().to_array());
        let fit = |o: &Orientation| -> f64 {
            (0..3)
                .map(|a| {
                    let cosine = cosines[a][o.world_axis[a]];
                    if o.reversed[a] { -cosine } else { cosine }
                })
                .sum()
        };
        // `all` is never empty; the first of equal fits is taken, so that the choice is stable.
        Orientation::all().into_iter().fold(
            Orientation {
                world_axis: [0, 1, 2],
                reversed: [false; 3],
            },
            |best, o| if fit(&o) > fit(&best) + 1e-9 { o } else { best },
        )
    }

    /// The same voxels with their axes put in the order and direction nearest to RAS+.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let orientation = self.orientation();
        let axes = columns(self.affine.matrix3);
        let (mut shape, mut columns_out) = ([0; 3], [DVec3::ZERO; 3]);
        let mut origin = self.affine.translation;
        for axis in 0..3 {
            let world_axis = orientation.world_axis[axis];
            shape[world_axis] = self.shape[axis];
            columns_out[world_axis] = axes[axis];
            if orientation.reversed[axis] {
                origin += axes[axis] * (self.shape[axis] - 1) as f64;
                columns_out[world_axis] = -axes[axis];
            }
        }
        let [x, y, z] = columns_out;
        let affine = DAffine3 {
            matrix3: DMat3::from_cols(x, y, z),
            translation: origin,
        };
        Self { shape, affine }
    }

    /// The same voxels with their axes put in another order and direction.
    #[must_use]
    pub fn oriented(&self, orientation: Orientation) -> Self {
        let canonical = self.canonical();
        let axes = columns(canonical.affine.matrix3);
        let mut shape = [0; 3];
        let mut columns_out = [DVec3::ZERO; 3];
        let mut origin = canonical.affine.translation;
        for axis in 0..3 {
            let world_axis = orientation.world_axis[axis];
            shape[axis] = canonical.shape[world_axis];
            columns_out[axis] = axes[world_axis];
            if orientation.reversed[axis] {
                origin += axes[world_axis] * (canonical.shape[world_axis] - 1) as f64;
                columns_out[axis] = -axes[world_axis];
            }
        }
        let [x, y, z] = columns_out;
        Self {
            shape,
            affine: DAffine3 {
                matrix3: DMat3::from_cols(x, y, z),
                translation: origin,
            },
        }
    }

    /// The same field of view with another spacing, rounded up to whole voxels; the centres agree.
    ///
    /// # Errors
    /// [`GridError::TooManyVoxels`] if that would be too fine, [`GridError::Spacing`] if a spacing
    /// is out of range.
    pub fn with_spacing(&self, spacing_mm: [f64; 3]) -> Result<Self, GridError> {
        let old = self.spacing_mm();
        let axes = columns(self.affine.matrix3);
        let (mut shape, mut new_axes) = (self.shape, axes);
        let mut corner = self.affine.translation;
        for a in 0..3 {
            let ratio = spacing_mm[a] / old[a];
            if (ratio - 1.0).abs() < 1e-3 {
                continue; // The headers of a 1 mm scan say 0.99999: no reason to resample it.
            }
            let extent = self.shape[a] as f64 / ratio;
            // A whisker of a voxel more is rounding, not a new voxel.
            shape[a] = ((extent - 1e-6).ceil() as usize).max(1);
            new_axes[a] = axes[a] * ratio;
            let middle = axes[a] * ((self.shape[a] - 1) as f64 / 2.0);
            corner += middle - new_axes[a] * ((shape[a] - 1) as f64 / 2.0);
        }
        let [x, y, z] = new_axes;
        Self::new(
            shape,
            DAffine3 {
                matrix3: DMat3::from_cols(x, y, z),
                translation: corner,
            },
        )
    }

    /// The grid of a box of this one: `shape` voxels from voxel `start`, which may lie outside.
    ///
    /// # Errors
    /// [`GridError`] if the box is empty or too large.
    pub fn crop(&self, start: [isize; 3], shape: [usize; 3]) -> Result<Self, GridError> {
        let at = VoxelPoint(DVec3::from(start.map(|n| n as f64)));
        Self::new(
            shape,
            DAffine3 {
                matrix3: self.affine.matrix3,
                translation: self.world(at).0,
            },
        )
    }

    /// The world box around the centres of all voxels: its least and its largest corner.
    #[must_use]
    pub fn bounds(&self) -> (WorldPoint, WorldPoint) {
        let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
        for corner in 0..8_usize {
            let at = [0, 1, 2].map(|a| {
                if corner >> a & 1 == 0 {
                    0
                } else {
                    self.shape[a] - 1
                }
            });
            let WorldPoint(at) = self.centre_of(at);
            low = low.min(at);
            high = high.max(at);
        }
        (WorldPoint(low), WorldPoint(high))
    }

    /// The voxels of the smallest box of this grid that holds a world box, in file order.
    pub fn within(&self, low: DVec3, high: DVec3) -> impl Iterator<Item = VoxelIndex> + use<> {
        let (mut first, mut last) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
        for corner in 0..8_u8 {
            let pick = |bit: u8, a: usize| {
                if corner >> bit & 1 == 0 {
                    low[a]
                } else {
                    high[a]
                }
            };
            let world = DVec3::new(pick(0, 0), pick(1, 1), pick(2, 2));
            let VoxelPoint(at) = self.voxel(WorldPoint(world));
            first = first.min(at);
            last = last.max(at);
        }
        let [i, j, k] = [0, 1, 2].map(|a| {
            let most = (self.shape[a] - 1) as f64;
            first[a].floor().clamp(0.0, most) as usize..=last[a].ceil().clamp(0.0, most) as usize
        });
        k.flat_map(move |k| {
            let i = i.clone();
            j.clone()
                .flat_map(move |j| i.clone().map(move |i| [i, j, k]))
        })
    }

    /// The largest distance in millimetres by which two affines put a corner of this grid apart.
    #[must_use]
    pub fn disagreement_mm(&self, other: DAffine3) -> f64 {
        (0..8_usize)
            .map(|corner| {
                let at = [0, 1, 2].map(|a| {
                    if corner >> a & 1 == 0 {
                        0.0
                    } else {
                        (self.shape[a] - 1) as f64
                    }
                });
                let at = DVec3::from(at);
                (self.affine.transform_point3(at) - other.transform_point3(at)).length()
            })
            .fold(0.0, f64::max)
    }
}

/// The three columns of a matrix: the step in the world of one voxel along each axis.
pub(crate) fn columns(m: DMat3) -> [DVec3; 3] {
    [m.x_axis, m.y_axis, m.z_axis]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oblique(spacing: [f64; 3], angle: f64) -> DAffine3 {
        let turn = DMat3::from_euler(glam::EulerRot::XYZ, angle, -angle / 2.0, angle / 3.0);
        DAffine3 {
            matrix3: turn * DMat3::from_diagonal(DVec3::from(spacing)),
            translation: DVec3::new(-90.0, 126.0, -72.0),
        }
    }

    #[test]
    fn every_orientation_has_its_own_name_and_is_read_back() {
        let all = Orientation::all();
        let names: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!((all.len(), names.len()), (48, 48));
        assert!(
            all.iter()
                .all(|o| Orientation::parse(&o.to_string()) == Some(*o))
        );
        assert_eq!(Orientation::parse("RAR"), None);
    }

    #[test]
    fn a_singular_affine_is_refused_with_its_figure() {
        let flat = DAffine3::from_cols_array(&[1., 0., 0., 1., 1e-3, 0., 0., 0., 1., 0., 0., 0.]);
        assert!(matches!(
            Grid::new([2, 2, 2], flat),
            Err(GridError::Singular { .. })
        ));
        let nan = DAffine3::from_translation(DVec3::splat(f64::NAN));
        assert_eq!(Grid::new([2, 2, 2], nan), Err(GridError::NotFinite));
        let huge = Grid::new([usize::MAX, 2, 2], DAffine3::IDENTITY);
        assert!(matches!(huge, Err(GridError::TooManyVoxels { .. })));
    }

    proptest! {
        #[test]
        fn the_canonical_grid_covers_the_same_points(n in 0_usize..48, angle in -0.4_f64..0.4,
                                                     shape in [2_usize..9, 2..9, 2..9]) {
            let o = Orientation::all()[n];
            let mut m = [[0.0; 3]; 3];
            for a in 0..3 {
                m[a][o.world_axis[a]] = if o.reversed[a] { -1.5 } else { 1.5 };
            }
            let turn = oblique([1.0; 3], angle);
            let axes = DMat3::from_cols(m[0].into(), m[1].into(), m[2].into());
            let affine = DAffine3 { matrix3: turn.matrix3 * axes, translation: turn.translation };
            let grid = Grid::new(shape, affine).unwrap();
            prop_assert_eq!(grid.orientation(), o);
            let canonical = grid.canonical();
            prop_assert!(grid.disagreement_mm(canonical.oriented(o).affine()) < 1e-9);
            prop_assert_eq!(canonical.oriented(o).shape(), grid.shape());
            prop_assert_eq!(canonical.orientation().to_string(), "RAS");
            prop_assert_eq!(canonical.voxels(), grid.voxels());
            let to = canonical.to_voxels_of(&grid);
            let first = to.transform_point3(DVec3::ZERO);
            for a in 0..3 {
                let want = if o.reversed[a] { (shape[a] - 1) as f64 } else { 0.0 };
                prop_assert!((first[a] - want).abs() < 1e-9);
            }
        }

        #[test]
        fn a_voxel_survives_the_way_to_the_world_and_back(at in [0.0_f64..99.0, -9.0..99.0, 0.0..9.0],
                                                          angle in -3.0_f64..3.0) {
            let grid = Grid::new([10, 20, 30], oblique([0.7, 0.7, 4.0], angle)).unwrap();
            let there = grid.voxel(grid.world(VoxelPoint(at.into())));
            prop_assert!((there.0 - DVec3::from(at)).length() < 1e-9);
        }

        #[test]
        fn another_spacing_keeps_the_centre_and_covers_the_field_of_view(
            shape in [1_usize..60, 1..60, 1..60], spacing in [0.3_f64..5.0, 0.3..5.0, 0.3..5.0],
        ) {
            let grid = Grid::new(shape, oblique(spacing, 0.2)).unwrap();
            let new = grid.with_spacing([1.0; 3]).unwrap();
            let centre = |g: &Grid| {
                g.world(VoxelPoint(DVec3::from(g.shape().map(|n| (n as f64 - 1.0) / 2.0)))).0
            };
            prop_assert!((centre(&grid) - centre(&new)).length() < 1e-6);
            for a in 0..3 {
                let (old_mm, new_mm) =
                    (shape[a] as f64 * spacing[a], new.shape()[a] as f64 * new.spacing_mm()[a]);
                prop_assert!(new_mm > old_mm - 1e-3 * old_mm && new_mm < old_mm + 1.001);
            }
        }
    }
}
