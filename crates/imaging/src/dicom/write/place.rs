//! Whether volumes lie on the slices of a series.
use glam::{DAffine3, DMat3, DVec3};

use super::Error;
use crate::dicom::Source;
use crate::grid::Grid;
use crate::resample::reorder;
use crate::volume::Volume;

/// Slices may lie this far from an even stack, in millimetres.
const SAME_PLACE_MM: f64 = 0.01;
/// Boxes of grids may differ by so much and be the same, in millimetres: less than half a voxel.
const SAME_BOX_MM: f64 = 0.05;

/// The grid of a source: i along rows, j along columns, k over slices (PS3.3 C.7.6.2.1.1), in RAS+.
pub(super) fn grid_of(source: &Source) -> Result<Grid, Error> {
    let place = |at: [f64; 3]| DVec3::new(-at[0], -at[1], at[2]);
    let [a, b, c, d, e, f] = source.orientation;
    let (along_row, along_column) = (place([a, b, c]), place([d, e, f]));
    let [between_rows, between_columns] = source.pixel_spacing_mm;
    let n = source.images.len();
    let positions: Vec<DVec3> = source.images.iter().map(|i| place(i.position_mm)).collect();
    let (first, last) = match (positions.first(), positions.last()) {
        (Some(&first), Some(&last)) => (first, last),
        _ => (DVec3::ZERO, DVec3::ZERO),
    };
    let step = if n > 1 {
        (last - first) / (n - 1) as f64
    } else {
        along_row.cross(along_column) * source.slice_spacing_mm
    };
    let affine = DAffine3 {
        matrix3: DMat3::from_cols(
            along_row * between_columns,
            along_column * between_rows,
            step,
        ),
        translation: first,
    };
    let shape = [usize::from(source.columns), usize::from(source.rows), n];
    let grid = Grid::new(shape, affine).map_err(Error::SourceGrid)?;
    for (slice, &at) in positions.iter().enumerate() {
        let off_mm = (first + step * slice as f64).distance(at);
        // Scanners jitter; the reader allows a hundredth of the spacing.
        if off_mm > SAME_PLACE_MM.max(0.02 * step.length()) {
            return Err(Error::SourceSlice { slice, off_mm });
        }
    }
    Ok(grid)
}

/// The voxels of a volume in the order of the source's.
pub(super) fn on_grid<T: Copy + Send + Sync>(
    what: &'static str,
    volume: &Volume<T>,
    grid: &Grid,
    outside: T,
) -> Result<Volume<T>, Error> {
    let (low, high) = grid.bounds();
    let (its_low, its_high) = volume.grid().bounds();
    let off_mm = low.0.distance(its_low.0).max(high.0.distance(its_high.0));
    let found = volume.grid().shape();
    // Equal voxels may still be a whole number of them apart: then their boxes differ.
    reorder(volume, grid, outside)
        .filter(|_| off_mm < SAME_BOX_MM)
        .ok_or(Error::Grid {
            what,
            found,
            off_mm,
        })
}
