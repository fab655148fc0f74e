//! Pictures of the FLAIR's slices with the lesions' outlines, for viewers that show no segmentation.
//!
//! Each is a Secondary Capture image (PS3.3 A.8.1) of one slice, enlarged to at least 512 pixels a side with
//! square pixels, so that an outline of one pixel does not hide a small lesion. They keep the source's
//! planes: a viewer scrolls them beside it.
use dicom_core::VR;
use dicom_dictionary_std::tags;
use embedded_graphics::geometry::Point;
use embedded_graphics::text::Alignment;
use glam::{DAffine3, DMat3, DVec3};

use super::modules::{Placed, drawn_on};
use super::{Error, Kind, NOTICE, Object, Writer};
use crate::grid::{Grid, VoxelPoint, columns};
use crate::preview::{Canvas, Shown, outline_rgb};
use crate::regions::Region;

/// The least pixels along the longer side of a picture.
const SIDE: f64 = 512.0;

/// Which slices are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured {
    /// Those that a lesion lies on; the middle one if there is no lesion.
    WithLesions,
    /// All, so that both series scroll together.
    EverySlice,
}

impl Writer<'_> {
    /// Pictures of slices with outlines, one object each, in the order of the slices.
    ///
    /// # Errors
    /// [`Error::Picture`] if a plane cannot be laid, [`Error::Encode`].
    pub(super) fn captures(&self, which: Captured) -> Result<Vec<Object>, Error> {
        let slices = self.grid.shape()[2];
        let mut chosen: Vec<usize> = (0..slices)
            .filter(|&slice| which == Captured::EverySlice || self.ids_on(slice).next().is_some())
            .collect();
        if chosen.is_empty() {
            chosen.push(slices / 2);
        }
        let numbers = 1_usize..;
        numbers
            .zip(chosen)
            .map(|(number, slice)| self.capture(number, slice))
            .collect()
    }

    /// The lesions of a slice, voxel by voxel.
    fn ids_on(&self, slice: usize) -> impl Iterator<Item = u32> {
        let [columns, rows, _] = self.grid.shape();
        let ids = &self.ids.samples()[slice * rows * columns..][..rows * columns];
        ids.iter().copied().filter(|&id| id != 0)
    }

    fn capture(&self, number: usize, slice: usize) -> Result<Object, Error> {
        let kind = Kind::Capture;
        let source = self.findings.source;
        let plane = self.plane(slice)?;
        let [width, height, _] = plane.shape();
        let rgb = self.draw(slice, &plane);
        let [x, y, z] = plane.centre_of([0, 0, 0]).0.to_array();
        let [right, down, _] = columns(plane.affine().matrix3);
        let spacing = plane.spacing_mm()[0];
        let set = self
            .common(kind, Placed::InSpace)
            .with(self.references())
            .with(drawn_on(&source.images[slice]))
            .texts(tags::IMAGE_TYPE, VR::CS, &["DERIVED", "SECONDARY"])
            .text(tags::CONVERSION_TYPE, VR::CS, "WSD")
            .text(tags::DERIVATION_DESCRIPTION, VR::ST, &self.parameters())
            .text(tags::BODY_PART_EXAMINED, VR::CS, "BRAIN")
            .text(tags::IMAGE_COMMENTS, VR::LT, &self.remarks())
            // What is written on it names no patient (PS3.3 C.7.6.1.1.6).
            .text(tags::BURNED_IN_ANNOTATION, VR::CS, "NO")
            .integer(tags::INSTANCE_NUMBER, number)
            .texts(
                tags::PATIENT_ORIENTATION,
                VR::CS,
                &[letters(right), letters(down)],
            )
            .numbers(tags::IMAGE_POSITION_PATIENT, &[-x, -y, z])
            .numbers(tags::IMAGE_ORIENTATION_PATIENT, &source.orientation)
            .numbers(tags::PIXEL_SPACING, &[spacing, spacing])
            .numbers(tags::SLICE_THICKNESS, &[self.grid.spacing_mm()[2]])
            .us(tags::SAMPLES_PER_PIXEL, 3)
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB")
            .us(tags::PLANAR_CONFIGURATION, 0)
            .us(tags::ROWS, height as u16)
            .us(tags::COLUMNS, width as u16)
            .us(tags::BITS_ALLOCATED, 8)
            .us(tags::BITS_STORED, 8)
            .us(tags::HIGH_BIT, 7)
            .us(tags::PIXEL_REPRESENTATION, 0)
            .text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00")
            .bytes(tags::PIXEL_DATA, rgb);
        let name = format!("{}_{number:04}.dcm", kind.name());
        set.into_object(kind, self.series(kind), name)
    }

    /// A slice with smaller, square pixels.
    fn plane(&self, slice: usize) -> Result<Grid, Error> {
        let [n_columns, n_rows, _] = self.grid.shape();
        let [between_columns, between_rows, _] = self.grid.spacing_mm();
        let (across, down) = (
            n_columns as f64 * between_columns,
            n_rows as f64 * between_rows,
        );
        let finest = between_columns.min(between_rows);
        let zoom = (SIDE * finest / across.max(down)).ceil().clamp(1.0, 8.0);
        let pixel = finest / zoom;
        let [right, below, through] = columns(self.grid.affine().matrix3);
        let corner = VoxelPoint(DVec3::new(-0.5, -0.5, slice as f64));
        let (right, below) = (right.normalize() * pixel, below.normalize() * pixel);
        let affine = DAffine3 {
            matrix3: DMat3::from_cols(right, below, through),
            translation: self.grid.world(corner).0 + (right + below) / 2.0,
        };
        let pixels = |mm: f64| ((mm / pixel).round() as usize).clamp(1, usize::from(u16::MAX));
        Grid::new([pixels(across), pixels(down), 1], affine)
            .map_err(|e| Error::Picture(crate::preview::Error::Plane(e)))
    }

    fn draw(&self, slice: usize, plane: &Grid) -> Vec<u8> {
        let findings = &self.findings;
        let shown = Shown {
            flair: &self.flair,
            lesions: findings.lesions,
            places: findings.places,
            frame: findings.frame,
        };
        let [width, height, slices] = [0, 1, 2].map(|a| match a {
            2 => self.grid.shape()[2] as u32,
            a => plane.shape()[a] as u32,
        });
        let mut canvas = Canvas::new(width, height);
        shown.paint(&mut canvas, plane, Point::zero());
        let mut ids: Vec<u32> = self.ids_on(slice).collect();
        ids.sort_unstable();
        ids.dedup();
        let here = match ids.as_slice() {
            [] if findings.lesions.items.is_empty() => "no lesion found".to_owned(),
            [] => "no lesion on this slice".to_owned(),
            [one] => format!("lesion {one}"),
            many => format!("{} lesions", many.len()),
        };
        let place = Point::new(6, 14);
        canvas.small(&format!("slice {} of {slices}: {here}", slice + 1), place);
        canvas.small(NOTICE, Point::new(6, height as i32 - 7));
        let mut top = 31;
        for region in Region::ALL {
            let of_region = ids.iter().filter(|&&id| {
                let place = findings.places.get(id as usize - 1);
                place.is_some_and(|p| p.region == region)
            });
            let n = of_region.count();
            if n > 0 {
                let words = format!("{} {n}", region.name().replace('_', " "));
                canvas.small_coloured(&words, Point::new(6, top), outline_rgb(Some(region)));
                top += 15;
            }
        }
        let [right, down, _] = columns(plane.affine().matrix3);
        let first = |along: DVec3| letters(along).chars().take(1).collect::<String>();
        canvas.text(&first(-right), 6, height / 2, Alignment::Left);
        canvas.text(&first(right), width - 6, height / 2, Alignment::Right);
        canvas.text(&first(-down), width / 2, 14, Alignment::Center);
        canvas.text(&first(down), width / 2, height - 22, Alignment::Center);
        canvas.rgb
    }
}

/// Where a direction (RAS+) points in the patient, the nearest axis first (PS3.3 C.7.6.1.1.1).
fn letters(along: DVec3) -> String {
    let cosines = along.normalize().to_array();
    let names = [['L', 'R'], ['P', 'A'], ['F', 'H']];
    let mut axes = [0, 1, 2];
    axes.sort_by(|&a, &b| cosines[b].abs().total_cmp(&cosines[a].abs()));
    axes.into_iter()
        .filter(|&a| cosines[a].abs() > 0.1)
        .map(|a| names[a][usize::from(cosines[a] > 0.0)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_have_the_patient_s_letters() {
        assert_eq!(letters(DVec3::NEG_X), "L");
        assert_eq!(letters(DVec3::Y), "A");
        assert_eq!(letters(DVec3::NEG_Z), "F");
        assert_eq!(letters(DVec3::new(0.9, 0.3, 0.05)), "RA");
    }
}
