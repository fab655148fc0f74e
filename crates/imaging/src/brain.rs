//! Which voxels of a FLAIR belong to the patient.
//!
//! Two kinds of scans arrive. A *stripped* one holds the brain on a background of one exact value;
//! its support is the brain. One with its *skull* on has air around the head; here the whole head
//! is taken, if [`crate::anatomy`] tells no brain in it. No anatomy is known in this room.
#![allow(
    clippy::float_cmp,
    reason = "a stripped scan's background is one exact value"
)]
use rayon::prelude::*;

use crate::components::{Connectivity, label};
use crate::volume::{TOGETHER, Volume};

/// A support larger than this is a head, not a brain, in millilitres. Stripped scans that were
/// scaled to a template reach 2,040 ml, heads begin at about 3,000 ml.
const LARGEST_BRAIN_ML: f64 = 2300.0;
/// A stripped scan's background fills at least this share of its voxels.
const LEAST_BACKGROUND: f64 = 0.2;
/// A stripped brain touches the faces of its volume with at most this share of their voxels.
const MOST_ON_FACES: f64 = 0.05;
/// What differs from the background by less than this share of the image's range is background: where
/// interpolation gave a voxel a hair of its neighbour, rounding must not decide.
const CLEARLY: f32 = 1e-3;
/// Pieces smaller than this share of the largest one are rests, not brain.
const SMALLEST_PIECE: f64 = 0.01;

/// There is nothing to see on the image.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("every voxel is {value}: there is no head on this image")]
pub struct NothingThere {
    /// The value of all voxels (or of all but the background).
    value: f32,
}

impl NothingThere {
    /// Every voxel has this value.
    pub(crate) fn of(value: f32) -> Self {
        Self { value }
    }
}

/// The brain of a stripped scan, 1 inside, without holes; none if the scan is none.
///
/// # Errors
/// [`NothingThere`] if the image is constant.
pub fn support(flair: &Volume<f32>) -> Result<Option<Volume<u8>>, NothingThere> {
    Ok(surroundings(flair)?.and_then(|clearly| clearly.support_on(flair)))
}

/// What a scan holds beside its background if it can be a stripped one, from its values alone: if enough of it has one
/// value, and what has another, specks and all, is no larger than a brain.
///
/// # Errors
/// [`NothingThere`] if the image is constant.
pub(crate) fn may_be_stripped(flair: &Volume<f32>) -> Result<Option<Clearly>, NothingThere> {
    let inside = surroundings(flair)?;
    Ok(inside.filter(|inside| {
        let of_some = |some: &[f32]| some.iter().filter(|&&s| inside.holds(s)).count();
        let voxels: usize = flair.samples().par_chunks(TOGETHER).map(of_some).sum();
        voxels as f64 * flair.grid().voxel_ml() <= LARGEST_BRAIN_ML
    }))
}

/// The head of a scan with its skull, 1 inside, without holes in axial slices.
///
/// # Errors
/// [`NothingThere`] if the image is constant.
pub fn head(flair: &Volume<f32>) -> Result<Volume<u8>, NothingThere> {
    check_not_constant(flair)?;
    let threshold = otsu(flair.samples());
    let head = largest(flair, |s| s > threshold);
    Ok(filled(head, Fill::AxialSlices))
}

fn check_not_constant(flair: &Volume<f32>) -> Result<(), NothingThere> {
    let samples = flair.samples();
    let value = samples.first().copied().unwrap_or(0.0);
    if samples.iter().all(|&s| s == value) {
        return Err(NothingThere { value });
    }
    Ok(())
}

/// What differs clearly from a background.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clearly {
    background: f32,
    least: f32,
}

impl Clearly {
    fn holds(self, value: f32) -> bool {
        (value - self.background).abs() > self.least
    }

    /// The brain of a stripped scan, as [`support`] gives it.
    pub(crate) fn support_on(self, flair: &Volume<f32>) -> Option<Volume<u8>> {
        let mask = filled(largest(flair, |s| self.holds(s)), Fill::Volume);
        let ml = voxels_of(&mask) as f64 * flair.grid().voxel_ml();
        (ml <= LARGEST_BRAIN_ML && share_on_faces(&mask) <= MOST_ON_FACES).then_some(mask)
    }
}

/// What is not background, if enough of the image is one: a value that its faces have most.
fn surroundings(flair: &Volume<f32>) -> Result<Option<Clearly>, NothingThere> {
    check_not_constant(flair)?;
    let samples = flair.samples();
    let background = commonest_on_faces(flair);
    let of_some = |some: &[f32]| some.iter().filter(|&&s| s == background).count();
    let empty: usize = samples.par_chunks(TOGETHER).map(of_some).sum();
    Ok(
        (empty as f64 >= LEAST_BACKGROUND * samples.len() as f64).then(|| {
            let (low, high) = ends(samples);
            let least = CLEARLY * (high - low);
            Clearly { background, least }
        }),
    )
}

/// Voxels of a mask.
pub(crate) fn voxels_of(mask: &Volume<u8>) -> usize {
    let of_some = |some: &[u8]| some.iter().map(|&m| u32::from(m != 0)).sum::<u32>() as usize;
    mask.samples().par_chunks(TOGETHER).map(of_some).sum()
}

/// Calls `visit` with the offset of each voxel on one of the six faces.
pub(crate) fn on_faces(shape: [usize; 3], mut visit: impl FnMut(usize)) {
    let [ni, nj, nk] = shape;
    for k in 0..nk {
        for j in 0..nj {
            let row = ni * (j + nj * k);
            if k == 0 || k == nk - 1 || j == 0 || j == nj - 1 {
                (row..row + ni).for_each(&mut visit);
            } else {
                visit(row);
                visit(row + ni - 1);
            }
        }
    }
}

/// The smallest and the largest value of samples that are numbers.
fn ends(samples: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let nothing = (f32::INFINITY, f32::NEG_INFINITY);
    // Comparisons, unlike `f32::min`, are made on many samples at a time.
    let wider = |(low, high): (f32, f32), (least, most): (f32, f32)| {
        (
            if least < low { least } else { low },
            if most > high { most } else { high },
        )
    };
    let of_some = |some: &[f32]| {
        // As many ends as there are lanes: one alone would wait for itself at every sample.
        let mut each = [nothing; LANES];
        let lanes = some.chunks_exact(LANES);
        let rest = lanes.remainder();
        for samples in lanes {
            for (ends, &s) in each.iter_mut().zip(samples) {
                *ends = wider(*ends, (s, s));
            }
        }
        let all = rest.iter().map(|&s| (s, s)).chain(each);
        all.fold(nothing, wider)
    };
    samples
        .par_chunks(TOGETHER)
        .map(of_some)
        .reduce(|| nothing, wider)
}

fn commonest_on_faces(volume: &Volume<f32>) -> f32 {
    let mut values = Vec::new();
    on_faces(volume.grid().shape(), |at| {
        values.push(volume.samples()[at]);
    });
    values.sort_unstable_by(f32::total_cmp);
    values
        .chunk_by(|a, b| a == b)
        // Of equally long runs the first, hence the smallest value.
        .fold((0, 0.0), |best, run| {
            if run.len() > best.0 {
                (run.len(), run[0])
            } else {
                best
            }
        })
        .1
}

fn share_on_faces(mask: &Volume<u8>) -> f64 {
    let (mut touching, mut all) = (0_usize, 0_usize);
    on_faces(mask.grid().shape(), |at| {
        all += 1;
        touching += usize::from(mask.samples()[at] != 0);
    });
    touching as f64 / all as f64
}

/// The face-connected pieces of at least [`SMALLEST_PIECE`] of the largest.
fn largest(volume: &Volume<f32>, inside: impl Fn(f32) -> bool + Sync) -> Volume<u8> {
    let shape = volume.grid().shape();
    let pieces = label(shape, Connectivity::Faces, volume.samples(), inside);
    let most = pieces.voxels.iter().max().copied().unwrap_or(0);
    let mut mask = Volume::filled(*volume.grid(), 0);
    for run in &pieces.runs {
        if pieces.voxels[run.component] as f64 >= SMALLEST_PIECE * most as f64 {
            mask.samples_mut()[run.voxels.clone()].fill(1);
        }
    }
    mask
}

/// Where holes are looked for.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// Enclosed on all sides.
    Volume,
    /// Enclosed within a slice of the k axis: in three dimensions ears and throat open a head, and the
    /// cisterns below it a brain.
    AxialSlices,
}

/// Fills what the mask encloses: background that no path across faces joins to the border.
pub(crate) fn filled(mut mask: Volume<u8>, fill: Fill) -> Volume<u8> {
    let [ni, nj, nk] = mask.grid().shape();
    let thickness = match fill {
        Fill::Volume => nk,
        Fill::AxialSlices => 1,
    };
    mask.samples_mut()
        .par_chunks_mut(ni * nj * thickness)
        .for_each(|slab| fill_slab(slab, [ni, nj, thickness]));
    mask
}

fn fill_slab(slab: &mut [u8], [ni, nj, nk]: [usize; 3]) {
    let gaps = label([ni, nj, nk], Connectivity::Faces, slab, |inside| {
        inside == 0
    });
    let mut open = vec![false; gaps.count()];
    for run in &gaps.runs {
        let [i, j, k] = [
            run.voxels.start % ni,
            run.voxels.start / ni % nj,
            run.voxels.start / (ni * nj),
        ];
        let on_border = i == 0
            || run.voxels.end % ni == 0
            || j == 0
            || j == nj - 1
            || (nk > 1 && (k == 0 || k == nk - 1));
        open[run.component] |= on_border;
    }
    for run in gaps.runs.iter().filter(|run| !open[run.component]) {
        slab[run.voxels.clone()].fill(1);
    }
}

/// Otsu's threshold (IEEE Trans. SMC 9:62, 1979) over 256 bins from the least to the largest value.
fn otsu(samples: &[f32]) -> f32 {
    const BINS: usize = 256;
    let (low, high) = ends(samples);
    let width = f64::from(high) - f64::from(low);
    let mut histogram = [0_u64; BINS];
    for &s in samples {
        let bin = (f64::from(s) - f64::from(low)) / width * BINS as f64;
        histogram[(bin as usize).min(BINS - 1)] += 1;
    }
    let all = samples.len() as f64;
    let sum: f64 = histogram
        .iter()
        .enumerate()
        .map(|(bin, &n)| bin as f64 * n as f64)
        .sum();
    let (mut below, mut sum_below, mut best) = (0.0, 0.0, (0.0, 0));
    for (bin, &n) in histogram.iter().enumerate().take(BINS - 1) {
        below += n as f64;
        sum_below += bin as f64 * n as f64;
        if below == 0.0 || below == all {
            continue;
        }
        let apart = sum_below / below - (sum - sum_below) / (all - below);
        let between = below * (all - below) * apart * apart;
        if between > best.0 {
            best = (between, bin);
        }
    }
    (f64::from(low) + width * (best.1 + 1) as f64 / BINS as f64) as f32
}

#[cfg(test)]
mod tests {
    use glam::{DAffine3, DVec3};

    use super::*;
    use crate::grid::Grid;

    /// A ball of `radius_mm` in a 200 mm cube of 4 mm voxels; the values inside and outside.
    fn ball(radius_mm: f64, inside: f32, outside: impl Fn(usize) -> f32) -> Volume<f32> {
        let grid = Grid::new([50, 50, 50], DAffine3::from_scale(DVec3::splat(4.0))).unwrap();
        let mut n = 0;
        Volume::from_fn(grid, |at| {
            n += 1;
            let away = (grid.centre_of(at).0 - DVec3::splat(98.0)).length();
            if away < radius_mm { inside } else { outside(n) }
        })
    }

    fn volume_ml(mask: &Volume<u8>) -> f64 {
        mask.samples().iter().filter(|&&m| m == 1).count() as f64 * mask.grid().voxel_ml()
    }

    #[test]
    fn a_ball_of_brain_size_on_an_exact_background_is_a_brain_and_its_holes_are_filled() {
        let mut scan = ball(67.0, 100.0, |_| 0.0);
        let centre = scan.grid().offset([25, 25, 25]);
        scan.samples_mut()[centre] = 0.0;
        assert!(may_be_stripped(&scan).unwrap().is_some());
        let brain = support(&scan).unwrap().unwrap();
        assert_eq!(brain.samples()[centre], 1);
        let ml = volume_ml(&brain);
        assert!((ml - 1260.0).abs() < 30.0, "{ml}");
    }

    #[test]
    fn a_head_s_size_or_a_noisy_background_makes_it_a_head() {
        let large = ball(90.0, 100.0, |_| 0.0);
        assert_eq!(support(&large), Ok(None));
        assert_eq!(may_be_stripped(&large), Ok(None));
        let noisy = ball(67.0, 100.0, |n| (n % 7) as f32);
        assert_eq!(support(&noisy), Ok(None));
        assert_eq!(may_be_stripped(&noisy), Ok(None));
        let ml = volume_ml(&head(&noisy).unwrap());
        assert!((ml - 1260.0).abs() < 30.0, "{ml}");
    }

    #[test]
    fn a_brain_with_as_many_specks_as_a_head_has_voxels_is_none() {
        let specked = ball(67.0, 100.0, |n| {
            if [0, 3].contains(&(n % 7)) { 90.0 } else { 0.0 }
        });
        assert!(support(&specked).unwrap().is_some());
        assert_eq!(may_be_stripped(&specked), Ok(None));
    }

    #[test]
    fn small_pieces_away_from_the_brain_are_left_out() {
        let mut scan = ball(67.0, 100.0, |_| 0.0);
        scan.samples_mut()[5] = 50.0;
        assert_eq!(support(&scan).unwrap().unwrap().samples()[5], 0);
    }

    #[test]
    fn a_constant_image_is_refused() {
        let empty = ball(67.0, 3.0, |_| 3.0);
        assert!(support(&empty).is_err() && may_be_stripped(&empty).is_err());
        assert!(head(&empty).is_err());
    }
}
