#!/usr/bin/env python3
"""Print the figures that README and model card quote: every labelled case of a folder, evaluated.

    python3 tools/figures.py target/release/dawson ../shared/data/labelled [options of dawson segment]
    python3 tools/figures.py target/release/dawson phantoms [options of dawson segment]

The folder holds a folder a case with flair.nii.gz, lesions.nii.gz (the truth) and any other contrast. `phantoms`
are the heads of `dawson phantom`, seeds 1 to 10, with FLAIR, T1w and T2w, made here.
"""
import pathlib
import subprocess
import sys

CONTRASTS = ("flair", "t1w", "t2w", "pdw", "t1gd")
SEEDS = range(1, 11)


def phantoms(program: str) -> pathlib.Path:
    """Heads whose truth is known, a folder each."""
    heads = pathlib.Path("out/phantoms").resolve()
    for seed in SEEDS:
        made = ["phantom", "--seed", str(seed), "--contrasts", "flair,t1w,t2w", "--out", str(heads / f"seed{seed:02}")]
        subprocess.run([program, *made, "--overwrite"], check=True)
    return heads


def main() -> None:
    program, cases_in, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    labelled = phantoms(program) if cases_in == "phantoms" else pathlib.Path(cases_in).resolve()
    out = pathlib.Path("out/figures") / labelled.name
    out.mkdir(parents=True, exist_ok=True)
    cases = sorted(p for p in labelled.iterdir() if (p / "flair.nii.gz").exists() and (p / "lesions.nii.gz").exists())
    rows = ["case," + ",".join(CONTRASTS)]
    for case in cases:
        paths = [case / f"{c}.nii.gz" for c in CONTRASTS]
        rows.append(",".join([case.name, *(str(p) if p.exists() else "" for p in paths)]))
    table = out / "cases.csv"
    table.write_text("\n".join(rows) + "\n")
    subprocess.run([program, "segment", "--cohort", str(table), "--out", str(out), "--overwrite", *options], check=True)
    subprocess.run([program, "evaluate", "--prediction", str(out), "--truth", str(labelled)], check=True)


if __name__ == "__main__":
    main()
