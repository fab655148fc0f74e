//! How well probabilities rank true voxels before the others: the precision-recall curve.
use super::{Error, PROBABILITY_TOLERANCE};
use crate::volume::Volume;

/// Area under the precision-recall curve of the voxels of `region` (all of them if `None`).
///
/// Precision and recall at every distinct probability, descending, joined by straight lines from
/// (recall 0, precision 1): `auc(recall, precision)` of scikit-learn's `precision_recall_curve`.
/// Average precision, which joins them by steps, is another figure.
///
/// Recall rises at the probabilities of true voxels alone; elsewhere the curve falls straight down and
/// gains no area. So only the true voxels are sorted, and the others are counted between them.
pub(super) fn pr_auc(
    probability: &Volume<f32>,
    truth: &[u8],
    region: Option<&[u8]>,
) -> Result<Option<f64>, Error> {
    check(probability, region)?;
    let voxels = || {
        let all = probability.samples().iter().zip(truth).enumerate();
        all.filter(|&(at, _)| region.is_none_or(|r| r[at] != 0))
            .map(|(_, (&p, &truth))| (rank(p), truth != 0))
    };
    let real: Vec<u32> = voxels()
        .filter(|voxel| voxel.1)
        .map(|voxel| voxel.0)
        .collect();
    if real.is_empty() {
        return Ok(None);
    }
    let mut curve = Curve::new(real.len());
    let mut steps = Steps::new(real);
    for (rank, _) in voxels().filter(|voxel| !voxel.1) {
        steps.count(rank);
    }
    for step in steps.counts.iter().rev() {
        curve.lower_to(step.others_above, 0);
        curve.lower_to(step.others, step.real);
    }
    Ok(Some(curve.area))
}

/// The distinct probabilities of true voxels, ascending, and what lies at each and above it.
struct Steps {
    ranks: Vec<u32>,
    counts: Vec<Step>,
    /// For each value of a rank's upper bits the first step that has at least that value.
    first: Vec<usize>,
}

/// The voxels around one probability.
#[derive(Default)]
struct Step {
    real: usize,
    /// Other voxels of this very probability.
    others: usize,
    /// Other voxels above it and below that of the next step.
    others_above: usize,
}

impl Steps {
    /// The lower bits of a rank: 256 values of the upper ones for each halving of a probability.
    const LOWER_BITS: u32 = 15;

    fn new(mut real: Vec<u32>) -> Self {
        real.sort_unstable();
        let ties = || real.chunk_by(|a, b| a == b);
        let ranks: Vec<u32> = ties().map(|tie| tie[0]).collect();
        let counts = ties()
            .map(|tie| Step {
                real: tie.len(),
                ..Step::default()
            })
            .collect();
        let past = (rank(1.0 + PROBABILITY_TOLERANCE) >> Self::LOWER_BITS) + 1;
        let first = (0..=past)
            .map(|upper| ranks.partition_point(|&rank| rank >> Self::LOWER_BITS < upper))
            .collect();
        Self {
            ranks,
            counts,
            first,
        }
    }

    /// Counts a voxel outside the truth; below the lowest step it changes nothing.
    fn count(&mut self, rank: u32) {
        let upper = (rank >> Self::LOWER_BITS) as usize;
        let (first, past) = (self.first[upper], self.first[upper + 1]);
        let below = first + self.ranks[first..past].partition_point(|&step| step <= rank);
        let Some(step) = below.checked_sub(1) else {
            return;
        };
        if self.ranks[step] == rank {
            self.counts[step].others += 1;
        } else {
            self.counts[step].others_above += 1;
        }
    }
}

/// Refuses values of the region that are no probabilities.
fn check(probability: &Volume<f32>, region: Option<&[u8]>) -> Result<(), Error> {
    let allowed = -PROBABILITY_TOLERANCE..=1.0 + PROBABILITY_TOLERANCE;
    let samples = probability.samples();
    let wrong = samples
        .iter()
        .enumerate()
        .find(|&(at, p)| !allowed.contains(p) && region.is_none_or(|r| r[at] != 0));
    match wrong {
        Some((at, &value)) => Err(Error::Probability {
            at: probability.grid().index(at),
            value,
        }),
        None => Ok(()),
    }
}

/// An integer that ascends with the probability: the bits of a float that is not negative.
fn rank(probability: f32) -> u32 {
    probability.max(0.0).to_bits()
}

/// The curve so far, from the highest threshold down.
struct Curve {
    positives: usize,
    true_above: usize,
    false_above: usize,
    recall: f64,
    precision: f64,
    area: f64,
}

impl Curve {
    fn new(positives: usize) -> Self {
        Self {
            positives,
            true_above: 0,
            false_above: 0,
            recall: 0.0,
            precision: 1.0,
            area: 0.0,
        }
    }

    /// Lowers the threshold past one tie of `others` and `real` voxels.
    fn lower_to(&mut self, others: usize, real: usize) {
        if others + real == 0 {
            return;
        }
        self.true_above += real;
        self.false_above += others;
        let recall = self.true_above as f64 / self.positives as f64;
        let precision = self.true_above as f64 / (self.true_above + self.false_above) as f64;
        self.area += (recall - self.recall) * f64::midpoint(precision, self.precision);
        (self.recall, self.precision) = (recall, precision);
    }
}

#[cfg(test)]
mod tests {
    use glam::DAffine3;
    use proptest::prelude::*;

    use super::*;
    use crate::grid::Grid;

    fn line<T: Copy + Send + Sync>(samples: &[T]) -> Volume<T> {
        let grid = Grid::new([samples.len(), 1, 1], DAffine3::IDENTITY).unwrap();
        Volume::new(grid, samples.to_vec()).unwrap()
    }

    fn area(probability: &[f32], truth: &[u8]) -> Option<f64> {
        pr_auc(&line(probability), truth, None).unwrap()
    }

    /// The definition: look at all voxels again for each threshold.
    fn slow(probability: &[f32], truth: &[u8]) -> f64 {
        let mut thresholds = probability.to_vec();
        thresholds.sort_by(f32::total_cmp);
        thresholds.reverse();
        thresholds.dedup();
        let positives = truth.iter().filter(|&&t| t != 0).count() as f64;
        let points = thresholds.iter().map(|&threshold| {
            let above: Vec<u8> = (0..truth.len())
                .filter(|&n| probability[n] >= threshold)
                .map(|n| truth[n])
                .collect();
            let hits = above.iter().filter(|&&t| t != 0).count() as f64;
            (hits / positives, hits / above.len() as f64)
        });
        let curve: Vec<_> = std::iter::once((0.0, 1.0)).chain(points).collect();
        curve
            .windows(2)
            .map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1) / 2.0)
            .sum()
    }

    #[test]
    fn a_perfect_ranking_has_area_one_and_a_constant_one_half_of_one_and_the_prevalence() {
        assert_eq!(area(&[0.9, 0.8, 0.2, 0.0], &[1, 1, 0, 0]), Some(1.0));
        // One tie: a single point (recall 1, precision 1/4) joined to (0, 1).
        assert_eq!(area(&[0.5; 4], &[0, 0, 1, 0]), Some(0.625));
        assert_eq!(area(&[0.0; 4], &[0, 0, 1, 0]), Some(0.625));
    }

    #[test]
    fn a_false_voxel_above_every_true_one_costs_its_share() {
        // Points (0, 1), (0, 0), (1/2, 1/2), (1, 2/3): areas 0, 1/8, 7/24.
        let found = area(&[0.9, 0.8, 0.7, 0.1], &[0, 1, 1, 0]).unwrap();
        assert!((found - (1.0 / 8.0 + 7.0 / 24.0)).abs() < 1e-12);
    }

    #[test]
    fn without_a_true_voxel_the_area_is_undefined() {
        assert_eq!(area(&[0.5, 0.1], &[0, 0]), None);
        let outside = pr_auc(&line(&[0.5, 0.1]), &[1, 0], Some(&[0, 1])).unwrap();
        assert_eq!(outside, None);
    }

    #[test]
    fn what_is_no_probability_is_refused_inside_the_region_alone() {
        let bad = line(&[0.5, 0.1, f32::NAN]);
        let refused = pr_auc(&bad, &[1, 0, 0], None).unwrap_err();
        assert!(matches!(refused, Error::Probability { at: [2, 0, 0], value } if value.is_nan()));
        assert_eq!(pr_auc(&bad, &[1, 0, 0], Some(&[1, 1, 0])), Ok(Some(1.0)));
        for value in [-0.01, 1.01, f32::INFINITY] {
            assert!(pr_auc(&line(&[value, 0.1]), &[1, 0], None).is_err());
        }
        assert_eq!(
            pr_auc(&line(&[1.00001, -0.00001]), &[1, 0], None),
            Ok(Some(1.0))
        );
    }

    proptest! {
        #[test]
        fn counting_between_true_voxels_finds_what_every_threshold_finds(
            voxels in prop::collection::vec((0_u8..16, 0_u8..2, 0_u8..4), 1..60),
        ) {
            let region: Vec<u8> = voxels.iter().map(|v| v.2.min(1)).collect();
            // Four probabilities, 0 among them, and neighbours a few millionths above each.
            let value = |n: u8| f32::from(n % 4) / 3.5 + f32::from(n / 4) * 1e-6;
            let p: Vec<f32> = voxels.iter().map(|v| value(v.0)).collect();
            let t: Vec<u8> = voxels.iter().map(|v| v.1).collect();
            let kept: Vec<usize> = (0..voxels.len()).filter(|&n| region[n] != 0).collect();
            let (kept_p, kept_t): (Vec<f32>, Vec<u8>) = kept.iter().map(|&n| (p[n], t[n])).unzip();
            let found = pr_auc(&line(&p), &t, Some(&region)).unwrap();
            if kept_t.contains(&1) {
                let found = found.unwrap();
                prop_assert!((found - slow(&kept_p, &kept_t)).abs() < 1e-12);
                prop_assert!((0.0..=1.0 + 1e-12).contains(&found));
            } else {
                prop_assert_eq!(found, None);
            }
        }
    }
}
