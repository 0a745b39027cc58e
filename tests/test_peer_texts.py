"""Encoders and encoder-decoders beside their peers: who takes part, what is counted, who is skipped."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from encoder_cases import ENCODER_CASES
from source_cases import SOURCE_CASES

from moesaic.bench.load import llama_server
from moesaic.bench.peers import ctranslate2, onnx_runtime, same_gguf, texts
from moesaic.bench.peers.child import Child, Entry
from moesaic.bench.peers.same_tokens import measured as compared
from moesaic.bench.peers.texts import Task, as_text, measured
from moesaic.bench.peers.transformers_whole import TransformersAnswers, TransformersVectors
from moesaic.bench.peers.whole import OurAnswers, OurVectors
from moesaic.models.errors import SetupError
from moesaic.models.locate import locate

PROMPTS = [[5, 6, 7, 8, 9], [11, 12]]


@pytest.fixture(scope="module")
def sourced(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("t5")
    SOURCE_CASES[1].build(folder)
    return str(folder)


def test_ours_and_transformers_answer_with_the_same_tokens(sourced: str) -> None:
    ours, theirs = (kind(sourced, "", 2, 64) for kind in (OurAnswers, TransformersAnswers))
    mine, other = (each.decoded(PROMPTS, 6, 1) for each in (ours, theirs))
    assert len(mine.tokens) == 6 and mine.tokens == other.tokens and mine.seconds > 0
    assert ours.build == "a step is one call" and ours.token_bytes == theirs.token_bytes


def test_a_server_streams_the_answers_of_the_engine_and_ends_with_its_contestant(sourced: str) -> None:
    expected = OurAnswers(sourced, "", 2, 64).decoded(PROMPTS, 6, 1).tokens
    child = Child(Entry("ours, served", "moesaic served", sourced, "", 2))
    try:
        assert child.ask(PROMPTS, 6, 1).tokens == expected
        pid = child._process.pid
        (server,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    finally:
        child.end()
    assert not Path(f"/proc/{server}").exists()


def test_vectors_are_made_of_all_texts(tmp_path: Path) -> None:
    ENCODER_CASES[0].build(tmp_path)
    ours, theirs = (kind(str(tmp_path), "", 2, 64).decoded(PROMPTS, 1, 1) for kind in (OurVectors, TransformersVectors))
    assert ours.tokens == theirs.tokens == [] and ours.seconds > 0
    assert torch.allclose(torch.tensor(ours.vectors), torch.tensor(theirs.vectors), atol=1e-5)
    found = texts._alike({"ours": ours, "theirs": theirs}, "theirs")
    assert found["ours"]["least"] == 1 and "Mean cosine with the vectors of theirs: ours 1.0000." in texts._likeness(
        found
    )


def test_peers_that_are_not_installed_are_skipped_with_the_way_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ctranslate2, onnx_runtime):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    for answers, words in ((True, "CTranslate2 needs ctranslate2"), (False, "ONNX Runtime needs onnxruntime, onnx")):
        task = Task(answers, "dense", ["int8"], (1,), 4)
        (_, _, why), *_ = task.peers
        assert why.startswith(words) and why.endswith("pip install 'moesaic[peers]'")
        ours = ["moesaic int8", "moesaic int8, served"] if answers else ["moesaic int8"]
        assert [entry.name for entry in task.entries()] == ["transformers fp32", *ours]


def test_rates_are_of_all_tokens_of_a_call_and_beside_each_peer() -> None:
    seconds = {("peer", 1, 8): [2.0, 4.0, 3.0], ("ours", 1, 8): [1.0]}
    peer, ours = texts._rates(Task(True, "", [], (8,), 24), seconds, ["peer"])
    assert (peer["per_second"], ours["per_second"], ours["times"]) == (64.0, 192.0, {"peer": 3.0})
    vectors = texts._rates(Task(False, "", [], (8,), 24), seconds, ["peer"])
    assert vectors[1]["per_second"] == 8.0


def _point(contestant: str, threads: int, rate: float, **times: float) -> dict[str, Any]:
    return {"contestant": contestant, "threads": threads, "batch": 8, "per_second": rate, "times": times}


def test_the_table_has_a_row_for_each_and_says_who_was_skipped() -> None:
    rates = [_point("peer", 1, 64.0, peer=1.0), _point("ours", 1, 192.0, peer=3.0)]
    text = as_text({"answers": {"peers": ["peer"], "rates": rates, "skipped": {"other": "other needs more"}}})
    assert (
        "| tokens/s | 1 thread, 8 texts |" in text and "| peer | 64.0 |" in text and "| ours | 192.0 (3.00x) |" in text
    )
    assert "skipped: other needs more" in text and "as fast as" not in text


def test_what_nobody_can_run_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(SetupError, match="threads"):
        measured([Task(True, "nowhere", ["nowhere"], (1,), 4)], [0], 1)
    with pytest.raises(SetupError, match="rounds"):
        measured([], [1], 0)


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        SOURCE_CASES[1].build(tmp_path / folder / "int8")
    both = [str(tmp_path / folder / "int8") for folder in ("a", "b")]
    with pytest.raises(SetupError, match="two contestants are called moesaic int8"):
        measured([Task(True, both[0], both, (1,), 4)], [1], 1)


def test_answers_are_compared_prompt_by_prompt(sourced: str) -> None:
    found = compared(sourced, 2, 5, 1)["answers"]
    assert [each["same"] for each in found.values()] == [2, 2] and not found["greedily"]["differing"]


def test_where_ours_is_slower_than_a_peer_is_said_below_the_table() -> None:
    rates = [_point("ours", threads, 9.0, a=times, b=1.1) for threads, times in ((1, 0.8), (2, 0.9), (3, 1.0))]
    said = as_text({"answers": {"peers": ["a", "b"], "skipped": {}, "rates": rates}})
    assert "ours is 0.800 to 0.900 times as fast as a at 2 of 3 points." in said and "as fast as b" not in said


class _Told(BaseHTTPRequestHandler):
    """Answers every prompt with one text."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        found = json.dumps({"choices": [{"text": "nothing of ours"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *_: Any) -> None: ...


class _StandIn:
    """In the place of llama.cpp's server."""

    about = "a stand-in"

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "_StandIn":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Told)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_answers_of_a_gguf_file_that_part_are_counted_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_gguf, "why_absent", lambda _: "")
    monkeypatch.setattr(same_gguf, "LlamaServer", _StandIn)
    found = same_gguf.measured(str(locate("stories260k")), 2, 3, 1)
    assert found["peer"] == "a stand-in" and list(found["answers"]) == ["Q8_0", "Q4_0"]
    for each in found["answers"].values():
        assert each["same"] == 0 and [one["theirs"] for one in each["parted"]] == ["nothing of ours"] * 2


def test_a_missing_llama_cpp_is_told_before_any_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"llama.cpp's server needs xllamacpp.*moesaic\[peers\]"):
        same_gguf.measured("stories260k", 2, 3, 1)
