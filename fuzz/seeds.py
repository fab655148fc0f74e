#!/usr/bin/env python3
"""Write the seeds that fuzzing starts from, one file each, below fuzz/corpus.

    python3 fuzz/seeds.py

Headers of both editions and byte orders, small whole files packed and plain, forms, descriptions of
networks. What a run finds beside them is kept by `cargo fuzz cmin` if it is worth it.
"""
import gzip
import pathlib
import struct

FUZZ = pathlib.Path(__file__).parent
ROOT = FUZZ.parent


def header(order: str = "<", edition: int = 1, shape=(4, 3, 2), code: int = 4, bits: int = 16, slope: float = 1.0,
           forms=(1, 1)) -> bytes:
    """A NIfTI header with its extension flag."""
    dim = (3, *shape, 1, 1, 1, 1)
    rows = (2.0, 0, 0, -4, 0, 2.0, 0, -3, 0, 0, 2.0, -2)
    pixdim = (1.0, 2.0, 2.0, 2.0, 0, 0, 0, 0)
    if edition == 1:
        out = bytearray(352)
        struct.pack_into(f"{order}i", out, 0, 348)
        struct.pack_into(f"{order}8h", out, 40, *dim)
        struct.pack_into(f"{order}2h", out, 70, code, bits)
        struct.pack_into(f"{order}8f", out, 76, *pixdim)
        struct.pack_into(f"{order}3f", out, 108, 352.0, slope, 0.0)
        struct.pack_into(f"{order}2h", out, 252, *forms)
        struct.pack_into(f"{order}6f", out, 256, 0, 0, 0, -4, -3, -2)
        struct.pack_into(f"{order}12f", out, 280, *rows)
        out[344:348] = b"n+1\0"
    else:
        out = bytearray(544)
        struct.pack_into(f"{order}i", out, 0, 540)
        out[4:12] = b"n+2\0\r\n\x1a\n"
        struct.pack_into(f"{order}2h", out, 12, code, bits)
        struct.pack_into(f"{order}8q", out, 16, *dim)
        struct.pack_into(f"{order}8d", out, 104, *pixdim)
        struct.pack_into(f"{order}q2d", out, 168, 544, slope, 0.0)
        struct.pack_into(f"{order}2i", out, 344, *forms)
        struct.pack_into(f"{order}6d", out, 352, 0, 0, 0, -4, -3, -2)
        struct.pack_into(f"{order}12d", out, 400, *rows)
    return bytes(out)


def scan(**how) -> bytes:
    """A whole file of 24 voxels."""
    return header(**how) + bytes(range(24 * how.get("bits", 16) // 8))


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b""
    for name, content in parts:
        body += (f"--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}.nii\"\r\n"
                 "Content-Type: application/octet-stream\r\n\r\n").encode() + content + b"\r\n"
    return body + b"--x--\r\n"


def main() -> None:
    plain = scan()
    headers = {f"{'little' if order == '<' else 'big'}-{edition}": header(order, edition)
               for order in "<>" for edition in (1, 2)}
    headers["qform-only"] = header(forms=(1, 0))
    headers["pixdim-only"] = header(forms=(0, 0))
    headers["packed"] = gzip.compress(header(), mtime=0)
    bodies = {"int16": plain, "packed": gzip.compress(plain, mtime=0), "scaled": scan(slope=0.5),
              "members": gzip.compress(plain[:100], mtime=0) + gzip.compress(plain[100:], mtime=0),
              "float32": scan(code=16, bits=32), "float64-big": scan(order=">", code=64, bits=64),
              "uint8-2": scan(edition=2, code=2, bits=8)}
    packed = gzip.compress(plain, mtime=0)
    forms = {"flair": form(("flair", plain)), "three": form(("flair", packed), ("t1w", packed), ("t2w", packed)),
             "options": form(("flair", plain), ("options", b'{"label":"a","threshold":0.5,"outputs":["lesions"]}')),
             "twice": form(("flair", plain), ("flair", plain)), "unknown": form(("../flair", plain)),
             "none": b"--x--\r\n"}
    manifests = {path.parts[-3]: path.read_bytes() for path in sorted(ROOT.glob("**/models/*/*/model.toml"))
                 if "target" not in path.parts}
    all_ = {"nifti_header": headers, "nifti_body": bodies, "multipart": forms, "manifest": manifests}
    for target, seeds in all_.items():
        folder = FUZZ / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
