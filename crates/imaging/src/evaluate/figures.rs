//! The figures of one case: what each is, and what it gives for empty masks.
use super::lesions::{self, SizeBin};
use super::{VoxelCounts, surfaces};

/// How a prediction compares with the truth in one case.
///
/// TP, FP, FN and TN are voxels: both, prediction only, truth only, neither. "Nothing found" is an
/// empty prediction with a truth that is not; "nothing to find" is the reverse.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Dice similarity coefficient, 2 TP / (2 TP + FP + FN), 0 to 1: the same as the voxel-wise F1.
    ///
    /// Both masks empty: 1; one empty: 0.
    pub dsc: f64,
    /// Jaccard index, TP / (TP + FP + FN), 0 to 1. Both masks empty: 1; one empty: 0.
    pub jaccard: f64,
    /// Sensitivity (recall, TPR), TP / (TP + FN), 0 to 1. Nothing found: 0; truth empty: `None`.
    pub sensitivity: Option<f64>,
    /// Specificity, TN / (TN + FP), 0 to 1, inside the region if there is one.
    ///
    /// `None` if the truth fills the region. It depends on how much air the volume holds: compare it
    /// only between results with the same kind of region.
    pub specificity: Option<f64>,
    /// Positive predictive value (precision), TP / (TP + FP), 0 to 1.
    ///
    /// Nothing to find: 0; prediction empty: `None`.
    pub ppv: Option<f64>,
    /// F2, 5 TP / (5 TP + 4 FN + FP), 0 to 1: sensitivity weighs twice as much as PPV.
    ///
    /// Both masks empty: 1; one empty: 0.
    pub f2: f64,
    /// Area under the precision-recall curve of the voxels' probabilities, 0 to 1.
    ///
    /// Every distinct probability is a threshold, so equal ones enter together; the points are joined
    /// by straight lines (trapezoid rule), starting from precision 1 at recall 0. `None` without
    /// probabilities, or without a true voxel in the region.
    pub pr_auc: Option<f64>,
    /// Lesions of the truth: 26-connected components of at least the minimum volume.
    pub true_lesions: usize,
    /// Lesions of the prediction, counted in the same way.
    pub found_lesions: usize,
    /// Lesions of the truth that the prediction overlaps, by the [`OverlapRule`](super::OverlapRule).
    pub detected_lesions: usize,
    /// Lesions of the prediction that the truth does not overlap, by the [`OverlapRule`](super::OverlapRule).
    pub false_lesions: usize,
    /// Lesion-wise true positive rate, detected / true lesions, 0 to 1.
    ///
    /// Nothing found: 0; no true lesion: `None`.
    pub ltpr: Option<f64>,
    /// Lesion-wise false positive rate, false / found lesions, 0 to 1 (a share of the findings, as in
    /// ISBI 2015). No finding: 0; nothing to find: 1.
    pub lfpr: f64,
    /// Lesion-wise F1, the harmonic mean of LTPR and 1 − LFPR, 0 to 1.
    ///
    /// No lesion in either mask: 1; in one of them: 0.
    pub lesion_f1: f64,
    /// Pairs of a true and a found lesion that share more than half of their union (`IoU` > 0.5).
    pub matched_lesions: usize,
    /// Segmentation quality, the mean `IoU` of the matched pairs, 0.5 to 1. No pair: `None`.
    pub segmentation_quality: Option<f64>,
    /// Recognition quality, 2 matched / (true + found lesions), 0 to 1.
    ///
    /// No lesion in either mask: 1; in one of them: 0.
    pub recognition_quality: f64,
    /// Panoptic quality (Kirillov et al., CVPR 2019), the product of the two, 0 to 1.
    ///
    /// No lesion in either mask: 1; no pair: 0.
    pub panoptic_quality: f64,
    /// Volume of the true mask in millilitres, small lesions included. Empty: 0.
    pub true_ml: f64,
    /// Volume of the predicted mask in millilitres, small lesions included. Empty: 0.
    pub found_ml: f64,
    /// Relative volume difference, |found − true| / true, 0 or more.
    ///
    /// Nothing found: 1; truth empty: `None`.
    pub volume_difference: Option<f64>,
    /// Volume difference, found − true, in millilitres: its sign tells too much from too little.
    pub volume_difference_ml: f64,
    /// Absolute volume difference, |found − true|, in millilitres.
    pub absolute_volume_difference_ml: f64,
    /// Average symmetric surface distance in millimetres, 0 or more. A mask empty: `None`.
    ///
    /// The mean of the distances of all surface voxels of either mask to the other's surface, both
    /// directions pooled. A surface voxel has a background voxel, or the edge of the volume, among its
    /// 26 neighbours.
    pub assd_mm: Option<f64>,
    /// The 95th percentile (linear between neighbours) of the same distances. A mask empty: `None`.
    pub hd95_mm: Option<f64>,
    /// Hausdorff distance, the largest of the same distances. A mask empty: `None`.
    pub hd_mm: Option<f64>,
    /// Detection by the size of the true lesion: see [`SizeBin`].
    pub size_bins: [SizeBin; lesions::BINS],
}

/// One number of an [`Evaluation`], with its names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The key in JSON and the column in a CSV file.
    pub name: &'static str,
    /// What a table shows.
    pub title: &'static str,
    /// `ml`, `mm`, or empty for a ratio or a count.
    pub unit: &'static str,
    /// The value; `None` where it is undefined.
    pub value: Option<f64>,
}

impl Evaluation {
    /// Lists every figure, in the order in which a table shows them.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let one = |name, title, unit, value| Figure {
            name,
            title,
            unit,
            value,
        };
        let count = |n: usize| Some(n as f64);
        let mut figures = vec![
            one("dsc", "DSC (F1)", "", Some(self.dsc)),
            one("jaccard", "Jaccard", "", Some(self.jaccard)),
            one("sensitivity", "sensitivity", "", self.sensitivity),
            one("specificity", "specificity", "", self.specificity),
            one("ppv", "PPV", "", self.ppv),
            one("f2", "F2", "", Some(self.f2)),
            one("pr_auc", "PR-AUC", "", self.pr_auc),
            one("true_lesions", "true lesions", "", count(self.true_lesions)),
            one(
                "found_lesions",
                "found lesions",
                "",
                count(self.found_lesions),
            ),
            one(
                "detected_lesions",
                "detected lesions",
                "",
                count(self.detected_lesions),
            ),
            one(
                "false_lesions",
                "false lesions",
                "",
                count(self.false_lesions),
            ),
            one("ltpr", "LTPR", "", self.ltpr),
            one("lfpr", "LFPR", "", Some(self.lfpr)),
            one("lesion_f1", "lesion F1", "", Some(self.lesion_f1)),
            one(
                "matched_lesions",
                "matched lesions",
                "",
                count(self.matched_lesions),
            ),
            one(
                "segmentation_quality",
                "segmentation quality",
                "",
                self.segmentation_quality,
            ),
            one(
                "recognition_quality",
                "recognition quality",
                "",
                Some(self.recognition_quality),
            ),
            one(
                "panoptic_quality",
                "panoptic quality",
                "",
                Some(self.panoptic_quality),
            ),
            one("true_ml", "true volume", "ml", Some(self.true_ml)),
            one("found_ml", "found volume", "ml", Some(self.found_ml)),
            one(
                "volume_difference",
                "volume difference",
                "",
                self.volume_difference,
            ),
            one(
                "volume_difference_ml",
                "found - true",
                "ml",
                Some(self.volume_difference_ml),
            ),
            one(
                "absolute_volume_difference_ml",
                "|found - true|",
                "ml",
                Some(self.absolute_volume_difference_ml),
            ),
            one("assd_mm", "ASSD", "mm", self.assd_mm),
            one("hd95_mm", "HD95", "mm", self.hd95_mm),
            one("hd_mm", "HD", "mm", self.hd_mm),
        ];
        figures.extend(
            self.size_bins
                .iter()
                .map(|b| one(b.name, b.title, "", b.ltpr())),
        );
        figures
    }
}

/// Puts the figures of one case together.
pub(super) fn assemble(
    counts: VoxelCounts,
    pr_auc: Option<f64>,
    lesions: &lesions::Comparison,
    distances: Option<surfaces::Distances>,
    voxel_ml: f64,
) -> Evaluation {
    let [tp, fp, fn_] = [counts.both, counts.found_only, counts.true_only].map(|n| n as f64);
    let true_negatives = counts.negatives - counts.false_positives;
    let (true_ml, found_ml) = ((tp + fn_) * voxel_ml, (tp + fp) * voxel_ml);
    let agreement = |of: f64, all: f64| ratio(of, all).unwrap_or(1.0);
    let ltpr = ratio(lesions.detected as f64, lesions.real as f64);
    let lfpr = ratio(lesions.false_findings as f64, lesions.found as f64).unwrap_or(0.0);
    let segmentation_quality = ratio(lesions.matched_iou, lesions.matched as f64);
    let recognition_quality = agreement(
        2.0 * lesions.matched as f64,
        (lesions.real + lesions.found) as f64,
    );
    Evaluation {
        dsc: agreement(2.0 * tp, 2.0 * tp + fp + fn_),
        jaccard: agreement(tp, tp + fp + fn_),
        sensitivity: ratio(tp, tp + fn_),
        specificity: ratio(true_negatives as f64, counts.negatives as f64),
        ppv: ratio(tp, tp + fp),
        f2: agreement(5.0 * tp, 5.0 * tp + 4.0 * fn_ + fp),
        pr_auc,
        true_lesions: lesions.real,
        found_lesions: lesions.found,
        detected_lesions: lesions.detected,
        false_lesions: lesions.false_findings,
        ltpr,
        lfpr,
        lesion_f1: match ltpr {
            Some(ltpr) => ratio(2.0 * ltpr * (1.0 - lfpr), ltpr + 1.0 - lfpr).unwrap_or(0.0),
            None => agreement(0.0, lesions.found as f64),
        },
        matched_lesions: lesions.matched,
        segmentation_quality,
        recognition_quality,
        panoptic_quality: segmentation_quality
            .map_or(recognition_quality, |q| q * recognition_quality),
        true_ml,
        found_ml,
        volume_difference: ratio((fp - fn_).abs(), tp + fn_),
        volume_difference_ml: (fp - fn_) * voxel_ml,
        absolute_volume_difference_ml: (fp - fn_).abs() * voxel_ml,
        assd_mm: distances.map(|d| d.mean),
        hd95_mm: distances.map(|d| d.percentile_95),
        hd_mm: distances.map(|d| d.largest),
        size_bins: lesions.size_bins,
    }
}

/// A share, or `None` if there is nothing to have a share of.
pub(super) fn ratio(of: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| of / all)
}
