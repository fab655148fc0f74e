#!/usr/bin/env python3
"""Writes the bill of materials of the program and what it is shipped with: CycloneDX, JSON.

    python3 tools/sbom.py out/dawson.cdx.json

In it: every crate that is linked on this kind of machine, with its licence and the registry's SHA-256 from
Cargo.lock; the libraries of ONNX Runtime that tools/fetch_runtime.py brought, with the hash of the package
they came from; every network below models/, with the hash of its file, its licence and its card. Debian's
packages in an image are listed by the image's own tools. The same sources give the same bytes: there is no
time in it, and its serial number is made from its content.
"""
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import fetch_runtime  # noqa: E402  (it knows which package the libraries came from)

LICENCES = LicenseFactory()
# What the wheels' own metadata say; the libraries of OpenVINO and oneTBB lie in the same wheel.
RUNTIME_LICENCES = {"libonnxruntime": "MIT", "libopenvino": "Apache-2.0", "libtbb": "Apache-2.0"}


def sha256(path: pathlib.Path) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())


def licence(text: str | None) -> list:
    """Cargo's older way of saying OR is a slash."""
    return [LICENCES.make_from_string(re.sub(r"\s*/\s*", " OR ", text))] if text else []


def crates() -> tuple[dict[str, Component], dict[str, list[str]]]:
    """The packages that are linked, and which needs which, by cargo's id."""
    host = re.search(r"^host: (\S+)$", subprocess.check_output(["rustc", "-vV"], text=True), re.M)[1]
    words = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", host]
    metadata = json.loads(subprocess.check_output(words, cwd=ROOT))
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in locked}
    needs = {node["id"]: [d["pkg"] for d in node["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
             for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    linked, new = set(), [root]
    while new:
        package = new.pop()
        if package not in linked:
            linked.add(package)
            new.extend(needs[package])
    components = {}
    for package in metadata["packages"]:
        if package["id"] not in linked:
            continue
        name, version = package["name"], package["version"]
        checksum = checksums[name, version]
        ours = package["source"] is None
        components[package["id"]] = Component(
            type=ComponentType.APPLICATION if package["id"] == root else ComponentType.LIBRARY,
            name=name, version=version, description=package["description"],
            bom_ref=f"crate/{name}@{version}",
            purl=None if ours else PackageURL("cargo", None, name, version),
            licenses=licence(package["license"]),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
            external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(package["repository"]))]
            if package["repository"] else [],
        )
    return components, {name: needs[name] for name in linked}


def runtime() -> list[Component]:
    """The libraries that are loaded when the program starts."""
    folder = fetch_runtime.TARGET
    if not folder.is_dir():
        sys.exit("ONNX Runtime is not there: make setup")
    package_hash = (folder / "SHA256").read_text().strip()
    (package,) = (w[0] for w in fetch_runtime.WHEELS.values() if w[2] == package_hash)
    libraries = []
    for path in sorted(folder.glob("*.so*")):
        stem = next(name for name in RUNTIME_LICENCES if path.name.startswith(name))
        libraries.append(Component(type=ComponentType.FILE, name=path.name, bom_ref=f"runtime/{path.name}",
                                   licenses=licence(RUNTIME_LICENCES[stem]), hashes=[sha256(path)]))
    return [Component(
        type=ComponentType.LIBRARY, name=package, version=fetch_runtime.VERSION, bom_ref=f"runtime/{package}",
        purl=PackageURL("pypi", None, package, fetch_runtime.VERSION), licenses=licence("MIT"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package_hash)], components=libraries)]


def models() -> list[Component]:
    """The networks that are shipped."""
    found = []
    for manifest in sorted((ROOT / "models").glob("*/*/model.toml")):
        said = tomllib.loads(manifest.read_text())
        network = manifest.with_name(said["file"])
        digest = sha256(network)
        found.append(Component(
            type=ComponentType.MACHINE_LEARNING_MODEL, name=said["name"], version=said["version"],
            description=said["title"], bom_ref=f"model/{said['name']}@{said['version']}",
            licenses=licence(said["licence"]), hashes=[digest]))
    return found


def bill() -> str:
    linked, needs = crates()
    bom = Bom()
    bom.metadata.timestamp = None
    (program,) = (c for c in linked.values() if c.type is ComponentType.APPLICATION)
    bom.metadata.component = program
    beside = runtime() + models()
    bom.components.update(c for c in linked.values() if c is not program)
    bom.components.update(beside)
    for package, component in linked.items():
        bom.register_dependency(component, [linked[n] for n in needs[package]])
    bom.register_dependency(program, [linked[n] for n in needs[next(p for p, c in linked.items() if c is program)]] + beside)
    content = sorted(f"{c.bom_ref} {[h.content for h in c.hashes]}" for c in bom.components)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(content))
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def main() -> int:
    (out,) = map(pathlib.Path, sys.argv[1:])
    text = bill()
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"this is no CycloneDX: {wrong}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    kinds = [c["type"] for c in json.loads(text)["components"]]
    print(f"{out}: {kinds.count('library')} libraries, {kinds.count('machine-learning-model')} network(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
