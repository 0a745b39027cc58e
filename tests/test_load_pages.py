"""The share of a server's pages that requests hold while it is under load, over both doors."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.bench.load import pages, picture
from moesaic.bench.load.arrivals import Lengths, closed
from moesaic.bench.load.figures import _pages
from moesaic.bench.load.pages import Watch, held_in_metrics
from moesaic.bench.load.run import LoadPlan, run_load
from moesaic.bench.load.target import Target, _held_of
from moesaic.bench.server.processes import TimedServer
from moesaic.bench.server.timed_engine import Pace
from moesaic.models.errors import AddressError


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_a_server_under_load_tells_how_much_of_its_pages_is_held(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_EVERY_SECONDS", 0.05)
    with TimedServer(Pace(0.05, blocks=64), 16) as server:
        place = f"grpc://{server.address}" if door == "grpc" else f"http://{server.web}/v1"
        plan = LoadPlan(
            (Target(door, place),), (closed(4, 1.2, Lengths((64, 64), (16, 16)), {}, 0),), tmp_path / "load.json"
        )
        report = run_load(plan, dict, lambda *said: None)
    line = report["levels"][0]["results"][door]["timeline"]
    assert len(line["pages"]) == len(line["seconds"]) and 0 < max(line["pages"]) <= 1
    assert picture.course(report).startswith(b"\x89PNG")


class _Metrics(BaseHTTPRequestHandler):
    status, text = 200, ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "held"),
    [
        (200, 'vllm:kv_cache_usage_perc{engine="0"} 0.25\n', 0.25),
        (200, "# TYPE x gauge\nllamacpp:kv_cache_usage_ratio 0.5\n", 0.5),
        (200, 'a:kv_cache_usage_perc{model="a"} 0.9\na:kv_cache_usage_perc{model="b"} 0.1\n', 0.1),
        (200, 'a:kv_cache_usage_perc{model="a"} 0.9\na:kv_cache_usage_perc{model="c"} 0.1\n', 0.9),
        (200, "kv_cache_usage_perc 0.5", None),
        (200, "kv_cache_usage_perc many\n", None),
        (404, "kv_cache_usage_perc 0.5\n", None),
    ],
)
def test_metrics_of_other_servers_are_read_by_their_names(
    status: int, text: str, held: float | None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Metrics, "status", status)
    monkeypatch.setattr(_Metrics, "text", text)
    assert held_in_metrics("127.0.0.1", port, "b", "") == held


@pytest.mark.parametrize("answer", [None, AddressError("gone"), OSError("gone")])
def test_a_server_that_tells_nothing_is_asked_once(answer: Exception | None) -> None:
    asked = []

    def held() -> float | None:
        asked.append(1)
        if isinstance(answer, Exception):
            raise answer
        return None

    with Watch(held) as watch:
        assert watch._thread
        watch._thread.join(60)
    assert len(asked) == 1 and watch.since(0.0) == []


def test_an_answer_that_does_not_come_leaves_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_EVERY_SECONDS", 0.01)
    answers: list[Exception | float] = [0.5, OSError("late"), 0.7]
    over = threading.Event()

    def held() -> float | None:
        if not answers:
            over.set()
            return None
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Watch(held) as watch:
        assert over.wait(60)
    assert [share for _, share in watch.since(0.0)] == [0.5, 0.7]


def test_pages_are_drawn_only_near_what_was_told() -> None:
    moments = np.array([0.5, 1.5, 5.0, 9.5])
    assert _pages(moments, [(0.0, 0.2), (1.0, 0.4), (9.0, 1.0)]) == [0.3, 0.4375, None, 1.0]


def test_a_server_to_which_no_token_may_go_in_the_clear_is_measured_without_its_pages() -> None:
    with ExitStack() as stack:
        assert _held_of("192.0.2.2", 50051, "", "secret", stack)() is None
