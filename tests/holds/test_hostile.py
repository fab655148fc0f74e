"""Whatever is sent instead of a scan: it is refused as a problem, or its job fails with a code. The process lives
on in the memory that it has been given, and other studies notice nothing."""
import functools
import gzip
import hashlib
import json
import pathlib
import random
import struct
import subprocess
import sys
import uuid

from support import PROGRAM, ROOT, TINY, Service, needs_program

sys.path.insert(0, str(ROOT / "fuzz"))
import seeds  # noqa: E402  (writes headers field by field)

pytestmark = needs_program
OURS = {"internal", "crashed", "out_of_memory", "device_failed", "storage_failed", "shutting_down", "model_invalid"}
SHAPE = (48, 56, 48)


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A form; what stands in a part's disposition is the caller's."""
    boundary = uuid.uuid4().hex
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; {how}\r\n\r\n".encode() + content + b"\r\n"
                    for how, content in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def flair_of(content: bytes) -> tuple[bytes, str]:
    return form(('name="flair"; filename="x.nii"', content))


def send(service: Service, body: bytes, kind: str) -> tuple[int, str]:
    """Status and what came of it: a problem's code, or the job's state, or its error's code."""
    status, answer = service.call("POST", "/v1/segmentations", body, Content_Type=kind, Prefer="wait=120")
    answer = json.loads(answer)
    assert status < 500 and status != 202, answer
    if status != 200:
        assert answer["status"] == status and answer["type"] == f"/problems/{answer['code']}", answer
        assert answer["code"] not in OURS
        return status, answer["code"]
    code = answer["error"]["code"] if answer["error"] else answer["state"]
    assert (answer["state"] == "failed") == (answer["error"] is not None) and code not in OURS, answer
    return status, code


def masks(service: Service, scans: dict) -> str:
    job = service.submit(scans)
    assert job["state"] == "succeeded", job["error"]
    return hashlib.sha256(service.artifact(job, "lesions.nii.gz")).hexdigest()


def is_well(service: Service) -> None:
    assert service.process.poll() is None
    log = service.log.read_text()
    assert "panicked" not in log and "ERROR" not in log, log[-3000:]


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


@functools.cache
def voxels(seed: int = 3) -> bytes:
    """Bright in the middle, dark around: what a head looks like from far away."""
    chance = random.Random(seed)
    i_n, j_n, k_n = SHAPE
    out = bytearray()
    for k in range(k_n):
        for j in range(j_n):
            for i in range(i_n):
                r = (i - i_n / 2) ** 2 + (j - j_n / 2) ** 2 + (k - k_n / 2) ** 2
                out += struct.pack("<h", 0 if r > 400 else 300 + chance.randrange(100))
    return bytes(out)


def scan(content: bytes | None = None, **how) -> bytes:
    return seeds.header(shape=SHAPE, **how) + (voxels() if content is None else content)


def patched(offset: int, form_: str, *values, edition: int = 1) -> bytes:
    """A header with a field that lies."""
    out = bytearray(scan(edition=edition))
    struct.pack_into(f"<{form_}", out, offset, *values)
    return bytes(out)


def count() -> int:
    i, j, k = SHAPE
    return i * j * k


NAN, INF = float("nan"), float("inf")
# What is sent as the FLAIR, and what may come of it.
LIES = {
    "nothing": (b"", "damaged_image"),
    "a word": (b"hello", "not_nifti"),
    "an empty gzip": (gzip.compress(b""), "damaged_image"),
    "gzip of gzip": (gzipped(gzipped(scan())), "not_nifti"),
    "a header alone": (seeds.header(shape=SHAPE), "damaged_image"),
    "half of it": (scan()[:90_000], "damaged_image"),
    "half of it, packed": (gzipped(scan())[:20_000], "damaged_image"),
    "a wrong checksum": (gzipped(scan())[:-8] + bytes(8), "damaged_image"),
    "no axes": (patched(40, "h", 0), "unsupported_image"),
    "a negative axis": (patched(44, "h", -3), "damaged_image"),
    "an axis of nothing": (patched(42, "h", 0), "damaged_image"),
    "axes that overflow": (patched(40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1), "image_too_large"),
    "volumes that overflow": (patched(40, "8h", 7, *SHAPE, 32767, 32767, 32767, 32767), "unsupported_image"),
    "axes that overflow 64 bits": (patched(16, "8q", 3, 2**62, 2**62, 2**62, 1, 1, 1, 1, edition=2), "image_too_large"),
    "as many voxels as may be": (patched(40, "8h", 3, 512, 512, 512, 1, 1, 1, 1), "damaged_image"),
    "a wide type that is not there": (patched(70, "2h", 64, 64), "damaged_image"),
    "bits that do not fit": (patched(72, "h", 8), "damaged_image"),
    "complex numbers": (patched(70, "2h", 32, 64), "unsupported_image"),
    "an offset that is no number": (patched(108, "f", NAN), "damaged_image"),
    "an offset beyond the end": (patched(108, "f", 1e30), "damaged_image"),
    "an offset within the header": (patched(108, "f", 4.0), "damaged_image"),
    "an affine of zeros": (patched(280, "12f", *[0.0] * 12), "invalid_affine"),
    "a flat affine": (patched(280, "12f", 2, 0, 0, 0, 0, 2, 0, 0, 2, 2, 0, 0), "invalid_affine"),
    "an affine of infinities": (patched(280, "12f", *[INF] * 12), "invalid_affine"),
    "an affine of NaN": (patched(280, "12f", *[NAN] * 12), "invalid_affine"),
    "kilometres": (patched(280, "12f", 1e6, 0, 0, 0, 0, 1e6, 0, 0, 0, 0, 1e6, 0), "invalid_affine"),
    "nanometres": (patched(280, "12f", 1e-9, 0, 0, 0, 0, 1e-9, 0, 0, 0, 0, 1e-9, 0), "invalid_affine"),
    "a constant": (scan(struct.pack("<h", 7) * count()), "no_contrast"),
    "zeros": (scan(bytes(2 * count())), "no_contrast"),
    "only NaN": (scan(struct.pack("<f", NAN) * count(), code=16, bits=32), "no_contrast"),
    "only infinities": (scan(struct.pack("<f", INF) * count(), code=16, bits=32), "no_contrast"),
    "a slope that overflows": (patched(112, "f", 3e38), "no_contrast succeeded"),
    "a slope that is no number": (patched(112, "f", NAN), "succeeded"),
    "some NaN": (scan(b"".join(struct.pack("<f", NAN if n % 97 == 0 else v[0]) for n, v in
                               enumerate(struct.iter_unpack("<h", voxels()))), code=16, bits=32), "succeeded"),
}


def test_a_lie_is_named(tmp_path, flair):
    service = Service(tmp_path / "state", *TINY)
    good, begin = masks(service, flair), service.resident()
    service.forget_peak()
    for name, (content, wanted) in LIES.items():
        for packed in (False, True):
            if packed and (content[:2] == b"\x1f\x8b" or not content):
                continue
            status, code = send(service, *flair_of(gzipped(content) if packed else content))
            assert code in wanted.split(), (name, packed, status, code)
    print(f"\n{len(LIES)} lies, at most {service.peak() - begin >> 20} MB more than before")
    assert service.peak() - begin < 256 << 20, "a promise takes no memory"
    assert masks(service, flair) == good
    is_well(service)
    service.stop()


def mutants(flair: dict, number: int):
    """Real headers with flipped bits, files that end early, packed files with flipped bits."""
    chance = random.Random(20)
    plain = gzip.decompress(flair["flair"].read_bytes())
    whole = [plain, scan(), scan(order=">"), scan(edition=2), scan(order=">", edition=2)]
    for n in range(number):
        content = bytearray(chance.choice(whole))
        how = n % 4
        if how in (0, 1):
            length = 352 if content[0] in (92, 0) and content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else 544
            for _ in range(chance.randint(1, 4)):
                content[chance.randrange(length)] ^= 1 << chance.randrange(8)
            yield n, gzipped(bytes(content)) if how else bytes(content)
        elif how == 2:
            packed = gzipped(bytes(content)) if chance.random() < 0.5 else bytes(content)
            # Early ends are where headers are.
            end = chance.choice([chance.randrange(600), chance.randrange(len(packed))])
            yield n, packed[:end]
        else:
            packed = bytearray(gzipped(bytes(content)))
            for _ in range(chance.randint(1, 3)):
                packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
            yield n, bytes(packed)


def test_mutations_of_real_files(tmp_path, flair, long):
    number = 1000 if long else 150
    service = Service(tmp_path / "state", *TINY)
    good, begin = masks(service, flair), service.resident()
    service.forget_peak()
    seen: dict[str, int] = {}
    for n, content in mutants(flair, number):
        _, code = send(service, *flair_of(content))
        seen[code] = seen.get(code, 0) + 1
        if n % 50 == 0:
            assert masks(service, flair) == good
    print(f"\n{number} mutations: {seen}; at most {service.peak() - begin >> 20} MB more than before")
    assert len(seen) >= 5 and service.peak() - begin < 512 << 20
    assert masks(service, flair) == good
    assert [p for p in (tmp_path / "state" / "incoming").iterdir()] == []
    is_well(service)
    service.stop()


def segment(folder: pathlib.Path, content: bytes, **limits) -> subprocess.CompletedProcess:
    folder.mkdir()
    (folder / "x.nii.gz").write_bytes(content)
    words = [PROGRAM, "segment", *TINY[:TINY.index("--threads")], "--flair", folder / "x.nii.gz", "--out", folder / "out"]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_command_line_names_what_is_wrong_too(tmp_path, flair, long):
    contents = [(f"lie-{n}", content) for n, (content, _) in enumerate(LIES.values()) if long or n % 4 == 0]
    contents += [(f"mutant-{n}", content) for n, content in mutants(flair, 1000 if long else 12)]
    for name, content in contents:
        done = segment(tmp_path / name, content)
        assert done.returncode in (0, 3), (name, done.returncode, done.stderr[-500:])
        assert "panicked" not in done.stderr
        assert done.returncode == 0 or done.stderr.strip().splitlines()[-1].startswith("error: "), done.stderr


def test_a_bomb_of_ten_gigabytes_in_ten_megabytes(tmp_path, flair):
    """It is unpacked no further than its header promises, and what it promises must fit the memory."""
    member = gzip.compress(bytes(100 << 20), 9, mtime=0)
    zeros = member * 100
    assert len(zeros) < 11 << 20
    service = Service(tmp_path / "state", *TINY, "--memory-budget-bytes", str(1 << 30))
    good, begin = masks(service, flair), service.resident()
    service.forget_peak()
    small = gzipped(seeds.header(shape=SHAPE))
    assert send(service, *flair_of(small + zeros))[1] == "damaged_image"
    huge = gzipped(seeds.header(shape=(1024, 1024, 128), code=64, bits=64))
    assert send(service, *flair_of(huge + zeros)) == (413, "study_too_large")
    extended = bytearray(seeds.header(shape=SHAPE))
    struct.pack_into("<f", extended, 108, 1e9)
    assert send(service, *flair_of(gzipped(bytes(extended)) + zeros))[1] == "damaged_image"
    assert send(service, *flair_of(zeros))[1] == "not_nifti"
    # As much as fits.
    fits = gzipped(seeds.header(shape=(256, 256, 256), code=64, bits=64))
    assert send(service, *flair_of(fits + zeros))[1] in ("damaged_image", "study_too_large")
    print(f"\nat most {service.peak() - begin >> 20} MB more than before")
    assert service.peak() - begin < 1 << 30
    assert masks(service, flair) == good
    is_well(service)
    service.stop()
    done = segment(tmp_path / "cli", small + zeros)
    assert done.returncode == 3 and "panicked" not in done.stderr, done.stderr


def test_forms_that_are_wrong_and_names_that_are_paths(tmp_path, flair):
    state = tmp_path / "state"
    service = Service(state, *TINY)
    content = flair["flair"].read_bytes()
    good = masks(service, flair)
    before = sorted(str(p) for p in state.rglob("*") if "sqlite" not in p.name)
    flair_part = ('name="flair"; filename="x.nii"', content)
    cases = [
        ([('name="../flair"; filename="x"', content)], "unknown_part"),
        ([('name="flair/../../x"; filename="x"', content)], "unknown_part"),
        ([('name="/etc/passwd"; filename="x"', content)], "unknown_part"),
        ([('name="flair%00"; filename="x"', content)], "unknown_part"),
        ([('name=""; filename="x"', content)], "unknown_part"),
        ([('filename="flair"', content)], "unknown_part"),
        ([flair_part, flair_part], "duplicate_part"),
        ([flair_part, ('name="options"', b"{}"), ('name="options"', b"{}")], "duplicate_part"),
        ([flair_part, ('name="swi"', content)], "unknown_part"),
        ([flair_part, ('name="options"', b"[]")], "invalid_options"),
        ([flair_part, ('name="options"', b'{"label": 3}')], "invalid_options"),
        ([flair_part, ('name="options"', b'{"label": "a", "label": "b"}')], "invalid_options"),
        ([flair_part, ('name="options"', b'{"threshold": 1e999}')], "invalid_options"),
        ([flair_part, ('name="options"', b'{"model": "../../x"}')], "unknown_model"),
        ([flair_part, ('name="options"', b"\xff\xfe")], "invalid_options"),
        ([flair_part, ('name="options"', b"[" * 60_000)], "invalid_options"),
        ([('name="options"', b"{}")], "missing_flair"),
        ([], "missing_flair malformed_request"),
    ]
    for parts, wanted in cases:
        status, code = send(service, *form(*parts))
        assert 400 <= status < 500 and code in wanted.split(), (parts and parts[-1][0], code)
    assert sorted(str(p) for p in state.rglob("*") if "sqlite" not in p.name) == before
    # What the client calls its file is not read, so it does no harm either.
    for name in ("../../../../etc/passwd", "/etc/shadow", "x\\..\\..\\y", "con", "a" * 4000, "%2e%2e%2fx"):
        status, code = send(service, *form((f'name="flair"; filename="{name}"', content)))
        assert (status, code) == (200, "succeeded"), (name, code)
    names = {p.name for p in state.rglob("*")}
    assert not names & {"passwd", "shadow", "y", "con", "x"} and "etc" not in names
    for path in ("..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/dawson.sqlite", "report.json%00", "....//report.json"):
        job = json.loads(service.call("GET", "/v1/segmentations")[1])["jobs"][0]
        status, answer = service.call("GET", f"{job['links']['artifacts']}/{path}")
        assert status in (400, 404) and json.loads(answer)["code"] in ("not_found", "malformed_request"), answer
    assert masks(service, flair) == good
    is_well(service)
    service.stop()
