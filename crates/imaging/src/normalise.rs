//! Intensities as the network was taught to see them.
//!
//! Scanners give intensities in units of their own. Each contrast is shifted and scaled by figures
//! that lesions and the rim of a brain mask hardly move: the median and the interquartile range of
//! the brain. The network's training uses this same definition.
use rayon::prelude::*;

use crate::volume::{TOGETHER, Volume};

/// The interquartile range of a normal distribution in standard deviations.
const IQR_OF_NORMAL: f64 = 1.349;

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
    let stretches = image.samples().par_chunks(TOGETHER);
    let stretches = stretches.zip(inside.par_chunks(TOGETHER));
    let Some([low, median, high]) = quartiles(&stretches) else {
        return Err(NoContrast { median: 0.0 });
    };
    let deviation = (high - low) / IQR_OF_NORMAL;
    if deviation <= 0.0 {
        return Err(NoContrast { median });
    }
    image
        .samples_mut()
        .par_iter_mut()
        .with_min_len(TOGETHER)
        .zip(inside)
        .for_each(|(value, &inside)| {
            // Computed outside the brain as well: without a branch, many voxels are computed at a time.
            let scaled = ((f64::from(*value) - median) / deviation) as f32;
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
    let place = (values.len() - 1) as f64 * q;
    let below = place.floor() as usize;
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    f64::from(low) + (f64::from(high) - f64::from(low)) * (place - below as f64)
}

/// Whether a value is one of the brain's.
fn is_counted(value: f32, inside: u8) -> bool {
    inside != 0 && value != 0.0
}

/// The quartiles of the brain's values, each as [`quantile`] gives it; `None` if there are no values.
///
/// They are counted by the upper half of their bits; then only those that share theirs with a quartile are kept and
/// ordered. `stretches` are values beside the mask of the brain.
fn quartiles<'a>(
    stretches: &(impl ParallelIterator<Item = (&'a [f32], &'a [u8])> + Clone),
) -> Option<[f64; 3]> {
    let no_counts = || vec![0_usize; 1 << 16];
    let counts = stretches
        .clone()
        .fold(no_counts, |mut counts, (values, inside)| {
            for (&value, &inside) in values.iter().zip(inside) {
                if is_counted(value, inside) {
                    counts[upper_half(value)] += 1;
                }
            }
            counts
        })
        .reduce(no_counts, |mut counts, others| {
            for (count, other) in counts.iter_mut().zip(others) {
                *count += other;
            }
            counts
        });
    let last = counts.iter().sum::<usize>().checked_sub(1)?;
    // The upper half of the value of that rank, and how many values have a lesser one.
    let half_of = |rank: usize| {
        let mut before = 0;
        for (half, count) in counts.iter().enumerate() {
            if before + count > rank {
                return (half, before);
            }
            before += count;
        }
        (counts.len(), before)
    };
    let places = [0.25, 0.5, 0.75].map(|q| {
        let place = last as f64 * q;
        let rank = place.floor() as usize;
        let (half, before) = half_of(rank);
        let (next, _) = half_of((rank + 1).min(last));
        (place, rank, half..next + 1, before)
    });
    let mut is_near = vec![false; counts.len()];
    for (_, _, halves, _) in &places {
        is_near[halves.clone()].fill(true);
    }
    let near = |(values, inside): (&[f32], &[u8])| {
        let pairs = values.iter().zip(inside);
        let near = pairs.filter(|&(&v, &inside)| is_counted(v, inside) && is_near[upper_half(v)]);
        near.map(|(&value, _)| value).collect::<Vec<f32>>()
    };
    let near: Vec<f32> = stretches.clone().flat_map_iter(near).collect();
    Some(places.map(|(place, rank, halves, before)| {
        let same = near.iter().copied();
        let mut same: Vec<f32> = same.filter(|&v| halves.contains(&upper_half(v))).collect();
        let (_, &mut low, above) = same.select_nth_unstable_by(rank - before, f32::total_cmp);
        let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
        f64::from(low) + (f64::from(high) - f64::from(low)) * (place - rank as f64)
    }))
}

/// The upper half of the bits of the number that is ordered as [`f32::total_cmp`] orders values.
fn upper_half(value: f32) -> usize {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 0 {
        bits | 1 << 31
    } else {
        !bits
    };
    (ordered >> 16) as usize
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

    proptest! {
        #[test]
        fn quartiles_are_the_quantiles(values in proptest::collection::vec((
            prop_oneof![-9.0_f32..9.0, 1.0_f32..1.01, (0_u8..4).prop_map(f32::from), Just(-0.0), Just(0.0)],
            0_u8..3), 1..40)) {
            let (values, inside): (Vec<f32>, Vec<u8>) = values.into_iter().unzip();
            let brain = values.iter().zip(&inside).filter(|(value, inside)| **value != 0.0 && **inside != 0);
            let mut brain: Vec<f32> = brain.map(|(value, _)| *value).collect();
            let together = quartiles(&values.par_chunks(7).zip(inside.par_chunks(7)));
            prop_assert_eq!(together.is_none(), brain.is_empty());
            if let Some(together) = together {
                let one_by_one = [0.25, 0.5, 0.75].map(|q| quantile(&mut brain, q));
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
