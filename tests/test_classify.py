"""Labels of texts: offline, from a terminal, over gRPC and over HTTP."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import tokenizers
import torch
import transformers
from builders import with_ends
from classifier_cases import ClassifierCase
from server_harness import free_port

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.engine.classification import Classified, classify_request
from moesaic.engine.embedding import embed_request
from moesaic.engine.llm import LLM
from moesaic.engine.request import FinishReason
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.models.sentences import Pooling
from moesaic.server.async_client import AsyncClient
from moesaic.server.client import Client

TEXTS = ["a", "The cat sat on the mat.", "Two dogs ran"]
LONG = "b" * 200
NAMES = ("bad", "fair", "good")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of bytes, a token before each text and one behind, with a window of 32."""
    made: Path = tmp_path_factory.mktemp("classify") / "classifier"
    ClassifierCase("bert", {"id2label": dict(enumerate(NAMES))}).build(made)
    with_ends(made)
    (made / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    return made


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("classify") / "decoder"
    ClassifierCase("llama", {"num_labels": 2, "pad_token_id": 0}).build(made)
    return made


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


def theirs(folder: Path, text: str) -> list[float]:
    """The shares that the original implementation gives."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    found: list[float] = model(torch.tensor([ids])).logits.detach().softmax(-1)[0].tolist()
    return found


def assert_same(found: list[Classified], known: list[Classified]) -> None:
    for one, other in zip(found, known, strict=True):
        assert (one.label, one.labels, one.num_tokens) == (other.label, other.labels, other.num_tokens)
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.logits == pytest.approx(other.logits, abs=1e-4)


def test_scores_are_those_of_transformers_in_the_order_of_the_texts(folder: Path, llm: LLM) -> None:
    told: list[tuple[int, int]] = []
    found = llm.classify(TEXTS, progress=lambda done, total: told.append((done, total)))
    for text, each in zip(TEXTS, found, strict=True):
        expected = theirs(folder, text)
        assert each.scores == pytest.approx(expected, abs=1e-5) and each.num_tokens == len(text) + 2
        assert each.label == NAMES[max(range(3), key=expected.__getitem__)] and each.by_label.keys() == set(NAMES)
    assert told[-1] == (3, 3)


def test_a_decoder_with_a_classifier_reads_its_last_token(decoder: Path) -> None:
    llm = LLM(decoder)
    for text, each in zip(TEXTS, llm.classify(TEXTS), strict=True):
        assert each.scores == pytest.approx(theirs(decoder, text), abs=1e-5)
    assert len(llm.embed(["a"])[0].values) == 48
    with pytest.raises(Unsupported, match="this model is a classifier"):
        llm.generate(["a"])


def test_texts_are_embedded_and_classified_in_one_step(llm: LLM) -> None:
    [known], ids = llm.classify(["a cat"]), llm.tokenizer.encode("a cat")
    requests = [embed_request(ids, Pooling(), llm.limits), classify_request(ids, llm.limits)]
    for key, request in enumerate(requests):
        llm.engine.add(replace(request, key=key))
    rows = {row.key: row for row in llm.engine.step()}
    assert rows[0].finish is FinishReason.EMBEDDED and rows[1].finish is FinishReason.CLASSIFIED
    assert (
        len(rows[0].embedding) == 48 and not rows[0].logits and rows[1].logits == pytest.approx(known.logits, abs=1e-5)
    )


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([""], "makes no token of its own"),
        ([[]], "makes no token of its own"),
        ([[5, 259]], "token 259 at index 1 is outside the 259 ids"),
        ([3.5], "it must be text in Unicode"),
        (["a", LONG], "has 202 tokens, the window holds 32; shorten it, or ask for truncate"),
    ],
)
def test_what_cannot_be_classified_is_refused(texts: Any, words: str, llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match=words):
        llm.classify(texts)
    assert not llm.engine.has_work


def test_a_text_over_the_window_is_cut_where_asked(llm: LLM) -> None:
    [cut], [same] = llm.classify([LONG], truncate=True), llm.classify(["b" * 30])
    assert cut.truncated and not same.truncated and cut.scores == pytest.approx(same.scores, abs=1e-6)


def test_a_model_without_a_classifier_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "stories260k", "a"]) == 2
    assert "llama has no classifier: ask a checkpoint of a ...ForSequenceClassification, or train" in (
        capsys.readouterr().err
    )


# --- from a terminal ------------------------------------------------------------------------------------------------


def test_a_terminal_shows_labels_or_all_scores(folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    [known] = llm.classify(["a cat"])
    assert main(["classify", str(folder), "a cat"]) == 0
    assert capsys.readouterr().out.startswith(f"{known.label} {max(known.scores):.4f}  ")
    assert main(["classify", str(folder), "a cat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] == known.label and told["scores"] == pytest.approx(known.by_label)


def test_inspect_shows_the_labels(folder: Path, decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "classifies: 3 labels, bad, fair, good; single_label_classification" in shown and "an encoder" in shown
    assert main(["inspect", str(decoder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["names"] == ["LABEL_0", "LABEL_1"]


# --- served ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(folder: Path, decoder: Path) -> Iterator[tuple[str, int]]:
    """(address, port of HTTP) of a server with two classifiers and a model that continues text."""
    port = free_port()
    models: dict[str, str | Path] = {"classifier": folder, "last": decoder, "writer": "stories260k"}
    with local_server(models, "--http-port", str(port)) as address:
        yield address, port


@pytest.fixture(scope="module")
def client(served: tuple[str, int]) -> Iterator[Client]:
    with Client(served[0], retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(served: tuple[str, int]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://localhost:{served[1]}/v1", api_key="none", max_retries=0) as stranger:
        yield stranger


def test_a_server_tells_what_this_process_does(client: Client, llm: LLM, decoder: Path) -> None:
    texts: list[str | list[int]] = [*TEXTS, [5, 6]]
    assert_same(client.classify(texts, model="classifier", priority="high"), llm.classify(texts))
    assert_same(client.classify(TEXTS, model="last"), LLM(decoder).classify(TEXTS))
    assert client.classify([LONG], model="classifier", truncate=True)[0].truncated
    assert len(client.embed(["a"], model="classifier")[0].values) == 48
    told = client.model("classifier")
    assert told.labels == NAMES and told.problem_type == "single_label_classification"
    assert client.model("writer").labels == ()


def test_the_other_client_asks_the_same(served: tuple[str, int], llm: LLM) -> None:
    async def ask() -> list[Classified]:
        async with AsyncClient(served[0], retries=0) as client:
            return await client.classify(TEXTS, model="classifier")

    assert_same(asyncio.run(ask()), llm.classify(TEXTS))


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        (["a", ""], {}, r"inputs\[1\]: is empty"),
        (["a", LONG], {}, r"inputs\[1\]: has 20. (tokens|bytes)"),
        (["a"] * 257, {}, "inputs: are 257, they must be 1 to 256"),
        ([], {}, "inputs: are 0, they must be 1 to 256"),
        ([[5, 259]], {}, r"inputs\[0\]: token 259 at index 1"),
        (["a"], {"truncate": 3}, "truncate: is 3, it must be of type bool"),
    ],
)
def test_a_server_names_what_is_wrong(texts: Any, settings: dict[str, Any], words: str, client: Client) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.classify(texts, model="classifier", **settings)


def test_each_kind_of_model_refuses_what_the_other_does(client: Client) -> None:
    with pytest.raises(Unsupported, match="model writer has no classifier"):
        client.classify(["a"], model="writer")
    with pytest.raises(Unsupported, match="this model is a classifier"):
        client.generate("a", model="last")
    with pytest.raises(Unsupported, match="this model is an encoder"):
        client.generate("a", model="classifier")


def test_http_answers_in_the_form_of_vllm(stranger: openai.OpenAI, llm: LLM) -> None:
    body = {"model": "classifier", "input": TEXTS, "moesaic": {"truncate": True}}
    told: Any = stranger.post("/classify", body=body, cast_to=object)
    for i, (each, known) in enumerate(zip(told["data"], llm.classify(TEXTS), strict=True)):
        assert (each["index"], each["label"], each["num_classes"]) == (i, known.label, 3)
        assert each["probs"] == pytest.approx(known.scores, abs=1e-5)
    assert told["object"] == "list" and told["moesaic"]["labels"] == list(NAMES)
    assert told["usage"]["prompt_tokens"] == sum(len(text) + 2 for text in TEXTS)
    listed: Any = stranger.get("/models/classifier", cast_to=object)
    assert listed["moesaic"]["labels"] == list(NAMES)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "classifier", "input": ["a", ""]}, "is empty"),
        ({"model": "classifier", "input": {}}, "it must be a text, a list of texts"),
        ({"model": "classifier", "input": "a", "encoding_format": "float"}, "there is no such field"),
        ({"model": "classifier", "input": "a", "moesaic": {"pooling": "cls"}}, "there is no such field"),
        ({"model": "writer", "input": "a"}, "model writer has no classifier"),
    ],
)
def test_http_names_what_is_wrong(body: dict[str, Any], words: str, stranger: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        stranger.post("/classify", body=body, cast_to=object)
