//! The parts of a head, as an anatomy network tells them from one scan of any contrast.
//!
//! What the network is shown is made here ([`view`]), and what it says is read here ([`Anatomy::read`]);
//! how a particular network wants to be shown a scan is in its description ([`Showing`]).
use rayon::prelude::*;

use crate::brain::NothingThere;
use crate::components::{Connectivity, label};
use crate::grid::{Grid, GridError};
use crate::resample::resample;
use crate::volume::{TOGETHER, Volume};

/// Less fluid than this is none.
const LEAST_FLUID: f32 = 1e-3;

/// A part of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Outside the head.
    Background,
    /// Skin, fat, bone, muscle, eyes.
    ScalpAndSkull,
    /// The cortex of the cerebrum, with hippocampus and amygdala.
    Cortex,
    /// The white matter of the cerebrum.
    WhiteMatter,
    /// Basal ganglia and thalamus.
    DeepGrey,
    /// Lateral, third and fourth ventricle, with the choroid plexus.
    Ventricles,
    /// The fluid around the brain.
    OtherCsf,
    /// Midbrain, pons, medulla.
    Brainstem,
    /// The cerebellum.
    Cerebellum,
    /// A lesion of the white matter.
    Lesion,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 10] = [
        Self::Background,
        Self::ScalpAndSkull,
        Self::Cortex,
        Self::WhiteMatter,
        Self::DeepGrey,
        Self::Ventricles,
        Self::OtherCsf,
        Self::Brainstem,
        Self::Cerebellum,
        Self::Lesion,
    ];

    /// The name in `model.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::ScalpAndSkull => "scalp and skull",
            Self::Cortex => "cortex",
            Self::WhiteMatter => "white matter",
            Self::DeepGrey => "deep grey",
            Self::Ventricles => "ventricles",
            Self::OtherCsf => "other csf",
            Self::Brainstem => "brainstem",
            Self::Cerebellum => "cerebellum",
            Self::Lesion => "lesion",
        }
    }

    /// The part with that [`Part::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Its place in [`Part::ALL`].
    pub(crate) fn code(self) -> u8 {
        Self::ALL.iter().position(|p| *p == self).unwrap_or(0) as u8
    }

    /// Whether it counts as brain by itself; the fluid around it does where it is close.
    fn is_tissue(self) -> bool {
        !matches!(
            self,
            Self::Background | Self::ScalpAndSkull | Self::OtherCsf
        )
    }
}

/// How a network is shown a scan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Showing {
    /// Millimetres between voxels.
    pub spacing_mm: [f64; 3],
    /// This quantile of the values above 0 becomes 1.
    pub quantile: f64,
    /// The largest value that is shown, the quantile being 1.
    pub most: f32,
    /// The head is where the values are above this.
    pub head_above: f32,
    /// Voxels of air that a stripped brain is given on every side.
    pub air: usize,
}

/// Why a scan cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Error {
    /// Nothing is on the scan.
    #[error(transparent)]
    NothingThere(NothingThere),
    /// The spacing does not suit the scan.
    #[error("at the network's spacing: {0}")]
    Grid(GridError),
}

/// What the network is shown of a scan: the head's box, near RAS+, its values from 0 to `most`.
///
/// # Errors
/// Each [`Error`].
pub fn view(
    scan: &Volume<f32>,
    showing: &Showing,
    is_stripped: bool,
) -> Result<Volume<f32>, Error> {
    let field = scan
        .grid()
        .canonical()
        .with_spacing(showing.spacing_mm)
        .map_err(Error::Grid)?;
    let (mut image, _) = resample(scan, &field, 0.0);
    let mut above: Vec<f32> = image
        .samples()
        .iter()
        .copied()
        .filter(|v| *v > 0.0)
        .collect();
    let one = quantile(&mut above, showing.quantile)
        .filter(|one| *one > 0.0)
        .ok_or(Error::NothingThere(NothingThere::of(0.0)))?;
    image
        .samples_mut()
        .par_iter_mut()
        .with_min_len(TOGETHER)
        .for_each(|value| *value = (*value / one).clamp(0.0, showing.most));
    let head = image.map(|v| u8::from(v > showing.head_above));
    let (start, shape) =
        crate::study::box_of(&head).ok_or(Error::NothingThere(NothingThere::of(one)))?;
    let air = if is_stripped { showing.air } else { 0 };
    let start = start.map(|n| n as isize - air as isize);
    let shape = shape.map(|n| n + 2 * air);
    let grid = field.crop(start, shape).map_err(Error::Grid)?;
    Ok(image.cropped(start, grid, 0.0))
}

/// The value below which a share of the values lies, between two of them by their distance.
fn quantile(values: &mut [f32], share: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    let place = share * last as f64;
    let at = (place as usize).min(last);
    let (_, low, rest) = values.select_nth_unstable_by(at, f32::total_cmp);
    let low = *low;
    let high = rest.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    Some((f64::from(low) + (place - at as f64) * f64::from(high - low)) as f32)
}

/// The parts of a head on the grid that the network saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Anatomy {
    /// The likeliest part of each voxel, its place in [`Part::ALL`].
    pub parts: Volume<u8>,
    /// How likely that part is, 0 to 1.
    pub likelihood: Volume<f32>,
    /// The probability of brain: tissue, and the fluid within reach of it. One piece.
    pub brain: Volume<f32>,
}

/// What a network said of the patch it was shown.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// What it tells apart.
    pub classes: &'a [Part],
    /// Voxels of the patch; a view fills its beginning.
    pub shape: [usize; 3],
    /// Of each class one after the other, i fastest.
    pub probabilities: &'a [f32],
}

impl Answer<'_> {
    /// The probabilities of a class along the row of the patch that begins at `[0, j, k]`.
    fn row(&self, class: usize, length: usize, [j, k]: [usize; 2]) -> &[f32] {
        let [ni, nj, nk] = self.shape;
        let first = ni * (j + nj * (k + nk * class));
        &self.probabilities[first..first + length]
    }
}

impl Anatomy {
    /// Reads what a network said of the view on `grid`. Fluid counts as brain within `fluid_within_mm` of tissue.
    ///
    /// # Panics
    /// If the view is larger than the patch, or there are fewer probabilities than classes times voxels.
    #[must_use]
    pub fn read(grid: Grid, answer: &Answer<'_>, fluid_within_mm: f64) -> Self {
        let mut parts = Volume::filled(grid, 0_u8);
        let mut likelihood = Volume::filled(grid, f32::NEG_INFINITY);
        let mut brain = Volume::filled(grid, 0.0_f32);
        let [ni, nj, _] = grid.shape();
        likelihood
            .samples_mut()
            .par_chunks_mut(ni)
            .zip(parts.samples_mut().par_chunks_mut(ni))
            .zip(brain.samples_mut().par_chunks_mut(ni))
            .enumerate()
            .for_each(|(row, ((likelihood, parts), brain))| {
                for (class, part) in answer.classes.iter().enumerate() {
                    let code = part.code();
                    let told = answer.row(class, ni, [row % nj, row / nj]);
                    let cells = likelihood.iter_mut().zip(&mut *parts).zip(&mut *brain);
                    for (((best, likeliest), tissue), &p) in cells.zip(told) {
                        if p > *best {
                            (*best, *likeliest) = (p, code);
                        }
                        if part.is_tissue() {
                            *tissue += p;
                        }
                    }
                }
            });
        let core = largest_piece(&brain);
        if let Some(fluid) = answer.classes.iter().position(|p| *p == Part::OtherCsf) {
            let near = Reach::of(&grid, fluid_within_mm);
            brain
                .samples_mut()
                .par_chunks_mut(ni)
                .enumerate()
                .for_each(|(row, brain)| {
                    let at = [row % nj, row / nj];
                    let told = answer.row(fluid, ni, at);
                    for (i, (brain, &p)) in brain.iter_mut().zip(told).enumerate() {
                        if p > LEAST_FLUID && near.touches(&core, [i, at[0], at[1]]) {
                            *brain += p;
                        }
                    }
                });
        }
        keep_one_piece(&mut brain);
        Self {
            parts,
            likelihood,
            brain,
        }
    }

    /// The offsets of a part's voxels.
    #[must_use]
    pub fn voxels_of(&self, part: Part) -> Vec<usize> {
        let code = part.code();
        let all = self.parts.samples().iter().enumerate();
        all.filter(|(_, likeliest)| **likeliest == code)
            .map(|(at, _)| at)
            .collect()
    }

    /// The offsets of those of a part's voxels that belong to it with a probability of at least `least`.
    #[must_use]
    pub fn sure_voxels_of(&self, part: Part, least: f32) -> Vec<usize> {
        let mut voxels = self.voxels_of(part);
        voxels.retain(|at| self.likelihood.samples()[*at] >= least);
        voxels
    }

    /// The share of what `view`, the scan that was looked at, shows of the head that is scalp and skull.
    ///
    /// # Panics
    /// If the view has another number of voxels.
    #[must_use]
    pub fn scalp_share(&self, view: &Volume<f32>, showing: &Showing) -> f64 {
        assert_eq!(view.grid().voxels(), self.parts.grid().voxels());
        let scalp = Part::ScalpAndSkull.code();
        let (mut head, mut of_scalp) = (0_usize, 0_usize);
        for (&value, &part) in view.samples().iter().zip(self.parts.samples()) {
            let shown = value > showing.head_above;
            head += usize::from(shown);
            of_scalp += usize::from(shown && part == scalp);
        }
        of_scalp as f64 / head.max(1) as f64
    }

    /// The volume of a part.
    #[must_use]
    pub fn volume_ml(&self, part: Part) -> f64 {
        let code = part.code();
        let of_it = self.parts.samples().iter().filter(|p| **p == code);
        of_it.count() as f64 * self.parts.grid().voxel_ml()
    }

    /// The volume of the brain with the fluid that counts to it.
    #[must_use]
    pub fn brain_ml(&self) -> f64 {
        let voxels = self.brain.samples().iter().filter(|p| **p > 0.5).count();
        voxels as f64 * self.brain.grid().voxel_ml()
    }
}

/// Whether each voxel belongs to the largest face-connected piece of what is above one half.
fn largest_piece(probability: &Volume<f32>) -> Vec<bool> {
    let samples = probability.samples();
    let pieces = label(
        probability.grid().shape(),
        Connectivity::Faces,
        samples,
        |p| p > 0.5,
    );
    let by_size = |(n, voxels): &(usize, &usize)| (**voxels, std::cmp::Reverse(*n));
    let largest = pieces.voxels.iter().enumerate().max_by_key(by_size);
    let mut inside = vec![false; samples.len()];
    for run in &pieces.runs {
        if largest.is_some_and(|(largest, _)| run.component == largest) {
            inside[run.voxels.clone()].fill(true);
        }
    }
    inside
}

/// The steps, in voxels, that are not longer than a distance.
struct Reach {
    shape: [usize; 3],
    steps: Vec<[isize; 3]>,
}

impl Reach {
    fn of(grid: &Grid, within_mm: f64) -> Self {
        let (shape, spacing) = (grid.shape(), grid.spacing_mm());
        // No step leads further than across the grid.
        let most =
            [0, 1, 2].map(|a| ((within_mm / spacing[a]) as usize + 1).min(shape[a]) as isize);
        let mut steps = Vec::new();
        for k in -most[2]..=most[2] {
            for j in -most[1]..=most[1] {
                for i in -most[0]..=most[0] {
                    let mm2: f64 = [i, j, k]
                        .iter()
                        .zip(spacing)
                        .map(|(n, mm)| (*n as f64 * mm).powi(2))
                        .sum();
                    // Half a thousandth more: two voxels of 2 mm are 4.0000001 mm² apart after rounding.
                    if mm2 <= within_mm * within_mm + 5e-4 {
                        steps.push([i, j, k]);
                    }
                }
            }
        }
        // The nearest first: most of what is near is found soon.
        steps.sort_by_key(|step| step.iter().map(|n| n * n).sum::<isize>());
        Self { shape, steps }
    }

    /// Whether one of `marked` is within reach of a voxel.
    fn touches(&self, marked: &[bool], at: [usize; 3]) -> bool {
        let [ni, nj, nk] = self.shape;
        self.steps.iter().any(|step| {
            let place = |a: usize, n: usize| at[a].checked_add_signed(step[a]).filter(|x| *x < n);
            match (place(0, ni), place(1, nj), place(2, nk)) {
                (Some(i), Some(j), Some(k)) => marked[i + ni * (j + nj * k)],
                _ => false,
            }
        })
    }
}

/// What is above one half outside the largest piece is no brain.
fn keep_one_piece(brain: &mut Volume<f32>) {
    let inside = largest_piece(brain);
    for (p, inside) in brain.samples_mut().iter_mut().zip(inside) {
        *p = p.min(if inside { 1.0 } else { 0.5 });
    }
}

#[cfg(test)]
mod tests {
    use glam::{DAffine3, DVec3};

    use super::*;

    fn grid(shape: [usize; 3]) -> Grid {
        Grid::new(shape, DAffine3::from_scale(DVec3::splat(2.0))).unwrap()
    }

    const SHOWING: Showing = Showing {
        spacing_mm: [2.0; 3],
        quantile: 0.99,
        most: 1.5,
        head_above: 0.1,
        air: 3,
    };

    #[test]
    fn a_head_is_shown_in_its_box_and_a_stripped_brain_with_air() {
        let scan = Volume::from_fn(grid([20, 20, 20]), |[i, j, k]| {
            let inside = (5..15).contains(&i) && (4..12).contains(&j) && (3..9).contains(&k);
            if inside { 40.0 } else { 1.0 }
        });
        let head = view(&scan, &SHOWING, false).unwrap();
        assert_eq!(head.grid().shape(), [10, 8, 6]);
        assert!(head.samples().iter().all(|v| (*v - 1.0).abs() < 1e-6));
        let stripped = view(&scan, &SHOWING, true).unwrap();
        assert_eq!(stripped.grid().shape(), [16, 14, 12]);
        let apart = head.grid().centre_of([0; 3]).0 - stripped.grid().centre_of([3; 3]).0;
        assert!(apart.length() < 1e-9, "the same place in the world");
    }

    #[test]
    fn the_scalp_s_share_is_of_what_is_bright() {
        let grid = grid([10, 1, 1]);
        let view = Volume::from_fn(grid, |[i, _, _]| if i < 8 { 1.0 } else { 0.0 });
        let classes = [Part::ScalpAndSkull, Part::WhiteMatter];
        let scalp = |i: usize| f32::from(u8::from(i < 2 || i == 9));
        let told = (0..10).map(scalp).chain((0..10).map(|i| 1.0 - scalp(i)));
        let probabilities: Vec<f32> = told.collect();
        let answer = Answer {
            classes: &classes,
            shape: grid.shape(),
            probabilities: &probabilities,
        };
        let anatomy = Anatomy::read(grid, &answer, 2.0);
        assert!((anatomy.scalp_share(&view, &SHOWING) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn an_empty_scan_is_refused() {
        for value in [0.0, -3.0, f32::NAN] {
            let scan = Volume::filled(grid([6, 6, 6]), value);
            assert!(
                matches!(view(&scan, &SHOWING, false), Err(Error::NothingThere(_))),
                "{value}"
            );
        }
    }

    #[test]
    fn a_quantile_lies_between_two_values_by_their_distance() {
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
        assert_eq!(quantile(&mut [7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn the_brain_is_one_piece_with_the_fluid_next_to_it() {
        let grid = grid([12, 5, 5]);
        let classes = [Part::Background, Part::WhiteMatter, Part::OtherCsf];
        let of = |at: usize| {
            let [i, j, k] = grid.index(at);
            let row = (j, k) == (2, 2);
            match i {
                // A brain, and a rest elsewhere.
                2..=4 | 10 if row => Part::WhiteMatter,
                5..=7 if row => Part::OtherCsf,
                _ => Part::Background,
            }
        };
        let probabilities: Vec<f32> = classes
            .iter()
            .flat_map(|class| (0..grid.voxels()).map(|at| if of(at) == *class { 0.8 } else { 0.1 }))
            .collect();
        let answer = Answer {
            classes: &classes,
            shape: grid.shape(),
            probabilities: &probabilities,
        };
        let anatomy = Anatomy::read(grid, &answer, 2.0);
        let brain: Vec<usize> = (0..grid.voxels())
            .filter(|at| anatomy.brain.samples()[*at] > 0.5)
            .map(|at| grid.index(at)[0])
            .collect();
        assert_eq!(brain, [2, 3, 4, 5]);
        assert_eq!(anatomy.voxels_of(Part::OtherCsf).len(), 3);
        assert!((anatomy.brain_ml() - 4.0 * 0.008).abs() < 1e-9);
        let all = Anatomy::read(grid, &answer, 100.0);
        assert_eq!(all.brain.samples().iter().filter(|p| **p > 0.5).count(), 6);
    }
}
