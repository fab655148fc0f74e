//! The contrasts of one patient's examination, brought onto one grid.
//!
//! The grid is the FLAIR's: its axes in the order and direction nearest to RAS+, at the spacing that
//! the model wants, cut to the box around the brain. Every image is resampled once, straight from
//! its own grid. A contrast's place comes from its header; a registration ([`align`]) is one more
//! factor in the map from the study's world points to the contrast's (`motion`).
use std::fmt;

use glam::DAffine3;
use rayon::prelude::*;

use crate::align::{Align, Alignment, Fixed, Settings};
use crate::brain::{self, Clearly, Fill, NothingThere, filled, voxels_of};
use crate::grid::{Grid, GridError, VoxelPoint};
use crate::resample::{Resampling, reorder, resample, resample_moved};
use crate::volume::Volume;

/// Voxels around the brain's box that the network sees too.
const MARGIN: usize = 4;
/// The most voxels of the FLAIR's field of view at the model's spacing: 400 mm cubed at 1 mm.
const MAX_FIELD: usize = 64_000_000;
/// Less of the brain than this inside another contrast's field of view is another place.
const LEAST_COVERAGE: f64 = 0.01;

/// The kinds of brain MRI that a study is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contrast {
    /// Fluid-attenuated inversion recovery: the one that every study needs.
    Flair,
    /// T1-weighted, before contrast agent.
    T1w,
    /// T2-weighted.
    T2w,
    /// Proton-density-weighted.
    Pdw,
    /// T1-weighted, after gadolinium.
    T1gd,
}

impl Contrast {
    /// Every contrast, FLAIR first.
    pub const ALL: [Self; 5] = [Self::Flair, Self::T1w, Self::T2w, Self::Pdw, Self::T1gd];

    /// The name on the wire, on the command line and in `model.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flair => "flair",
            Self::T1w => "t1w",
            Self::T2w => "t2w",
            Self::Pdw => "pdw",
            Self::T1gd => "t1gd",
        }
    }

    /// The contrast with that [`Contrast::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

impl fmt::Display for Contrast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A contrast beside the FLAIR as it was sent, and how it is moved.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Which contrast it is.
    pub contrast: Contrast,
    /// Its values on its own grid.
    pub volume: Volume<f32>,
    /// World points of the FLAIR to world points of this contrast, RAS+ millimetres.
    pub motion: DAffine3,
}

impl Sent {
    /// A contrast whose header is believed: no registration.
    #[must_use]
    pub fn by_header(contrast: Contrast, volume: Volume<f32>) -> Self {
        Self {
            contrast,
            volume,
            motion: DAffine3::IDENTITY,
        }
    }
}

/// Where chance starts when contrasts are aligned: always here, so that a study has one result.
const ALIGN_SEED: u64 = 11;

/// Lays each contrast on the FLAIR: what was found becomes its [`Sent::motion`].
///
/// Call it before [`Cut::assemble`], which believes the motions. Returns one [`Alignment`] for each of
/// `others`, in their order; none for [`Align::None`], which changes nothing.
pub fn align(flair: &Volume<f32>, others: &mut [Sent], how: Align) -> Vec<Alignment> {
    let Some(freedom) = how.freedom().filter(|_| !others.is_empty()) else {
        return Vec::new();
    };
    let seed = ALIGN_SEED;
    let fixed = Fixed::new(flair, &Settings { freedom, seed });
    others
        .par_iter_mut()
        .map(|other| {
            let found = fixed.register(&other.volume);
            other.motion = found.motion;
            found
        })
        .collect()
}

/// What of the patient the network is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The brain, as the sender stripped it.
    Brain,
    /// The head with skull and skin.
    Head,
    /// The brain, found in a head (see [`crate::anatomy`]).
    Extracted,
}

/// A contrast on the study's grid.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Which contrast it is.
    pub contrast: Contrast,
    /// Its values (not normalised).
    pub volume: Volume<f32>,
    /// Whether voxels were copied or interpolated.
    pub resampling: Resampling,
    /// The share of the brain that lies within its field of view.
    pub coverage: f64,
}

/// All contrasts on one grid.
#[derive(Debug, Clone)]
pub struct Study {
    /// The box around the brain, near RAS+, at the model's spacing.
    pub grid: Grid,
    /// The contrasts, FLAIR first, then as they were given.
    pub images: Vec<Placed>,
    /// 1 in the brain (or head: see `extent`), 0 outside.
    pub brain: Volume<u8>,
    /// Whether `brain` is a brain or the whole head.
    pub extent: Extent,
}

impl Study {
    /// What is taken for the brain, millilitres.
    #[must_use]
    pub fn brain_ml(&self) -> f64 {
        voxels_of(&self.brain) as f64 * self.grid.voxel_ml()
    }
}

/// Why contrasts do not make a study.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The FLAIR shows nothing.
    #[error("flair: {0}")]
    NothingThere(NothingThere),
    /// The model's spacing does not suit the FLAIR.
    #[error("flair at the model's spacing: {0}")]
    Grid(GridError),
    /// At the model's spacing the FLAIR's field of view has too many voxels.
    #[error("flair at the model's spacing has {voxels} voxels, at most {max} are taken")]
    FieldTooLarge {
        /// Voxels of the field.
        voxels: usize,
        /// The limit.
        max: usize,
    },
    /// A contrast that shows another place.
    #[error("{contrast} covers {:.1} % of the brain on the flair: by their headers they show different places", coverage * 100.0)]
    Elsewhere {
        /// The contrast.
        contrast: Contrast,
        /// The share of the brain within its field of view.
        coverage: f64,
    },
}

/// The FLAIR on the study's grid.
#[derive(Debug, Clone)]
pub struct Cut {
    grid: Grid,
    image: Placed,
    brain: Volume<u8>,
    extent: Extent,
}

impl Cut {
    /// The FLAIR, and what of it is brain (or head), both on one grid.
    fn of(
        (volume, resampling): (Volume<f32>, Resampling),
        brain: Volume<u8>,
        extent: Extent,
    ) -> Self {
        Self {
            grid: *brain.grid(),
            image: Placed {
                contrast: Contrast::Flair,
                volume,
                resampling,
                coverage: 1.0,
            },
            brain,
            extent,
        }
    }

    /// The study's grid.
    #[must_use]
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Brings the other contrasts beside it.
    ///
    /// # Errors
    /// [`Error::Elsewhere`]
    pub fn assemble(self, others: &[Sent]) -> Result<Study, Error> {
        let Self {
            grid,
            image,
            brain,
            extent,
        } = self;
        let mut images = vec![image];
        images.extend(placed(others, &grid, &brain)?);
        Ok(Study {
            grid,
            images,
            brain,
            extent,
        })
    }
}

/// The FLAIR cut to the brain that its sender left, at `spacing_mm`; none if it shows a head.
///
/// # Errors
/// [`Error::NothingThere`], [`Error::Grid`], [`Error::FieldTooLarge`]
pub fn stripped(flair: &Volume<f32>, spacing_mm: [f64; 3]) -> Result<Option<Cut>, Error> {
    let field = field(flair, spacing_mm)?;
    // What the values of the scan as it was sent rule out need not be laid out.
    let Some(clearly) = brain::may_be_stripped(flair).map_err(Error::NothingThere)? else {
        return Ok(None);
    };
    if field == flair.grid().canonical() {
        return stripped_in_place(flair, clearly);
    }
    let (image, resampling) = resample(flair, &field, 0.0);
    let support = brain::support(&image).map_err(Error::NothingThere)?;
    let cut = |brain| cropped((image, resampling), &brain, Extent::Brain);
    support.map(cut).transpose()
}

/// The same for a FLAIR that has the model's spacing already: its axes are put in order after the cut, not before, which
/// spares a copy of the whole field.
fn stripped_in_place(flair: &Volume<f32>, clearly: Clearly) -> Result<Option<Cut>, Error> {
    let Some(brain) = clearly.support_on(flair) else {
        return Ok(None);
    };
    let (start, shape) = box_around(&brain);
    let grid = flair.grid().crop(start, shape).map_err(Error::Grid)?;
    let grid = grid.canonical();
    let (brain, volume) = (reorder(&brain, &grid, 0), reorder(flair, &grid, 0.0));
    let cut = |(brain, volume)| Cut::of((volume, Resampling::Exact), brain, Extent::Brain);
    Ok(brain.zip(volume).map(cut))
}

/// The FLAIR of a head, cut to the brain that `probability` tells (on any grid, 0 to 1), at `spacing_mm`.
///
/// # Errors
/// [`Error::Grid`], [`Error::FieldTooLarge`]
pub fn extracted(
    flair: &Volume<f32>,
    probability: &Volume<f32>,
    spacing_mm: [f64; 3],
) -> Result<Cut, Error> {
    let field = field(flair, spacing_mm)?;
    let (start, shape) = likely(probability, &field);
    let near = field.crop(start, shape).map_err(Error::Grid)?;
    let (probability, _) = resample(probability, &near, 0.0);
    let brain = filled(probability.map(|p| u8::from(p > 0.5)), Fill::AxialSlices);
    let (start, shape) = box_around(&brain);
    let grid = near.crop(start, shape).map_err(Error::Grid)?;
    let brain = brain.cropped(start, grid, 0);
    Ok(Cut::of(
        resample(flair, &grid, 0.0),
        brain,
        Extent::Extracted,
    ))
}

/// The FLAIR of a head whose brain is not known, cut to the head, at `spacing_mm`.
///
/// # Errors
/// [`Error::NothingThere`], [`Error::Grid`], [`Error::FieldTooLarge`]
pub fn head(flair: &Volume<f32>, spacing_mm: [f64; 3]) -> Result<Cut, Error> {
    let (image, resampling) = resample(flair, &field(flair, spacing_mm)?, 0.0);
    let head = brain::head(&image).map_err(Error::NothingThere)?;
    cropped((image, resampling), &head, Extent::Head)
}

/// The whole field of view of the FLAIR, near RAS+, at `spacing_mm`.
fn field(flair: &Volume<f32>, spacing_mm: [f64; 3]) -> Result<Grid, Error> {
    let canonical = flair.grid().canonical();
    let field = canonical.with_spacing(spacing_mm).map_err(Error::Grid)?;
    if field.voxels() > MAX_FIELD {
        return Err(Error::FieldTooLarge {
            voxels: field.voxels(),
            max: MAX_FIELD,
        });
    }
    Ok(field)
}

/// Cuts an image to the box around what of it is brain (or head).
fn cropped(
    (image, resampling): (Volume<f32>, Resampling),
    brain: &Volume<u8>,
    extent: Extent,
) -> Result<Cut, Error> {
    let (start, shape) = box_around(brain);
    let grid = brain.grid().crop(start, shape).map_err(Error::Grid)?;
    let image = (image.cropped(start, grid, 0.0), resampling);
    Ok(Cut::of(image, brain.cropped(start, grid, 0), extent))
}

/// The box of a field's voxels that a probability can make a brain with its margin: beyond it, nothing likely is next to a
/// voxel. Everything if nothing is likely.
fn likely(probability: &Volume<f32>, field: &Grid) -> ([isize; 3], [usize; 3]) {
    let shape = field.shape();
    let Some((low, inner)) = box_of(&probability.map(|p| u8::from(p > 0.5))) else {
        return ([0; 3], shape);
    };
    let to_field = probability.grid().to_voxels_of(field);
    let (mut first, mut last) = (glam::DVec3::INFINITY, glam::DVec3::NEG_INFINITY);
    for corner in 0..8_usize {
        let at = [0, 1, 2].map(|a| {
            let far = corner >> a & 1;
            low[a] as f64 - 1.0 + (far * (inner[a] + 1)) as f64
        });
        let at = to_field.transform_point3(at.into());
        (first, last) = (first.min(at), last.max(at));
    }
    let within = |a: usize, at: f64| (at.max(0.0) as usize).min(shape[a]);
    let start = [0, 1, 2].map(|a| within(a, first[a].floor() - MARGIN as f64));
    let end = [0, 1, 2].map(|a| within(a, last[a].ceil() + (1 + MARGIN) as f64));
    if (0..3).any(|a| start[a] >= end[a]) {
        return ([0; 3], shape);
    }
    (
        start.map(|n| n as isize),
        [0, 1, 2].map(|a| end[a] - start[a]),
    )
}

fn placed(others: &[Sent], grid: &Grid, brain: &Volume<u8>) -> Result<Vec<Placed>, Error> {
    let others = others.par_iter();
    others.map(|other| place(other, grid, brain)).collect()
}

fn place(sent: &Sent, grid: &Grid, brain: &Volume<u8>) -> Result<Placed, Error> {
    let coverage = coverage(sent, grid, brain);
    if coverage < LEAST_COVERAGE {
        return Err(Error::Elsewhere {
            contrast: sent.contrast,
            coverage,
        });
    }
    let (volume, resampling) = resample_moved(&sent.volume, grid, sent.motion, 0.0);
    Ok(Placed {
        contrast: sent.contrast,
        volume,
        resampling,
        coverage,
    })
}

/// The share of the brain's voxels (every 97th is asked) within a contrast's field of view.
fn coverage(sent: &Sent, grid: &Grid, brain: &Volume<u8>) -> f64 {
    let to_sent = sent.volume.grid().affine().inverse() * sent.motion * grid.affine();
    let shape = sent.volume.grid().shape();
    let (mut within, mut all) = (0_usize, 0_usize);
    for (offset, _) in brain
        .samples()
        .iter()
        .enumerate()
        .filter(|(_, b)| **b != 0)
        .step_by(97)
    {
        let at = VoxelPoint(glam::DVec3::from(grid.index(offset).map(|n| n as f64)));
        let there = to_sent.transform_point3(at.0);
        let inside = |a: usize| (-0.51..=shape[a] as f64 - 0.49).contains(&there[a]);
        within += usize::from((0..3).all(inside));
        all += 1;
    }
    within as f64 / all.max(1) as f64
}

/// The box around a mask with its margin, cut to the volume: first voxel and shape. Everything if the mask is empty.
fn box_around(mask: &Volume<u8>) -> ([isize; 3], [usize; 3]) {
    let shape = mask.grid().shape();
    let Some((low, inner)) = box_of(mask) else {
        return ([0; 3], shape);
    };
    let start = low.map(|n| n.saturating_sub(MARGIN));
    let end = [0, 1, 2].map(|a| (low[a] + inner[a] + MARGIN).min(shape[a]));
    (
        start.map(|n| n as isize),
        [0, 1, 2].map(|a| end[a] - start[a]),
    )
}

/// The box of what is not 0: first voxel and shape.
pub(crate) fn box_of(mask: &Volume<u8>) -> Option<([usize; 3], [usize; 3])> {
    let shape = mask.grid().shape();
    let (mut low, mut high) = ([usize::MAX; 3], [0; 3]);
    for (row, samples) in mask.samples().chunks_exact(shape[0]).enumerate() {
        // Most rows are empty, which is seen of many samples at a time.
        if samples.iter().fold(0, |any, m| any | m) == 0 {
            continue;
        }
        let first = samples.iter().position(|&m| m != 0).unwrap_or(0);
        let last = samples.iter().rposition(|&m| m != 0).unwrap_or(first);
        for (a, (from, to)) in [
            (first, last),
            (row % shape[1], row % shape[1]),
            (row / shape[1], row / shape[1]),
        ]
        .into_iter()
        .enumerate()
        {
            low[a] = low[a].min(from);
            high[a] = high[a].max(to);
        }
    }
    (low[0] != usize::MAX).then(|| (low, [0, 1, 2].map(|a| high[a] + 1 - low[a])))
}

#[cfg(test)]
mod tests {
    use glam::DVec3;
    use proptest::prelude::*;

    use super::*;

    /// A study of a stripped FLAIR.
    fn assemble(
        flair: &Volume<f32>,
        others: &[Sent],
        spacing_mm: [f64; 3],
    ) -> Result<Study, Error> {
        let cut = stripped(flair, spacing_mm)?;
        cut.expect("it is stripped").assemble(others)
    }

    /// A ball of brain on nothing, 2 mm voxels, its middle at the origin of the world.
    fn ball(value: f32) -> Volume<f32> {
        let affine = DAffine3 {
            matrix3: glam::DMat3::from_diagonal(DVec3::new(-2.0, 2.0, 2.0)),
            translation: DVec3::new(99.0, -99.0, -99.0),
        };
        let grid = Grid::new([100, 100, 100], affine).unwrap();
        Volume::from_fn(grid, |at| {
            let away = grid.centre_of(at).0.length();
            if away < 60.0 {
                value + away as f32
            } else {
                0.0
            }
        })
    }

    #[test]
    fn contrasts_on_other_grids_meet_at_the_same_world_points() {
        let flair = ball(10.0);
        let moved = Grid::new(
            [80, 80, 80],
            DAffine3 {
                matrix3: glam::DMat3::from_rotation_z(0.3) * 1.7,
                translation: glam::DMat3::from_rotation_z(0.3) * DVec3::splat(-1.7 * 39.5),
            },
        )
        .unwrap();
        let other = Volume::from_fn(moved, |at| 100.0 + moved.centre_of(at).0.length() as f32);
        let study = assemble(&flair, &[Sent::by_header(Contrast::T1w, other)], [1.0; 3]).unwrap();
        assert_eq!(study.images[0].contrast, Contrast::Flair);
        assert_eq!(study.extent, Extent::Brain);
        assert_eq!(study.grid.orientation().to_string(), "RAS");
        for (offset, _) in study.brain.samples().iter().enumerate().step_by(1009) {
            let away = study.grid.centre_of(study.grid.index(offset)).0.length();
            if (8.0..50.0).contains(&away) {
                let values = [0, 1].map(|n| f64::from(study.images[n].volume.samples()[offset]));
                assert!((values[0] - 10.0 - away).abs() < 0.2, "{values:?} {away}");
                assert!((values[1] - 100.0 - away).abs() < 0.2, "{values:?} {away}");
            }
        }
    }

    #[test]
    fn a_contrast_of_a_patient_who_moved_meets_the_flair_once_it_is_aligned() {
        let grid = *ball(1.0).grid();
        let flair = Volume::from_fn(grid, |at| {
            let p = grid.centre_of(at).0;
            let (near, wave) = (
                (p / DVec3::new(60.0, 75.0, 52.0)).length(),
                (p / 9.0).map(f64::sin),
            );
            if near < 1.0 {
                (150.0 + 50.0 * (wave.x + wave.y * wave.z)) as f32
            } else {
                0.0
            }
        });
        let shift = DVec3::new(11.0, -6.0, 5.0);
        let elsewhere = DAffine3::from_translation(shift) * grid.affine();
        let elsewhere = Grid::new(grid.shape(), elsewhere).unwrap();
        let dark = flair.map(|v| if v > 0.0 { 400.0 - v } else { 0.0 });
        let moved = Volume::new(elsewhere, dark.into_samples()).unwrap();
        let mut others = vec![Sent::by_header(Contrast::T1w, moved)];
        assert_eq!(align(&flair, &mut others, Align::None), []);
        assert_eq!(others[0].motion, DAffine3::IDENTITY);
        let found = align(&flair, &mut others, Align::Rigid);
        assert_eq!((found.len(), found[0].doubt), (1, None));
        assert_eq!(others[0].motion, found[0].motion);
        assert!(
            (found[0].translation_mm - shift).length() < 0.2,
            "{found:?}"
        );
        let study = assemble(&flair, &others, [2.0; 3]).unwrap();
        let [flair, t1w] = [0, 1].map(|n| study.images[n].volume.samples());
        let together = flair
            .iter()
            .zip(t1w)
            .filter(|(f, t)| **f > 0.0 && **t > 0.0);
        let off: Vec<f32> = together.map(|(f, t)| (f + t - 400.0).abs()).collect();
        assert!(off.len() > 100_000 && off.iter().sum::<f32>() / (off.len() as f32) < 8.0);
    }

    #[test]
    fn the_grid_is_the_box_around_the_brain_with_its_margin() {
        let study = assemble(&ball(10.0), &[], [2.0; 3]).unwrap();
        assert_eq!(study.grid.shape(), [60 + 2 * MARGIN; 3]);
        assert_eq!(study.images[0].resampling, Resampling::Exact);
    }

    #[test]
    fn a_brain_within_what_was_taken_for_one_is_cut_out_of_every_contrast() {
        let flair = ball(10.0);
        // The other contrast ends in the middle of the shell that is no brain.
        let whole = ball(300.0);
        let grid = whole.grid().crop([22; 3], [56; 3]).unwrap();
        let others = [Sent::by_header(
            Contrast::T1w,
            whole.cropped([22; 3], grid, 0.0),
        )];
        let study = assemble(&flair, &others, [2.0; 3]).unwrap();
        assert!(study.images[1].coverage < 0.99);
        let (grid, before) = (study.grid, study.brain_ml());
        let within = Volume::from_fn(grid, |at| {
            f32::from(u8::from(grid.centre_of(at).0.length() < 40.0))
        });
        let unbelieved = head(&flair, [2.0; 3]).unwrap().assemble(&others).unwrap();
        assert_eq!((unbelieved.extent, unbelieved.grid), (Extent::Head, grid));
        let found = extracted(&flair, &within, [2.0; 3]).unwrap();
        let found = found.assemble(&others).unwrap();
        assert_eq!(found.extent, Extent::Extracted);
        assert!(found.grid.voxels() < grid.voxels());
        let share = found.brain_ml() / before;
        assert!((share - (40.0_f64 / 60.0).powi(3)).abs() < 0.01, "{share}");
        assert!((found.images[1].coverage - 1.0).abs() < 1e-9);
        for (image, value) in found.images.iter().zip([10.0, 300.0]) {
            assert_eq!(image.volume.grid(), &found.grid);
            let [ni, nj, nk] = found.grid.shape();
            let middle = ni / 2 + 3 + ni * (nj / 2 + nj * (nk / 2));
            let away = found.grid.centre_of(found.grid.index(middle)).0.length();
            let there = f64::from(image.volume.samples()[middle]);
            assert!((there - value - away).abs() < 1e-3, "{there} {away}");
        }
    }

    #[test]
    fn what_the_brain_encloses_in_a_slice_is_brain_though_it_is_open_below() {
        let flair = ball(10.0);
        // A cup: its inside is no hole of the volume.
        let told = Volume::from_fn(*flair.grid(), |at| {
            let DVec3 { x, y, z } = flair.grid().centre_of(at).0;
            let away = x.hypot(y);
            let floor = (20.0..30.0).contains(&z);
            f32::from(u8::from(
                away < 30.0 && (-30.0..30.0).contains(&z) && (floor || away > 10.0),
            ))
        });
        let found = extracted(&flair, &told, [2.0; 3]).unwrap();
        let voxels = voxels_of(&found.brain) as f64;
        let solid = std::f64::consts::PI * 30.0 * 30.0 * 60.0 / 8.0;
        assert!((voxels / solid - 1.0).abs() < 0.05, "{voxels} of {solid}");
    }

    proptest! {
        #[test]
        fn a_brain_cut_near_where_it_is_likely_is_the_one_of_the_whole_field(
            centre in prop::array::uniform3(-120.0_f64..120.0), radius in 4.0_f64..40.0, turn in -0.4_f64..0.4,
            spacing in 1.5_f64..4.0,
        ) {
            let flair = ball(10.0);
            // A shell of brain, told on a grid of its own.
            let middle = DVec3::from(centre);
            let matrix3 = glam::DMat3::from_rotation_z(turn) * spacing;
            let translation = matrix3 * DVec3::splat(-40.0);
            let translation = translation + middle;
            let grid = Grid::new([81; 3], DAffine3 { matrix3, translation }).unwrap();
            let told = Volume::from_fn(grid, |at| {
                let away = (grid.centre_of(at).0 - middle).length();
                if (radius - 8.0..radius).contains(&away) { 0.9 } else { 0.1 }
            });
            let found = extracted(&flair, &told, [2.0; 3]).unwrap();

            let field = flair.grid().canonical();
            let (everywhere, _) = resample(&told, &field, 0.0);
            let brain = filled(everywhere.map(|p| u8::from(p > 0.5)), Fill::AxialSlices);
            prop_assume!(box_of(&brain).is_some());
            let whole = cropped(resample(&flair, &field, 0.0), &brain, Extent::Extracted).unwrap();
            prop_assert_eq!(found.grid.shape(), whole.grid.shape());
            let moved = found.grid.to_voxels_of(&whole.grid).translation;
            prop_assert!(moved.length() < 1e-6, "{moved}");
            prop_assert_eq!(found.brain.samples(), whole.brain.samples());
            prop_assert_eq!(found.image.volume.samples(), whole.image.volume.samples());
        }
    }

    #[test]
    fn a_field_of_view_beyond_any_head_is_refused_before_it_is_laid_out() {
        let grid = Grid::new([128; 3], DAffine3::from_scale(DVec3::splat(10.0))).unwrap();
        let vast = Volume::from_fn(grid, |[i, _, _]| i as f32);
        let refused = assemble(&vast, &[], [1.0; 3]);
        assert!(matches!(refused, Err(Error::FieldTooLarge { .. })));
    }

    #[test]
    fn a_contrast_of_another_place_is_refused() {
        let there = DAffine3::from_translation(DVec3::new(500.0, 0.0, 0.0));
        let far = ball(1.0);
        let grid = Grid::new(far.grid().shape(), there * far.grid().affine()).unwrap();
        let far = Volume::new(grid, far.into_samples()).unwrap();
        let refused = assemble(&ball(1.0), &[Sent::by_header(Contrast::T2w, far)], [2.0; 3]);
        assert!(matches!(
            refused,
            Err(Error::Elsewhere {
                contrast: Contrast::T2w,
                ..
            })
        ));
    }
}
