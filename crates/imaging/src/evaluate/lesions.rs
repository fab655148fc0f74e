//! Lesion by lesion: which were found, which findings are false, how well pairs fit.
use std::collections::BTreeMap;

use super::EvaluationOptions;
use super::figures::ratio;
use crate::components::{Components, Connectivity, label};

/// A share of a lesion's voxels, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(f64);

/// A number that is no [`Share`].
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a share of {0}, must be above 0 and at most 1")]
pub struct InvalidShare(f64);

impl Share {
    /// A tenth, as MSSEG 2016 asks for (Commowick et al., Scientific Reports 8:13650, 2018).
    pub const MSSEG: Self = Self(0.1);

    /// Checks the number.
    ///
    /// # Errors
    /// [`InvalidShare`] unless it is above 0 and at most 1.
    pub fn new(share: f64) -> Result<Self, InvalidShare> {
        if share > 0.0 && share <= 1.0 {
            Ok(Self(share))
        } else {
            Err(InvalidShare(share))
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// When a lesion of one mask counts as overlapped by the other mask.
///
/// The rule holds both ways: for a true lesion to be detected, and for a found one not to be false.
/// "The other mask" is what its minimum lesion volume leaves of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OverlapRule {
    /// One common voxel is enough, as in ISBI 2015.
    AnyVoxel,
    /// At least this share of the lesion's voxels.
    ///
    /// [`Share::MSSEG`] is the first half of that challenge's rule; its limit on what a finding may
    /// spill outside the truth is not applied.
    AtLeast(Share),
}

impl OverlapRule {
    /// Whether a lesion of `voxels`, `covered` of them by the other mask, is overlapped.
    fn holds(self, covered: usize, voxels: usize) -> bool {
        match self {
            Self::AnyVoxel => covered > 0,
            // Divided, not multiplied: 7 / 70 is the number that 0.1 is, 0.1 x 70 is more than 7.
            Self::AtLeast(share) => covered as f64 / voxels as f64 >= share.0,
        }
    }
}

/// How many lesions of one range of sizes were detected.
///
/// The size is that of the true lesion; a lesion on an edge belongs to the larger bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SizeBin {
    /// Its name among the figures.
    pub name: &'static str,
    /// Its title among the figures.
    pub title: &'static str,
    /// The smallest volume that belongs to it, in millilitres.
    pub from_ml: f64,
    /// The smallest volume that is too large for it, in millilitres; infinity for the last bin.
    pub below_ml: f64,
    /// Lesions of the truth of that size.
    pub true_lesions: usize,
    /// Those of them that were detected, by the [`OverlapRule`].
    pub detected_lesions: usize,
}

/// The number of size bins.
pub(super) const BINS: usize = 5;

impl SizeBin {
    /// Every bin without lesions, ascending.
    pub const EMPTY: [Self; BINS] = [
        Self::empty("ltpr_below_10_mm3", "LTPR below 0.01 ml", 0.0, 0.01),
        Self::empty("ltpr_10_to_30_mm3", "LTPR 0.01 to 0.03 ml", 0.01, 0.03),
        Self::empty("ltpr_30_to_100_mm3", "LTPR 0.03 to 0.1 ml", 0.03, 0.1),
        Self::empty("ltpr_100_to_1000_mm3", "LTPR 0.1 to 1 ml", 0.1, 1.0),
        Self::empty("ltpr_from_1000_mm3", "LTPR from 1 ml", 1.0, f64::INFINITY),
    ];

    const fn empty(name: &'static str, title: &'static str, from_ml: f64, below_ml: f64) -> Self {
        Self {
            name,
            title,
            from_ml,
            below_ml,
            true_lesions: 0,
            detected_lesions: 0,
        }
    }

    /// The share of its lesions that were detected, 0 to 1; `None` without lesions.
    #[must_use]
    pub fn ltpr(&self) -> Option<f64> {
        ratio(self.detected_lesions as f64, self.true_lesions as f64)
    }
}

/// The counts behind every lesion-wise figure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    pub(super) real: usize,
    pub(super) found: usize,
    pub(super) detected: usize,
    pub(super) false_findings: usize,
    pub(super) matched: usize,
    /// Sum of the matched pairs' `IoU`.
    pub(super) matched_iou: f64,
    pub(super) size_bins: [SizeBin; BINS],
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            real: 0,
            found: 0,
            detected: 0,
            false_findings: 0,
            matched: 0,
            matched_iou: 0.0,
            size_bins: SizeBin::EMPTY,
        }
    }
}

/// Compares the lesions of two masks of `shape` whose voxels measure `voxel_ml`.
pub(super) fn compare(
    prediction: &[u8],
    truth: &[u8],
    shape: [usize; 3],
    voxel_ml: f64,
    options: EvaluationOptions,
) -> Comparison {
    let find = |mask: &[u8]| {
        let all = label(shape, Connectivity::Corners, mask, |m| m != 0);
        without_small(all, |voxels| {
            reaches(voxels as f64 * voxel_ml, options.min_lesion_ml)
        })
    };
    let (found, real) = (find(prediction), find(truth));
    let shared = shared_voxels(&real, &found);
    let mut covered = (vec![0; real.count()], vec![0; found.count()]);
    for (&(of_real, of_found), &voxels) in &shared {
        covered.0[of_real] += voxels;
        covered.1[of_found] += voxels;
    }
    let mut comparison = Comparison {
        real: real.count(),
        found: found.count(),
        ..Comparison::default()
    };
    for (&covered, &voxels) in covered.0.iter().zip(&real.voxels) {
        let detected = usize::from(options.overlap_rule.holds(covered, voxels));
        comparison.detected += detected;
        let ml = voxels as f64 * voxel_ml;
        if let Some(bin) = comparison
            .size_bins
            .iter_mut()
            .rfind(|bin| reaches(ml, bin.from_ml))
        {
            bin.true_lesions += 1;
            bin.detected_lesions += detected;
        }
    }
    for (&covered, &voxels) in covered.1.iter().zip(&found.voxels) {
        comparison.false_findings += usize::from(!options.overlap_rule.holds(covered, voxels));
    }
    for (&(of_real, of_found), &voxels) in &shared {
        let union = real.voxels[of_real] + found.voxels[of_found] - voxels;
        // Above one half a lesion can have one partner only: no assignment needs to be solved.
        if 2 * voxels > union {
            comparison.matched += 1;
            comparison.matched_iou += voxels as f64 / union as f64;
        }
    }
    comparison
}

/// Whether a volume is at least `limit_ml`, but for the rounding of spacings in headers.
fn reaches(ml: f64, limit_ml: f64) -> bool {
    ml >= limit_ml * (1.0 - 1e-4)
}

/// The components that are large enough, numbered anew in the same order.
fn without_small(all: Components, large_enough: impl Fn(usize) -> bool) -> Components {
    let mut voxels = Vec::new();
    let number: Vec<Option<usize>> = all
        .voxels
        .into_iter()
        .map(|n| {
            large_enough(n).then(|| {
                voxels.push(n);
                voxels.len() - 1
            })
        })
        .collect();
    let mut runs = all.runs;
    runs.retain_mut(|run| match number[run.component] {
        Some(component) => {
            run.component = component;
            true
        }
        None => false,
    });
    Components { runs, voxels }
}

/// How many voxels each pair of components has in common, for the pairs that have any.
///
/// The runs of either side ascend without overlap, so one walk along both finds every meeting.
fn shared_voxels(a: &Components, b: &Components) -> BTreeMap<(usize, usize), usize> {
    let mut shared = BTreeMap::new();
    let (mut at_a, mut at_b) = (a.runs.iter().peekable(), b.runs.iter().peekable());
    while let (Some(run_a), Some(run_b)) = (at_a.peek(), at_b.peek()) {
        let start = run_a.voxels.start.max(run_b.voxels.start);
        let end = run_a.voxels.end.min(run_b.voxels.end);
        if start < end {
            *shared
                .entry((run_a.component, run_b.component))
                .or_default() += end - start;
        }
        if run_a.voxels.end < run_b.voxels.end {
            at_a.next();
        } else {
            at_b.next();
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn options(min_lesion_ml: f64, overlap_rule: OverlapRule) -> EvaluationOptions {
        EvaluationOptions {
            min_lesion_ml,
            overlap_rule,
        }
    }

    const ANY: OverlapRule = OverlapRule::AnyVoxel;

    /// Compares two rows of voxels of 1 mm³, `#` foreground.
    fn rows(prediction: &str, truth: &str, options: EvaluationOptions) -> Comparison {
        let mask = |text: &str| {
            text.bytes()
                .map(|b| u8::from(b == b'#'))
                .collect::<Vec<u8>>()
        };
        compare(
            &mask(prediction),
            &mask(truth),
            [truth.len(), 1, 1],
            0.001,
            options,
        )
    }

    #[test]
    fn each_side_is_counted_for_itself() {
        // One finding covers two true lesions; one true lesion is missed, one finding is false.
        let c = rows(".######...##.", ".##.##.##....", options(0.0, ANY));
        assert_eq!(
            (c.real, c.detected, c.found, c.false_findings),
            (3, 2, 2, 1)
        );
    }

    #[test]
    fn voxels_that_touch_at_a_corner_are_one_lesion() {
        let mask = [1, 0, 0, 0, 0, 0, 0, 1]; // Opposite corners of a cube of 2 x 2 x 2.
        let c = compare(&mask, &mask, [2, 2, 2], 0.001, options(0.0, ANY));
        assert_eq!((c.real, c.found), (1, 1));
    }

    #[test]
    fn the_minimum_volume_leaves_small_lesions_out_of_both_masks() {
        // The finding of one voxel no longer detects, the true lesion of two no longer excuses.
        let found = "#....####....";
        let truth = "###..##......";
        let c = rows(found, truth, options(0.003, ANY));
        assert_eq!(
            (c.real, c.detected, c.found, c.false_findings),
            (1, 0, 1, 1)
        );
        let c = rows(found, truth, options(0.0, ANY));
        assert_eq!(
            (c.real, c.detected, c.found, c.false_findings),
            (2, 2, 2, 0)
        );
    }

    #[test]
    fn a_lesion_that_rounding_made_smaller_than_the_minimum_still_counts() {
        let mask = [1, 1, 1];
        let c = compare(&mask, &mask, [3, 1, 1], 0.000_999_97, options(0.003, ANY));
        assert_eq!(c.real, 1);
        let c = compare(&mask, &mask, [3, 1, 1], 0.000_99, options(0.003, ANY));
        assert_eq!(c.real, 0);
    }

    #[test]
    fn a_share_is_reached_exactly_or_not() {
        let tenth = OverlapRule::AtLeast(Share::MSSEG);
        assert!(tenth.holds(7, 70) && !tenth.holds(6, 70) && !tenth.holds(0, 70));
        assert!(ANY.holds(1, 1000) && !ANY.holds(0, 1));
        let half = OverlapRule::AtLeast(Share::new(0.5).unwrap());
        // Of the true lesion 1 of 4, of the finding 1 of 2.
        let c = rows("...##", "####.", options(0.0, half));
        assert_eq!((c.detected, c.false_findings), (0, 0));
    }

    #[test]
    fn a_share_beyond_its_range_is_refused() {
        for share in [0.0, -0.1, 1.01, f64::NAN] {
            assert!(Share::new(share).is_err());
        }
        assert_eq!(
            Share::new(1.2).unwrap_err().to_string(),
            "a share of 1.2, must be above 0 and at most 1"
        );
        assert_eq!(Share::new(0.1), Ok(Share::MSSEG));
    }

    #[test]
    fn a_pair_matches_above_half_of_its_union() {
        let c = rows("###...##.", ".###..##.", options(0.0, ANY)); // IoU 2/4 and 1.
        assert_eq!((c.matched, c.matched_iou), (1, 1.0));
        let c = rows("###..", "####.", options(0.0, ANY));
        assert_eq!((c.matched, c.matched_iou), (1, 0.75));
    }

    #[test]
    fn a_lesion_on_an_edge_belongs_to_the_larger_bin() {
        let truth = format!("{}.{}", "#".repeat(9), "#".repeat(10));
        let found = ".".repeat(19) + "#";
        let bins = rows(&found, &truth, options(0.0, ANY)).size_bins;
        assert_eq!((bins[0].true_lesions, bins[0].ltpr()), (1, Some(0.0)));
        assert_eq!((bins[1].true_lesions, bins[1].ltpr()), (1, Some(1.0)));
        assert_eq!(bins[2].ltpr(), None);
        assert!(
            SizeBin::EMPTY
                .windows(2)
                .all(|b| b[0].below_ml.total_cmp(&b[1].from_ml).is_eq())
        );
    }

    proptest! {
        #[test]
        fn walking_along_runs_finds_what_looking_at_each_voxel_finds(
            voxels in prop::collection::vec((0_u8..3, 0_u8..3), 4 * 5 * 6),
        ) {
            let shape = [4, 5, 6];
            let side = |pick: fn(&(u8, u8)) -> u8| {
                let all = label(shape, Connectivity::Corners, &voxels, |v| pick(&v) == 2);
                without_small(all, |voxels| voxels >= 3)
            };
            let (a, b) = (side(|v| v.0), side(|v| v.1));
            prop_assert!(a.voxels.iter().chain(&b.voxels).all(|&n| n >= 3));
            let (labels_a, labels_b) = (a.labels(voxels.len()), b.labels(voxels.len()));
            let mut want = BTreeMap::new();
            for (&a, &b) in labels_a.iter().zip(&labels_b) {
                if a > 0 && b > 0 {
                    *want.entry((a as usize - 1, b as usize - 1)).or_default() += 1;
                }
            }
            prop_assert_eq!(shared_voxels(&a, &b), want);
            let numbers: BTreeSet<usize> = a.runs.iter().map(|r| r.component).collect();
            prop_assert_eq!(numbers.len(), a.count());
        }
    }
}
