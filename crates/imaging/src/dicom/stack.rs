//! From the planes of a series to stacks, and from a stack to a grid.
//!
//! Positions alone are believed: never `InstanceNumber`, `SliceLocation`, `SliceThickness` or
//! `SpacingBetweenSlices`. What does not make an even, upright stack is refused by name, because a volume
//! with a wrong geometry is worse than none.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "vectors of floats do not overflow into a panic"
)]
use glam::{DAffine3, DMat3, DVec3};

use super::header::{Frame, Image};
use super::pixels::Cells;
use crate::grid::Grid;

/// Cosines that differ by less are of one orientation.
const SAME_COSINE: f64 = 1e-3;
/// Echo times that differ by less are of one echo.
const SAME_ECHO_MS: f64 = 0.5;
/// Positions nearer than this share of the spacing are one.
const SAME_POSITION: f64 = 0.01;
/// Gaps may differ from the median by this share of it, or [`LEAST_TOLERANCE_MM`].
const GAP_TOLERANCE: f64 = 0.01;
const LEAST_TOLERANCE_MM: f64 = 0.01;
/// How near to a whole multiple of the spacing a gap is that a missing slice leaves.
const NEAR_WHOLE: f64 = 0.1;
/// The most that a stack may lean over its whole height, in voxels.
const MAX_LEAN: f64 = 0.1;
/// Fewer slices, or less of the head, show no brain.
const MIN_SLICES: usize = 10;
const MIN_EXTENT_MM: f64 = 80.0;
/// Slices further apart than this show too little between them.
const MAX_SPACING_MM: f64 = 10.0;
/// More stacks than this are no series of a brain examination.
const MAX_STACKS: usize = 64;

/// Why a stack of planes is not a volume.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No position, so nothing is known of where the slices lie.
    #[error("ImagePositionPatient is missing, or is not three numbers")]
    NoPosition,
    /// No orientation, or cosines that are none.
    #[error("ImageOrientationPatient is missing, or is not two unit vectors at right angles")]
    NoOrientation,
    /// No size of a pixel.
    #[error("PixelSpacing is missing, or is not two lengths")]
    NoSpacing,
    /// Too few slices.
    #[error("{found} slices, a volume needs at least {MIN_SLICES}")]
    TooFewSlices {
        /// How many there are.
        found: usize,
    },
    /// Too little of the head.
    #[error("the slices cover {extent_mm:.0} mm, a brain needs at least {MIN_EXTENT_MM}")]
    TooThin {
        /// From the first slice to the last, and half a slice on both sides.
        extent_mm: f64,
    },
    /// Slices so far apart that lesions lie between them.
    #[error("the slices are {spacing_mm:.1} mm apart, at most {MAX_SPACING_MM} mm are taken")]
    TooSparse {
        /// Their spacing.
        spacing_mm: f64,
    },
    /// A gap as wide as one or more slices.
    #[error(
        "{missing} slices are missing after slice {after}: a gap of {gap_mm:.2} mm among {spacing_mm:.2}"
    )]
    MissingSlice {
        /// The slice before the gap, from 1 along the normal.
        after: usize,
        /// How many are missing.
        missing: usize,
        /// The gap.
        gap_mm: f64,
        /// The median spacing.
        spacing_mm: f64,
    },
    /// A gap of another width.
    #[error("uneven spacing: {gap_mm:.3} mm after slice {after}, {spacing_mm:.3} mm elsewhere")]
    UnevenSpacing {
        /// The slice before the gap, from 1 along the normal.
        after: usize,
        /// The gap.
        gap_mm: f64,
        /// The median spacing.
        spacing_mm: f64,
    },
    /// Two different images at one place.
    #[error("two different images at the position of slice {slice}")]
    DuplicatePosition {
        /// From 1 along the normal.
        slice: usize,
    },
    /// One SOP instance UID for images at different places.
    #[error("two different images have one SOPInstanceUID")]
    DuplicateInstance,
    /// Slices that do not lie above one another.
    #[error("sheared: over the stack the slices shift sideways by {shift_mm:.2} mm")]
    Sheared {
        /// The most that a slice lies aside of the first, across the normal.
        shift_mm: f64,
    },
    /// Slices as tiles of one image.
    #[error("a mosaic: its slices are tiles of one image, which is not read")]
    Mosaic,
    /// A series in too many pieces.
    #[error("the series falls into more than {MAX_STACKS} stacks")]
    TooManyStacks,
    /// A grid that no scanner makes.
    #[error("{0}")]
    Grid(crate::grid::GridError),
    /// A file of its series is damaged: nobody can tell which slice it was.
    #[error("file {file}, of this series, is damaged: {reason}")]
    DamagedImage {
        /// From 1, in the order in which files were sent.
        file: usize,
        /// What is wrong.
        reason: super::Error,
    },
    /// A slice that cannot be decoded.
    #[error("slice {slice}: {reason}")]
    Pixels {
        /// From 1 along the normal.
        slice: usize,
        /// Why.
        reason: super::Error,
    },
}

impl Refusal {
    /// A stable name of the kind, in `snake_case`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoPosition => "no_position",
            Self::NoOrientation => "no_orientation",
            Self::NoSpacing => "no_spacing",
            Self::TooFewSlices { .. } => "too_few_slices",
            Self::TooThin { .. } => "too_thin",
            Self::TooSparse { .. } => "too_sparse",
            Self::MissingSlice { .. } => "missing_slice",
            Self::UnevenSpacing { .. } => "uneven_spacing",
            Self::DuplicatePosition { .. } => "duplicate_position",
            Self::DuplicateInstance => "duplicate_instance",
            Self::Sheared { .. } => "sheared",
            Self::Mosaic => "mosaic",
            Self::TooManyStacks => "too_many_stacks",
            Self::Grid(_) => "no_grid",
            Self::DamagedImage { .. } => "damaged_image",
            Self::Pixels {
                reason: super::Error::Annotated,
                ..
            } => "annotated",
            Self::Pixels { .. } => "damaged_pixels",
        }
    }
}

/// A plane of a study: file and frame, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plane {
    pub(super) image: usize,
    pub(super) frame: usize,
}

/// A plane with what is said of it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) plane: Plane,
    pub(super) image: &'a Image,
    pub(super) frame: &'a Frame,
}

/// Splits the planes of a series by orientation, size, spacing, echo, kind, stack and b-value; and by time where
/// positions repeat.
pub(super) fn split<'a>(series: &[Seen<'a>]) -> Result<Vec<Vec<Seen<'a>>>, Refusal> {
    let stacks = grouped(series, same_stack)?;
    let mut all = Vec::new();
    for stack in stacks {
        let times = grouped(&stack, |a, b| {
            let (a, b) = (&a.frame.protocol, &b.frame.protocol);
            (a.temporal, a.acquisition) == (b.temporal, b.acquisition)
        });
        match times {
            Ok(times) if times.len() > 1 && repeats(&stack) => all.extend(times),
            _ => all.push(stack),
        }
    }
    if all.len() > MAX_STACKS {
        return Err(Refusal::TooManyStacks);
    }
    Ok(all)
}

/// Puts each plane with the first group whose first plane is the same as it.
fn grouped<'a>(
    series: &[Seen<'a>],
    same: impl Fn(&Seen<'a>, &Seen<'a>) -> bool,
) -> Result<Vec<Vec<Seen<'a>>>, Refusal> {
    let mut groups: Vec<Vec<Seen<'a>>> = Vec::new();
    for seen in series {
        let home = groups
            .iter_mut()
            .find(|group| group.first().is_some_and(|first| same(first, seen)));
        if let Some(group) = home {
            group.push(*seen);
        } else {
            groups.push(vec![*seen]);
        }
        if groups.len() > MAX_STACKS {
            return Err(Refusal::TooManyStacks);
        }
    }
    Ok(groups)
}

fn same_stack(a: &Seen<'_>, b: &Seen<'_>) -> bool {
    let near = |a: &[f64], b: &[f64], by: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= by);
    let orientation = match (&a.frame.orientation, &b.frame.orientation) {
        (Some(a), Some(b)) => near(a, b, SAME_COSINE),
        (None, None) => true,
        _ => false,
    };
    let spacing = match (&a.frame.spacing, &b.frame.spacing) {
        (Some(a), Some(b)) => near(a, b, 1e-3),
        (None, None) => true,
        _ => false,
    };
    let size = |cells: &Cells| (cells.rows, cells.columns);
    let (p, q) = (&a.frame.protocol, &b.frame.protocol);
    let about = |a: Option<f64>, b: Option<f64>, by: f64| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= by,
        (a, b) => a.is_none() && b.is_none(),
    };
    orientation
        && spacing
        && size(&a.image.cells) == size(&b.image.cells)
        && p.echo_number == q.echo_number
        && about(p.echo_ms, q.echo_ms, SAME_ECHO_MS)
        && p.image_type.get(2..) == q.image_type.get(2..)
        && p.stack == q.stack
        && about(p.b_value, q.b_value, 0.5)
}

/// Whether two planes of the stack lie at one position.
fn repeats(stack: &[Seen<'_>]) -> bool {
    let mut at: Vec<[i64; 3]> = stack
        .iter()
        .filter_map(|seen| Some(seen.frame.position?.map(|mm| (mm * 100.0).round() as i64)))
        .collect();
    at.sort_unstable();
    at.windows(2).any(|pair| pair.first() == pair.last())
}

/// A stack whose geometry holds: its grid, and the planes at each slice, first to last along the normal.
#[derive(Debug, Clone)]
pub(super) struct Laid {
    pub(super) grid: Grid,
    /// At least one plane a slice; several are copies of one another, or the stack is refused.
    pub(super) slices: Vec<Vec<Plane>>,
    pub(super) orientation: [f64; 6],
    pub(super) spacing: [f64; 2],
    pub(super) step_mm: f64,
}

/// Lays the planes of a stack out.
pub(super) fn lay(stack: &[Seen<'_>]) -> Result<Laid, Refusal> {
    if stack
        .iter()
        .any(|seen| seen.frame.protocol.is_type("MOSAIC"))
    {
        return Err(Refusal::Mosaic);
    }
    let first = stack.first().ok_or(Refusal::TooFewSlices { found: 0 })?;
    let orientation = first.frame.orientation.ok_or(Refusal::NoOrientation)?;
    let [row, column, normal] = axes(orientation).ok_or(Refusal::NoOrientation)?;
    let spacing = first.frame.spacing.ok_or(Refusal::NoSpacing)?;
    let [between_rows, between_columns] = spacing;
    if !(between_rows > 0.0 && between_columns > 0.0) {
        return Err(Refusal::NoSpacing);
    }
    let mut placed = Vec::with_capacity(stack.len());
    for seen in stack {
        let position = DVec3::from(seen.frame.position.ok_or(Refusal::NoPosition)?);
        placed.push((position.dot(normal), position, *seen));
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let slices = merged(&placed);
    let (count, at) = (slices.len(), |n: usize| slices.get(n).map(|s: &Slice| s.at));
    distinct_instances(stack)?;
    if count < MIN_SLICES {
        return Err(Refusal::TooFewSlices { found: count });
    }
    let gaps: Vec<f64> = (1..count)
        .filter_map(|n| Some(at(n)? - at(n - 1)?))
        .collect();
    even(&gaps)?;
    let (Some(low), Some(high)) = (slices.first(), slices.last()) else {
        return Err(Refusal::TooFewSlices { found: 0 });
    };
    let steps = (count - 1) as f64;
    let whole = high.position - low.position;
    let step_mm = whole.dot(normal) / steps;
    let aside = |slice: &Slice| {
        let way = slice.position - low.position;
        (way - normal * way.dot(normal)).length()
    };
    let shift_mm = slices.iter().map(aside).fold(0.0, f64::max);
    if shift_mm > MAX_LEAN * between_rows.min(between_columns) {
        return Err(Refusal::Sheared { shift_mm });
    }
    if step_mm > MAX_SPACING_MM {
        return Err(Refusal::TooSparse {
            spacing_mm: step_mm,
        });
    }
    let extent_mm = step_mm * count as f64;
    if extent_mm < MIN_EXTENT_MM {
        return Err(Refusal::TooThin { extent_mm });
    }
    // DICOM's x and y run to the patient's left and back (LPS), ours to the right and front (RAS).
    let ras = |v: DVec3| DVec3::new(-v.x, -v.y, v.z);
    let affine = DAffine3 {
        matrix3: DMat3::from_cols(
            ras(row * between_columns),
            ras(column * between_rows),
            ras(whole / steps),
        ),
        translation: ras(low.position),
    };
    let shape = [first.image.cells.columns, first.image.cells.rows, count];
    let grid = Grid::new(shape, affine).map_err(Refusal::Grid)?;
    Ok(Laid {
        grid,
        slices: slices.into_iter().map(|slice| slice.planes).collect(),
        orientation,
        spacing,
        step_mm,
    })
}

/// Unit vectors along a row, along a column, and the normal.
fn axes(orientation: [f64; 6]) -> Option<[DVec3; 3]> {
    let [a, b, c, d, e, f] = orientation;
    let (row, column) = (DVec3::new(a, b, c), DVec3::new(d, e, f));
    let unit = |v: DVec3| (v.length() - 1.0).abs() <= SAME_COSINE;
    (unit(row) && unit(column) && row.dot(column).abs() <= SAME_COSINE).then(|| {
        let (row, column) = (row.normalize(), column.normalize());
        [row, column, row.cross(column).normalize()]
    })
}

struct Slice {
    /// Along the normal.
    at: f64,
    position: DVec3,
    planes: Vec<Plane>,
}

/// Planes at (nearly) one position become one slice.
fn merged(placed: &[(f64, DVec3, Seen<'_>)]) -> Vec<Slice> {
    let gaps = placed
        .windows(2)
        .filter_map(|pair| Some(pair.last()?.0 - pair.first()?.0));
    let mut wide: Vec<f64> = gaps.filter(|&gap| gap > LEAST_TOLERANCE_MM).collect();
    let near = median(&mut wide) * SAME_POSITION;
    let mut slices: Vec<Slice> = Vec::new();
    for (at, position, seen) in placed {
        match slices.last_mut() {
            Some(slice) if at - slice.at <= near => slice.planes.push(seen.plane),
            _ => slices.push(Slice {
                at: *at,
                position: *position,
                planes: vec![seen.plane],
            }),
        }
    }
    slices
}

/// One UID at two positions: nobody knows which is meant.
fn distinct_instances(stack: &[Seen<'_>]) -> Result<(), Refusal> {
    let mut named: Vec<(&str, Option<u32>, [i64; 3])> = stack
        .iter()
        .filter_map(|seen| {
            let position = seen.frame.position?.map(|mm| (mm * 1000.0).round() as i64);
            Some((
                seen.image.sop_instance.as_str(),
                seen.frame.number,
                position,
            ))
        })
        .collect();
    named.sort_unstable();
    named.dedup();
    let twice = named
        .windows(2)
        .any(|pair| pair.first().map(|a| (a.0, a.1)) == pair.last().map(|b| (b.0, b.1)));
    if twice {
        return Err(Refusal::DuplicateInstance);
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Every gap is the median gap.
fn even(gaps: &[f64]) -> Result<(), Refusal> {
    let spacing_mm = median(&mut gaps.to_vec());
    let tolerance = (spacing_mm * GAP_TOLERANCE).max(LEAST_TOLERANCE_MM);
    for (n, &gap_mm) in gaps.iter().enumerate() {
        if (gap_mm - spacing_mm).abs() <= tolerance {
            continue;
        }
        let after = n + 1;
        let ratio = gap_mm / spacing_mm;
        if ratio > 1.5 && (ratio - ratio.round()).abs() <= NEAR_WHOLE {
            return Err(Refusal::MissingSlice {
                after,
                missing: ratio.round() as usize - 1,
                gap_mm,
                spacing_mm,
            });
        }
        return Err(Refusal::UnevenSpacing {
            after,
            gap_mm,
            spacing_mm,
        });
    }
    Ok(())
}
