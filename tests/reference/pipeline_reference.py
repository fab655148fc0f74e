"""The method of docs/method.md written a second time, step by step, to hold the program against.

Volumes are arrays [i, j, k] in file order, affines 4x4 to RAS+ millimetres, all in float64 except the
network's tensors. Written for clarity; nothing here is shared with the program but the model's folder.
"""
import itertools
import pathlib
import tomllib
from typing import NamedTuple

import nibabel
import numpy
import onnxruntime
from scipy import ndimage

SINGLE_SHAPES = [(96, 96, 96), (112, 144, 112), (128, 160, 128), (144, 176, 144), (160, 192, 160),
                 (176, 208, 192), (192, 240, 224), (256, 256, 256)]
MOST_SINGLE_VOXELS = 12_000_000


class Lesion(NamedTuple):
    voxels: int
    volume_ml: float
    centroid_mm: tuple  # x, y, z in RAS+


class Result(NamedTuple):
    probability: numpy.ndarray  # On the FLAIR's own grid, in file order.
    affine: numpy.ndarray
    mask: numpy.ndarray  # Like `probability`: the lesions that were kept.
    lesions: list
    foreground: str  # "brain" or "head"
    grid_shape: tuple
    patches: int  # Turned ones counted as well.
    too_large: bool  # A single pass was asked for and could not be had.


def segment(scans, model_folder, voting=None, overlap=None, weighting=None, flips=None):
    """The whole method. `scans` maps contrasts to paths; what is None is as the model says."""
    folder = pathlib.Path(model_folder)
    model = tomllib.loads((folder / "model.toml").read_text())
    patches, output = model["patches"], model["output"]
    voting = voting or patches["voting"]
    overlap = patches["overlap"] if overlap is None else overlap
    weighting = weighting or patches["weighting"]
    flips = patches.get("flips", False) if flips is None else flips

    images = {contrast: decode(path) for contrast, path in scans.items()}
    flair, flair_affine = images["flair"]

    field_shape, field_affine = field_of_view(flair.shape, flair_affine, model["input"]["spacing_mm"])
    in_field = resample(flair, flair_affine, field_affine, field_shape)
    brain, foreground = find_brain(in_field, field_affine, flair, flair_affine)

    box = bounding_box(brain, margin=4)
    brain = brain[box]
    grid_affine = field_affine.copy()
    grid_affine[:3, 3] += field_affine[:3, :3] @ [part.start for part in box]

    channels = []
    for contrast in model["input"]["contrasts"]:
        if contrast not in images:
            channels.append((numpy.full(brain.shape, model["input"]["missing_value"]), model["input"]["missing_value"]))
            continue
        samples = in_field[box] if contrast == "flair" else resample(*images[contrast], grid_affine, brain.shape)
        channels.append((normalise(samples, brain, model["normalisation"]), model["normalisation"]["outside_brain"]))

    network = load_network(folder / model["file"], model["input"]["name"], output["name"])
    whole = single_patch(brain.shape, model["input"]["multiple"]) if voting != "full" else None
    size, probability, n_patches = tuple(patches["shape"]), None, 0
    if whole:
        look = [single_start(brain.shape, whole)]
        probability, n_patches = vote(channels, look, whole, numpy.ones(whole), network, flips), 1
    if not whole or voting == "adaptive":
        where = brain if not whole else brain & (probability >= 0.1) & (probability <= 0.9)
        starts = full_starts(where, size, overlap)
        weight = patch_weight(size, weighting)
        probability = vote(channels, starts, size, weight, network, flips, beside=probability)
        n_patches += len(starts)
    if output["restrict_to_brain"]:
        probability = numpy.where(brain, probability, 0)

    probability = resample(probability, grid_affine, flair_affine, flair.shape)
    probability = numpy.floor(probability * 16384 + 0.5) / 16384
    mask, lesions = find_lesions(probability, flair_affine, output["threshold"], output["min_lesion_ml"])
    return Result(probability, flair_affine, mask, lesions, foreground, brain.shape, n_patches * (1 + flips),
                  voting != "full" and whole is None)


# 1. Decode

def decode(path):
    """The samples [i, j, k] as float32 would keep them, and the affine 4x4."""
    image = nibabel.load(path)
    slope, intercept = image.dataobj.slope, image.dataobj.inter  # 1 and 0 where the header's slope is void.
    samples = image.dataobj.get_unscaled().astype("f8") * slope + intercept
    samples = samples.astype("f4").astype("f8")
    samples[~numpy.isfinite(samples)] = 0
    header = image.header
    if header["sform_code"] > 0:
        affine = header.get_sform()
    elif header["qform_code"] > 0:
        affine = header.get_qform()
    else:
        affine = numpy.diag([*header.get_zooms()[:3], 1])
    return samples, affine.astype("f8")


# 2. The study's field of view

def field_of_view(shape, affine, spacing_mm):
    """The shape (3,) and affine of the field: axes nearest to RAS+, the model's spacing, the same middle."""
    spacing = numpy.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing  # A column for each axis of the FLAIR.
    order, signs = max(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)),
        key=lambda way: sum(sign * cosines[world, axis] for world, (axis, sign) in enumerate(zip(*way))))
    middle = affine @ [*((numpy.array(shape) - 1) / 2), 1]

    field_shape, columns = [], []
    for axis, sign, want in zip(order, signs, spacing_mm):
        n, s = shape[axis], spacing[axis]
        if abs(want / s - 1) >= 0.001:
            n, s = max(1, int(numpy.ceil(n * s / want - 1e-6))), want
        field_shape.append(n)
        columns.append(sign * cosines[:, axis] * s)
    field = numpy.eye(4)
    field[:3, :3] = numpy.array(columns).T
    field[:3, 3] = middle[:3] - field[:3, :3] @ ((numpy.array(field_shape) - 1) / 2)
    return tuple(field_shape), field


# 3. Resampling

def resample(source, source_affine, target_affine, target_shape):
    """`source` [i, j, k] on the target's grid: copied where voxels coincide, else means of trilinear samples."""
    matrix = numpy.linalg.inv(source_affine) @ target_affine
    whole = numpy.rint(matrix)
    corners = numpy.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in target_shape))])
    turn = abs(whole[:3, :3])
    if ((turn.sum(0) == 1).all() and (turn.sum(1) == 1).all() and abs((matrix - whole) @ corners.T).max() <= 0.001):
        return copy_voxels(source, whole.astype(int), target_shape)

    counts = numpy.clip(numpy.ceil(abs(matrix[:3, :3]).max(axis=0) - 0.001), 1, 32).astype(int)
    total = numpy.zeros(target_shape)
    for offset in itertools.product(*((numpy.arange(c) + 0.5) / c - 0.5 for c in counts)):
        i, j, k = numpy.ogrid[tuple(slice(n) for n in target_shape)]
        inside = numpy.ones(target_shape, bool)
        points = []
        for row, n in zip(matrix[:3], source.shape):
            at = row[0] * (i + offset[0]) + row[1] * (j + offset[1]) + row[2] * (k + offset[2]) + row[3]
            inside &= (at >= -0.5) & (at <= n - 0.5)
            points.append(numpy.clip(at, 0, n - 1))
        total += numpy.where(inside, ndimage.map_coordinates(source, points, order=1, mode="nearest"), 0)
    return total / counts.prod()


def copy_voxels(source, whole, target_shape):
    """The target where `whole`, a 4x4 of integers, maps its voxels to the source's; 0 outside the source."""
    axes = abs(whole[:3, :3]).argmax(axis=0)  # The source's axis along each of the target's.
    target, inside = source.transpose(axes), numpy.ones(target_shape, bool)
    for axis, n in enumerate(target_shape):
        at = whole[axes[axis], axis] * numpy.arange(n) + whole[axes[axis], 3]
        known = (at >= 0) & (at < target.shape[axis])
        target = target.take(numpy.where(known, at, 0), axis)
        inside &= known.reshape([-1 if other == axis else 1 for other in range(3)])
    return numpy.where(inside, target, 0)


# 4. The brain

def find_brain(volume, affine, sent, sent_affine):
    """The mask [i, j, k] of the foreground, and "brain" or "head". `sent` is the volume before it was resampled."""
    seen = not_background(sent)
    if seen is not None and seen.sum() * voxel_ml(sent_affine) <= 2300:
        clearly = not_background(volume)
        if clearly is not None:
            brain = ndimage.binary_fill_holes(large_components(clearly))
            if brain.sum() * voxel_ml(affine) <= 2300 and brain[on_faces(volume.shape)].mean() <= 0.05:
                return brain, "brain"

    head = large_components(volume > otsu(volume))
    return numpy.stack([ndimage.binary_fill_holes(plane) for plane in numpy.moveaxis(head, 2, 0)], axis=2), "head"


def not_background(volume):
    """What differs clearly from the commonest value on the faces; None if too little of the volume has that value."""
    values, counts = numpy.unique(volume[on_faces(volume.shape)], return_counts=True)
    background = values[counts.argmax()]  # `values` are sorted: the smallest of equally common ones.
    if (volume == background).mean() < 0.2:
        return None
    return numpy.abs(volume - background) > 1e-3 * (volume.max() - volume.min())


def on_faces(shape):
    faces = numpy.ones(shape, bool)
    faces[1:-1, 1:-1, 1:-1] = False
    return faces


def voxel_ml(affine):
    return abs(numpy.linalg.det(affine[:3, :3])) / 1000


def large_components(mask):
    """The face-connected components of at least 1 % of the largest one's voxels."""
    labels, _ = ndimage.label(mask)
    sizes = numpy.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= 0.01 * max(1, sizes.max()))[labels]


def otsu(volume):
    """The upper edge of the last bin of the lower class, where the variance between the classes is greatest."""
    counts, edges = numpy.histogram(volume, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum()[:-1], counts[::-1].cumsum()[::-1][1:]
    sums = (counts * centres).cumsum()
    with numpy.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return edges[1 + numpy.nan_to_num(between).argmax()]


def bounding_box(mask, margin):
    """Three slices: the box around the mask with a margin, cut to the volume."""
    found = numpy.nonzero(mask)
    return tuple(slice(max(0, at.min() - margin), min(n, at.max() + 1 + margin))
                 for at, n in zip(found, mask.shape))


# 5. Normalisation

def normalise(samples, brain, how):
    low, median, high = numpy.quantile(samples[brain & (samples != 0)], [0.25, 0.5, 0.75])
    return numpy.where(brain, numpy.clip((samples - median) / ((high - low) / 1.349), *how["clip"]),
                       how["outside_brain"])


# 6. Patches

def single_patch(shape, multiple):
    """The smallest listed shape that holds the grid, or None."""
    for listed in SINGLE_SHAPES:
        size = tuple(-(-side // multiple) * multiple for side in listed)
        if all(side >= n for side, n in zip(size, shape)):
            return size if numpy.prod(size) <= MOST_SINGLE_VOXELS else None
    return None


def single_start(shape, size):
    return tuple(-((side - n) // 2) for side, n in zip(size, shape))


def full_starts(brain, size, overlap):
    """Starts (i, j, k) of the patches that hold some brain, i fastest."""
    def along(n, p):
        if n < p:
            return [-((p - n) // 2)]
        stride = max(1, round(p * (1 - overlap)))
        gaps = max(1, -(-(n - p) // stride))
        return sorted({(m * (n - p) + gaps // 2) // gaps for m in range(gaps + 1)})

    i, j, k = (along(n, p) for n, p in zip(brain.shape, size))
    starts = [(a, b, c) for c in k for b in j for a in i]
    return [start for start in starts if cut(brain, start, size, False).any()]


def cut(volume, start, size, outside):
    """The patch [size] of a volume, `outside` where it reaches beyond."""
    patch = numpy.full(size, outside, volume.dtype)
    here, there = common(start, size, volume.shape)
    patch[there] = volume[here]
    return patch


def common(start, size, shape):
    """The slices of the volume and those of the patch where both are."""
    here = tuple(slice(max(0, a), min(n, a + p)) for a, p, n in zip(start, size, shape))
    return here, tuple(slice(part.start - a, part.stop - a) for part, a in zip(here, start))


# 7. Votes

def patch_weight(size, weighting):
    def profile(n):
        u = 2 * (numpy.arange(n) + 0.5) / n - 1
        t = 1 - abs(u)
        return {"bspline2": numpy.where(t <= 0.5, 2 * t ** 2, 1 - 2 * (1 - t) ** 2),
                "gaussian": numpy.exp(-0.5 * (4 * u) ** 2),
                "uniform": numpy.ones(n)}[weighting]

    a, b, c = (profile(n) for n in size)
    return a[:, None, None] * b[:, None] * c


def load_network(path, input_name, output_name):
    """A function from channels [c, i, j, k] to the probability [i, j, k]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def network(patch):
        tensor = numpy.ascontiguousarray(patch.transpose(0, 3, 2, 1)[None], "f4")
        return session.run([output_name], {input_name: tensor})[0][0, 0].transpose(2, 1, 0).astype("f8")

    return network


def vote(channels, starts, size, weight, network, flips, beside=None):
    """The weighted mean [i, j, k] of the patches' answers. `channels` are pairs of volume and value outside.
    `beside` is what one look at everything told: a vote of weight 1 everywhere."""
    shape = channels[0][0].shape
    votes, weights = numpy.zeros(shape), numpy.zeros(shape)
    if beside is not None:
        votes, weights = beside.copy(), numpy.ones(shape)
    for start in starts:
        patch = numpy.stack([cut(volume, start, size, outside) for volume, outside in channels])
        answers = [network(patch)]
        if flips:
            answers.append(network(patch[:, ::-1, ::-1])[::-1, ::-1])
        here, there = common(start, size, shape)
        for answer in answers:
            votes[here] += (weight * answer)[there]
            weights[here] += weight[there]
    return numpy.divide(votes, weights, out=numpy.zeros(shape), where=weights > 0)


# 9. Lesions (step 8 is `resample`)

def find_lesions(probability, affine, threshold, min_lesion_ml):
    """The mask [i, j, k] of the lesions kept, and the lesions by size, then by first voxel in file order."""
    each_ml = voxel_ml(affine)
    labels, count = ndimage.label(probability >= threshold, numpy.ones((3, 3, 3)))
    sizes = numpy.bincount(labels.ravel(), minlength=count + 1)
    kept = [label for label in range(1, count + 1) if sizes[label] * each_ml >= min_lesion_ml - 1e-9]

    in_file_order, first = numpy.unique(labels.ravel(order="F"), return_index=True)
    first = dict(zip(in_file_order, first))
    kept.sort(key=lambda label: (-sizes[label], first[label]))
    centres = ndimage.center_of_mass(labels > 0, labels, kept) if kept else []
    lesions = [Lesion(int(sizes[label]), float(sizes[label] * each_ml), tuple((affine @ [*centre, 1])[:3]))
               for label, centre in zip(kept, centres)]
    return numpy.isin(labels, kept), lesions
