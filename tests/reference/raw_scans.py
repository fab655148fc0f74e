"""Raw scans through the program, and scans that are not what they are sent as.

    python tests/reference/raw_scans.py target/release/dawson ../shared/data [table ...]

Prints the tables of docs/method.md: `quality` (every real case: its figures and flags), `wrong` (wrong input and
what is said of it), `brain` (Dice against the brain masks that came with the raw scans), `changed` (what changed in
long01, and which of it is found), `raw-like` (lesjak26 as a scanner would have given it against the prepared case),
`raw-parts` (which part of that costs how much), `time` (the whole path against its inference). Without names: all of
them. tests/reference/test_raw.py holds what they must show. Needs nibabel, numpy and scipy. $DAWSON_MODELS names other
networks than those of the repository.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import nibabel
import numpy
from scipy import ndimage

FLIP = numpy.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS+, ours RAS+.
CHANGED_ML = 0.05
NEW_LESION = 1.0
ONCE = "--flips=false"  # Where it is not the lesions that are asked for, one look at them is enough.


def segment(program, out, scans, *options):
    """Runs the program; gives its report, or the words with which it refused."""
    arguments = ["segment", "--out", out, "--overwrite", *options]
    for contrast, path in scans.items():
        arguments += [f"--{contrast}", path]
    done = subprocess.run([pathlib.Path(program).resolve(), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()
    return json.loads((pathlib.Path(out) / "report.json").read_text())


def codes(result):
    """The flags of a report with their contrasts, or the refusal."""
    if isinstance(result, str):
        return [result]
    return [warning["code"] + (f" ({warning['contrast']})" if warning.get("contrast") else "")
            for warning in result["warnings"]]


def real_cases(data):
    """Every real study that lies beside the repository: its name and scans."""
    cases = {}
    for name in ("lesjak26", "mslesseg14-visit1", "mslesseg14-visit2", "mslesseg14-visit3"):
        folder = data / "labelled" / name
        cases[name] = {c: folder / f"{c}.nii.gz" for c in ("flair", "t1w", "t2w") if (folder / f"{c}.nii.gz").exists()}
    for patient, study in (("long01", 1), ("long01", 2), ("long20", 2)):
        paths = {c: data / "raw" / patient / f"study{study}_{c}.nii.gz" for c in ("flair", "t1w", "t2w")}
        cases[f"{patient}-visit{study}"] = {c: path for c, path in paths.items() if path.exists()}
    return cases


def read_itk(path):
    """The 4x4 map in RAS+ mm of an ITK text transform: y = A (x - c) + t + c."""
    fields = dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
    numbers = numpy.array(fields["Parameters"].split(), float)
    centre = numpy.array(fields["FixedParameters"].split(), float)
    whole = numpy.eye(4)
    whole[:3, :3] = numbers[:9].reshape(3, 3)
    whole[:3, 3] = numbers[9:] + centre - whole[:3, :3] @ centre
    return FLIP @ whole @ FLIP


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


# Wrong input

def save(path, samples, affine):
    nibabel.save(nibabel.Nifti1Image(samples, affine), path)
    return path


def sphere(path, radius_mm=80.0, noise=5.0):
    """A ball of gel in air, as it is scanned to test a scanner."""
    affine = numpy.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -100
    at = numpy.indices((101, 101, 101)) * 2.0 - 100
    inside = numpy.sqrt((at**2).sum(0)) < radius_mm
    chance = numpy.random.default_rng(1)
    signal = numpy.where(inside, 500.0, 0.0)
    noisy = numpy.hypot(signal + chance.normal(0, noise, signal.shape), chance.normal(0, noise, signal.shape))
    return save(path, noisy.astype("i2"), affine)


def rubbish(path):
    """Noise and nothing else."""
    affine = numpy.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -90
    values = numpy.abs(numpy.random.default_rng(2).normal(0, 100, (91, 101, 91)))
    return save(path, values.astype("i2"), affine)


def half(path, scan, axis=0):
    """The first half of a head along a file's axis."""
    image = nibabel.load(scan)
    cut = [slice(None)] * 3
    cut[axis] = slice(0, image.shape[axis] // 2)
    return save(path, numpy.asarray(image.dataobj)[tuple(cut)], image.affine)


def with_noise(path, scan, share):
    """The scan with Rician noise of a share of the head's median."""
    image = nibabel.load(scan)
    values = image.get_fdata()
    deviation = share * numpy.median(values[values > numpy.percentile(values, 75)])
    chance = numpy.random.default_rng(3)
    noisy = numpy.hypot(values + chance.normal(0, deviation, values.shape), chance.normal(0, deviation, values.shape))
    return save(path, noisy.astype("f4"), image.affine)


def with_ghosts(path, scan, share):
    """The scan with a ghost of a share of its brightness, half a field of view away along its second axis."""
    image = nibabel.load(scan)
    values = image.get_fdata()
    return save(path, (values + share * numpy.roll(values, values.shape[1] // 2, 1)).astype("f4"), image.affine)


def small_and_blotted(path, scan, air, scale):
    """A head of another size in air that is exactly 0, on all sides: by volume and place it might be a stripped brain."""
    image = nibabel.load(scan)
    values = image.get_fdata()
    affine = image.affine @ numpy.diag([scale, scale, scale, 1.0])
    return save(path, numpy.pad(numpy.where(values > air, values, 0), 6).astype("f4"), affine)


def wrong_inputs(data):
    """Name: a function from a folder to the scans, and the words of which one must be said (flag or refusal)."""
    raw, labelled = data / "raw", data / "labelled"
    one = {c: raw / "long01" / f"study1_{c}.nii.gz" for c in ("flair", "t1w", "t2w")}
    other = {c: labelled / "lesjak26" / f"{c}.nii.gz" for c in ("flair", "t1w", "t2w")}
    third = {c: labelled / "mslesseg14-visit3" / f"{c}.nii.gz" for c in ("flair", "t1w", "t2w")}
    another = raw / "long20" / "study2_t1w.nii.gz"
    # Refusals are told by their words.
    doubt = {"alignment_doubtful (t1w)", "another_head_suspected (t1w)", "it is of another head than the FLAIR"}
    no_head = {"no brain looks so on any contrast", "neither cortex nor white matter"}
    return {
        "T1w as flair, raw": (lambda to: {"flair": one["t1w"]}, {"contrast_mismatch (flair)"}),
        "T1w as flair, stripped": (lambda to: {"flair": other["t1w"]}, {"contrast_mismatch (flair)"}),
        "T1w as flair, another": (lambda to: {"flair": third["t1w"]}, {"contrast_mismatch (flair)"}),
        "T2w as flair, raw": (lambda to: {"flair": one["t2w"]}, {"contrast_mismatch (flair)"}),
        "T2w as flair, stripped": (lambda to: {"flair": other["t2w"]}, {"contrast_mismatch (flair)"}),
        "T2w as t1w, raw": (lambda to: {"flair": one["flair"], "t1w": one["t2w"]}, {"contrast_mismatch (t1w)"}),
        "T2w as t1w, stripped": (lambda to: {"flair": other["flair"], "t1w": other["t2w"]},
                                 {"contrast_mismatch (t1w)"}),
        "FLAIR as t1w, raw": (lambda to: {"flair": one["flair"], "t1w": one["flair"]}, {"contrast_mismatch (t1w)"}),
        "long20's T1w for long01": (lambda to: {"flair": one["flair"], "t1w": another}, doubt),
        "long01's T1w for long20": (lambda to: {"flair": raw / "long20" / "study2_flair.nii.gz",
                                                 "t1w": one["t1w"]}, doubt),
        "mslesseg14's T1w for lesjak26": (lambda to: {"flair": other["flair"], "t1w": third["t1w"]}, doubt),
        "lesjak26's T1w for mslesseg14": (lambda to: {"flair": third["flair"], "t1w": other["t1w"]}, doubt),
        "mslesseg14's T1w for long01": (lambda to: {"flair": one["flair"], "t1w": third["t1w"]}, doubt),
        "half a head, left": (lambda to: {"flair": half(to / "left.nii.gz", one["flair"])},
                              {"brain_implausible", "field_of_view_clipped"}),
        "half a head, top": (lambda to: {"flair": half(to / "top.nii.gz", one["flair"], 2)},
                             {"brain_implausible", "field_of_view_clipped"}),
        "a sphere": (lambda to: {"flair": sphere(to / "sphere.nii.gz")}, no_head),
        "a sphere of brain size": (lambda to: {"flair": sphere(to / "small.nii.gz", 67.0)}, no_head),
        "a stripped sphere": (lambda to: {"flair": sphere(to / "clean.nii.gz", 67.0, 0.0)}, no_head),
        "noise": (lambda to: {"flair": rubbish(to / "rubbish.nii.gz")}, no_head),
        "20 % of noise": (lambda to: {"flair": with_noise(to / "noisy.nii.gz", one["flair"], 0.2)}, {"noisy"}),
        "10 % of ghost": (lambda to: {"flair": with_ghosts(to / "ghosts.nii.gz", one["flair"], 0.1)}, {"ghosting"}),
    }


def is_said(result, wanted):
    said = codes(result)
    return any(word in said or isinstance(result, str) and word in result for word in wanted)


# What a scanner would have given of a prepared case

def pose(degrees, shift_mm):
    """A turn about each axis in turn, then a shift: a 4x4 map of world points."""
    whole = numpy.eye(4)
    for axis, angle in enumerate(numpy.radians(degrees)):
        turn = numpy.eye(4)
        a, b = [n for n in range(3) if n != axis]
        turn[a, a] = turn[b, b] = numpy.cos(angle)
        turn[a, b], turn[b, a] = -numpy.sin(angle), numpy.sin(angle)
        whole = turn @ whole
    whole[:3, 3] = shift_mm
    return whole


# Brightness of fluid, bone and scalp for the brain's median.
OUTSIDE = {"flair": (0.25, 0.08, 0.8), "t1w": (0.25, 0.08, 1.3), "t2w": (2.2, 0.1, 0.8)}


def in_a_head(values, brain, contrast):
    """The stripped scan with fluid, skull and scalp around it, and air."""
    away = ndimage.distance_transform_edt(~brain)  # Voxels of 1 mm.
    median = numpy.median(values[brain])
    fluid, bone, scalp = (share * median for share in OUTSIDE[contrast])
    texture = ndimage.gaussian_filter(numpy.random.default_rng(4).normal(1, 0.6, brain.shape), 1.5)
    around = numpy.select([away <= 3, away <= 8, away <= 14], [fluid, bone, scalp * texture], 0.0)
    return numpy.where(brain, values, around)


def biased(values, strength):
    """Brighter on one side and in the middle: a smooth factor from about 1 - strength to 1 + strength."""
    x, y, z = (numpy.linspace(-1, 1, n).reshape([-1 if a == b else 1 for b in range(3)])
               for a, n in enumerate(values.shape))
    field = 0.5 * x + 0.4 * y - 0.5 * z + 0.6 * (x * x + y * y) - 0.4 * x * z - 0.4
    return values * numpy.exp(numpy.log1p(strength) * field)


def as_scanned(values, affine, motion, slices_mm=3.0, in_plane_mm=0.9):
    """The image cut into thick axial slices after the head was moved by `motion`, with its affine."""
    shape = (256, 256, int(numpy.ceil(220 / slices_mm)))
    spacing = numpy.array([in_plane_mm, in_plane_mm, slices_mm])
    grid = numpy.diag([*spacing, 1.0])
    middle = nibabel.affines.apply_affine(affine, (numpy.array(values.shape) - 1) / 2)
    grid[:3, 3] = middle - spacing * (numpy.array(shape) - 1) / 2
    # A slice is the mean of three thin ones.
    total = 0.0
    for part in (-1 / 3, 0, 1 / 3):
        thin = grid.copy()
        thin[:3, 3] += grid[:3, 2] * part
        there = numpy.linalg.inv(affine) @ numpy.linalg.inv(motion) @ thin
        total = total + ndimage.affine_transform(values, there[:3, :3], there[:3, 3], shape, order=1)
    return total / 3, grid


# The FLAIR's head lies so, the other contrasts a little otherwise: the patient moved in between.
MOTIONS = {"flair": pose((4, -6, 8), (5, -7, 4)), "t1w": pose((6, -5, 6), (7, -5, 3)),
           "t2w": pose((3, -7, 9), (3, -8, 6))}


def raw_like(data, folder, strength, head=True, motions=MOTIONS, slices_mm=3.0, in_plane_mm=0.9, noise=0.02):
    """lesjak26 with a skull and a bias field, moved and in slices of 3 mm: its scans, and its lesions so."""
    case = data / "labelled" / "lesjak26"
    folder.mkdir(exist_ok=True)
    brain = nibabel.load(case / "flair.nii.gz").get_fdata() != 0
    brain = ndimage.binary_fill_holes(brain)
    scans = {}
    for contrast, motion in motions.items():
        image = nibabel.load(case / f"{contrast}.nii.gz")
        values = image.get_fdata()
        values = biased(in_a_head(values, brain, contrast) if head else values, strength)
        moved, grid = as_scanned(values, image.affine, motion, slices_mm, in_plane_mm)
        chance = numpy.random.default_rng(5)
        deviation = noise * numpy.median(values[brain])
        noisy = numpy.hypot(moved + chance.normal(0, deviation, moved.shape), chance.normal(0, deviation, moved.shape))
        scans[contrast] = save(folder / f"{contrast}.nii.gz", noisy.astype("f4"), grid)
    image = nibabel.load(case / "lesions.nii.gz")
    truth, grid = as_scanned(image.get_fdata(), image.affine, motions["flair"], slices_mm, in_plane_mm)
    return scans, truth >= 0.5


# Tables

def mask_of(folder, name="lesions"):
    return numpy.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) != 0


def quality_table(program, data, folder):
    print("case | SNR | ghosting | contrast: fluid over white, cortex over white | brain ml | flags")
    for name, scans in real_cases(data).items():
        report = segment(program, folder / name, scans)
        if isinstance(report, str):
            print(name, "REFUSED", report)
            continue
        study = report["study"]
        looks = "; ".join("{} {:.2f}, {:.2f}, empty {:.2f}".format(
            c["contrast"], c["appearance"].get("fluid_over_white", numpy.nan), c["appearance"]["cortex_over_white"],
            c["appearance"]["empty"]) for c in study["contrasts"] if c.get("appearance"))
        ghosts = study.get("ghosting")
        print(name, "|", round(study.get("signal_to_noise", numpy.nan), 1), "|",
              "-" if ghosts is None else round(ghosts, 4), "|", looks, "|",
              round(report["anatomy"]["brain_ml"]) if report.get("anatomy") else "-", "|",
              ", ".join(codes(report)) or "none", flush=True)


def wrong_table(program, data, folder):
    print("input | said | as it must be")
    for name, (make, wanted) in wrong_inputs(data).items():
        result = segment(program, folder / "wrong", make(folder), "--outputs", "lesions", ONCE)
        looks = "" if isinstance(result, str) else "; ".join("{} {:.2f}, {:.2f}".format(
            c["contrast"], c["appearance"].get("fluid_over_white", numpy.nan), c["appearance"]["cortex_over_white"])
            for c in result["study"]["contrasts"] if c.get("appearance"))
        print(name, "|", ", ".join(codes(result)).replace("\n", " ")[:330], "|", is_said(result, wanted), "|", looks,
              flush=True)


def brains(program, data, folder, patient, study):
    """The brain that is found on the native FLAIR, and the mask of the common space, laid there."""
    raw = data / "raw" / patient
    flair = raw / f"study{study}_flair.nii.gz"
    report = segment(program, folder, {"flair": flair}, "--outputs", "brain", ONCE)
    assert not isinstance(report, str), report
    found = nibabel.load(folder / "brain.nii.gz")
    truth = nibabel.load(raw / "common_brainmask.nii.gz")
    to_flair = read_itk(raw / f"study{study}_flair_to_common_space.txt")
    there = numpy.linalg.inv(truth.affine) @ numpy.linalg.inv(to_flair) @ found.affine
    laid = ndimage.affine_transform(truth.get_fdata(), there[:3, :3], there[:3, 3], found.shape, order=1) >= 0.5
    return numpy.asarray(found.dataobj) != 0, laid


def brain_table(program, data, folder):
    for patient, study in (("long01", 1), ("long01", 2), ("long20", 2)):
        found, truth = brains(program, data, folder / "b", patient, study)
        within = truth.any((0, 1))
        beyond = found[..., ~within].sum() / found.sum()
        print(f"brain of {patient} visit {study}: Dice {dice(found, truth):.4f}; {beyond:.1%} of it lies in slices where the "
              f"mask has none, without these {dice(found[..., within], truth[..., within]):.4f}", flush=True)


class Change(NamedTuple):
    """A component of long01's mask of change, of 0.05 ml or more; pairs are of visit 1 and visit 2."""
    volume_ml: float
    brighter: tuple  # How far its FLAIR is above that of the tissue beside it, in deviations of the brain.
    touched: tuple  # Whether a lesion that was found has a voxel in it.

    @property
    def is_new_lesion(self):
        """The mask holds whatever changed, darker or brighter. Lesions in white matter stand out by 1.2 to 2.6."""
        return self.brighter[0] < NEW_LESION <= self.brighter[1]


def changes(program, data, folder):
    raw = data / "raw" / "long01"
    change = nibabel.load(raw / "common_change.nii.gz")
    brain = numpy.asarray(nibabel.load(raw / "common_brainmask.nii.gz").dataobj) != 0
    labels, n = ndimage.label(numpy.asarray(change.dataobj) != 0, numpy.ones((3, 3, 3)))
    found, flairs = [], []
    for study in (1, 2):
        scans = real_cases(data)[f"long01-visit{study}"]
        report = segment(program, folder, scans, "--outputs", "lesions")
        assert not isinstance(report, str), report
        to_flair = read_itk(raw / f"study{study}_flair_to_common_space.txt")

        def laid(image, order):
            there = numpy.linalg.inv(image.affine) @ to_flair @ change.affine
            return ndimage.affine_transform(image.get_fdata(), there[:3, :3], there[:3, 3], change.shape, order=order)

        found.append(laid(nibabel.load(folder / "lesions.nii.gz"), 0) > 0)
        flair = laid(nibabel.load(scans["flair"]), 1)
        low, median, high = numpy.percentile(flair[brain & (flair > 0)], (25, 50, 75))
        flairs.append((flair - median) / ((high - low) / 1.349))
    voxel_ml = abs(numpy.linalg.det(change.affine[:3, :3])) / 1000
    rows = []
    for label in range(1, n + 1):
        at = labels == label
        if at.sum() * voxel_ml >= CHANGED_ML:
            near, far = (ndimage.binary_dilation(at, iterations=voxels) for voxels in (2, 6))
            beside = far & ~near & brain & (labels == 0)
            rows.append(Change(at.sum() * voxel_ml, tuple(f[at].mean() - numpy.median(f[beside]) for f in flairs),
                               tuple(bool(mask[at].any()) for mask in found)))
    return sorted(rows, reverse=True)


def changed_table(program, data, folder):
    rows = changes(program, data, folder / "c")
    print("changed, ml | above its surroundings in visit 1 | in visit 2 | a new lesion | touched in visit 1 | in visit 2")
    for row in rows:
        print(f"{row.volume_ml:.2f} | {row.brighter[0]:.2f} | {row.brighter[1]:.2f} | {row.is_new_lesion} | "
              f"{row.touched[0]} | {row.touched[1]}")
    new = [row for row in rows if row.is_new_lesion]
    print(f"new lesions touched in visit 2: {sum(row.touched[1] for row in new)} of {len(new)}; "
          f"of all that changed: {sum(row.touched[1] for row in rows)} of {len(rows)}", flush=True)


def raw_like_dice(program, data, folder, strength):
    scans, truth = raw_like(data, folder, strength)
    report = segment(program, folder / "out", scans, "--outputs", "lesions,brain,preview")
    assert not isinstance(report, str), report
    return dice(mask_of(folder / "out"), truth), report


def plain_dice(program, data, folder):
    report = segment(program, folder, real_cases(data)["lesjak26"], "--outputs", "lesions")
    assert not isinstance(report, str), report
    return dice(mask_of(folder), mask_of(data / "labelled" / "lesjak26"))


def raw_like_table(program, data, folder):
    print(f"lesjak26 as prepared: DSC {plain_dice(program, data, folder / 'plain'):.3f}")
    for strength in (0.0, 0.1, 0.2, 0.3):
        found, report = raw_like_dice(program, data, folder / f"raw{strength}", strength)
        moved = "; ".join(f"{c['contrast']} {c['alignment']['rotation_deg']:.1f} deg"
                          for c in report["study"]["contrasts"] if c.get("alignment"))
        print(f"with skull, moved, 3 mm slices, bias field of {strength:.0%}: DSC {found:.3f} | {moved} | "
              f"{', '.join(codes(report)) or 'no flags'}", flush=True)


def raw_parts_table(program, data, folder):
    """Which of what `raw-like` does costs how much: each by itself, without a bias field."""
    alike = {contrast: MOTIONS["flair"] for contrast in MOTIONS}
    thin = {"slices_mm": 1.0, "in_plane_mm": 1.0}
    print("stripped or in a head, moved, slices | DSC | found, true ml | brain ml")
    for name, how in {
        "stripped, 1 mm": {"head": False, "motions": alike, "noise": 0.0, **thin},
        "stripped, 3 mm": {"head": False, "motions": alike, "noise": 0.0},
        "stripped, 3 mm, FLAIR alone": {"head": False, "motions": {"flair": alike["flair"]}, "noise": 0.0},
        "head, 1 mm": {"motions": alike, "noise": 0.0, **thin},
        "head, 3 mm": {"motions": alike, "noise": 0.0},
        "head, 3 mm, noise": {"motions": alike},
        "head, 3 mm, noise, moved apart": {},
    }.items():
        scans, truth = raw_like(data, folder / "parts", 0.0, **how)
        report = segment(program, folder / "parts" / "out", scans, "--outputs", "lesions")
        assert not isinstance(report, str), report
        mask = nibabel.load(folder / "parts" / "out" / "lesions.nii.gz")
        found, voxel_ml = numpy.asarray(mask.dataobj) != 0, abs(numpy.linalg.det(mask.affine[:3, :3])) / 1000
        print(f"{name} | {dice(found, truth):.3f} | {found.sum() * voxel_ml:.1f}, {truth.sum() * voxel_ml:.1f} | "
              f"{report['anatomy']['brain_ml']:.0f}", flush=True)


def time_table(program, data, folder):
    for _ in range(3):
        report = segment(program, folder / "t", real_cases(data)["long01-visit1"], "--outputs", "lesions")
        times = report["timings_s"]
        mask = times["total"]
        print(f"long01 visit 1: decode to mask {mask:.2f} s, inference {times['infer']:.2f} s: "
              f"{mask / times['infer']:.2f} times | " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()), flush=True)


TABLES = {"quality": quality_table, "wrong": wrong_table, "brain": brain_table, "changed": changed_table,
          "raw-like": raw_like_table, "raw-parts": raw_parts_table, "time": time_table}

if __name__ == "__main__":
    chosen = sys.argv[3:] or list(TABLES)
    with tempfile.TemporaryDirectory() as scratch:
        for table in chosen:
            print(f"\n== {table}")
            TABLES[table](sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(scratch))
