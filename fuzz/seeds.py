#!/usr/bin/env python3
"""Write the seeds that fuzzing starts from, one file each, below fuzz/corpus.

    python3 fuzz/seeds.py

Headers of both editions and byte orders, small whole files packed and plain, forms, descriptions of
networks. What a run finds beside them is kept by `cargo fuzz cmin` if it is worth it.
"""
import gzip
import pathlib
import struct
import zlib

# Frame and scan header of a lossless JPEG-LS of 4 x 4 voxels, and an end.
JPEG_LS = bytes.fromhex("ffd8fff7000b0c00040004010111 00ffda0008010100000000 00000000 ffd9")
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


def related(*parts: bytes, kind: bytes = b"Content-Type: application/dicom", before: bytes = b"") -> bytes:
    """A multipart/related, behind the byte that says how it is cut."""
    return b"\x07" + before + b"".join(b"--b\r\n" + kind + b"\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


LONG = (b"OB", b"OW", b"SQ", b"UN")


def element(group: int, number: int, vr: bytes, value: bytes, order: str = "<", explicit: bool = True) -> bytes:
    value += b"\0" * (len(value) % 2) if vr in (b"UI", b"OB") else b" " * (len(value) % 2)
    tag = struct.pack(f"{order}2H", group, number)
    if not explicit:
        return tag + struct.pack(f"{order}I", len(value)) + value
    if vr in LONG:
        return tag + vr + b"\0\0" + struct.pack(f"{order}I", len(value)) + value
    return tag + vr + struct.pack(f"{order}H", len(value)) + value


def dicom(syntax: str, order: str = "<", explicit: bool = True, frame: bytes | None = None, deflate: bool = False,
          more: bytes = b"") -> bytes:
    """An image of 4 x 4 voxels; `frame` is its encapsulated form."""
    def put(group, number, vr, value):
        return element(group, number, vr, value, order, explicit)

    pixels = struct.pack(f"{order}16H", *range(100, 116))
    data = b"".join(put(0x0008, *rest) for rest in [
        (0x0008, b"CS", b"ORIGINAL\\PRIMARY"), (0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.4"),
        (0x0018, b"UI", b"1.2.3.9000"), (0x103E, b"LO", b"t2 flair")])
    data += b"".join(put(0x0018, *rest) for rest in [
        (0x0020, b"CS", b"SE\\IR"), (0x0080, b"DS", b"9000"), (0x0081, b"DS", b"120"), (0x0082, b"DS", b"2500")])
    data += b"".join(put(0x0020, *rest) for rest in [
        (0x000D, b"UI", b"1.2.3"), (0x000E, b"UI", b"1.2.3.9"), (0x0032, b"DS", b"-10\\-10\\0000"),
        (0x0037, b"DS", b"1\\0\\0\\0\\1\\0")])
    data += put(0x0028, 0x0002, b"US", struct.pack(f"{order}H", 1)) + put(0x0028, 0x0004, b"CS", b"MONOCHROME2")
    data += put(0x0028, 0x0010, b"US", struct.pack(f"{order}H", 4)) + put(0x0028, 0x0011, b"US", struct.pack(f"{order}H", 4))
    data += put(0x0028, 0x0030, b"DS", b"1\\1")
    for number, value in ((0x0100, 16), (0x0101, 12), (0x0102, 11), (0x0103, 0)):
        data += put(0x0028, number, b"US", struct.pack(f"{order}H", value))
    data += more
    if frame is None:
        data += put(0x7FE0, 0x0010, b"OW", pixels)
    else:
        frame += b"\0" * (len(frame) % 2)
        item = struct.pack("<2HI", 0xFFFE, 0xE000, 0) + struct.pack("<2HI", 0xFFFE, 0xE000, len(frame)) + frame
        data += struct.pack("<2H2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + item + struct.pack("<2HI", 0xFFFE, 0xE0DD, 0)
    if deflate:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packer.compress(data) + packer.flush()
    meta = element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.4") + element(2, 0x10, b"UI", syntax.encode())
    return bytes(128) + b"DICM" + meta + data


def run_lengths() -> bytes:
    """The frame's bytes in two segments, high and low, each one literal run."""
    values = [struct.pack(">H", v) for v in range(100, 116)]
    segments = [bytes([15]) + bytes(v[half] for v in values) + b"\0" for half in (0, 1)]
    return struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)


def command(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<2HI", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<2HI", 0, 0, 4) + struct.pack("<I", len(body)) + body


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
    uid = "1.2.840.10008.1.2"
    nested = element(8, 0x1140, b"SQ", struct.pack("<2HI", 0xFFFE, 0xE000, 18) + element(8, 0x1155, b"UI", b"1.2.3.4.5"))
    images = {"implicit": dicom(uid, explicit=False), "explicit": dicom(f"{uid}.1"), "big": dicom(f"{uid}.2", ">"),
              "deflated": dicom(f"{uid}.1.99", deflate=True), "run-lengths": dicom(f"{uid}.5", frame=run_lengths()),
              "jpeg-ls": dicom(f"{uid}.4.80", frame=JPEG_LS), "jpeg-2000": dicom(f"{uid}.4.90", frame=b"\xff\x4f\xff\x51"),
              "jpeg": dicom(f"{uid}.4.70", frame=b"\xff\xd8\xff\xc3"), "nested": dicom(f"{uid}.1", more=nested)}
    short = struct.Struct("<H").pack
    store = [(2, b"1.2.840.10008.5.1.4.1.1.4\0"), (0x100, short(1)), (0x110, short(7)), (0x700, short(0)),
             (0x800, short(1)), (0x1000, b"1.2.3.4.5\0")]
    answer = [(2, b"1.2.840.10008.1.1\0"), (0x100, short(0x8030)), (0x120, short(7)), (0x800, short(0x101)),
              (0x900, short(0)), (0x902, b"fine")]
    commands = {"store": command(*store), "answer": command(*answer), "none": b""}
    typed = b"Content-TYPE: Application/DICOM;\r\n transfer-syntax=1.2\r\nContent-Transfer-Encoding: BINARY"
    bodies_of_images = {"two": related(b"one", b""), "boundaries": related(b"\r\n--bX\r\n--b-\r\n--", b"--bX"),
                        "folded": related(b"x", kind=typed, before=b"a preamble\r\n"), "none": related(),
                        "bare": related(b"x", kind=b"X: y"),
                        "type": b'\x07multipart/related; type="application/dicom"; boundary="a \\"b:c", */*;q=0'}
    all_ = {"dicom": images, "dimse": commands, "related": bodies_of_images, "nifti_header": headers,
            "nifti_body": bodies, "multipart": forms, "manifest": manifests}
    for target, seeds in all_.items():
        folder = FUZZ / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
