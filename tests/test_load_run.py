"""Whole runs against real servers with a timed engine, over both doors: what is measured, told and kept."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest

from moesaic.bench.load import ceiling
from moesaic.bench.load.arrivals import Asked, Lengths, Level, closed, ramp
from moesaic.bench.load.door import LOST
from moesaic.bench.load.drive import UNFINISHED, _ahead_of_servers, drive
from moesaic.bench.load.grpc_door import GrpcDoor
from moesaic.bench.load.openai_door import OpenAIDoor
from moesaic.bench.load.run import LoadPlan, notes, run_load
from moesaic.bench.load.target import Target
from moesaic.bench.server.processes import TimedServer
from moesaic.bench.server.timed_engine import Pace
from moesaic.cli.main import main
from moesaic.models.errors import AddressError, SetupError

LENGTHS = Lengths((8, 8), (5, 5))
STEP = 0.02


@pytest.fixture(scope="module")
def timed() -> Iterator[TimedServer]:
    with TimedServer(Pace(STEP), 16) as server:
        yield server


def doors(timed: TimedServer) -> tuple[Target, ...]:
    return Target("grpc", f"grpc://{timed.address}"), Target("http", f"http://{timed.web}/v1")


def machine() -> dict[str, Any]:
    return {"device": "x", "processors": 1, "versions": {}, "commit": None}


def plan(tmp_path: Path, *targets: Target, levels: tuple[Level, ...] | None = None, **more: Any) -> LoadPlan:
    return LoadPlan(
        targets, levels or (closed(2, 0.4, LENGTHS, {}, 0),), tmp_path / "load.json", warm_up=1, command="x", **more
    )


def run(asked: LoadPlan) -> dict[str, Any]:
    return run_load(asked, machine, lambda *said: None)


def test_through_both_doors_no_answer_is_sooner_than_its_engine(timed: TimedServer, tmp_path: Path) -> None:
    results = run(plan(tmp_path, *doors(timed)))["levels"][0]["results"]
    for name in ("grpc", "http"):
        assert results[name]["errors"] == {} and results[name]["tokens"] == 5 * results[name]["answered"]
        assert results[name]["curves"]["e2e"][0] >= 1e3 * 4 * STEP


def test_an_open_loop_sends_whatever_comes_back(timed: TimedServer, tmp_path: Path) -> None:
    level = ramp(60, 60, 0.5, 1.0, LENGTHS, {}, 3)
    found = run(plan(tmp_path, doors(timed)[0], levels=(level,)))["levels"][0]["results"]["grpc"]
    assert found["requests"] == len(level.requests) == found["answered"]


def test_the_generator_gives_its_priority_back() -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with _ahead_of_servers():
        assert os.getpriority(os.PRIO_PROCESS, 0) <= usual
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


def test_the_generator_says_up_to_which_rate_it_keeps_up(tmp_path: Path) -> None:
    out = tmp_path / "generator.json"
    assert ceiling.main([str(out), "--rate", "20", "40", "--seconds", "0.5"]) == 0
    report = json.loads(out.read_text())
    assert [row["answered"] for row in report["rates"]] == [row["requests"] for row in report["rates"]]
    assert report["kept"] in (0, 20, 40) and report["machine"]["processors"] >= 1
    rows = [{"rate": 1, "requests": 2, "answered": 2, "generator": {"was_the_limit": False}}]
    assert ceiling.kept([*rows, {**rows[0], "rate": 3, "answered": 1}]) == 1
    assert ceiling.main([str(out), "--rate", "0"]) == 2


def test_prompts_are_counted_by_the_server_and_have_their_length(timed: TimedServer, tmp_path: Path) -> None:
    level = closed(1, 0.3, Lengths((100, 100), (2, 2)), {}, 0)
    for found in run(plan(tmp_path, *doors(timed), levels=(level,)))["levels"][0]["results"].values():
        assert found["prompt_tokens"] / found["answered"] == pytest.approx(100, rel=0.2)


def test_what_a_server_refuses_is_told_by_its_name(timed: TimedServer, tmp_path: Path) -> None:
    level = Level("odd", (Asked(8, 2, at=0.0), Asked(8, 2, "no-such-tier", at=0.0)), 0.1)
    report = run(plan(tmp_path, *doors(timed), levels=(level,)))
    found = {name: result["errors"] for name, result in report["levels"][0]["results"].items()}
    assert found == {"grpc": {"FAILED_PRECONDITION": 1}, "http": {"HTTP 400": 1}}
    assert "not answered: 1 FAILED_PRECONDITION" in " ".join(notes(report))


def test_what_is_not_over_in_time_is_given_up(timed: TimedServer) -> None:
    level = Level("long", (Asked(8, 1000, at=0.0),), 0.1)
    with closing(GrpcDoor(timed.address)) as door:
        assert [record.end for record in drive(door, level, str_prompt, 0.1).records] == [UNFINISHED]


def str_prompt(number: int, tokens: int) -> str:
    return f"{number} a story"


def test_a_server_that_dies_is_told_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    levels = (
        closed(1, 0.2, LENGTHS, {}, 0),
        Level("long", (Asked(8, 1000, at=0.0),) + (Asked(8, 1, at=0.5),) * 4, 1.0),
    )
    with TimedServer(Pace(STEP), 4) as server:
        asked = plan(tmp_path, Target("it", f"grpc://{server.address}"), levels=levels)
        report = run_load(asked, machine, lambda told, done, total: server.process.kill() if done == 1 else None)
    first, second = (level["results"]["it"] for level in report["levels"])
    assert first["complete"] and not second["complete"] and "nobody answers" in second["why"]
    assert not report["complete"] and json.loads(asked.out.read_text())["levels"][0]["results"]["it"] == first


def test_streams_of_a_server_that_dies_are_lost(tmp_path: Path) -> None:
    with TimedServer(Pace(STEP), 4) as server, closing(GrpcDoor(server.address)) as door:
        door.send(0, "a story", Asked(8, 1000))
        while not any(came.tokens for came in door.arrived(1)):
            pass
        server.process.send_signal(signal.SIGKILL)
        ends = [came.end for _ in range(100) for came in door.arrived(0.1) if came.end]
    assert ends == [LOST]


def test_a_run_that_was_cut_off_goes_on_where_it_was(timed: TimedServer, tmp_path: Path) -> None:
    levels = tuple(closed(users, 0.2, LENGTHS, {}, 0) for users in (1, 2))
    asked = plan(tmp_path, doors(timed)[0], levels=levels)
    with pytest.raises(KeyboardInterrupt):
        run_load(asked, machine, cut_off_at(1))
    first = json.loads(asked.out.read_text())
    whole = run(asked)
    assert len(first["levels"]) == 1 and not first["complete"] and whole["complete"]
    assert whole["levels"][0] == first["levels"][0] and len(whole["levels"]) == 2


def cut_off_at(number: int) -> Any:
    def progress(told: str, done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return progress


def test_a_report_of_something_else_is_not_overwritten(timed: TimedServer, tmp_path: Path) -> None:
    run(plan(tmp_path, doors(timed)[0]))
    with pytest.raises(SetupError, match="is of something else"):
        run(plan(tmp_path, doors(timed)[0], seed=7))


class OneAnswerALine(StreamRequestHandler):
    """Answers one request, promises to stay, and hangs up."""

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip():
            length = int(line.split()[1]) if line.lower().startswith(b"content-length") else length
        self.rfile.read(length)
        said = b'data: {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n'
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))


def test_a_connection_that_was_closed_while_it_idled_is_no_failure() -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), OneAnswerALine) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with closing(OpenAIDoor("127.0.0.1", server.server_address[1], "/v1", "m")) as door:
            records = drive(door, closed(1, 0.2, LENGTHS, {}, 0), str_prompt, 1.0).records
        server.shutdown()
    assert len(records) > 2 and all(record.ok for record in records)


@pytest.mark.parametrize("place", ["grpc://127.0.0.1:1", "http://127.0.0.1:1/v1", "http://127.0.0.1:1?model=a"])
def test_nobody_at_an_address_is_told_before_anything(tmp_path: Path, place: str) -> None:
    with pytest.raises(AddressError, match=r"nobody answers at 127\.0\.0\.1:1"):
        run(plan(tmp_path, Target("it", place)))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_report_and_compares_it_with_itself(
    timed: TimedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "new" / "load.json")
    words = ["--users", "1", "--seconds", "0.3", "--prompt-tokens", "8", "--new-tokens", "4:6", "--warm-up", "1"]
    assert main(["bench", "serve", f"it=grpc://{timed.address}", *words, "--out", out]) == 0
    page = Path(out).with_suffix(".html").read_text()
    assert page.count("<img") == 3 and "users 1" in page and 'src="http' not in page and "<script" not in page
    assert main(["bench", "compare", out, out]) == 0
    assert "0 worse, 0 better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rate", "0"], "a rate is 0.0"),
        (["--users", "0"], "users is 0"),
        (["--rate", "0.001", "--seconds", "1"], "measure longer"),
        (["--new-tokens", "9:2"], "--new-tokens is 9:2"),
        (["--tier", "=2"], "--tier is =2"),
        (["--burstiness", "nan"], "burstiness is nan"),
        (["--trace", "no-such-file.csv"], "No such file"),
        (["grpc://h:1"], "two servers have one name"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", "grpc://h:1", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert told in capsys.readouterr().err
