//! Many cases together: means and medians, and the score of the ISBI 2015 challenge.
use super::figures::ratio;
use super::lesions::{BINS, SizeBin};
use super::{Evaluation, Figure};

/// The fewest cases whose volumes are correlated: two points always lie on a line.
const MIN_CASES_TO_CORRELATE: usize = 3;

/// What a set of cases comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    /// The number of cases.
    pub cases: usize,
    /// Each figure over the cases in which it is defined, in the order of [`Evaluation::figures`],
    /// and `isbi_score` last. Empty for no cases.
    pub figures: Vec<Summary>,
    /// Pearson's correlation of found and true volume over the cases, −1 to 1.
    ///
    /// `None` for fewer than three cases, or if either volume is the same in all of them.
    pub volume_correlation: Option<f64>,
    /// The ISBI score of each case, 0 to 1, in the order of the cases.
    ///
    /// DSC/8 + PPV/8 + (1 − LFPR)/4 + LTPR/4 + r/4 with r the [`Cohort::volume_correlation`] (Carass
    /// et al., `NeuroImage` 148 (2017) 77-102), not rescaled to the raters' 90. The PPV of an empty
    /// prediction counts as 0 here. `None` for a case without true lesions, and for all cases without
    /// a correlation: a single case has no score.
    pub isbi_scores: Vec<Option<f64>>,
    /// Detection by size with the lesions of all cases counted together.
    pub size_bins: [SizeBin; BINS],
}

/// One figure over the cases in which it is defined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The key in JSON and the column in a CSV file.
    pub name: &'static str,
    /// What a table shows.
    pub title: &'static str,
    /// `ml`, `mm`, or empty for a ratio or a count.
    pub unit: &'static str,
    /// The number of cases in which the figure is defined.
    pub n: usize,
    /// Their mean; `None` without such a case.
    pub mean: Option<f64>,
    /// Their median, the mean of the middle two of an even number; `None` without such a case.
    pub median: Option<f64>,
}

/// Sums up many cases. The order of the cases matters to nothing but the order of the scores.
#[must_use]
pub fn cohort(evaluations: &[Evaluation]) -> Cohort {
    let volume_correlation = volume_correlation(evaluations);
    let isbi_scores: Vec<Option<f64>> = evaluations
        .iter()
        .map(|e| isbi_score(e, volume_correlation?))
        .collect();
    let cases: Vec<Vec<Figure>> = evaluations.iter().map(Evaluation::figures).collect();
    let mut figures: Vec<Summary> = cases.first().map_or_else(Vec::new, |first| {
        (0..first.len())
            .map(|n| {
                summary(
                    first[n],
                    cases.iter().filter_map(|case| case[n].value).collect(),
                )
            })
            .collect()
    });
    if !evaluations.is_empty() {
        let score = Figure {
            name: "isbi_score",
            title: "ISBI score",
            unit: "",
            value: None,
        };
        figures.push(summary(
            score,
            isbi_scores.iter().copied().flatten().collect(),
        ));
    }
    let mut size_bins = SizeBin::EMPTY;
    for case in evaluations {
        for (sum, bin) in size_bins.iter_mut().zip(&case.size_bins) {
            sum.true_lesions += bin.true_lesions;
            sum.detected_lesions += bin.detected_lesions;
        }
    }
    Cohort {
        cases: evaluations.len(),
        figures,
        volume_correlation,
        isbi_scores,
        size_bins,
    }
}

/// Mean and median of the values in which a figure is defined.
fn summary(figure: Figure, mut values: Vec<f64>) -> Summary {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    Summary {
        name: figure.name,
        title: figure.title,
        unit: figure.unit,
        n,
        mean: ratio(values.iter().sum(), n as f64),
        median: (n > 0).then(|| f64::midpoint(values[(n - 1) / 2], values[n / 2])),
    }
}

/// Pearson's correlation of found and true volume.
fn volume_correlation(evaluations: &[Evaluation]) -> Option<f64> {
    if evaluations.len() < MIN_CASES_TO_CORRELATE {
        return None;
    }
    // Asked for exactly: around a rounded mean, equal volumes would seem to vary.
    let constant = |of: fn(&Evaluation) -> f64| {
        evaluations
            .iter()
            .all(|e| of(e).total_cmp(&of(&evaluations[0])).is_eq())
    };
    if constant(|e| e.found_ml) || constant(|e| e.true_ml) {
        return None;
    }
    let n = evaluations.len() as f64;
    let mean = |of: fn(&Evaluation) -> f64| evaluations.iter().map(of).sum::<f64>() / n;
    let (found_mean, true_mean) = (mean(|e| e.found_ml), mean(|e| e.true_ml));
    let (mut found_square, mut true_square, mut product) = (0.0, 0.0, 0.0);
    for e in evaluations {
        let (found, real) = (e.found_ml - found_mean, e.true_ml - true_mean);
        found_square += found * found;
        true_square += real * real;
        product += found * real;
    }
    ratio(product, found_square.sqrt() * true_square.sqrt()).map(|r| r.clamp(-1.0, 1.0))
}

/// The score of one case among others whose volumes correlate by `r`.
fn isbi_score(case: &Evaluation, r: f64) -> Option<f64> {
    let ppv = case.ppv.unwrap_or(0.0);
    let ltpr = case.ltpr?;
    Some((case.dsc + ppv) / 8.0 + (1.0 - case.lfpr + ltpr + r) / 4.0)
}

#[cfg(test)]
mod tests {
    use glam::DAffine3;

    use super::*;
    use crate::evaluate::{EvaluationOptions, OverlapRule, evaluate};
    use crate::grid::Grid;
    use crate::volume::Volume;

    /// A case of 16 voxels in a row, given as bits, lowest first.
    fn case(prediction: u16, truth: u16) -> Evaluation {
        let grid = Grid::new([16, 1, 1], DAffine3::IDENTITY).unwrap();
        let mask = |bits: u16| Volume::from_fn(grid, |[i, _, _]| (bits >> i & 1) as u8);
        let options = EvaluationOptions {
            min_lesion_ml: 0.0,
            overlap_rule: OverlapRule::AnyVoxel,
        };
        evaluate(&mask(prediction), &mask(truth), None, None, options).unwrap()
    }

    fn figure(cohort: &Cohort, name: &str) -> Summary {
        *cohort.figures.iter().find(|s| s.name == name).unwrap()
    }

    #[test]
    fn mean_and_median_are_over_the_cases_where_the_figure_is_defined() {
        // DSC 1, 1/2, 0 and 1; PPV 1, 1/2, undefined, undefined.
        let all = cohort(&[
            case(0b11, 0b11),
            case(0b110, 0b11),
            case(0, 0b11),
            case(0, 0),
        ]);
        let dsc = figure(&all, "dsc");
        assert_eq!((dsc.n, dsc.mean, dsc.median), (4, Some(0.625), Some(0.75)));
        let ppv = figure(&all, "ppv");
        assert_eq!((ppv.n, ppv.mean, ppv.median), (2, Some(0.75), Some(0.75)));
        let pr_auc = figure(&all, "pr_auc");
        assert_eq!((pr_auc.n, pr_auc.mean, pr_auc.median), (0, None, None));
    }

    #[test]
    fn the_isbi_score_is_the_weighted_sum_of_the_challenge() {
        // Found 1, 2, 4 and true 2, 4, 6 voxels: r = 6 / sqrt(14/3 x 8).
        let all = cohort(&[
            case(0b1, 0b11),
            case(0b11, 0b1111),
            case(0b11_0011, 0b11_1111),
        ]);
        let r = 6.0 / (14.0_f64 / 3.0 * 8.0).sqrt();
        assert!((all.volume_correlation.unwrap() - r).abs() < 1e-12);
        let want = (2.0 / 3.0 + 1.0) / 8.0 + (1.0 + 1.0 + r) / 4.0;
        assert!((all.isbi_scores[0].unwrap() - want).abs() < 1e-12);
        assert_eq!(figure(&all, "isbi_score").n, 3);
    }

    #[test]
    fn false_lesions_and_an_empty_prediction_lower_the_isbi_score() {
        // The second case: one of two findings false. The third: nothing found, so PPV counts as 0.
        let all = cohort(&[case(0b1, 0b1), case(0b1011, 0b0011), case(0, 0b111)]);
        let r = all.volume_correlation.unwrap();
        let want = (0.8 + 2.0 / 3.0) / 8.0 + (1.0 - 0.5 + 1.0 + r) / 4.0;
        assert!((all.isbi_scores[1].unwrap() - want).abs() < 1e-12);
        assert!((all.isbi_scores[2].unwrap() - (1.0 + r) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_score_needs_three_cases_whose_volumes_vary_and_true_lesions() {
        let one = case(0b1, 0b1);
        assert_eq!(cohort(std::slice::from_ref(&one)).isbi_scores, [None]);
        assert_eq!(
            cohort(&[one.clone(), case(0b11, 0b111)]).volume_correlation,
            None
        );
        let constant = vec![case(0b111, 0b1), case(0b111, 0b11), case(0b111, 0b111)];
        assert_eq!(cohort(&constant).volume_correlation, None);
        let healthy = cohort(&[one, case(0b1, 0), case(0b11, 0b111)]);
        assert!(healthy.isbi_scores[0].is_some() && healthy.isbi_scores[1].is_none());
    }

    #[test]
    fn the_lesions_of_all_cases_share_the_bins() {
        let all = cohort(&[case(0b1, 0b101), case(0, 0xfff)]);
        assert_eq!(
            (
                all.size_bins[0].true_lesions,
                all.size_bins[0].detected_lesions
            ),
            (2, 1)
        );
        assert_eq!(
            (
                all.size_bins[1].true_lesions,
                all.size_bins[1].detected_lesions
            ),
            (1, 0)
        );
    }

    #[test]
    fn no_cases_have_no_figures() {
        let none = cohort(&[]);
        assert_eq!(
            (none.cases, none.figures.len(), none.volume_correlation),
            (0, 0, None)
        );
    }
}
