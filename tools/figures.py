#!/usr/bin/env python3
"""Print the figures that README and model card quote: every labelled case of a folder, evaluated.

    python3 tools/figures.py target/release/dawson ../shared/data/labelled [options of dawson segment]

The folder holds a folder a case with flair.nii.gz, lesions.nii.gz (the truth) and any other contrast.
"""
import pathlib
import subprocess
import sys

CONTRASTS = ("flair", "t1w", "t2w", "pdw", "t1gd")


def main() -> None:
    program, labelled, options = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    out = pathlib.Path("out/figures")
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
