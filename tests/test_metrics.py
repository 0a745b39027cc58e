"""What a server tells Prometheus: one registry that both doors feed, and a dashboard that asks for what there is."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from echo_engine import HOLD
from house import ROOT
from http_caller import HttpCaller, asked
from patience import eventually
from prometheus_client.parser import text_string_to_metric_families
from server_harness import Server

from moesaic.engine.completion import Usage
from moesaic.models.errors import InvalidRequest
from moesaic.proto import generation_pb2 as pb
from moesaic.server.catalog import Catalog
from moesaic.server.client import Client
from moesaic.server.fields import usage_message
from moesaic.server.metrics import FIRST_TOKEN, NEXT_TOKEN, Metrics
from moesaic.server.request_log import RequestRecord

DASHBOARD = json.loads((ROOT / "deploy/grafana.json").read_text())
SENT = re.compile(r"(?<!\$)\b(?:moesaic|process)_\w+")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(http=True) as server:
        yield server


def scraped(server: Server) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples, by name, and of each by the values of its labels."""
    with urlopen(f"{server.web}/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(response.read().decode())
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_requests_of_both_doors_are_counted_together(server: Server, client: Client) -> None:
    before = scraped(server).get("moesaic_generation_tokens_total", {}).get(("echo", "full"), 0)
    with server.held():
        stream = client.stream([HOLD, 8], max_new_tokens=5)
        next(stream)  # tokens come apart, however busy the machine is
    assert list(stream)
    asked(server.web, {"prompt": [7], "max_tokens": 6})
    found = scraped(server)
    assert found["moesaic_generation_tokens_total"][("echo", "full")] - before == 11
    assert found["moesaic_request_success_total"][("length", "echo")] >= 2
    assert found["moesaic_request_tiers_total"][("echo", "full", "full")] >= 2
    assert found["moesaic_time_to_first_token_seconds_count"][("echo",)] >= 2
    assert found["moesaic_inter_token_latency_seconds_count"][("echo",)] >= 1
    assert found["moesaic_request_queue_time_seconds_sum"][("echo",)] >= 0.5  # the echo says a quarter each time


def test_what_is_refused_is_counted_by_its_reason_and_never_by_what_was_sent(server: Server, client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.generate([7], max_new_tokens=600)
    asked(server.web, {"prompt": [7], "model": "secret-model"})
    asked(server.web, {"prompt": [7]}, "/v1/secret-path")
    found = scraped(server)["moesaic_requests_rejected_total"]
    assert found[("echo", "CONTEXT_LENGTH_EXCEEDED")] == 1 and found[("", "MODEL_NOT_FOUND")] == 1
    with urlopen(f"{server.web}/metrics") as response:
        assert b"secret" not in response.read()


def test_a_request_whose_caller_leaves_is_counted_as_cancelled(server: Server) -> None:
    with server.held(), HttpCaller(server.web) as caller:
        caller.post({"prompt": [503], "stream": True})
        caller.receive(b"data:")
        assert scraped(server)["moesaic_num_requests_running"][("echo",)] == 1
    eventually(lambda: ("echo", "CANCELLED") in scraped(server)["moesaic_requests_rejected_total"])


def test_models_are_told_as_they_are_now(server: Server) -> None:
    eventually(lambda: scraped(server)["moesaic_num_requests_running"][("echo",)] == 0)
    eventually(lambda: scraped(server)["moesaic_engine_step_age_seconds"][("echo",)] == 0)
    found = scraped(server)
    assert found["moesaic_model_serving"] == {("echo",): 1} and found["moesaic_num_slots"] == {("echo",): 8}
    assert found["moesaic_draining"] == {(): 0} and found["process_resident_memory_bytes"][()] > 1e6


def test_buckets_are_those_of_vllm_and_finer_ones_below() -> None:
    assert FIRST_TOKEN[:4] == (0.001, 0.005, 0.01, 0.02) and FIRST_TOKEN[-1] == 2560
    assert NEXT_TOKEN[0] == 0.0005 and NEXT_TOKEN[NEXT_TOKEN.index(0.01) :][:3] == (0.01, 0.025, 0.05)
    assert all(sorted(set(each)) == list(each) for each in (FIRST_TOKEN, NEXT_TOKEN))


def filled() -> Metrics:
    """One that has seen a request of each kind."""
    metrics = Metrics(Catalog([]))
    usage = usage_message(Usage(3, 2, tier_used="low", bytes_share=0.5, neurons_share=0.4, tier_asked="low"))
    last = pb.GenerateChunk(token_ids=[5], usage=usage, timing=pb.Timing(), finish=pb.Finish(reason=pb.Finish.LENGTH))
    with RequestRecord("a", "m", False, metrics) as record:
        record.model = "m"
        record.note(pb.GenerateChunk(token_ids=[5]))
        record.note(last)
    with RequestRecord("b", "m", False, metrics):
        pass
    metrics.responded("/v1/models", 200)
    return metrics


def test_the_share_of_bytes_is_told_by_tier() -> None:
    text = filled().text().decode()
    assert 'moesaic_request_bytes_share_sum{model="m",tier="low"} 0.5' in text
    assert 'moesaic_requests_rejected_total{model="",reason="CANCELLED"} 1.0' in text


def names() -> set[str]:
    """Every name that a scrape can hold."""
    text = filled().text().decode()
    return set(re.findall(r"^(\w+)[ {]", text, re.MULTILINE)) | set(
        re.findall(r"^# TYPE (\w+) gauge", text, re.MULTILINE)
    )


def expressions() -> list[str]:
    panels: list[Any] = DASHBOARD["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    assert {name for each in expressions() for name in SENT.findall(each)} <= names()
    assert all("$model" in each for each in expressions() if "model" in each)


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    shown = " ".join(expressions())
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names() if name.startswith("moesaic_")}
    assert {name for name in bare if name not in shown} <= {"moesaic_info", "moesaic_draining"}


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({str(panel["gridPos"]) for panel in panels}) == len(panels)
