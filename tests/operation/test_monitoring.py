"""The dashboard and the alerts ask for series that exist, in queries that Prometheus understands."""
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import yaml
from conftest import ROOT, Service
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from test_telemetry import table

DASHBOARD = json.loads((ROOT / "deploy/grafana/dawson.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(f"{panel['title']} {t['refId']}", t["expr"]) for panel in PANELS for t in panel["targets"]]
QUERIES += [(rule["alert"], rule["expr"]) for rule in RULES]
# What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "10m", "$__range": "6h", "$job": "dawson", "$instance": ".*"}


def plain(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not here (Debian: apt-get install prometheus): queries and rules were not checked")
    return found


@pytest.mark.parametrize("query", [q for _, q in QUERIES], ids=[name for name, _ in QUERIES])
def test_every_query_asks_for_series_and_labels_that_exist(query):
    known = table()
    names = set(re.findall(r"\b(?:dawson|process)_[a-z_]+\b", re.sub(r'"[^"]*"', '""', query)))
    assert names or "up{" in query, query
    labels = {"job", "instance", "le"}
    for name in names:
        base = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
        assert base in known, f"{name} is not in docs/operation.md"
        assert (known[base][0] == "histogram") == (name != base), f"{name}: a histogram has buckets, sum and count"
        labels |= known[base][1]
    asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
    for group in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", query):
        asked |= set(filter(None, re.split(r",\s*", group)))
    assert asked <= labels, f"{asked - labels} are no labels of {sorted(names)}"


@pytest.mark.parametrize("panel", PANELS, ids=[p["title"] for p in PANELS])
def test_a_legend_shows_labels_that_its_query_keeps(panel):
    for target in panel["targets"]:
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
        for group in kept:
            assert shown <= set(re.split(r",\s*", group)), target


def test_every_series_of_the_service_has_a_place_on_the_dashboard():
    shown = {re.sub(r"_(bucket|sum|count)$", "", n)
             for panel in PANELS for t in panel["targets"] for n in re.findall(r"\b(?:dawson|process)_[a-z_]+", t["expr"])}
    details = {"process_virtual_memory_bytes", "process_virtual_memory_max_bytes", "process_max_fds"}
    assert set(table()) - shown == details


def test_panels_lie_beside_each_other_and_have_ids_of_their_own():
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells: set = set()
    for panel in DASHBOARD["panels"]:
        p = panel["gridPos"]
        mine = {(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
        assert not mine & cells and p["x"] + p["w"] <= 24, panel["title"]
        cells |= mine


def lost(ours, theirs, place: str = "dashboard"):
    """What Grafana's own types do not give back as it was: fields that they do not know."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from lost(value, theirs[name], f"{place}.{name}") if name in theirs else [f"{place}.{name}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for n, pair in enumerate(zip(ours, theirs)):
            yield from lost(*pair, f"{place}[{n}]")
    elif ours != theirs:
        yield place


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2")
def test_grafana_knows_every_field_of_the_dashboard():
    plugins.register_default_plugins()  # the options of each kind of panel
    read = dashboard.Dashboard.from_json(DASHBOARD)
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))
    assert {panel["type"] for panel in PANELS} == {"stat", "timeseries"}, "kinds that the types have been seen to know"
    assert list(lost(DASHBOARD, written)) == []


def test_prometheus_understands_every_query_of_the_dashboard(promtool, tmp_path):
    rules = [{"record": f"panel:{n}", "expr": plain(query)} for n, (_, query) in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0 and f"{len(rules)} rules found" in checked.stdout, checked.stderr


def test_the_alerts_are_raised_when_they_should_be_and_only_then(promtool):
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        ran = subprocess.run([promtool, *words], cwd=ROOT / "deploy/prometheus", capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_prometheus_that_reads_a_service_at_work_has_an_answer_for_every_panel(program, phantom, tmp_path):
    prometheus = shutil.which("prometheus")
    if not prometheus:
        pytest.skip("prometheus is not here (Debian: apt-get install prometheus): no panel was asked for its data")
    service = Service(tmp_path / "state")
    config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8080", service.address).replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % probe.getsockname()[1]
    process = subprocess.Popen([prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
                                f"--web.listen-address={address}", "--log.level=error"], stderr=subprocess.DEVNULL)

    def ask(path: str, **fields: str) -> dict:
        url = f"http://{address}{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return {}

    def read_twice() -> list:
        return ask("/api/v1/query", query="rate(dawson_study_seconds_count[10m])").get("result", [])

    try:
        deadline = time.monotonic() + 400
        while not ask("/api/v1/query", query="dawson_build_info").get("result") and time.monotonic() < deadline:
            time.sleep(0.2)
        service.submit(phantom)
        while not read_twice() and time.monotonic() < deadline:
            time.sleep(0.2)
        empty = []
        for name, query in QUERIES[: -len(RULES)]:
            data = ask("/api/v1/query", query=plain(query))
            assert "result" in data, f"{name}: {query}"
            if not data["result"]:
                empty.append(name)
        # These show a line only once something is wrong, or once there is a destination.
        assert [n for n in empty if n.rpartition(" ")[0] not in ("Jobs failed", "Problems", "The store failed",
                "What went wrong in the engine", "Tries to file results")] == []
        rules = ask("/api/v1/rules")["groups"][0]["rules"]
        assert [r["name"] for r in rules] == [r["alert"] for r in RULES] and {r["health"] for r in rules} == {"ok"}
        # This machine's disk is no affair of the test.
        raised = [r["name"] for r in rules if r["state"] != "inactive" and not r["name"].startswith("DawsonDisk")]
        assert raised == []
    finally:
        process.terminate()
        process.wait()
        service.stop()


def test_every_alert_is_seen_to_be_raised_and_the_manual_says_what_to_do():
    alerts = [rule["alert"] for rule in RULES]
    raised = set(re.findall(r'alertname="(\w+)"', (ROOT / "deploy/prometheus/alerts_test.yml").read_text()))
    assert raised == set(alerts)
    headings = re.findall(r"^#+ (Dawson\w+)$", (ROOT / "docs/operation.md").read_text(), re.M)
    assert headings == alerts, "docs/operation.md explains each alert under its name, in the order of alerts.yml"
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["runbook"] == f"docs/operation.md#{rule['alert'].lower()}"
