"""Tokenizers of encoders and of T5 as GGUF: Unigram, and byte-level BPE with an end on both sides."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from builders import edit_json, merging_tokenizer
from family_cases import Case
from gguf_builder import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    letter_map,
    random_weights,
    unigram_tokenizer,
    write_gguf,
)
from llama_cpp_runs import ABSENT, ids_of_llama_cpp
from source_cases import SourceCase
from tokenizers import Tokenizer as Inner
from tokenizers import models, processors

from moesaic.compress.export import export
from moesaic.models.charsmap import checked_charsmap
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
from moesaic.models.gguf.reader import import_gguf
from moesaic.models.gguf.tokenizer import UNUSED
from moesaic.models.gguf.tokenizer_out import PROBE
from moesaic.models.gguf.writer import write_gguf as write_model
from moesaic.models.sentences import POOLINGS, Pooling, Sentences, write_pooling
from moesaic.models.tokenizer import Tokenizer

LLAMA_CPP = pytest.mark.skipif(ABSENT, reason="llama-cpp-python is not installed")
OF_T5, OF_XLM_ROBERTA = ("<pad>", "</s>", "<unk>"), ("<s>", "<pad>", "</s>", "<unk>")
TEXTS = (PROBE, "", "the caZ sat.", " the\n\ncat  <mask> sat</s>tz", "xxéé qq the qthe", "sat" * 20)


def t5(folder: Path) -> Path:
    """A T5 with a Unigram, whose embedding has more rows than that has tokens."""
    SourceCase("t5", {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}).build(folder)
    unigram_tokenizer(OF_T5, 2, "$A </s>").save(str(folder / "tokenizer.json"))
    return folder


def xlm_roberta(folder: Path) -> Path:
    """An encoder with a Unigram."""
    Case("xlm-roberta", {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}).build(folder)
    unigram_tokenizer(OF_XLM_ROBERTA, 3, "<s> $A </s>").save(str(folder / "tokenizer.json"))
    return folder


def roberta(folder: Path) -> Path:
    """An encoder with a byte-level BPE."""
    Case("roberta", {"vocab_size": 262, "bos_token_id": 259, "pad_token_id": 1, "eos_token_id": 260}).build(folder)
    made = merging_tokenizer()
    ends = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(params=(t5, xlm_roberta, roberta), ids=lambda build: build.__name__)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path / "model")
    return made


def exported(folder: Path) -> Path:
    export(folder, folder.parent / "out", "gguf", kind="F32")
    return folder.parent / "out" / "model-F32.gguf"


def exported_bare(folder: Path) -> Path:
    """The file of a directory, without its tokenizer."""
    checkpoint = open_checkpoint(folder)
    file = folder.with_suffix(".gguf")
    write_model(file, folder.name, checkpoint.spec, read_tensors(checkpoint), "F32", None)
    return file


def test_ids_are_the_same_once_a_tokenizer_was_written_and_read(folder: Path) -> None:
    ours = Tokenizer.open(folder)
    back = Tokenizer.open(import_gguf(exported(folder), folder.parent / "back"))
    for text in TEXTS:
        assert back.encode(text) == ours.encode(text)
        assert back.decode(back.encode(text)) == ours.decode(ours.encode(text))
    assert (back.eos_ids, back.around) == (ours.eos_ids, ours.around)


@LLAMA_CPP
def test_llama_cpp_gives_the_same_ids(folder: Path) -> None:
    file, ours = exported(folder), Tokenizer.open(folder)
    assert [ids_of_llama_cpp(file, text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("build", [roberta, xlm_roberta])
def test_a_roberta_comes_back_as_a_bert_with_its_pooling(build: Any, pooling: str, tmp_path: Path) -> None:
    write_pooling(build(tmp_path / "model"), Pooling(pooling))
    back = import_gguf(exported(tmp_path / "model"), tmp_path / "back")
    spec = open_checkpoint(back).spec
    assert (spec.family, spec.max_context, spec.position_offset) == ("bert", 62, 0)
    assert Sentences.open(back).pooling == Pooling(pooling)


def test_a_bert_without_types_has_some_that_add_nothing(tmp_path: Path) -> None:
    Case("distilbert").build(tmp_path / "model")
    file, copy = exported_bare(tmp_path / "model"), gguf.GGUFWriter(tmp_path / "copy.gguf", "bert")
    for key, value in {"block_count": 3, "context_length": 64, "embedding_length": 48, "feed_forward_length": 88,
                       "attention.head_count": 6}.items():  # fmt: skip
        copy.add_uint32(f"bert.{key}", value)
    copy.add_layer_norm_eps(1e-12)
    copy.add_token_type_count(1)
    copy.add_tokenizer_model("no_vocab")
    for tensor in gguf.GGUFReader(file).tensors:
        if tensor.name != "token_types.weight":
            copy.add_tensor(tensor.name, tensor.data)
    for write in (copy.write_header_to_file, copy.write_kv_data_to_file, copy.write_tensors_to_file, copy.close):
        write()
    back, ids = import_gguf(tmp_path / "copy.gguf", tmp_path / "back", "float32"), torch.tensor([[1, 2, 3]])
    assert torch.equal(load(back)(ids), load(tmp_path / "model")(ids))


def test_an_end_that_no_config_names_is_written_as_the_end(tmp_path: Path) -> None:
    folder = xlm_roberta(tmp_path / "model")
    edit_json(folder / "config.json", eos_token_id=None)
    back = Tokenizer.open(import_gguf(exported(folder), tmp_path / "back"))
    assert back.encode("the cat")[-1] == 2 and back.eos_ids == (2,)


def test_rows_behind_the_last_token_are_made_of_no_text(tmp_path: Path) -> None:
    back = Tokenizer.open(import_gguf(exported(t5(tmp_path / "model")), tmp_path / "back"))
    assert back.vocab_size == 22 and max(back.encode("[PAD100] [PAD22]")) < 22


def test_a_unigram_that_falls_back_on_bytes_is_refused(tmp_path: Path) -> None:
    folder = t5(tmp_path / "model")
    made = Inner.from_file(str(folder / "tokenizer.json"))
    names = [f"<0x{i:02X}>" for i in range(256)]
    made.model = models.Unigram([(each, 0.0) for each in ("<unk>", *names)], 0, byte_fallback=True)
    made.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="its tokenizer is a Unigram that falls back on bytes"):
        exported(folder)


def unigram_values(**changes: Any) -> dict[str, Any]:
    """What a file of others says: the special tokens by their usual ids alone, an added one with a low score."""
    tokens = [*OF_T5, "▁", "a", "b", "▁ab", "<x>", "[PAD8]"]
    kinds = [CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED]
    scores = [0.0, 0.0, 0.0, -2.0, -3.0, -3.5, -4.0, -1000.0, -10000.0]
    values = {"model": "t5", "tokens": tokens, "token_type": kinds, "scores": scores, "remove_extra_whitespaces": True}
    return values | changes


def imported(tmp_path: Path, **changes: Any) -> Tokenizer:
    """The tokenizer of a file with these values."""
    file = write_gguf(tmp_path / "m.gguf", random_weights(), unigram_values(**changes))
    return Tokenizer.open(import_gguf(file, tmp_path / "back"))


def test_a_file_that_names_no_special_tokens_has_those_of_t5(tmp_path: Path) -> None:
    tokenizer = imported(tmp_path)
    assert tokenizer.encode("ab  bq<x>a") == [6, 3, 5, 2, 7, 3, 4, 1] and tokenizer.eos_ids == (1,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"remove_extra_whitespaces": False}, "remove_extra_whitespaces is false, and moesaic reads Unigram where"),
        ({"scores": [0.0]}, "scores is an array of 1, it must be an array of 9 finite numbers"),
        ({"precompiled_charsmap": [1, 2, 3]}, "precompiled_charsmap is an array of 3, it must be an array of bytes"),
        ({"precompiled_charsmap": b"\1\2\3"}, "its map of letters, precompiled_charsmap, leads outside of itself"),
        ({"tokens": ["a", "b"], "token_type": [1, 1], "scores": [0.0, 0.0]}, "names no token for what is unknown"),
    ],
)
def test_a_unigram_that_cannot_be_read_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        imported(tmp_path, **changes)


GOOD = letter_map({"A": "a", "B": "é"})


def turned(unit: int, value: int) -> bytes:
    """The good map with another unit."""
    units = np.frombuffer(GOOD[4 : 4 + 768 * 4], "<u4").copy()
    units[unit] = value
    return bytes(GOOD[:4] + units.tobytes() + GOOD[4 + 768 * 4 :])


def test_a_good_map_is_taken_and_none_is_one() -> None:
    assert checked_charsmap(GOOD, "f") == GOOD and checked_charsmap(b"", "f") == b""


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:3], GOOD[:-5], GOOD[: 4 + 768 * 4], b"\xff" * 4 + GOOD[4:], GOOD[:-1] + b"\xff",
        turned(0, 4096 << 10), turned(256 ^ ord("A"), ord("A") | 1 << 8 | 8192 << 10),
        turned(512 ^ ord("A"), 1 << 31 | 999), turned(512 ^ ord("A"), 1 << 31 | GOOD[4 + 768 * 4 :].index(0xA9)),
    ],
)  # fmt: skip
def test_a_map_that_leads_outside_of_itself_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="f: its map of letters, precompiled_charsmap, leads outside of itself"):
        checked_charsmap(data, "f")
