"""Our models beside llama.cpp: who takes part, what is written of each, and who is skipped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import llama, opt
from gguf import GGUFReader, GGUFWriter

from moesaic.bench.peers import ctranslate2, llama_cpp, openvino, transformers
from moesaic.bench.peers.figures import Measured, alike, as_text, decode_figures, first_figures
from moesaic.bench.peers.gguf_file import gguf_of
from moesaic.bench.peers.peer import Stepping
from moesaic.bench.peers.run import Plan, measured
from moesaic.models.errors import CheckpointError, SetupError

SMALL = Plan(["stories260k"], threads=(1,), batches=(1, 2), steps=2, rounds=1, long_prompt=32)


class Counting(Stepping):
    """A peer whose next token is one more."""

    def begin(self, threads: int) -> None:
        self.positions = list[int]()

    def prefill(self, row: int, token_ids: Sequence[int]) -> int:
        return token_ids[-1] + 1

    def decode(self, token_ids: Sequence[int], position: int) -> list[int]:
        self.positions.append(position)
        return [token + 1 for token in token_ids]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return measured(SMALL)


def test_our_side_is_measured_with_all_that_belongs_beside_a_figure(report: dict[str, Any]) -> None:
    row = report["decode"][-1]
    assert (row["contestant"], row["threads"], row["batch"]) == ("moesaic stories260k", 1, 2)
    assert 0 < row["tokens_per_second"] <= row["best_tokens_per_second"]
    assert row["limit_tokens_per_second"] == pytest.approx(2 * report["decode"][0]["limit_tokens_per_second"], rel=0.01)
    assert report["first_token"][0]["seconds"] > 0 and {"device", "commit", "versions"} <= report["machine"].keys()


def test_a_peer_without_a_file_of_the_weights_is_skipped_with_the_reason(report: dict[str, Any]) -> None:
    text = as_text(report)
    assert "skipped: llama.cpp needs a GGUF file of the same weights; give --gguf FILE" in text
    assert "skipped: CTranslate2 needs a dense directory of the same weights; give --dense MODEL" in text
    assert len(report["skipped"]) == 4


def test_a_peer_that_is_not_installed_is_skipped_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for peer in ("llama_cpp", "ctranslate2", "openvino", "transformers"):
        monkeypatch.setattr(f"moesaic.bench.peers.{peer}.find_spec", lambda name: None)
    assert ctranslate2.why_absent().startswith("CTranslate2 needs ctranslate2, transformers, which are not installed")
    assert openvino.why_absent("model.gguf").startswith("OpenVINO GenAI needs openvino_genai, llama_cpp, which are not")
    assert transformers.why_absent().startswith("transformers needs transformers, which is not installed")
    assert llama_cpp.why_absent().endswith("llama-cpp-python, which is not installed; pip install 'moesaic[peers]'")


def test_openvino_is_skipped_where_a_file_has_no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.bench.peers.openvino.find_spec", lambda name: name)
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert openvino.why_absent(str(tmp_path / "model.gguf")).endswith("without a vocabulary; give another --gguf")


def test_transformers_answers_a_batch_as_it_answers_each_row() -> None:
    pytest.importorskip("transformers")
    peer, prompts = transformers.Transformers("stories260k", "bfloat16", 2, 64), [[1, 5, 9], [1, 7, 3]]
    both = peer.decoded(prompts, 3, 1)
    assert both.tokens == peer.decoded(prompts[:1], 3, 1).tokens and len(both.tokens) == 4
    assert both.tokens[0] == peer.first_token(prompts[0], 1).tokens[0] and both.seconds > 0 and peer.token_bytes > 0


def test_what_nobody_can_run_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(SetupError, match="threads"):
        measured(Plan(["nowhere"], threads=(0,)))
    with pytest.raises(SetupError, match="batch"):
        measured(Plan(["nowhere"], batches=(0,)))


def test_a_gguf_that_is_not_there_is_refused() -> None:
    with pytest.raises(SetupError, match="--gguf: there is no file nowhere.gguf"):
        measured(Plan(["stories260k"], "nowhere.gguf"))


def test_ratios_are_to_each_peer_at_the_same_threads_and_batch() -> None:
    found = Measured(
        10, {("ours", 1, 4): [1.0, 2.0, 2.0], ("peer", 1, 4): [4.0]}, {("ours", 1): [1.0], ("peer", 1): [2]}
    )
    ours, _ = decode_figures(found, {"ours": 100, "peer": 50}, {1: 5000.0}, ["peer"])
    assert ours["times"] == {"peer": 2.0} and ours["tokens_per_second"] == 20 and ours["best_tokens_per_second"] == 40
    assert ours["limit_tokens_per_second"] == 200
    assert first_figures(found, ["peer"])[0]["part"] == {"peer": 0.5}


def test_the_table_shows_the_ratio_and_the_part_of_the_limit() -> None:
    row = {"contestant": "ours", "threads": 1, "batch": 4, "tokens_per_second": 20.0, "limit_tokens_per_second": 80.0}
    first = {"contestant": "ours", "threads": 1, "seconds": 0.25, "part": {"peer": 0.5}}
    text = as_text(
        {"peers": ["peer"], "decode": [row | {"times": {"peer": 1.5}}], "first_token": [first], "skipped": {}}
        | {"long_prompt_tokens": 256}
    )
    assert "| ours | 1 | 4 | 20.0 | 25% | 1.50 |" in text and "| ours | 1 | 250 | 0.50 |" in text


def test_steps_follow_the_prompts_and_tell_the_first_row() -> None:
    peer = Counting()
    answer = peer.decoded([[5, 6], [8, 9]], 3, 1)
    assert answer.tokens == [7, 8, 9, 10] and peer.positions == [2, 3, 4]
    assert alike({"one": answer.tokens, "other": [7, 8, 0, 10]}, "one") == {"one": 4, "other": 2}


def test_llama_cpp_reads_an_embedding_only_where_it_is_the_head(tmp_path: Path) -> None:
    sizes = []
    for names in (["token_embd.weight", "blk.weight"], ["token_embd.weight", "output.weight", "blk.weight"]):
        writer = GGUFWriter(tmp_path / "model.gguf", "llama")
        for name in names:
            writer.add_tensor(name, np.zeros((4, 8), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        sizes.append(llama_cpp.token_bytes(tmp_path / "model.gguf"))
    assert sizes == [256, 256]


def test_a_gguf_of_a_shape_is_made_once_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))
    llama(tmp_path / "model")
    made = gguf_of(tmp_path / "model")
    assert {each.tensor_type.name for each in GGUFReader(made).tensors} == {"BF16", "F32"}
    assert gguf_of(tmp_path / "model") == made


def test_what_the_file_could_not_say_is_not_written(tmp_path: Path) -> None:
    opt(tmp_path / "model")
    with pytest.raises(CheckpointError, match="GGUF has no architecture for models of the family opt"):
        gguf_of(tmp_path / "model")
