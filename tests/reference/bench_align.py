"""Registration beside SimpleITK and itk-elastix: error and time, in one run on the same cores.

    pip install SimpleITK itk-elastix nibabel numpy
    cargo build --release -p dawson-imaging --example align
    python tests/reference/bench_align.py target/release/examples/align ../shared/data

Dawson runs from `--starts` moved headers (100), the peers from the first `--peer-starts` of them (10):
they take long. Three questions, three tables:

1. Raw scans of two patients, headers as they are: how far is each contrast from where the ITK
   transforms that came with the data put it (their best rigid part)?
2. The same pairs, the moving header shifted by up to 20 mm and turned by up to 15 degrees about each
   axis: how often is the error still within 1.5 mm?
3. A prepared case (all contrasts on one grid, truth: the identity), moved the same way: how often
   within 0.5 mm?

Error: mean over brain voxels of the distance between where the found and the true map put them.
Seconds: of the registration alone, in memory, median of its runs; "CPU s" is the processor time that
it took, which other work on the machine hardly changes. Each tool may use every core.
SimpleITK: Mattes mutual information, 50 bins, 5 % random sampling, regular-step gradient descent, shrink
4-2-1, from the middles of the images' grids at hand. elastix: its default map for "rigid".
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import itk
import nibabel
import numpy as np
import SimpleITK as sitk

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS+, ours RAS+.
SEED = 7


def read_itk(path):
    """The 4x4 map in RAS+ mm of an ITK text transform: y = A (x - c) + t + c."""
    fields = dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
    numbers = np.array(fields["Parameters"].split(), float)
    centre = np.array(fields["FixedParameters"].split(), float)
    return from_parts(numbers[:9].reshape(3, 3), numbers[9:], centre)


def from_parts(matrix, shift, centre):
    whole = np.eye(4)
    whole[:3, :3] = matrix
    whole[:3, 3] = shift + centre - matrix @ centre
    return FLIP @ whole @ FLIP


def apply(whole, points):
    return points @ whole[:3, :3].T + whole[:3, 3]


def best_rigid(whole, points):
    """The rigid map nearest to an affine one over points (Kabsch, Acta Cryst. A32:922, 1976)."""
    there = apply(whole, points)
    here_mean, there_mean = points.mean(0), there.mean(0)
    u, _, vt = np.linalg.svd((there - there_mean).T @ (points - here_mean))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    rigid = np.eye(4)
    rigid[:3, :3] = turn
    rigid[:3, 3] = there_mean - turn @ here_mean
    return rigid


def error_mm(found, truth, points):
    return np.linalg.norm(apply(found, points) - apply(truth, points), axis=1).mean()


def mask_points(path, step):
    image = nibabel.load(path)
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)[::step]
    return apply(image.affine, voxels.astype(float))


def raw_cases(data):
    """(name, fixed, moving, true map from the fixed world to the moving one, brain points)."""
    cases = []
    for patient, study, contrast in [
        ("long01", "study1", "t1w"),
        ("long01", "study1", "t2w"),
        ("long01", "study2", "t1w"),
        ("long20", "study2", "t1w"),
    ]:
        folder = data / "raw" / patient
        to_flair = read_itk(folder / f"{study}_flair_to_common_space.txt")
        brain = apply(to_flair, mask_points(folder / "common_brainmask.nii.gz", 23))
        truth = read_itk(folder / f"{study}_{contrast}_intrastudy_to_flair.txt")
        fixed, moving = (folder / f"{study}_{c}.nii.gz" for c in ("flair", contrast))
        cases.append((f"{patient} {study} {contrast}", fixed, moving, best_rigid(truth, brain), brain))
    folder = data / "raw" / "long01"
    one, two = (read_itk(folder / f"study{n}_flair_to_common_space.txt") for n in (1, 2))
    brain = apply(one, mask_points(folder / "common_brainmask.nii.gz", 23))
    truth = best_rigid(two @ np.linalg.inv(one), brain)
    fixed, moving = (folder / f"study{n}_flair.nii.gz" for n in (1, 2))
    return cases + [("long01 flair, visit 1 to 2", fixed, moving, truth, brain)]


def prepared_cases(data):
    folder = data / "labelled" / "lesjak26"
    brain = mask_points(folder / "flair.nii.gz", 97)
    return [
        (f"lesjak26 {c}", folder / "flair.nii.gz", folder / f"{c}.nii.gz", np.eye(4), brain)
        for c in ("t1w", "t2w", "t1gd")
    ]


def random_starts(count, centre):
    """Motions of a header: up to 20 mm along and 15 degrees about each axis, evenly drawn."""
    chance = np.random.default_rng(SEED)
    starts = []
    for _ in range(count):
        shift = chance.uniform(-20, 20, 3)
        turn = np.eye(3)
        for axis, angle in enumerate(np.deg2rad(chance.uniform(-15, 15, 3))):
            one = np.eye(3)
            a, b = (axis + 1) % 3, (axis + 2) % 3
            one[a, a] = one[b, b] = np.cos(angle)
            one[b, a], one[a, b] = np.sin(angle), -np.sin(angle)
            turn = turn @ one
        start = np.eye(4)
        start[:3, :3], start[:3, 3] = turn, shift + centre - turn @ centre
        starts.append(start)
    return starts


class Dawson:
    name = "dawson"

    def __init__(self, program):
        self.program = program

    def run(self, fixed, moving, starts):
        lines = "".join(" ".join(f"{x:.12g}" for x in s[:3].ravel()) + "\n" for s in starts)
        command = [self.program, str(fixed), str(moving), "--starts"]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        return [(np.vstack([a["matrix"], [0, 0, 0, 1]]), a["seconds"], a["cpu_seconds"]) for a in answers]


class Itk:
    """What the two peers share: the moving image's header is moved, the answer is moved back."""

    def run(self, fixed, moving, starts):
        answers = []
        for start in starts:
            images = self.load(fixed, moving, FLIP @ start @ FLIP)
            wall, cpu = time.perf_counter(), time.process_time()
            found = self.register(*images)
            seconds = (time.perf_counter() - wall, time.process_time() - cpu)
            answers.append((np.linalg.inv(start) @ found, *seconds))
        return answers


class SimpleItk(Itk):
    name = "SimpleITK"

    def load(self, fixed, moving, start):
        fixed, moving = (sitk.ReadImage(str(p), sitk.sitkFloat32) for p in (fixed, moving))
        turn = start[:3, :3] @ np.array(moving.GetDirection()).reshape(3, 3)
        moving.SetOrigin(apply(start, np.array(moving.GetOrigin())))
        moving.SetDirection(turn.ravel())
        return fixed, moving

    def register(self, fixed, moving):
        first = sitk.CenteredTransformInitializer(
            fixed,
            moving,
            sitk.Euler3DTransform(),
            sitk.CenteredTransformInitializerFilter.GEOMETRY,
        )
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(50)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(0.05, SEED)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInitialTransform(first, inPlace=False)
        found = method.Execute(fixed, moving)
        at = np.array([found.TransformPoint(p) for p in np.vstack([np.zeros(3), np.eye(3)])])
        return from_parts((at[1:] - at[0]).T, at[0], np.zeros(3))


class Elastix(Itk):
    name = "elastix"

    def load(self, fixed, moving, start):
        fixed, moving = (itk.imread(str(p), itk.F) for p in (fixed, moving))
        turn = start[:3, :3] @ itk.array_from_matrix(moving.GetDirection())
        moving.SetOrigin(apply(start, np.array(moving.GetOrigin())))
        moving.SetDirection(turn)
        return fixed, moving

    def register(self, fixed, moving):
        settings = itk.ParameterObject.New()
        settings.AddParameterMap(settings.GetDefaultParameterMap("rigid"))
        _, found = itk.elastix_registration_method(
            fixed, moving, parameter_object=settings, log_to_console=False
        )
        found = found.GetParameterMap(0)
        angles = np.array(found["TransformParameters"], float)
        centre = np.array(found["CenterOfRotationPoint"], float)
        (cx, cy, cz), (sx, sy, sz) = np.cos(angles[:3]), np.sin(angles[:3])
        x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        return from_parts(z @ x @ y, angles[3:], centre)  # Euler3DTransform, ComputeZYX off.


def table(title, cases, tools, starts_of, within_mm):
    print(f"\n{title}")
    print(f"{'pair':28} {'tool':10} {'n':>4} {'mean mm':>8} {'worst mm':>9} "
          f"{'within ' + str(within_mm) + ' mm':>14} {'s':>7} {'CPU s':>7}", flush=True)
    for name, fixed, moving, truth, brain in cases:
        for tool in tools:
            starts = starts_of(tool, brain.mean(0))
            if not starts:
                continue
            answers = tool.run(fixed, moving, starts)
            errors = np.array([error_mm(found, truth, brain) for found, *_ in answers])
            seconds, cpu = np.median([(s, c) for _, s, c in answers], axis=0)
            print(f"{name:28} {tool.name:10} {len(starts):4} {errors.mean():8.3f} {errors.max():9.3f} "
                  f"{np.mean(errors <= within_mm):13.0%}  {seconds:7.2f} {cpu:7.2f}", flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--starts", type=int, default=100)
    arguments.add_argument("--peer-starts", type=int, default=10)
    arguments.add_argument("--alone", action="store_true", help="without the peers")
    asked = arguments.parse_args()
    dawson = Dawson(asked.program)
    tools = [dawson] if asked.alone else [dawson, SimpleItk(), Elastix()]

    def moved(tool, centre):
        return random_starts(asked.starts if tool is dawson else asked.peer_starts, centre)

    def as_they_are(_tool, _centre):
        return [np.eye(4)]

    print(f"{os.cpu_count()} cores")
    raw, prepared = raw_cases(asked.data), prepared_cases(asked.data)
    table("1. raw scans, headers as they are", raw, tools, as_they_are, 1.5)
    table("2. raw scans, headers moved", raw, tools, moved, 1.5)
    table("3. prepared scans, headers moved", prepared, tools, moved, 0.5)


if __name__ == "__main__":
    main()
