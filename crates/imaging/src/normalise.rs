//! Intensities as the network was taught to see them.
//!
//! Scanners give intensities in units of their own. Each contrast is shifted and scaled by figures
//! that lesions and the rim of a brain mask hardly move: the median and the interquartile range of
//! the brain. The network's training uses this same definition.
use rayon::prelude::*;

use crate::volume::{TOGETHER, Volume};

/// The interquartile range of a normal distribution in standard deviations.
const IQR_OF_NORMAL: f64 = 1.349;
const QUARTILES: [f64; 3] = [0.25, 0.5, 0.75];
/// One voxel in so many is looked at first: a prime, so that it is another place of each row (of all but a few lengths).
const SAMPLED: usize = 61;
/// Voxels that are compared before what is near is taken out.
const AT_A_TIME: usize = 4096;

/// How a contrast is normalised; the values come from `model.toml`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Normalised values below the first are raised to it, above the second lowered to it.
    pub clip: [f32; 2],
    /// The value of every voxel outside the brain.
    pub outside_brain: f32,
}

/// What was found and applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Becomes 0.
    pub median: f64,
    /// (75 % quantile − 25 % quantile) / 1.349; becomes 1.
    pub deviation: f64,
}

/// The brain holds no contrast.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("half of the brain's voxels have the value {median}: there is no contrast to work with")]
pub struct NoContrast {
    median: f64,
}

/// Normalises `image`, whose values are finite, in place: `(value − median) / deviation` inside `brain`, clipped.
///
/// Median and quartiles (linear between order statistics, as numpy's default) are taken over the
/// brain's voxels that are not exactly 0, since zeros lie outside the field of view or are what
/// another stripping left out.
///
/// # Errors
/// [`NoContrast`] if the interquartile range is 0 or there is no such voxel; the image is then
/// unchanged.
///
/// # Panics
/// If `brain` has not as many voxels as `image`.
pub fn normalise(
    image: &mut Volume<f32>,
    brain: &Volume<u8>,
    how: Normalisation,
) -> Result<Scale, NoContrast> {
    let inside = brain.samples();
    assert_eq!(
        image.samples().len(),
        inside.len(),
        "a mask of another grid"
    );
    let Some([low, median, high]) = quartiles(image.samples(), inside) else {
        return Err(NoContrast { median: 0.0 });
    };
    let deviation = (high - low) / IQR_OF_NORMAL;
    if deviation <= 0.0 {
        return Err(NoContrast { median });
    }
    let scale = deviation.recip();
    image
        .samples_mut()
        .par_iter_mut()
        .with_min_len(TOGETHER)
        .zip(inside)
        .for_each(|(value, &inside)| {
            // Computed outside the brain as well: without a branch, many voxels are computed at a time.
            let scaled = ((f64::from(*value) - median) * scale) as f32;
            let clipped = scaled.max(how.clip[0]).min(how.clip[1]);
            *value = if inside == 0 {
                how.outside_brain
            } else {
                clipped
            };
        });
    Ok(Scale { median, deviation })
}

/// The `q` quantile (0 to 1) of `values`, linear between neighbours (Hyndman and Fan, type 7).
///
/// Reorders `values`.
///
/// # Panics
/// If `values` is empty.
#[must_use]
pub fn quantile(values: &mut [f32], q: f64) -> f64 {
    let last = (values.len() - 1) as f64;
    of_rank(values, last * q)
}

/// What stands at a rank, counted from 0, linear between the two that are next to it.
fn of_rank(values: &mut [f32], rank: f64) -> f64 {
    let below = rank.floor() as usize;
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    f64::from(low) + (f64::from(high) - f64::from(low)) * (rank - below as f64)
}

/// The quartiles of the brain's values, each as [`quantile`] gives it; `None` if there are no values.
///
/// A sample tells about where each lies. Then what is lower than that is counted, and only what is near is kept and
/// ordered. Where the counts show that the sample was wrong, all values are ordered.
fn quartiles(values: &[f32], inside: &[u8]) -> Option<[f64; 3]> {
    let near = near_quartiles(values, inside);
    let stretches: Vec<Stretch> = values
        .par_chunks(TOGETHER)
        .zip(inside.par_chunks(TOGETHER))
        .map(|(values, inside)| Stretch::of(values, inside, near))
        .collect();
    let last = stretches.iter().map(|stretch| stretch.count).sum::<usize>();
    let last = last.checked_sub(1)?;
    Some([0, 1, 2].map(|n| {
        let rank = last as f64 * QUARTILES[n];
        let below = stretches.iter().map(|stretch| stretch.below[n]);
        let below = below.sum::<usize>() as f64;
        let mut kept = Vec::new();
        for stretch in &stretches {
            let of_it = stretch.kept.iter().copied();
            kept.extend(of_it.filter(|&value| is_within(value, near[n])));
        }
        // The one above it has to be among them too.
        if rank >= below && rank - below + 1.0 < kept.len() as f64 {
            return of_rank(&mut kept, rank - below);
        }
        let mut all: Vec<f32> = of_brain(values.iter(), inside.iter()).collect();
        of_rank(&mut all, rank)
    }))
}

/// Whether a value is one of the brain's; without a branch, so that many voxels are looked at at a time.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "the other operator is a branch"
)]
fn counts(value: f32, inside: u8) -> bool {
    (inside != 0) & (value != 0.0)
}

/// The values that count.
fn of_brain<'a>(
    values: impl Iterator<Item = &'a f32>,
    inside: impl Iterator<Item = &'a u8>,
) -> impl Iterator<Item = f32> {
    let counted = values
        .zip(inside)
        .filter(|&(&v, &inside)| counts(v, inside));
    counted.map(|(&value, _)| value)
}

/// The least and the greatest of some values.
type Bounds = (f32, f32);

#[expect(
    clippy::needless_bitwise_bool,
    reason = "a branch would keep voxels from being compared many at a time"
)]
fn is_within(value: f32, (least, greatest): Bounds) -> bool {
    (value >= least) & (value <= greatest)
}

/// Where a sample puts each quartile: its rank is off by half the root of their number or less, in two of three samples
/// that were drawn by chance, and four times that is allowed for.
fn near_quartiles(values: &[f32], inside: &[u8]) -> [Bounds; 3] {
    let sampled = values.iter().step_by(SAMPLED);
    let mut sample: Vec<f32> = of_brain(sampled, inside.iter().step_by(SAMPLED)).collect();
    sample.sort_unstable_by(f32::total_cmp);
    let margin = 2.0 * (sample.len() as f64).sqrt() + 1.0;
    QUARTILES.map(|q| {
        let rank = sample.len() as f64 * q;
        let low = (rank >= margin).then_some((rank - margin) as usize);
        let least = low.and_then(|low| sample.get(low));
        let greatest = sample.get((rank + margin) as usize);
        (
            least.copied().unwrap_or(f32::NEG_INFINITY),
            greatest.copied().unwrap_or(f32::INFINITY),
        )
    })
}

/// What a stretch of voxels says of the quartiles.
struct Stretch {
    /// The brain's values in it.
    count: usize,
    /// Those that are lower than what is near each quartile.
    below: [usize; 3],
    /// Those that are near to one.
    kept: Vec<f32>,
}

impl Stretch {
    fn of(values: &[f32], inside: &[u8], [low, median, high]: [Bounds; 3]) -> Self {
        let (mut count, mut below) = (0_u32, [0_u32; 3]);
        let (mut kept, mut found) = (Vec::new(), 0);
        let mut is_kept = [0_u8; AT_A_TIME];
        for (values, inside) in values.chunks(AT_A_TIME).zip(inside.chunks(AT_A_TIME)) {
            // No loop has a branch, and this one nothing that waits for the voxel before: many are compared at a time.
            for ((&value, &inside), is_kept) in values.iter().zip(inside).zip(&mut is_kept) {
                let counts = u32::from(counts(value, inside));
                count += counts;
                below[0] += counts & u32::from(value < low.0);
                below[1] += counts & u32::from(value < median.0);
                below[2] += counts & u32::from(value < high.0);
                let is_near =
                    is_within(value, low) | is_within(value, median) | is_within(value, high);
                *is_kept = counts as u8 & u8::from(is_near);
            }
            kept.resize(found + values.len(), 0.0);
            for (&value, &is_kept) in values.iter().zip(&is_kept) {
                if let Some(place) = kept.get_mut(found) {
                    *place = value;
                }
                found += usize::from(is_kept);
            }
        }
        kept.truncate(found);
        Self {
            count: count as usize,
            below: below.map(|below| below as usize),
            kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use glam::DAffine3;
    use proptest::prelude::*;

    use super::*;
    use crate::grid::Grid;

    const HOW: Normalisation = Normalisation {
        clip: [-4.0, 8.0],
        outside_brain: -4.0,
    };

    fn volume(values: &[f32]) -> Volume<f32> {
        let grid = Grid::new([values.len(), 1, 1], DAffine3::IDENTITY).unwrap();
        Volume::new(grid, values.to_vec()).unwrap()
    }

    #[test]
    fn quantiles_lie_between_order_statistics_as_numpy_puts_them() {
        let mut values = [7.0, 1.0, 3.0, 2.0];
        assert!((quantile(&mut values, 0.25) - 1.75).abs() < 1e-12);
        assert!((quantile(&mut values, 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&mut values, 1.0) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn the_brain_is_centred_and_scaled_and_zeros_in_it_do_not_count() {
        let mut image = volume(&[0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 999.0]);
        let brain = volume(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]).map(|v| v as u8);
        let scale = normalise(&mut image, &brain, HOW).unwrap();
        assert!((scale.median - 30.0).abs() < 1e-12);
        assert!((scale.deviation - 20.0 / 1.349).abs() < 1e-12);
        let out = image.samples();
        assert_eq!((out[3], out[6]), (0.0, -4.0));
        assert!((out[0] + 30.0 * 1.349 / 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_brain_without_contrast_is_refused() {
        let mut image = volume(&[5.0, 5.0, 5.0, 5.0]);
        let brain = volume(&[1.0; 4]).map(|v| v as u8);
        assert!(normalise(&mut image, &brain, HOW).is_err());
        assert!(normalise(&mut volume(&[0.0; 4]), &brain, HOW).is_err());
    }

    #[test]
    fn a_median_between_what_is_near_it_by_the_sample_and_what_is_not_is_found() {
        let sample = 1..=100_u8;
        let near = 72; // The greatest of the sample that may be the median, by its margin of 21.
        let mut lower = 61 * 100 / 2 - near;
        let values: Vec<f32> = sample
            .flat_map(|seen| {
                let unseen = [(); SAMPLED - 1].map(|()| {
                    let is_lower = lower > 0;
                    lower -= usize::from(is_lower);
                    if is_lower { -1.0 } else { 500.0 }
                });
                std::iter::once(f32::from(seen)).chain(unseen)
            })
            .collect();
        let [_, median, _] = quartiles(&values, &vec![1; values.len()]).unwrap();
        assert!((median - 72.5).abs() < 1e-9, "{median}");
    }

    proptest! {
        #[test]
        fn quartiles_are_the_quantiles(values in proptest::collection::vec((
            prop_oneof![-9.0_f32..9.0, 1.0_f32..1.01, (0_u8..4).prop_map(f32::from), Just(-0.0), Just(0.0)],
            0_u8..3), 1..40), times in prop_oneof![Just(1_usize), Just(100), Just(9000)], [sorted, misled] in any::<[bool; 2]>()) {
            let mut values: Vec<(f32, u8)> = std::iter::repeat_n(values, times).flatten().collect();
            if sorted {
                values.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
            // What the sample sees lies far from all the rest.
            for (value, _) in values.iter_mut().step_by(SAMPLED).filter(|_| misled) {
                *value += 100.0;
            }
            let (values, inside): (Vec<f32>, Vec<u8>) = values.into_iter().unzip();
            let mut brain: Vec<f32> = of_brain(values.iter(), inside.iter()).collect();
            let together = quartiles(&values, &inside);
            prop_assert_eq!(together.is_none(), brain.is_empty());
            if let Some(together) = together {
                let one_by_one = QUARTILES.map(|q| quantile(&mut brain, q));
                prop_assert_eq!(together.map(f64::to_bits), one_by_one.map(f64::to_bits));
            }
        }

        #[test]
        fn another_scanner_s_units_give_the_same_values(gain in 0.01_f32..100.0,
                                                        values in proptest::collection::vec(1.0_f32..1000.0, 8..60)) {
            let brain = volume(&vec![1.0; values.len()]).map(|v| v as u8);
            let mut one = volume(&values);
            let mut other = one.map(|v| v * gain);
            if normalise(&mut one, &brain, HOW).is_ok() {
                normalise(&mut other, &brain, HOW).unwrap();
                for (a, b) in one.samples().iter().zip(other.samples()) {
                    prop_assert!((a - b).abs() < 1e-3, "{a} {b}");
                }
            }
        }
    }
}
