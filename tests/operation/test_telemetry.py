"""What a running service counts, logs and sends, held against the manual's table."""
import gzip
import http.server
import json
import re
import shutil
import subprocess
import threading

import nibabel
import pytest
from conftest import ROOT, Service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<kind>counter|gauge|histogram) \| (?P<labels>[a-z, ]*) \|")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def table() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of every series that the manual names."""
    lines = (ROOT / "docs/operation.md").read_text().splitlines()
    rows = [m for m in map(ROW.match, lines) if m]
    return {m["name"]: (m["kind"], set(filter(None, m["labels"].split(", ")))) for m in rows}


def exposed(text: str) -> dict[str, tuple[str, list[tuple[dict, float]]]]:
    """Kind and samples of every series that /metrics gives; a histogram's samples are its counts."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    found = {name: (kind, []) for name, kind in kinds.items()}
    for line in text.splitlines():
        sample = re.match(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
        if not sample:
            assert not line or line.startswith("#"), line
            continue
        name, labels, value = sample.groups()
        base = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        if name == base or name.endswith("_count"):
            found[base][1].append((dict(re.findall(r'(\w+)="([^"]*)"', labels or "")), float(value)))
    return found


def value(metrics: dict, name: str, **labels: str) -> float:
    return sum(v for found, v in metrics[name][1] if labels.items() <= found.items())


@pytest.fixture(scope="module")
def told(program, phantom, tmp_path_factory):
    """A service with a collector beside it that gets one study, one bad form, one unknown address."""
    spans: list = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802  (the standard library's name)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                spans.extend((names["service.name"], s) for scope in resource.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("told")
    service = Service(folder / "state", "--log-format", "json", "--otlp-endpoint",
                      f"http://127.0.0.1:{collector.server_port}", log="info")
    before = exposed(service.call("GET", "/metrics")[1].decode())
    named = tmp_path_factory.mktemp("CANARY") / "CANARY-name.nii.gz"
    image = nibabel.load(phantom["flair"])
    image.header["descrip"] = b"CANARY^PATIENT"
    nibabel.save(image, named)
    phantom = phantom | {"flair": named}
    job = service.submit(phantom, {"label": "CANARY label"}, traceparent=f"00-{TRACE}-{PARENT}-01", X_Request_Id="of-the-test")
    assert job["state"] == "succeeded", job
    assert service.call("POST", "/v1/segmentations", b"", Content_Type="text/plain")[0] == 415
    assert service.call("BREW", "/no/such/address")[0] in (404, 405)
    text = service.call("GET", "/metrics")[1].decode()
    after = exposed(text)
    service.stop()
    collector.shutdown()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    return {"before": before, "after": after, "job": job, "spans": spans, "lines": lines, "text": text,
            "log": service.log.read_text(), "phantom": phantom}


def test_whatever_is_exposed_is_in_the_manual_with_these_labels(told):
    known = table()
    for name, (kind, samples) in told["after"].items():
        assert name in known, f"{name} is not in docs/operation.md"
        assert kind == known[name][0], name
        for labels, _ in samples:
            assert set(labels) == known[name][1], f"{name} has labels {sorted(labels)}"


def test_every_series_of_the_manual_is_exposed_once_it_can_be(told):
    rare = {
        "dawson_engine_failovers_total", "dawson_engine_rebuilds_total", "dawson_store_failures_total",
        "dawson_deliveries_total",  # by destination, and there is none
    }
    assert set(table()) - set(told["after"]) <= rare


def test_counters_stand_at_zero_before_their_first_event(told):
    before = told["before"]
    for name in ("dawson_jobs_accepted_total", "dawson_job_crashes_total", "dawson_jobs_ended_total",
                 "dawson_refusals_total", "dawson_engine_out_of_memory_total"):
        assert before[name][1], name
        assert value(before, name) == 0, name


def test_a_study_is_counted_by_stage_by_end_and_by_what_the_engine_did(told):
    after = told["after"]
    assert value(after, "dawson_jobs_accepted_total") == 1
    assert value(after, "dawson_job_attempts_total") == 1
    assert value(after, "dawson_jobs_ended_total", state="succeeded", code="none") == 1
    assert value(after, "dawson_jobs_ended_total", state="failed") == 0
    assert value(after, "dawson_jobs_running") == value(after, "dawson_queue_jobs") == 0
    for stage in ("decode", "align", "anatomy", "assemble", "normalise", "infer", "restore", "count"):
        assert value(after, "dawson_stage_seconds", stage=stage) == 1, stage
    device = told["job"]["report"]["engine"]["device"]
    assert value(after, "dawson_engine_device_in_use", device=device) == 1
    patches = told["job"]["report"]["settings"]["patches"]
    verified = value(told["before"], "dawson_engine_batch_seconds")
    assert value(after, "dawson_engine_batch_seconds", device=device) == verified + patches + 1  # The anatomy's one look.
    for contrast, path in told["phantom"].items():
        assert value(after, "dawson_upload_bytes_total", part=contrast) == path.stat().st_size
    assert value(after, "dawson_artifact_bytes_total") > 1000
    assert 0 < value(after, "dawson_disk_free_bytes") < value(after, "dawson_disk_size_bytes")


def test_requests_are_counted_by_template_and_words_of_the_client_are_no_label(told):
    after = told["after"]
    requests = "dawson_http_requests_total"
    assert value(after, requests, method="POST", route="/v1/segmentations", status="2xx") == 1
    assert value(after, requests, method="POST", route="/v1/segmentations", status="4xx") == 1
    assert value(after, requests, method="other", route="unmatched", status="4xx") == 1
    assert value(after, "dawson_problems_total", code="unsupported_media_type") == 1


def test_log_lines_are_json_and_name_request_and_job(told):
    accepted = [line for line in told["lines"] if line["fields"]["message"] == "job accepted"]
    assert [line["fields"]["job"] for line in accepted] == [told["job"]["id"]]
    assert accepted[0]["span"]["request_id"] == "of-the-test"
    (ended,) = (line for line in told["lines"] if line["fields"]["message"] == "job succeeded")
    assert ended["span"]["job"] == told["job"]["id"] and ended["span"]["attempt"] == 1


def test_spans_continue_the_caller_s_trace_down_to_the_stages(told):
    assert {name for name, _ in told["spans"]} == {"dawson"}
    spans = [s for _, s in told["spans"] if s.trace_id.hex() == TRACE]
    (request,) = (s for s in spans if s.name == "POST /v1/segmentations")
    assert request.parent_span_id.hex() == PARENT and request.kind == request.SPAN_KIND_SERVER
    status = {a.key: a.value for a in request.attributes}["http.response.status_code"]
    assert status.int_value == 200
    (job,) = (s for s in spans if s.name == "job")
    assert job.parent_span_id == request.span_id
    assert {a.key: a.value.string_value for a in job.attributes}["job"] == told["job"]["id"]
    stages = [s.name for s in spans if s.parent_span_id == job.span_id]
    assert stages == ["decode", "align", "anatomy", "assemble", "normalise", "infer", "restore", "count"]
    others = [s for _, s in told["spans"] if s.trace_id.hex() != TRACE]
    assert others and not any(s.parent_span_id for s in others), "who sends no trace gets one of its own"


def test_nothing_of_a_patient_is_logged_counted_or_sent(told):
    sent = "".join(str(span) for _, span in told["spans"])
    assert told["job"]["label"] == "CANARY label" and "of-the-test" in sent
    for words in (told["text"], told["log"], sent):
        assert "CANARY" not in words


def test_prometheus_finds_nothing_to_mend_in_what_is_exposed(told):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not here (Debian: apt-get install prometheus): the exposition was not checked")
    linted = subprocess.run([promtool, "check", "metrics"], input=told["text"], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stderr


def test_a_collector_that_is_not_there_costs_nothing(program, phantom, tmp_path):
    service = Service(tmp_path / "state", "--otlp-endpoint", "http://127.0.0.1:9")
    try:
        assert service.submit(phantom)["state"] == "succeeded"
    finally:
        service.stop()
