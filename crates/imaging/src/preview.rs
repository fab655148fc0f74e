//! The picture of a result: the FLAIR through its largest lesions, with their outlines.
//!
//! Each row shows one lesion in three planes, each where the lesion is widest, cut along the world's axes
//! whatever the scan's, in the radiological convention: the patient's right is on the left of axial
//! and coronal planes, the front on the left of sagittal ones. It is drawn from the scan itself, so
//! a mask that were mirrored or shifted would be seen.
mod canvas;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::text::Alignment;
use glam::{DAffine3, DMat3, DVec3};
use rayon::prelude::*;

use crate::grid::{Grid, GridError, WorldPoint};
use crate::lesions::{Lesion, Lesions};
use crate::regions::{Place, Region};
use crate::resample::{nearest, resample};
use crate::volume::Volume;

pub(crate) use canvas::Canvas;

/// Millimetres of a pixel.
const PIXEL_MM: f64 = 0.5;
/// The most rows, one a lesion.
const ROWS: usize = 3;
/// Pixels between panels.
const GAP: u32 = 8;
/// Pixels of the line of text above each row.
const CAPTION: u32 = 22;
/// Millimetres of the scale bar.
const BAR_MM: f64 = 50.0;
/// The most pixels along a side of a panel: a field of view of 30 cm.
const MAX_SIDE: f64 = 600.0;

const OUTLINE: Rgb888 = Rgb888::new(255, 96, 64);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plane could not be laid through the scan.
    #[error("no plane through the scan: {0}")]
    Plane(GridError),
    /// The PNG encoder failed.
    #[error("no picture: {0}")]
    Png(png::EncodingError),
}

/// What is shown: where, and which values are black and white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// World box of the head or brain.
    pub low: WorldPoint,
    /// Its other corner.
    pub high: WorldPoint,
    /// Shown black, and all below it.
    pub black: f64,
    /// Shown white, and all above it.
    pub white: f64,
}

impl Frame {
    /// The box of a whole grid.
    #[must_use]
    pub fn around(grid: &Grid, black: f64, white: f64) -> Self {
        let (low, high) = grid.bounds();
        Self {
            low,
            high,
            black,
            white,
        }
    }
}

/// What a picture is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The scan.
    pub flair: &'a Volume<f32>,
    /// The lesions on its grid.
    pub lesions: &'a Lesions,
    /// Where each of them lies; empty if that is not known.
    pub places: &'a [Place],
    /// Where the picture ends, and which values are black and white.
    pub frame: Frame,
}

/// Draws the picture as a PNG.
///
/// Outlines have the colours of the lesions' regions, which the last line names. With no lesions one row
/// shows the middle of the head.
///
/// # Errors
/// [`Error`]; neither is expected on a grid that a scan had.
pub fn draw(shown: &Shown<'_>, notice: &str) -> Result<Vec<u8>, Error> {
    let scene = *shown;
    let lesions = shown.lesions;
    let views = views(shown, ROWS)?;
    let sizes = Plane::ALL.map(|plane| scene.size(plane));
    let row_height = sizes.iter().map(|s| s.height).max().unwrap_or(0) + CAPTION + GAP;
    let width = sizes.iter().map(|s| s.width).sum::<u32>() + 4 * GAP;
    let legend = if shown.places.is_empty() { 0 } else { CAPTION };
    let rows = views.len() as u32;
    let mut canvas = Canvas::new(width, row_height * rows + CAPTION + legend);
    for (n, view) in views.iter().enumerate() {
        let top = n as u32 * row_height;
        let place = view.lesion.and_then(|l| shown.place(l.id));
        let caption = caption(view.lesion, place, view.through);
        canvas.text(&caption, GAP, top + 15, Alignment::Left);
        let mut left = GAP;
        for (panel, size) in view.panels.iter().zip(sizes) {
            canvas.blit(panel, Point::new(left as i32, (top + CAPTION) as i32));
            left += size.width + GAP;
        }
    }
    let total = format!(
        "{} lesions, {:.2} ml     {notice}",
        lesions.items.len(),
        lesions.volume_ml()
    );
    let foot = row_height * rows + 14;
    canvas.text(&total, GAP, foot, Alignment::Left);
    if legend > 0 {
        let mut left = GAP;
        for region in Region::ALL {
            let in_it = shown.places.iter().filter(|p| p.region == region).count();
            let words = format!("{} {in_it}", region.name().replace('_', " "));
            canvas.coloured(&words, left, foot + CAPTION, colour_of(region));
            left += 9 * (words.len() as u32 + 3);
        }
    }
    canvas.png()
}

/// The largest lesions, each a row; one row of none where there is no lesion.
fn rows(lesions: &Lesions, most: usize) -> Vec<Option<&Lesion>> {
    if lesions.items.is_empty() {
        vec![None]
    } else {
        lesions.items.iter().take(most).map(Some).collect()
    }
}

/// One lesion, or with none the middle of the head, in three planes.
pub(crate) struct View<'a> {
    pub(crate) lesion: Option<&'a Lesion>,
    /// The point that all three planes go through, RAS+ millimetres.
    pub(crate) through: DVec3,
    /// Axial, coronal, sagittal.
    pub(crate) panels: [Canvas; 3],
}

/// Views of the largest lesions, at most so many.
pub(crate) fn views<'a>(shown: &Shown<'a>, most: usize) -> Result<Vec<View<'a>>, Error> {
    let lesions = shown.lesions;
    let view = |lesion: Option<&'a Lesion>| {
        let through = lesion.map_or(shown.middle(), |l| widest(lesions, l));
        let panel = |plane: Plane| {
            let size = shown.size(plane);
            let mut canvas = Canvas::new(size.width, size.height);
            shown.draw_panel(&mut canvas, plane, through, Point::zero())?;
            Ok(canvas)
        };
        let (axial, (coronal, sagittal)) = rayon::join(
            || panel(Plane::Axial),
            || rayon::join(|| panel(Plane::Coronal), || panel(Plane::Sagittal)),
        );
        Ok(View {
            lesion,
            through,
            panels: [axial?, coronal?, sagittal?],
        })
    };
    rows(lesions, most).into_par_iter().map(view).collect()
}

/// The colour of the outlines of a region's lesions, of all if regions are not known.
pub(crate) fn outline_rgb(region: Option<Region>) -> [u8; 3] {
    let colour = region.map_or(OUTLINE, colour_of);
    [colour.r(), colour.g(), colour.b()]
}

fn colour_of(region: Region) -> Rgb888 {
    match region {
        Region::Periventricular => Rgb888::new(255, 96, 64),
        Region::Juxtacortical => Rgb888::new(64, 208, 255),
        Region::Infratentorial => Rgb888::new(255, 112, 255),
        Region::DeepWhiteMatter => Rgb888::new(255, 220, 64),
    }
}

fn caption(lesion: Option<&Lesion>, place: Option<&Place>, through: DVec3) -> String {
    let [x, y, z] = through.to_array();
    let region = place.map_or_else(String::new, |p| {
        format!(", {}", p.region.name().replace('_', " "))
    });
    match lesion {
        Some(l) => format!(
            "lesion {}{region}: {:.2} ml, largest extent {:.0} mm, at x {x:+.0}, y {y:+.0}, z {z:+.0} mm (RAS)",
            l.id, l.volume_ml, l.largest_extent_mm
        ),
        None => format!("no lesion found: planes through x {x:+.0}, y {y:+.0}, z {z:+.0} mm (RAS)"),
    }
}

/// The point whose three planes each cut the lesion where it has most voxels, to the millimetre.
fn widest(lesions: &Lesions, lesion: &Lesion) -> DVec3 {
    let grid = lesions.instances.grid();
    let [low, high] = lesion.bbox.map(|corner| corner.0);
    let mut voxels = (high - low)
        .to_array()
        .map(|mm| vec![0_usize; mm as usize + 1]);
    for at in grid.within(low, high) {
        if lesions.instances.at(at) == lesion.id {
            let at = (grid.centre_of(at).0 - low).to_array();
            for (along, mm) in voxels.iter_mut().zip(at) {
                let last = along.len() - 1;
                along[(mm.max(0.0) as usize).min(last)] += 1;
            }
        }
    }
    let best = voxels.map(|along| {
        let most = along.iter().max().copied().unwrap_or(0);
        along.iter().position(|&n| n == most).unwrap_or(0) as f64 + 0.5
    });
    low + DVec3::from(best)
}

/// A cut through the head.
#[derive(Debug, Clone, Copy)]
enum Plane {
    Axial,
    Coronal,
    Sagittal,
}

impl Plane {
    const ALL: [Self; 3] = [Self::Axial, Self::Coronal, Self::Sagittal];

    /// World directions of a step to the right and of a step down on the picture.
    fn directions(self) -> (DVec3, DVec3) {
        match self {
            Self::Axial => (DVec3::NEG_X, DVec3::NEG_Y),
            Self::Coronal => (DVec3::NEG_X, DVec3::NEG_Z),
            Self::Sagittal => (DVec3::NEG_Y, DVec3::NEG_Z),
        }
    }

    /// What lies on the left and on the right.
    fn sides(self) -> (&'static str, &'static str) {
        match self {
            Self::Axial | Self::Coronal => ("R", "L"),
            Self::Sagittal => ("A", "P"),
        }
    }
}

impl Shown<'_> {
    fn place(&self, id: u32) -> Option<&Place> {
        self.places.get((id as usize).checked_sub(1)?)
    }

    fn outline(&self, id: u32) -> Rgb888 {
        self.place(id).map_or(OUTLINE, |p| colour_of(p.region))
    }

    fn middle(&self) -> DVec3 {
        (self.frame.low.0 + self.frame.high.0) / 2.0
    }

    fn size(&self, plane: Plane) -> Size {
        let (right, down) = plane.directions();
        let extent = self.frame.high.0 - self.frame.low.0;
        let pixels =
            |along: DVec3| (extent.dot(along.abs()) / PIXEL_MM).clamp(32.0, MAX_SIDE) as u32;
        Size::new(pixels(right), pixels(down))
    }

    fn draw_panel(
        &self,
        canvas: &mut Canvas,
        plane: Plane,
        through: DVec3,
        at: Point,
    ) -> Result<(), Error> {
        let size = self.size(plane);
        let grid = self.plane_grid(plane, through, size)?;
        self.paint(canvas, &grid, at);
        Self::draw_marks(canvas, plane, at, size);
        Ok(())
    }

    /// Draws a grid of one slice, i to the right and j downwards, with the lesions' outlines.
    pub(crate) fn paint(&self, canvas: &mut Canvas, grid: &Grid, at: Point) {
        let Frame { black, white, .. } = self.frame;
        let (image, _) = resample(self.flair, grid, black as f32);
        let inside = nearest(&self.lesions.instances, grid, 0);
        let [width, height, _] = grid.shape();
        for y in 0..height {
            for x in 0..width {
                let value = f64::from(image.at([x, y, 0]));
                let grey =
                    ((value - black) / (white - black).max(1e-9) * 255.0).clamp(0.0, 255.0) as u8;
                let here = inside.at([x, y, 0]);
                let right = (x + 1 < width).then(|| inside.at([x + 1, y, 0]));
                let below = (y + 1 < height).then(|| inside.at([x, y + 1, 0]));
                // A rim is where lesion meets no lesion, on whichever side.
                let rim = [right, below]
                    .into_iter()
                    .flatten()
                    .find(|next| (*next != 0) != (here != 0));
                let colour = match rim {
                    Some(next) => self.outline(here.max(next)),
                    None => Rgb888::new(grey, grey, grey),
                };
                canvas.set(at + Point::new(x as i32, y as i32), colour);
            }
        }
    }

    /// The plane as a grid of one slice: i to the right, j downwards.
    fn plane_grid(&self, plane: Plane, through: DVec3, size: Size) -> Result<Grid, Error> {
        let (right, down) = plane.directions();
        // The corner from which `right` and `down` lead into the head.
        let start = DVec3::select(
            right.cmplt(DVec3::ZERO) | down.cmplt(DVec3::ZERO),
            self.frame.high.0,
            self.frame.low.0,
        );
        let across = right.cross(down).abs();
        let corner = start * (DVec3::ONE - across) + through * across;
        let matrix3 = DMat3::from_cols(right, down, right.cross(down)) * PIXEL_MM;
        let affine = DAffine3 {
            matrix3,
            translation: corner,
        };
        Grid::new([size.width as usize, size.height as usize, 1], affine).map_err(Error::Plane)
    }

    fn draw_marks(canvas: &mut Canvas, plane: Plane, at: Point, size: Size) {
        let (left, right) = plane.sides();
        let middle = at.y as u32 + size.height / 2;
        canvas.text(left, at.x as u32 + 4, middle, Alignment::Left);
        canvas.text(
            right,
            at.x as u32 + size.width - 4,
            middle,
            Alignment::Right,
        );
        let bar = (BAR_MM / PIXEL_MM) as i32;
        let foot = Point::new(at.x + 8, at.y + size.height as i32 - 8);
        canvas.line(foot, foot + Point::new(bar, 0));
        canvas.line(foot + Point::new(0, -4), foot + Point::new(0, 4));
        canvas.line(foot + Point::new(bar, -4), foot + Point::new(bar, 4));
        canvas.small("5 cm", foot + Point::new(bar / 2 - 14, -6));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lesions::CountingRule;

    /// A head of 2 mm voxels with a lesion on the patient's right side, in front, above the middle.
    fn scene(reversed: bool) -> (Volume<f32>, Lesions) {
        let x = if reversed { -2.0 } else { 2.0 };
        let affine = DAffine3 {
            matrix3: DMat3::from_diagonal(DVec3::new(x, 2.0, 2.0)),
            translation: DVec3::new(-49.5 * x, -99.0, -99.0),
        };
        let grid = Grid::new([100, 100, 100], affine).unwrap();
        let centre = DVec3::new(30.0, 20.0, 10.0);
        let lesion = Volume::from_fn(grid, |at| {
            f32::from((grid.centre_of(at).0 - centre).length() < 8.0)
        });
        let flair = Volume::from_fn(grid, |at| {
            if grid.centre_of(at).0.length() < 60.0 {
                100.0 + 50.0 * lesion.at(at)
            } else {
                0.0
            }
        });
        (
            flair,
            Lesions::find(
                &lesion,
                CountingRule {
                    threshold: 0.5,
                    min_lesion_ml: 0.0,
                },
            ),
        )
    }

    /// Around the head, ±65 mm.
    fn frame() -> Frame {
        let [low, high] = [-65.0, 65.0].map(|mm| WorldPoint(DVec3::splat(mm)));
        Frame {
            low,
            high,
            black: 0.0,
            white: 200.0,
        }
    }

    fn decode(file: &[u8]) -> (u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file))
            .read_info()
            .unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        (reader.info().width, rgb)
    }

    #[test]
    fn the_patient_s_right_is_on_the_left_and_the_outline_around_the_lesion() {
        for reversed in [false, true] {
            let (flair, lesions) = scene(reversed);
            let scene = Shown {
                flair: &flair,
                lesions: &lesions,
                places: &[],
                frame: frame(),
            };
            let (width, rgb) = decode(&draw(&scene, "not for diagnosis").unwrap());
            let axial = scene.size(Plane::Axial);
            let outline: Vec<(u32, u32)> = rgb
                .chunks_exact(3)
                .enumerate()
                .filter(|(_, p)| *p == [255, 96, 64])
                .map(|(n, _)| (n as u32 % width, n as u32 / width))
                .filter(|&(x, _)| x < axial.width)
                .collect();
            assert!(outline.len() > 40, "{}", outline.len());
            // Right of the patient, x = +30 of ±65 mm: a quarter from the left edge; front: upper half.
            let mean_x = outline.iter().map(|p| f64::from(p.0)).sum::<f64>() / outline.len() as f64;
            let mean_y = outline.iter().map(|p| f64::from(p.1)).sum::<f64>() / outline.len() as f64;
            let x_mm = 65.0 - (mean_x - f64::from(GAP)) * PIXEL_MM;
            let y_mm = 65.0 - (mean_y - f64::from(CAPTION)) * PIXEL_MM;
            assert!(
                (x_mm - 30.0).abs() < 2.0 && (y_mm - 20.0).abs() < 2.0,
                "{x_mm} {y_mm}"
            );
        }
    }

    #[test]
    fn each_panel_says_which_side_is_which_and_how_long_five_centimetres_are() {
        let (flair, lesions) = scene(false);
        let shown = Shown {
            flair: &flair,
            lesions: &lesions,
            places: &[],
            frame: frame(),
        };
        let (width, picture) = decode(&draw(&shown, "not for diagnosis").unwrap());
        let is_lit =
            |rgb: &[u8], x: u32, y: u32| rgb[(y * width + x) as usize * 3..][..3] == [230; 3];
        let height = picture.len() as u32 / 3 / width;
        let mut left = GAP;
        for (plane, sides) in Plane::ALL.into_iter().zip(["RL", "RL", "AP"]) {
            let size = shown.size(plane);
            let (middle, right) = (CAPTION + size.height / 2, left + size.width);
            let mut letters = Canvas::new(width, height);
            letters.text(&sides[..1], left + 4, middle, Alignment::Left);
            letters.text(&sides[1..], right - 4, middle, Alignment::Right);
            let letters = letters.rgb;
            for x in (left..left + 15).chain(right - 15..right) {
                for y in middle - 12..middle + 6 {
                    assert_eq!(
                        is_lit(&picture, x, y),
                        is_lit(&letters, x, y),
                        "{plane:?} {x} {y}"
                    );
                }
            }
            let foot = CAPTION + size.height - 8;
            let bar = (left..right).filter(|&x| is_lit(&picture, x, foot)).count();
            // From the first pixel's middle to the last one's.
            assert_eq!(bar - 1, (50.0 / PIXEL_MM) as usize, "{plane:?}");
            left = right + GAP;
        }
    }

    #[test]
    fn without_lesions_there_is_still_a_picture() {
        let (flair, _) = scene(false);
        let none = Lesions::find(
            &flair.map(|_| 0.0),
            CountingRule {
                threshold: 0.5,
                min_lesion_ml: 0.0,
            },
        );
        let shown = Shown {
            flair: &flair,
            lesions: &none,
            places: &[],
            frame: frame(),
        };
        assert!(
            draw(&shown, "not for diagnosis")
                .unwrap()
                .starts_with(b"\x89PNG")
        );
    }

    #[test]
    fn an_outline_has_the_colour_of_its_region() {
        let (flair, lesions) = scene(false);
        for region in Region::ALL {
            let place = Place {
                region,
                to_ventricles_mm: 1.0,
                to_cortex_mm: f64::INFINITY,
                infratentorial: 0.0,
            };
            let shown = Shown {
                flair: &flair,
                lesions: &lesions,
                places: &[place],
                frame: frame(),
            };
            let (_, rgb) = decode(&draw(&shown, "not for diagnosis").unwrap());
            let colour = colour_of(region);
            let wanted = [colour.r(), colour.g(), colour.b()];
            let painted = rgb.chunks_exact(3).filter(|p| *p == wanted).count();
            // Its outline in three planes and its word in the legend; a legend alone has fewer.
            assert!(painted > 400, "{region:?}: {painted}");
        }
    }
}
