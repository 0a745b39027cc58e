"""Vectors of texts: offline, from a terminal, over gRPC and over HTTP."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from builders import with_ends
from family_cases import Case
from server_harness import free_port

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.engine.encoder import EncoderEngine, EncoderRunner, pooled
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.engine.request import FinishReason, Request
from moesaic.models.checkpoint import load
from moesaic.models.errors import CheckpointError, Expired, InvalidRequest, RequestFailed, SetupError, Unsupported
from moesaic.models.sentences import POOLINGS, Pooling, Sentences
from moesaic.server.client import Client

TEXTS = ["a", "The cat sat on the mat.", "Two dogs ran"]
WINDOW = 32
MODULES = ("Transformer", "Pooling", "Normalize")
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
LONG = "b" * 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of bytes, a token before each text and one behind, as sentence-transformers writes it."""
    made: Path = tmp_path_factory.mktemp("embed") / "encoder"
    Case("bert").build(made)
    with_ends(made)
    write_modules(made, MODULES, MEAN)
    (made / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": WINDOW}))
    return made


def write_modules(folder: Path, kinds: Sequence[str], pooling: dict[str, Any]) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_pooled_states_of_each_text_alone(pooling: str, llm: LLM) -> None:
    found = llm.embed(TEXTS, pooling=pooling, normalised=False)
    for text, each in zip(TEXTS, found, strict=True):
        states = llm.model(torch.tensor([llm.tokenizer.encode(text)]))[0]
        vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        assert torch.allclose(torch.tensor(each.values), vector, atol=1e-5)
        assert each.num_tokens == len(text) + 2


def test_vectors_have_length_1_unless_asked_otherwise(llm: LLM) -> None:
    normal, raw = llm.embed(["a cat"])[0].values, llm.embed(["a cat"], normalised=False)[0].values
    assert math.hypot(*normal) == pytest.approx(1, abs=1e-6)
    assert [value / math.hypot(*raw) for value in raw] == pytest.approx(normal, abs=1e-6)


def test_many_texts_of_all_lengths_come_back_in_their_order(llm: LLM) -> None:
    texts = [chr(97 + i % 26) * (1 + 7 * i % 30) for i in range(75)]
    told: list[tuple[int, int]] = []
    found = llm.embed(texts, progress=lambda done, total: told.append((done, total)))
    alone = [llm.embed([text])[0] for text in texts[:5]]
    assert [each.num_tokens for each in found] == [len(text) + 2 for text in texts]
    assert told[-1] == (75, 75)
    for one, other in zip(found, alone, strict=False):
        assert one.values == pytest.approx(other.values, abs=1e-5)


def test_a_text_over_the_window_is_refused_or_cut_with_its_ends(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="has 202 tokens, the window holds 32; shorten it, or ask for truncate"):
        llm.embed(["a", LONG])
    [cut] = llm.embed([LONG], truncate=True)
    [same] = llm.embed(["b" * (WINDOW - 2)])
    assert cut.truncated and not same.truncated and cut.num_tokens == WINDOW
    assert cut.values == pytest.approx(same.values, abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        ([""], {}, "makes no token of its own"),
        ([[]], {}, "makes no token of its own"),
        (["a"], {"pooling": "max"}, "pooling: is 'max'"),
        ([[5, 259]], {}, "token 259 at index 1 is outside the 259 ids"),
        ([[-1]], {}, "token -1 at index 0"),
        ([3.5], {}, "it must be text in Unicode"),
    ],
)
def test_what_no_vector_can_be_made_of_is_refused(texts: Any, settings: dict[str, Any], words: str, llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match=words):
        llm.embed(texts, **settings)
    assert not llm.engine.has_work


def test_an_encoder_continues_no_text(llm: LLM) -> None:
    for ask in (llm.generate, llm.score):
        with pytest.raises(Unsupported, match="this model is an encoder: it makes embeddings of texts"):
            ask(["a"])


def test_a_window_is_the_models_own_or_asked_for_up_to_its_positions(folder: Path) -> None:
    assert LLM(folder, EngineOptions(max_context=64)).embed(["b" * 62])[0].num_tokens == 64
    with pytest.raises(SetupError, match="max_context is 65, this model's context is 1 to 64"):
        LLM(folder, EngineOptions(max_context=65))
    with pytest.raises(SetupError, match="step_share is 0.5, and an encoder decodes nothing"):
        LLM(folder, EngineOptions(step_share=0.5))


@pytest.mark.parametrize(
    ("kinds", "pooling", "expected"),
    [
        (MODULES, MEAN, Pooling("mean", True)),
        (MODULES[:2], {"pooling_mode_cls_token": True}, Pooling("cls", False)),
        (MODULES, {"pooling_mode_lasttoken": True, "include_prompt": True}, Pooling("last", True)),
        (MODULES, {"pooling_mode": "cls"}, Pooling("cls", True)),
    ],
)
def test_pooling_is_read_as_sentence_transformers_writes_it(
    kinds: Sequence[str], pooling: dict[str, Any], expected: Pooling, tmp_path: Path
) -> None:
    assert Sentences.open(tmp_path) == Sentences(Pooling("mean", True), None)
    write_modules(tmp_path, kinds, pooling)
    assert Sentences.open(tmp_path).pooling == expected


@pytest.mark.parametrize(
    ("kinds", "pooling", "words"),
    [
        ((*MODULES, "Dense"), MEAN, "the modules are Transformer, Pooling, Normalize, Dense; moesaic computes"),
        (MODULES, {"pooling_mode_max_tokens": True}, "Pooling asks for pooling_mode_max_tokens; moesaic computes one"),
        (MODULES, MEAN | {"pooling_mode_cls_token": True}, "Pooling asks for cls and mean"),
        (MODULES, {}, "Pooling asks for none"),
    ],
)
def test_modules_that_are_not_built_are_refused(
    kinds: Sequence[str], pooling: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_modules(tmp_path, kinds, pooling)
    with pytest.raises(CheckpointError, match=words):
        Sentences.open(tmp_path)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([{"type": "Transformer", "path": ""}, {"type": "x.Pooling", "path": "../up"}], "Pooling lies outside the dir"),
        ([{"type": "Transformer", "path": "/etc"}], "Transformer lies outside the directory, in '/etc'"),
        ([{"type": "Transformer"}], "is no list of modules with type and path"),
        ({"a": 1}, "is no list of modules"),
    ],
)
def test_a_list_of_modules_that_is_none_is_refused(modules: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=words):
        Sentences.open(tmp_path)


def test_a_window_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": -3}')
    with pytest.raises(CheckpointError, match="max_seq_length is -3, it must be a positive integer"):
        Sentences.open(tmp_path)


def test_an_engine_tells_who_was_late_and_whose_vector_is_not_finite(folder: Path) -> None:
    model, pooling = load(folder), Pooling()
    model.embedding.weight[7] = torch.inf
    engine = EncoderEngine(EncoderRunner(model), now=lambda: 5.0)
    for key, ids in enumerate([(3, 4), (3, 7), (5,)]):
        engine.add(Request(key, ids, pooling=pooling, deadline_seconds=4.0 if key == 2 else None))
    engine.add(Request(3, (5,), pooling=pooling))
    engine.abort(3)
    rows = {row.key: row for row in engine.step()}
    assert {key: row.finish for key, row in rows.items()} == {
        0: FinishReason.EMBEDDED, 1: FinishReason.FAILED, 2: FinishReason.EXPIRED
    }  # fmt: skip
    assert "NaN or infinity" in rows[1].error and not engine.has_work


def test_an_empty_direction_stays_as_it_is() -> None:
    assert pooled(torch.zeros(2, 3), Pooling()).tolist() == [0.0, 0.0, 0.0]


# --- from a terminal ------------------------------------------------------------------------------------------------


def test_a_terminal_shows_cosines_or_vectors(folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(folder), "a", "a cat"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "1.0000" and first.split()[1] == second.split()[0] and second.endswith("a cat")
    assert main(["embed", str(folder), "a", "--json", "--pooling", "cls", "--no-normalise"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["embedding"] == pytest.approx(llm.embed(["a"], pooling="cls", normalised=False)[0].values)
    assert main(["embed", "stories260k", "a"]) == 2
    assert "llama continues text and makes no embeddings" in capsys.readouterr().err
    assert main(["run", str(folder), "a"]) == 2
    assert "this model is an encoder" in capsys.readouterr().err


# --- served ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """(address, port of HTTP) of a server with an encoder and a decoder."""
    port = free_port()
    with local_server({"encoder": folder, "decoder": "stories260k"}, "--http-port", str(port)) as address:
        yield address, port


@pytest.fixture(scope="module")
def client(served: tuple[str, int]) -> Iterator[Client]:
    with Client(served[0], retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(served: tuple[str, int]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://localhost:{served[1]}/v1", api_key="none", max_retries=0) as stranger:
        yield stranger


def test_a_server_gives_the_vectors_of_this_process(client: Client, llm: LLM) -> None:
    texts: list[str | list[int]] = [*TEXTS, [5, 6]]
    for how, normalised in ((None, None), ("cls", False)):
        found = client.embed(texts, model="encoder", pooling=how, normalised=normalised, priority="high")
        known = llm.embed(texts, pooling=how, normalised=normalised)
        for one, other in zip(found, known, strict=True):
            assert one.values == pytest.approx(other.values, abs=1e-6) and one.num_tokens == other.num_tokens
    assert client.model("encoder").pooling == "mean" and client.model("decoder").pooling == ""
    assert client.tokenize("a", model="encoder") == (256, 64, 257)


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        (["a", ""], {}, r"inputs\[1\]: is empty"),
        (["a", LONG], {}, r"inputs\[1\]: has 20. (tokens|bytes)"),
        (["a"] * 257, {}, "inputs: are 257, they must be 1 to 256"),
        ([], {}, "inputs: are 0, they must be 1 to 256"),
        (["a"], {"pooling": "max"}, "pooling: is 'max'"),
        ([[5, 259]], {}, r"inputs\[0\]: token 259 at index 1"),
        (["a"], {"request_id": "x" * 65}, "request_id: has 65 characters"),
    ],
)
def test_a_server_names_what_is_wrong(texts: Any, settings: dict[str, Any], words: str, client: Client) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.embed(texts, model="encoder", **settings)


def test_each_kind_of_model_refuses_what_the_other_does(client: Client) -> None:
    with pytest.raises(Unsupported, match="model decoder continues text and makes no embeddings"):
        client.embed(["a"], model="decoder")
    with pytest.raises(Unsupported, match="this model is an encoder"):
        client.generate("a", model="encoder")
    with pytest.raises(Unsupported, match="this model is an encoder"):
        client.score("a", ["b"], model="encoder")
    with pytest.raises(Expired):
        client.embed(["a"] * 256, model="encoder", timeout=1e-3)
    assert client.embed([LONG], model="encoder", truncate=True)[0].truncated


def test_the_client_of_openai_takes_floats_and_base64(stranger: openai.OpenAI, llm: LLM) -> None:
    known = [each.values for each in llm.embed(TEXTS)]
    asked, as_floats = (
        stranger.embeddings.create,
        stranger.embeddings.create(model="encoder", input=TEXTS, encoding_format="float"),
    )
    for told in (as_floats, asked(model="encoder", input=TEXTS)):  # by itself that client asks for base64
        assert told.usage.prompt_tokens == sum(len(text) + 2 for text in TEXTS)
        for each, other in zip(told.data, known, strict=True):
            assert each.embedding == pytest.approx(other, abs=1e-6)
    one = stranger.embeddings.create(model="encoder", input=[5, 6], extra_body={"moesaic": {"pooling": "cls"}})
    assert one.data[0].embedding == pytest.approx(llm.embed([[5, 6]], pooling="cls")[0].values, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": [1, "a"]}, "it must be a text, a list of texts"),
        ({"input": ["a", ""]}, "is empty"),
        ({"input": "a", "dimensions": 8}, "asks for what is not done here"),
        ({"input": "a", "encoding_format": "int8"}, "it must be one of float, base64"),
        ({"input": "a", "temperature": 1}, "there is no such field"),
        ({"input": "a", "moesaic": {"tier": "low"}}, "is not among this model's tiers: full"),
        ({"input": "a", "moesaic": {"truncate": 3}}, "it must be of type bool"),
        ({"input": LONG}, "has 20"),
    ],
)
def test_http_names_what_is_wrong(body: dict[str, Any], words: str, stranger: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        stranger.post("/embeddings", body={"model": "encoder", **body}, cast_to=object)


def test_http_refuses_the_embeddings_of_a_decoder(stranger: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="model decoder continues text and makes no embeddings"):
        stranger.embeddings.create(model="decoder", input="a")


def test_a_failure_of_one_text_is_told(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(llm.model, "hidden", lambda *_, **__: 1 / 0)
        with pytest.raises(RequestFailed, match="ZeroDivisionError"):
            llm.embed(["a", "b"])
    assert len(llm.embed(["a"])) == 1
