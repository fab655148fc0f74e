"""The figures of `dawson evaluate` by independent libraries.

    python evaluate_reference.py PREDICTION TRUTH [--probability F] [--region F]
                                 [--min-lesion-ml ML] [--overlap any|SHARE]

Prints one JSON object: for each figure the value of each library that has it. Nothing here comes
from Dawson: voxel counts are MedPy's and scikit-learn's, components scikit-image's and SciPy's,
distances MedPy's (SciPy's distance transform) and a k-d tree's, panoptic quality panoptica's.

Where a library leaves a figure undefined, or gives 0 with a warning, the value is the one that
docs/evaluation.md states; that is decided by `empty` alone, before any library is asked.
"""
import argparse
import json
import logging

import nibabel
import numpy
import panoptica
from medpy.metric import binary as medpy
from scipy import ndimage, spatial
from skimage import measure, metrics
from sklearn import metrics as sklearn

CORNERS = numpy.ones((3, 3, 3), bool)  # 26 neighbours, in SciPy's terms.
# Edges in ml of the bins of lesion size, with the figures' names.
SIZE_BINS = {
    "ltpr_below_10_mm3": (0.0, 0.01),
    "ltpr_10_to_30_mm3": (0.01, 0.03),
    "ltpr_30_to_100_mm3": (0.03, 0.1),
    "ltpr_100_to_1000_mm3": (0.1, 1.0),
    "ltpr_from_1000_mm3": (1.0, numpy.inf),
}
# The rounding of spacings in headers must not lose a lesion of exactly the minimum volume.
ROUNDING = 1 - 1e-4

logging.getLogger("panoptica").setLevel(logging.ERROR)
panoptica.disable_citation_reminder()


def reference(prediction, truth, affine, probability=None, region=None, min_lesion_ml=0.0, overlap=None):
    """Returns {figure: {library: value or None}}.

    prediction, truth, region: bool arrays [i, j, k]; probability: float32 of the same shape;
    affine: 4 x 4, voxel to mm; overlap: None for any voxel, else the least share of a lesion.
    """
    spacing = nibabel.affines.voxel_sizes(affine)
    voxel_ml = abs(numpy.linalg.det(affine[:3, :3])) / 1000
    return {
        **voxels(prediction, truth, region),
        **ranking(probability, truth, region),
        **lesions(prediction, truth, voxel_ml, min_lesion_ml, overlap),
        **volumes(prediction, truth, affine, voxel_ml),
        **surfaces(prediction, truth, spacing),
    }


def empty(value):
    """What docs/evaluation.md states for an empty mask, in the place of a library's value."""
    return {"convention": value}


def voxels(prediction, truth, region):
    p, t = prediction.ravel(), truth.ravel()
    inside = slice(None) if region is None else region.ravel()
    some_p, some_t = p.any(), t.any()
    agreement = 1.0 if not (some_p or some_t) else 0.0
    out = {
        "dsc": {"medpy": medpy.dc(p, t), "sklearn": sklearn.f1_score(t, p, zero_division=0)},
        "jaccard": {"sklearn": sklearn.jaccard_score(t, p, zero_division=0)},
        "f2": {"sklearn": sklearn.fbeta_score(t, p, beta=2, zero_division=0)},
    }
    if not (some_p and some_t):
        out = {name: empty(agreement) for name in out}
    else:
        out["jaccard"]["medpy"] = medpy.jc(p, t)
    out["sensitivity"] = empty(None) if not some_t else {
        "medpy": medpy.recall(p, t), "sklearn": sklearn.recall_score(t, p)}
    out["ppv"] = empty(None) if not some_p else {
        "medpy": medpy.precision(p, t), "sklearn": sklearn.precision_score(t, p)}
    out["specificity"] = empty(None) if t[inside].all() else {
        "medpy": medpy.specificity(p[inside], t[inside]),
        "sklearn": sklearn.recall_score(t[inside], p[inside], pos_label=0)}
    return out


def ranking(probability, truth, region):
    inside = numpy.ones(truth.shape, bool) if region is None else region
    if probability is None or not truth[inside].any():
        return {"pr_auc": empty(None)}
    precision, recall, _ = sklearn.precision_recall_curve(truth[inside], probability[inside])
    return {"pr_auc": {"sklearn": sklearn.auc(recall, precision)}}


def lesions(prediction, truth, voxel_ml, min_lesion_ml, overlap):
    """Counts by two libraries' components; the rule is spelt out lesion by lesion."""
    labellers = {
        "skimage": lambda mask: measure.label(mask, connectivity=3),
        "scipy": lambda mask: ndimage.label(mask, CORNERS)[0],
    }
    counted = {
        library: count_lesions(prediction, truth, label, voxel_ml, min_lesion_ml, overlap)
        for library, label in labellers.items()
    }
    out = {name: {library: counted[library][name] for library in labellers} for name in counted["scipy"]}
    masks = [large(mask, labellers["scipy"], voxel_ml, min_lesion_ml) for mask in (prediction, truth)]
    return {**out, **panoptic(*masks)}


def large(mask, label, voxel_ml, min_lesion_ml):
    """The mask without its small components."""
    labels = label(mask)
    sizes = numpy.bincount(labels.ravel())
    sizes[0] = 0
    return ((sizes > 0) & (sizes * voxel_ml >= min_lesion_ml * ROUNDING))[labels]


def count_lesions(prediction, truth, label, voxel_ml, min_lesion_ml, overlap):
    prediction = large(prediction, label, voxel_ml, min_lesion_ml)
    truth = large(truth, label, voxel_ml, min_lesion_ml)

    def overlapped(mask, other):
        """For each lesion of `mask`: its volume, and whether `other` overlaps it."""
        labels = label(mask)
        covered = numpy.bincount(labels[other], minlength=labels.max() + 1)[1:]
        sizes = numpy.bincount(labels.ravel())[1:]
        reached = covered > 0 if overlap is None else covered / sizes >= overlap
        return sizes * voxel_ml, reached

    (true_ml, detected), (found_ml, genuine) = overlapped(truth, prediction), overlapped(prediction, truth)
    n_true, n_found = len(true_ml), len(found_ml)
    ltpr = detected.mean() if n_true else None
    lfpr = 1 - genuine.mean() if n_found else 0.0
    if n_true and n_found:
        f1 = 2 * ltpr * (1 - lfpr) / (ltpr + 1 - lfpr) if ltpr + 1 - lfpr > 0 else 0.0
    else:
        f1 = 1.0 if n_true == n_found else 0.0
    out = {
        "true_lesions": n_true,
        "found_lesions": n_found,
        "detected_lesions": int(detected.sum()),
        "false_lesions": int((~genuine).sum()),
        "ltpr": ltpr,
        "lfpr": lfpr,
        "lesion_f1": f1,
    }
    for name, (low, high) in SIZE_BINS.items():
        chosen = (true_ml >= low * ROUNDING) & (true_ml < high * ROUNDING)
        out[name] = detected[chosen].mean() if chosen.any() else None
    return out


def panoptic(prediction, truth):
    if not prediction.any() and not truth.any():
        return {"matched_lesions": empty(0), "segmentation_quality": empty(None),
                "recognition_quality": empty(1.0), "panoptic_quality": empty(1.0)}
    if not prediction.any() or not truth.any():
        return {"matched_lesions": empty(0), "segmentation_quality": empty(None),
                "recognition_quality": empty(0.0), "panoptic_quality": empty(0.0)}
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(
            cca_backend=panoptica.CCABackend.cc3d),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=0.5, strict_threshold=True),
        instance_metrics=[panoptica.Metric.IOU],
        global_metrics=[],
    )
    result = evaluator.evaluate(prediction.astype("u1"), truth.astype("u1"), verbose=False)["ungrouped"]
    return {
        "matched_lesions": {"panoptica": result.tp},
        "segmentation_quality": {"panoptica": result.sq if result.tp else None},
        "recognition_quality": {"panoptica": result.rq},
        "panoptic_quality": {"panoptica": result.pq if result.tp else 0.0},
    }


def volumes(prediction, truth, affine, voxel_ml):
    """nibabel's volumes are float32, too coarse for a difference: that is counted in voxels."""
    def ml(mask):
        return float(nibabel.imagestats.mask_volume(nibabel.Nifti1Image(mask.astype("u1"), affine))) / 1000

    difference_ml = (int(prediction.sum()) - int(truth.sum())) * voxel_ml
    return {
        "true_ml": {"nibabel": ml(truth), "numpy": truth.sum() * voxel_ml},
        "found_ml": {"nibabel": ml(prediction), "numpy": prediction.sum() * voxel_ml},
        "volume_difference_ml": {"numpy": difference_ml},
        "absolute_volume_difference_ml": {"numpy": abs(difference_ml)},
        "volume_difference": empty(None) if not truth.any() else {"medpy": abs(medpy.ravd(prediction, truth))},
    }


def surfaces(prediction, truth, spacing):
    """Distances of 26-neighbour surfaces; outside of the volume counts as background.

    MedPy's `hd` and `hd95` pool both directions, as Dawson does. Its `assd` is the mean of the two
    directions' means, another figure whenever the surfaces differ in size: hence the two `asd`
    weighted by their numbers of surface voxels. scikit-image knows no spacing: it is asked when
    all axes have the same.
    """
    if not prediction.any() or not truth.any():
        return {"assd_mm": empty(None), "hd95_mm": empty(None), "hd_mm": empty(None)}
    # All surfaces lie in here; a margin keeps background around them where there is some.
    box = tuple(slice(max(axis.start - 2, 0), axis.stop + 2)
                for axis in ndimage.find_objects((prediction | truth).astype(int))[0])
    prediction, truth = prediction[box], truth[box]
    there, back = (medpy.asd(a, b, spacing, 3) for a, b in ((prediction, truth), (truth, prediction)))
    edges = [mask & ~ndimage.binary_erosion(mask, CORNERS) for mask in (prediction, truth)]
    sizes = [edge.sum() for edge in edges]
    points = [numpy.argwhere(edge) * spacing for edge in edges]
    pooled = numpy.concatenate([spatial.cKDTree(b).query(a)[0] for a, b in (points, points[::-1])])
    out = {
        "assd_mm": {"medpy": numpy.average([there, back], weights=sizes), "k-d tree": pooled.mean()},
        "hd95_mm": {"medpy": medpy.hd95(prediction, truth, spacing, 3), "k-d tree": numpy.percentile(pooled, 95)},
        "hd_mm": {"medpy": medpy.hd(prediction, truth, spacing, 3), "k-d tree": pooled.max()},
    }
    if numpy.ptp(spacing) < 1e-6:
        out["hd_mm"]["skimage"] = metrics.hausdorff_distance(*edges) * spacing[0]
    return out


def cohort(pairs, figures):
    """Returns mean, median and n by figure, r, and the ISBI score of each case.

    pairs: (prediction, truth) of each case, voxels of one size; figures: {figure: value or None} of each.
    The score is that of Carass et al. (2017), with r the correlation of the volumes over the cases.
    """
    figures = [dict(case) for case in figures]
    r = float(medpy.volume_correlation(*zip(*pairs))[0])
    for case in figures:
        ppv = 0.0 if case["ppv"] is None else case["ppv"]
        case["isbi_score"] = None if case["ltpr"] is None else numpy.dot(
            [case["dsc"], ppv, 1 - case["lfpr"], case["ltpr"], r], [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])
    defined = {name: [case[name] for case in figures if case[name] is not None] for name in figures[0]}
    return {
        "mean": {name: numpy.mean(values) if values else None for name, values in defined.items()},
        "median": {name: numpy.median(values) if values else None for name, values in defined.items()},
        "n": {name: len(values) for name, values in defined.items()},
        "volume_correlation": r,
        "isbi_scores": [case["isbi_score"] for case in figures],
    }


def share(text):
    """`any`, or the least share of a lesion."""
    return None if text == "any" else float(text)


def main():
    parser = argparse.ArgumentParser(description="The figures of `dawson evaluate` by independent libraries.")
    parser.add_argument("prediction")
    parser.add_argument("truth")
    parser.add_argument("--probability")
    parser.add_argument("--region")
    parser.add_argument("--min-lesion-ml", type=float, default=0.003)
    parser.add_argument("--overlap", type=share, default=None)
    chosen = parser.parse_args()

    def read(path):
        return None if path is None else numpy.asarray(nibabel.load(path).dataobj)

    prediction, truth, region = (read(p) for p in (chosen.prediction, chosen.truth, chosen.region))
    figures = reference(
        prediction != 0, truth != 0, nibabel.load(chosen.truth).affine, read(chosen.probability),
        None if region is None else region != 0, chosen.min_lesion_ml, chosen.overlap,
    )
    print(json.dumps(figures, indent=2, default=float))


if __name__ == "__main__":
    main()
