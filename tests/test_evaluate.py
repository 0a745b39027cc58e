"""What a score is made of: the documents of a file, windows that miss no token, and sums that others agree with."""

import gzip
import json
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama, opt

from moesaic.evaluate.measure import score_as_one
from moesaic.evaluate.plan import Plan
from moesaic.evaluate.score import DocumentScore, Score, cut, score_documents, score_together
from moesaic.evaluate.texts import embedded_text, encode_documents, read_documents
from moesaic.models.checkpoint import load
from moesaic.models.errors import CheckpointError, SetupError, TextError
from moesaic.models.tokenizer import Tokenizer

TWO = "The first.\nStill the first.\n<|endoftext|>\n\nThe second, é 日本.\n"
WANTED = ["The first.\nStill the first.", "The second, é 日本."]


def packed(name: str, text: str) -> bytes:
    """The bytes of a file of this name."""
    raw = text.encode()
    suffix = name.lower()[-3:]
    return lzma.compress(raw) if suffix == ".xz" else gzip.compress(raw) if suffix == ".gz" else raw


def refused(*files: Path | str) -> str:
    with pytest.raises(TextError) as caught:
        read_documents(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz", "a.txt.gz", "a"])
def test_documents_are_read_plain_or_compressed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(packed(name, TWO))
    assert read_documents([tmp_path / name]) == WANTED


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz", "a.jsonl.gz"])
def test_json_lines_are_documents(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"text": text, "other": 5}, ensure_ascii=False) for text in [*WANTED, "a\u2028b\x85c", " "]]
    (tmp_path / name).write_bytes(packed(name, "\n\n".join(lines)))
    assert read_documents([tmp_path / name]) == [*WANTED, "a\u2028b\x85c"]


@pytest.mark.parametrize(
    "name",
    [
        "a.ndjson",
        "a.JSONL",
        "a.Jsonl",
        "a.json",
        "a.jsonlines",
        "a.b.NDJSON.gz",
        "a.JSONL.XZ",
        "a.jsonl.GZ",
        "a.JSON.xz",
    ],
)
def test_json_lines_are_never_scored_as_prose_however_they_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(packed(name, "\n".join(json.dumps({"text": text}) for text in WANTED)))
    assert read_documents([tmp_path / name]) == WANTED


@pytest.mark.parametrize(
    "value", [WANTED, [{"text": text} for text in WANTED], [{"text": WANTED[0], "other": 1}, WANTED[1]]]
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_in_json_is_documents(tmp_path: Path, value: object, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    assert read_documents([tmp_path / "a.json"]) == WANTED


def test_one_object_in_json_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": "one"}, indent=2))
    assert read_documents([tmp_path / "a.json"]) == ["one"]


@pytest.mark.parametrize(
    "text", ['{"hidden_size": 64}', "[1, 2]", "5", '"text"', "just words", '{"text": "a"}\n{', "null"]
)
def test_other_json_is_refused_with_the_way_to_have_it_as_prose(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert "'text'; name it .txt to have it read as prose" in refused(tmp_path / "a.json")
    (tmp_path / "a.json").rename(tmp_path / "a.txt")
    assert read_documents([tmp_path / "a.txt"]) == [text]


@pytest.mark.parametrize("name", ["a.txt.zst", "a.jsonl.BZ2", "a.zip", "a.txt.7z", "a.tgz"])
def test_what_cannot_be_unpacked_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("plain words, which would be scored")
    assert f"is packed as {Path(name).suffix.lower()}, which is not read; unpack it" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.csv.gz", "a.parquet"])
def test_a_table_is_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(packed(name, "label,words"))
    assert "is a table, which has no documents; write its texts as .jsonl" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.TXT.XZ", "a.txt.GZ", "A.TXT", "a.md", "a.v1.2"])
def test_prose_is_prose_under_any_other_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(packed(name, TWO))
    assert read_documents([tmp_path / name]) == WANTED


@pytest.mark.parametrize("text", [TWO.replace("\n", "\r\n"), "\ufeff" + TWO, TWO.replace("<|", "  <|"), TWO + "\n\n"])
def test_line_ends_byte_order_marks_and_blanks_make_no_document(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert [document.replace("\r", "") for document in read_documents([tmp_path / "a.txt"])] == WANTED


def test_a_separator_inside_a_line_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one <|endoftext|> two")
    assert read_documents([tmp_path / "a.txt"]) == ["one <|endoftext|> two"]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (3, 3), (9, 4), (None, 4)])
def test_the_first_documents_of_all_files_are_taken(tmp_path: Path, limit: int | None, count: int) -> None:
    (tmp_path / "a.txt").write_text(TWO)
    assert read_documents([tmp_path / "a.txt"] * 2, limit) == (WANTED * 2)[:count]


@pytest.mark.parametrize("text", ["", " \n\n", "<|endoftext|>\n<|endoftext|>"])
def test_a_text_without_a_word_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert "give a file with at least one document" in refused(tmp_path / "a.txt")


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    assert f"there is no text file '{tmp_path / 'a.txt'}'" in refused(tmp_path / "a.txt")


def test_a_directory_is_no_text(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)


def test_bytes_that_are_not_utf8_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert "is not UTF-8 (byte 3); convert it first" in refused(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
@pytest.mark.parametrize("flip", [0, 3, 12, 20, None])
def test_a_damaged_archive_is_refused(tmp_path: Path, suffix: str, flip: int | None) -> None:
    raw = bytearray(packed(suffix, TWO * 99))
    if flip is not None:
        raw[flip] ^= 0xFF
    file = tmp_path / f"a{suffix}"
    file.write_bytes(raw[:-9] if flip is None else raw)
    assert f"{file} cannot be read: " in refused(file)


@pytest.mark.parametrize(
    "line", ["{", "5", "[1]", "{}", '{"text": 5}', '{"text": null}', "[" * 99_999, '{"text": "\\ud800"}']
)
def test_a_json_line_without_text_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line)
    assert "a.jsonl, line 2: " in refused(tmp_path / "a.jsonl")


# --- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, None), (7, None), (64, None), (7, 1), (7, 3), (64, 63)])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7, 8, 63, 64, 65, 200])
def test_windows_predict_every_token_but_the_first_once(size: int, stride: int | None, count: int) -> None:
    windows = cut(count, size, stride)
    assert [token for _, end, first in windows for token in range(first, end)] == list(range(1, count))
    assert all(begin < first < end <= begin + size for begin, end, first in windows)


def test_by_default_a_window_starts_with_the_last_token_of_the_one_before() -> None:
    assert cut(10, 4) == [(0, 4, 1), (3, 7, 4), (6, 10, 7)]


def test_a_stride_leaves_every_token_a_long_past() -> None:
    assert cut(10, 6, 2) == [(0, 6, 1), (2, 8, 6), (4, 10, 8)]
    assert all(first - begin >= 64 - 16 for begin, _, first in cut(500, 64, 16)[1:])


# --- scores --------------------------------------------------------------------------------------------------------


def direct(model: Any, encoded: list[list[int]], context: int) -> tuple[int, float, int]:
    """(tokens, nats, correct) by the original implementation, a document at a time."""
    tokens, nats, correct = 0, 0.0, 0
    for ids in encoded:
        for begin in range(0, len(ids) - 1, context - 1):
            window = torch.tensor(ids[begin : begin + context])
            with torch.no_grad():
                logits = model(window.unsqueeze(0)).logits[0, :-1]
            tokens += len(window) - 1
            nats += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
            correct += int((logits.argmax(-1) == window[1:]).sum())
    return tokens, nats, correct


@pytest.mark.parametrize("build", [llama, opt])
def test_scores_equal_those_of_transformers(tmp_path: Path, build: Any) -> None:
    theirs = build(tmp_path)
    texts = ["A short one.", "x", "", "A longer one, of more tokens than the context of this model holds. " * 5]
    encoded = [Tokenizer.open(tmp_path).encode(text) for text in texts]
    tokens, nats, correct = direct(theirs, encoded, 64)
    total = score_documents(load(tmp_path), encoded).total
    assert (total.num_tokens, total.num_correct) == (tokens, correct)
    assert total.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(32, 8), (64, 32), (64, 1)])
def test_strided_scores_equal_those_of_transformers(tmp_path: Path, window: int, stride: int) -> None:
    """The loop of Hugging Face's page on perplexity: labels of what a window has seen before are masked."""
    theirs, ids = llama(tmp_path), torch.randint(0, 256, (1, 130), generator=torch.Generator().manual_seed(1))
    nats, previous = 0.0, 0
    for begin in range(0, 130, stride):
        end = min(begin + window, 130)
        labels = ids[:, begin:end].clone()
        labels[:, : previous - end] = -100 if previous else labels[:, : previous - end]
        with torch.no_grad():
            logits = theirs(ids[:, begin:end]).logits
        nats += float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))
        previous = end
        if end == 130:
            break
    score = score_documents(load(tmp_path), ids.tolist(), window=window, stride=stride)
    assert score.total.num_tokens == 129 and score.total.nats == pytest.approx(nats, rel=1e-5)


def test_a_long_window_is_prefilled_in_chunks_to_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama(tmp_path)
    model, encoded = load(tmp_path), [list(range(200))]
    whole = score_documents(model, encoded).total
    monkeypatch.setattr("moesaic.evaluate.score.READ_TOKENS", 7)
    assert score_documents(model, encoded).total.nats == pytest.approx(whole.nats, rel=1e-6)


def test_models_scored_together_score_as_alone(tmp_path: Path) -> None:
    llama(tmp_path / "a")
    llama(tmp_path / "b", rms_norm_eps=0.5)
    models, encoded = [load(tmp_path / name) for name in "ab"], [[1, 2, 3], list(range(150))]
    together = score_together(models, encoded, original=1)
    assert together[0] == score_documents(models[0], encoded, models[1])
    assert together[1].nats_per_token == score_documents(models[1], encoded).nats_per_token
    assert together[1].summary()["kl_nats_per_token"] == 0


def test_an_original_that_is_remembered_reads_the_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama(tmp_path / "a")
    llama(tmp_path / "b", rms_norm_eps=0.5)
    model, original, encoded = load(tmp_path / "a"), load(tmp_path / "b"), [[1, 2, 3], list(range(150))]
    memory: dict[tuple[int, ...], torch.Tensor] = {}
    plain = score_documents(model, encoded, original)
    assert score_documents(model, encoded, original, memory=memory) == plain and memory
    monkeypatch.setattr(original, "hidden", None)
    assert score_documents(model, encoded, original, memory=memory) == plain


def test_a_score_of_documents_is_the_sum_of_its_documents(tmp_path: Path) -> None:
    llama(tmp_path)
    model, encoded = load(tmp_path), [[1, 2, 3], list(range(150)), [5]]
    together = score_documents(model, encoded)
    assert together.documents == tuple(score_documents(model, [ids]).total for ids in encoded)
    assert together.perplexity == pytest.approx(math.exp(together.total.nats / 151))


def test_a_model_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    llama(tmp_path)
    figures = score_documents(load(tmp_path), [list(range(100))], load(tmp_path)).summary()
    assert figures["kl_nats_per_token"] == 0 and figures["top1_agreement"] == 1


def test_the_distance_from_another_model_is_positive(tmp_path: Path) -> None:
    llama(tmp_path / "a")
    llama(tmp_path / "b", rms_norm_eps=0.5)
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    kl = score_documents(one, [list(range(100))], other).total.kl_nats
    assert kl > 0 and kl != score_documents(other, [list(range(100))], one).total.kl_nats


def test_progress_counts_the_documents(tmp_path: Path) -> None:
    llama(tmp_path)
    seen: list[tuple[int, int]] = []
    score_documents(load(tmp_path), [[1, 2]] * 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_absurd_model_has_an_infinite_perplexity() -> None:
    assert Score((DocumentScore(1, 1e6),)).perplexity == math.inf


def test_no_document_with_two_tokens_is_refused(tmp_path: Path) -> None:
    opt(tmp_path)
    with pytest.raises(TextError, match="none of the 2 documents has two tokens"):
        encode_documents(["x", "y"], Tokenizer.open(tmp_path))


# --- the door ------------------------------------------------------------------------------------------------------


def test_without_a_text_the_one_that_ships_is_scored() -> None:
    shipped = score_as_one(Plan("stories260k", documents=1, truncate=64))
    assert shipped == score_as_one(Plan("stories260k", text=[embedded_text()], documents=1, truncate=64))
    assert 10 < shipped.perplexity < 200 and shipped.total.num_tokens == 63


def test_a_smaller_window_gives_the_same_tokens() -> None:
    small = score_as_one(Plan("stories260k", documents=1, truncate=100, max_context=10))
    assert (
        small.total.num_tokens == 99
        and small.perplexity > score_as_one(Plan("stories260k", documents=1, truncate=100)).perplexity
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"documents": 0}, "documents is 0, it must be at least 1"),
        ({"truncate": 1}, "truncate is 1, it must be at least 2 tokens"),
        ({"max_context": 1}, "max_context is 1, this model's context is 2 to 512"),
        ({"max_context": 513}, "max_context is 513"),
        ({"stride": 0}, "stride is 0, it must be at least 1"),
        ({"stride": 512}, "stride is 512, it must be below the window of 512 tokens"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"text": ["nope.txt"]}, "there is no text file 'nope.txt'"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        score_as_one(Plan("stories260k", **settings))


def test_models_with_different_tokens_are_not_compared(tmp_path: Path) -> None:
    llama(tmp_path)
    with pytest.raises(SetupError, match="has another tokenizer than"):
        score_as_one(Plan("stories260k", against=tmp_path))


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    llama(tmp_path, vocab_size=200, bos_token_id=1, eos_token_id=2)
    with pytest.raises(CheckpointError, match="the model's vocabulary has 200; tokenizer.json is of another model"):
        score_as_one(Plan(tmp_path, documents=1))
