//! A predicted mask against a truth on the same grid: every figure of the paper and of the field.
//!
//! [`evaluate`] judges one case, [`cohort`] many. The masks are taken as they are, after all
//! postprocessing, and everything that is not 0 is foreground. What a figure gives for empty masks is
//! part of its definition and stands at its field: agreement of nothing with nothing is 1, a ratio
//! without a denominator and a distance to nothing are `None`, never 0. The room chooses no threshold,
//! resamples nothing and draws nothing: a prediction on another grid is an error.
//!
//! Voxels are looked at once, for the counts and for the box around both masks; lesions and surfaces
//! are compared inside that box, where all of them lie, so the rest of the head costs nothing. Only
//! the ranking of probabilities needs every voxel.
mod cohort;
mod figures;
mod lesions;
mod ranking;
mod surfaces;

pub use cohort::{Cohort, Summary, cohort};
pub use figures::{Evaluation, Figure};
pub use lesions::{InvalidShare, OverlapRule, Share, SizeBin};

use crate::grid::{Grid, VoxelIndex};
use crate::volume::Volume;

/// The most that a corner of two grids may lie apart for their voxels to be the same, in millimetres.
///
/// Rounding in headers stays below a hundredth of this, a shift by half a voxel far above.
pub const MAX_DISAGREEMENT_MM: f64 = 0.1;

/// How far outside 0 to 1 rounding may carry a probability.
pub const PROBABILITY_TOLERANCE: f32 = 1e-4;

/// What the figures that count lesions depend on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluationOptions {
    /// Lesions below this are left out of both masks before lesions are counted; millilitres.
    ///
    /// A ten-thousandth less still counts, so that rounding in a header loses no lesion.
    pub min_lesion_ml: f64,
    /// When a lesion counts as found, and a finding as true.
    pub overlap_rule: OverlapRule,
}

/// Why two volumes cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A volume of another shape than the truth.
    #[error(
        "the {volume} has {} x {} x {} voxels, the truth {} x {} x {}",
        shape[0], shape[1], shape[2], truth[0], truth[1], truth[2]
    )]
    Shapes {
        /// `prediction`, `probability` or `region`.
        volume: &'static str,
        /// Its shape.
        shape: [usize; 3],
        /// The truth's shape.
        truth: [usize; 3],
    },
    /// A volume that lies elsewhere than the truth.
    #[error(
        "the {volume} lies up to {disagreement_mm:.2} mm from the truth, \
         must be at most {MAX_DISAGREEMENT_MM} mm"
    )]
    Affines {
        /// `prediction`, `probability` or `region`.
        volume: &'static str,
        /// The largest distance between the same corner of both grids.
        disagreement_mm: f64,
    },
    /// A probability that is none: NaN, or further outside 0 to 1 than [`PROBABILITY_TOLERANCE`].
    #[error("the probability of voxel {at:?} is {value}, must be 0 to 1")]
    Probability {
        /// The first such voxel in file order.
        at: VoxelIndex,
        /// What it holds.
        value: f32,
    },
    /// A minimum volume that is negative or not a finite number.
    #[error("the minimum lesion volume is {min_lesion_ml} ml, must be 0 or more")]
    MinLesion {
        /// The volume asked for.
        min_lesion_ml: f64,
    },
}

/// Compares a predicted mask with the truth.
///
/// `probability` gives [`Evaluation::pr_auc`]. `region`, such as a brain mask, bounds the voxels that
/// the specificity and the PR-AUC look at; every other figure counts what lies outside it, too.
/// Distances take the axes of the grid to be at right angles.
///
/// # Errors
/// [`Error::Shapes`] or [`Error::Affines`] if a volume is not on the truth's grid,
/// [`Error::Probability`] if the region (or, without one, the volume) holds a value that is no
/// probability, [`Error::MinLesion`] if the options make no sense.
///
/// ```
/// use dawson_imaging::evaluate::{EvaluationOptions, OverlapRule, evaluate};
/// use dawson_imaging::{grid::Grid, volume::Volume};
/// # use glam::DAffine3;
/// let grid = Grid::new([4, 1, 1], DAffine3::IDENTITY)?;
/// let truth = Volume::new(grid, vec![0, 1, 1, 0])?;
/// let prediction = Volume::new(grid, vec![0, 0, 1, 1])?;
/// let options = EvaluationOptions { min_lesion_ml: 0.0, overlap_rule: OverlapRule::AnyVoxel };
/// let found = evaluate(&prediction, &truth, None, None, options)?;
/// assert_eq!((found.dsc, found.ppv, found.ltpr), (0.5, Some(0.5), Some(1.0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn evaluate(
    prediction: &Volume<u8>,
    truth: &Volume<u8>,
    probability: Option<&Volume<f32>>,
    region: Option<&Volume<u8>>,
    options: EvaluationOptions,
) -> Result<Evaluation, Error> {
    let EvaluationOptions { min_lesion_ml, .. } = options;
    if !(min_lesion_ml.is_finite() && min_lesion_ml >= 0.0) {
        return Err(Error::MinLesion { min_lesion_ml });
    }
    let grid = truth.grid();
    same_grid("prediction", prediction.grid(), grid)?;
    if let Some(probability) = probability {
        same_grid("probability", probability.grid(), grid)?;
    }
    if let Some(region) = region {
        same_grid("region", region.grid(), grid)?;
    }
    let pr_auc = match probability {
        Some(p) => ranking::pr_auc(p, truth.samples(), region.map(Volume::samples))?,
        None => None,
    };
    let counts = count_voxels(prediction, truth, region);
    let (lesions, distances) = match counts.bounds {
        Some(bounds) => compare_box(prediction, truth, bounds, options),
        None => (lesions::Comparison::default(), None),
    };
    Ok(figures::assemble(
        counts,
        pr_auc,
        &lesions,
        distances,
        grid.voxel_ml(),
    ))
}

/// Checks that a volume lies on the truth's grid.
fn same_grid(volume: &'static str, grid: &Grid, truth: &Grid) -> Result<(), Error> {
    if grid.shape() != truth.shape() {
        return Err(Error::Shapes {
            volume,
            shape: grid.shape(),
            truth: truth.shape(),
        });
    }
    let disagreement_mm = truth.disagreement_mm(grid.affine());
    if disagreement_mm > MAX_DISAGREEMENT_MM {
        return Err(Error::Affines {
            volume,
            disagreement_mm,
        });
    }
    Ok(())
}

/// How many voxels are what, and where.
#[derive(Debug, Clone, Copy, Default)]
struct VoxelCounts {
    both: usize,
    found_only: usize,
    true_only: usize,
    /// Voxels of the region outside the truth.
    negatives: usize,
    /// Those of them that the prediction holds.
    false_positives: usize,
    /// First and last voxel along each axis of the box around both masks.
    bounds: Option<[VoxelIndex; 2]>,
}

/// Counts row by row; rows without foreground, nearly all of them, are left at a glance.
fn count_voxels(
    prediction: &Volume<u8>,
    truth: &Volume<u8>,
    region: Option<&Volume<u8>>,
) -> VoxelCounts {
    let [ni, nj, _] = truth.grid().shape();
    let (prediction, truth) = (prediction.samples(), truth.samples());
    let mut counts = VoxelCounts::default();
    let mut true_in_region = 0;
    for (row, (found, real)) in prediction
        .chunks_exact(ni)
        .zip(truth.chunks_exact(ni))
        .enumerate()
    {
        let inside = region.map(|r| &r.samples()[row * ni..(row + 1) * ni]);
        counts.negatives += inside.map_or(ni, |r| r.iter().map(|&v| usize::from(v != 0)).sum());
        if !any(found) && !any(real) {
            continue;
        }
        for i in 0..ni {
            let (found, real) = (found[i] != 0, real[i] != 0);
            if !found && !real {
                continue;
            }
            counts.both += usize::from(found && real);
            counts.found_only += usize::from(found && !real);
            counts.true_only += usize::from(real && !found);
            if inside.is_none_or(|r| r[i] != 0) {
                true_in_region += usize::from(real);
                counts.false_positives += usize::from(found && !real);
            }
            let at = [i, row % nj, row / nj];
            let [first, last] = counts.bounds.get_or_insert([at, at]);
            for a in 0..3 {
                first[a] = first[a].min(at[a]);
                last[a] = last[a].max(at[a]);
            }
        }
    }
    counts.negatives -= true_in_region;
    counts
}

/// Whether a row holds foreground; without an early exit, so that it is a few vector instructions.
fn any(row: &[u8]) -> bool {
    row.iter().fold(0, |all, &v| all | v) != 0
}

/// Compares lesions and surfaces inside the box around both masks and one voxel more.
fn compare_box(
    prediction: &Volume<u8>,
    truth: &Volume<u8>,
    [first, last]: [VoxelIndex; 2],
    options: EvaluationOptions,
) -> (lesions::Comparison, Option<surfaces::Distances>) {
    let grid = truth.grid();
    // A layer of background on each side: each foreground voxel has 26 neighbours in the box.
    let start = first.map(|n| n as isize - 1);
    let shape = [0, 1, 2].map(|a| last[a] - first[a] + 3);
    let cut = |volume: &Volume<u8>| {
        let mut samples = vec![0; shape.iter().product()];
        volume.copy_box(start, shape, &mut samples);
        samples
    };
    let (found, real) = (cut(prediction), cut(truth));
    let distances = surfaces::compare(&found, &real, shape, grid.spacing_mm());
    (
        lesions::compare(&found, &real, shape, grid.voxel_ml(), options),
        distances,
    )
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use glam::{DAffine3, DVec3};
    use proptest::prelude::*;

    use super::*;

    const ANY: EvaluationOptions = EvaluationOptions {
        min_lesion_ml: 0.0,
        overlap_rule: OverlapRule::AnyVoxel,
    };

    fn grid(shape: [usize; 3], spacing_mm: [f64; 3]) -> Grid {
        Grid::new(shape, DAffine3::from_scale(DVec3::from(spacing_mm))).unwrap()
    }

    /// A row of voxels, 1 mm apart.
    fn row(samples: &[u8]) -> Volume<u8> {
        Volume::new(grid([samples.len(), 1, 1], [1.0; 3]), samples.to_vec()).unwrap()
    }

    fn rows(prediction: &[u8], truth: &[u8]) -> Evaluation {
        evaluate(&row(prediction), &row(truth), None, None, ANY).unwrap()
    }

    #[track_caller]
    fn close(found: Option<f64>, want: f64) {
        assert!(
            found.is_some_and(|f| (f - want).abs() < 1e-12),
            "{found:?} is not {want}"
        );
    }

    #[test]
    fn counts_of_voxels_give_the_figures_of_the_textbook() {
        // TP 2, FP 1, FN 3, TN 4.
        let e = rows(
            &[1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 1, 1, 1, 0, 0, 0],
        );
        close(Some(e.dsc), 4.0 / 8.0);
        close(Some(e.jaccard), 2.0 / 6.0);
        close(e.sensitivity, 2.0 / 5.0);
        close(e.specificity, 4.0 / 5.0);
        close(e.ppv, 2.0 / 3.0);
        close(Some(e.f2), 10.0 / (10.0 + 12.0 + 1.0));
        close(Some(e.true_ml), 0.005);
        close(Some(e.found_ml), 0.003);
        close(e.volume_difference, 2.0 / 5.0);
        close(Some(e.volume_difference_ml), -0.002);
        close(Some(e.absolute_volume_difference_ml), 0.002);
        assert_eq!(e.pr_auc, None);
    }

    #[test]
    fn nothing_found_where_there_is_nothing_is_full_agreement() {
        let e = rows(&[0; 4], &[0; 4]);
        assert_eq!([e.dsc, e.jaccard, e.f2, e.lesion_f1], [1.0; 4]);
        assert_eq!([e.recognition_quality, e.panoptic_quality], [1.0; 2]);
        assert_eq!((e.specificity, e.lfpr), (Some(1.0), 0.0));
        assert_eq!(
            [e.sensitivity, e.ppv, e.ltpr, e.segmentation_quality],
            [None; 4]
        );
        assert_eq!(
            [e.assd_mm, e.hd95_mm, e.hd_mm, e.volume_difference],
            [None; 4]
        );
        assert_eq!([e.true_ml, e.found_ml, e.volume_difference_ml], [0.0; 3]);
    }

    #[test]
    fn nothing_found_where_there_is_something_is_none_of_it() {
        let e = rows(&[0; 4], &[0, 1, 0, 0]);
        assert_eq!(
            [e.dsc, e.jaccard, e.f2, e.lesion_f1, e.panoptic_quality],
            [0.0; 5]
        );
        assert_eq!([e.sensitivity, e.ltpr, e.ppv], [Some(0.0), Some(0.0), None]);
        assert_eq!(
            (e.lfpr, e.volume_difference, e.recognition_quality),
            (0.0, Some(1.0), 0.0)
        );
        assert_eq!(
            [e.assd_mm, e.hd95_mm, e.hd_mm, e.segmentation_quality],
            [None; 4]
        );
    }

    #[test]
    fn something_found_where_there_is_nothing_is_all_false() {
        let e = rows(&[0, 1, 1, 0], &[0; 4]);
        assert_eq!(
            [e.dsc, e.jaccard, e.f2, e.lesion_f1, e.panoptic_quality],
            [0.0; 5]
        );
        assert_eq!([e.sensitivity, e.ltpr, e.volume_difference], [None; 3]);
        assert_eq!([e.ppv, e.specificity], [Some(0.0), Some(0.5)]);
        assert_eq!((e.lfpr, e.found_lesions, e.false_lesions), (1.0, 1, 1));
        assert_eq!([e.assd_mm, e.hd95_mm, e.hd_mm], [None; 3]);
    }

    #[test]
    fn the_region_bounds_specificity_and_ranking_alone() {
        let (prediction, truth) = (row(&[1, 0, 0, 1]), row(&[1, 0, 0, 0]));
        let probability = prediction.map(f32::from);
        let region = row(&[1, 1, 0, 0]);
        let e = evaluate(&prediction, &truth, Some(&probability), Some(&region), ANY).unwrap();
        assert_eq!([e.specificity, e.pr_auc], [Some(1.0), Some(1.0)]);
        assert_eq!(e.ppv, Some(0.5));
        let full = row(&[1, 0, 0, 0]);
        let e = evaluate(&prediction, &truth, None, Some(&full), ANY).unwrap();
        assert_eq!(e.specificity, None);
        let e = evaluate(&prediction, &truth, Some(&probability), None, ANY).unwrap();
        close(e.specificity, 2.0 / 3.0);
        close(e.pr_auc, 0.75);
    }

    #[test]
    fn a_mask_at_the_edge_of_the_volume_has_its_surface_there() {
        let full = row(&[1; 5]);
        let e = evaluate(&full, &row(&[0, 0, 1, 0, 0]), None, None, ANY).unwrap();
        // From the five 2, 1, 0, 1, 2, from the one 0.
        close(e.assd_mm, 1.0);
        close(e.hd_mm, 2.0);
    }

    #[test]
    fn a_mask_that_fills_the_volume_is_compared_with_its_own_middle() {
        let grid = grid([5, 5, 5], [1.0; 3]);
        let full = Volume::filled(grid, 1);
        let middle = Volume::from_fn(grid, |at| u8::from(at == [2, 2, 2]));
        let e = evaluate(&full, &middle, None, None, ANY).unwrap();
        close(e.hd_mm, 12.0_f64.sqrt());
        let itself = evaluate(&full, &full, None, None, ANY).unwrap();
        assert_eq!((itself.hd_mm, itself.specificity), (Some(0.0), None));
    }

    #[test]
    fn volumes_on_other_grids_are_refused_by_name() {
        let truth = row(&[0, 1, 1]);
        let short = row(&[0, 1]);
        let refused = evaluate(&short, &truth, None, None, ANY).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the prediction has 2 x 1 x 1 voxels, the truth 3 x 1 x 1"
        );
        let region = evaluate(&truth, &truth, None, Some(&short), ANY).unwrap_err();
        assert!(matches!(
            region,
            Error::Shapes {
                volume: "region",
                ..
            }
        ));
        let wide = Volume::filled(grid([3, 1, 1], [1.5, 1.0, 1.0]), 0.5_f32);
        let refused = evaluate(&truth, &truth, Some(&wide), None, ANY).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the probability lies up to 1.00 mm from the truth, must be at most 0.1 mm"
        );
        let nearly = Volume::new(grid([3, 1, 1], [1.04, 1.0, 1.0]), vec![0, 1, 1]).unwrap();
        assert!(evaluate(&nearly, &truth, None, None, ANY).is_ok());
    }

    #[test]
    fn a_minimum_volume_that_is_none_is_refused() {
        for min_lesion_ml in [-0.001, f64::NAN, f64::INFINITY] {
            let options = EvaluationOptions {
                min_lesion_ml,
                ..ANY
            };
            let refused = evaluate(&row(&[1]), &row(&[1]), None, None, options);
            assert!(matches!(refused, Err(Error::MinLesion { .. })));
        }
    }

    /// Two masks on one grid with about every fourth voxel set.
    fn masks() -> impl Strategy<Value = (Volume<u8>, Volume<u8>)> {
        let shape = [1_usize..8, 1..8, 1..8];
        let spacing_mm = [0.3_f64..4.0, 0.3..4.0, 0.3..4.0];
        (shape, spacing_mm).prop_flat_map(|(shape, spacing_mm)| {
            let n: usize = shape.iter().product();
            let voxels = prop::collection::vec((0_u8..4, 0_u8..4), n);
            voxels.prop_map(move |voxels| {
                let (a, b) = voxels.into_iter().map(|(a, b)| (a / 3, b / 3)).unzip();
                let grid = grid(shape, spacing_mm);
                (Volume::new(grid, a).unwrap(), Volume::new(grid, b).unwrap())
            })
        })
    }

    /// The same volume with an axis turned round.
    fn flipped(volume: &Volume<u8>, axis: usize) -> Volume<u8> {
        let grid = *volume.grid();
        Volume::from_fn(grid, |mut at| {
            at[axis] = grid.shape()[axis] - 1 - at[axis];
            volume.at(at)
        })
    }

    fn same(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn a_mask_agrees_with_itself_in_every_figure((mask, _) in masks()) {
            let probability = mask.map(f32::from);
            let e = evaluate(&mask, &mask, Some(&probability), None, ANY).unwrap();
            prop_assert_eq!([e.dsc, e.jaccard, e.f2, e.lesion_f1, e.panoptic_quality], [1.0; 5]);
            prop_assert_eq!((e.lfpr, e.volume_difference_ml), (0.0, 0.0));
            let something = e.true_lesions > 0;
            for figure in [e.sensitivity, e.ppv, e.ltpr, e.pr_auc, e.segmentation_quality] {
                prop_assert_eq!(figure, something.then_some(1.0));
            }
            for distance in [e.assd_mm, e.hd95_mm, e.hd_mm, e.volume_difference] {
                prop_assert_eq!(distance, something.then_some(0.0));
            }
            let in_bins: usize = e.size_bins.iter().map(|b| b.true_lesions).sum();
            prop_assert_eq!((in_bins, e.matched_lesions), (e.true_lesions, e.true_lesions));
        }

        #[test]
        fn changing_places_exchanges_what_is_one_sided((a, b) in masks()) {
            let there = evaluate(&a, &b, None, None, ANY).unwrap();
            let back = evaluate(&b, &a, None, None, ANY).unwrap();
            for name in ["dsc", "jaccard", "lesion_f1", "segmentation_quality", "panoptic_quality",
                         "assd_mm", "hd95_mm", "hd_mm", "absolute_volume_difference_ml"] {
                let value = |e: &Evaluation| {
                    e.figures().into_iter().find(|f| f.name == name).unwrap().value
                };
                prop_assert!(same(value(&there), value(&back)), "{name}");
            }
            prop_assert_eq!((there.sensitivity, there.true_lesions), (back.ppv, back.found_lesions));
            prop_assert!(same(Some(there.volume_difference_ml), Some(-back.volume_difference_ml)));
            prop_assert_eq!(there.detected_lesions, back.found_lesions - back.false_lesions);
        }

        #[test]
        fn every_figure_stays_in_its_range((a, b) in masks()) {
            let probability = a.map(|v| f32::from(v) * 0.7 + 0.1);
            let e = evaluate(&a, &b, Some(&probability), None, ANY).unwrap();
            for figure in e.figures() {
                let Some(value) = figure.value else { continue };
                prop_assert!(value.is_finite(), "{figure:?}");
                prop_assert!(value >= 0.0 || figure.name == "volume_difference_ml", "{figure:?}");
                let count = figure.name.ends_with("lesions") || figure.name == "volume_difference";
                prop_assert!(value <= 1.0 + 1e-12 || count || !figure.unit.is_empty(), "{figure:?}");
            }
            if let (Some(mean), Some(p95), Some(most)) = (e.assd_mm, e.hd95_mm, e.hd_mm) {
                prop_assert!(p95 <= most && mean <= most * (1.0 + 1e-12));
            }
            prop_assert!(e.segmentation_quality.is_none_or(|q| q > 0.5));
        }

        #[test]
        fn no_figure_knows_left_from_right((a, b) in masks(), axis in 0_usize..3) {
            let e = evaluate(&a, &b, None, None, ANY).unwrap();
            let turned = evaluate(&flipped(&a, axis), &flipped(&b, axis), None, None, ANY).unwrap();
            for (before, after) in e.figures().into_iter().zip(turned.figures()) {
                prop_assert!(same(before.value, after.value), "{before:?} {after:?}");
            }
        }

        #[test]
        fn background_around_both_masks_changes_the_specificity_alone((a, b) in masks()) {
            let shape = a.grid().shape().map(|n| n + 5);
            let start = [-2, -3, -1];
            let wider = a.grid().crop(start, shape).unwrap();
            let e = evaluate(&a, &b, None, None, ANY).unwrap();
            let (a, b) = (a.cropped(start, wider, 0), b.cropped(start, wider, 0));
            let wide = evaluate(&a, &b, None, None, ANY).unwrap();
            for (before, after) in e.figures().into_iter().zip(wide.figures()) {
                let spared = before.name == "specificity";
                prop_assert!(spared || same(before.value, after.value), "{before:?} {after:?}");
            }
        }
    }
}
