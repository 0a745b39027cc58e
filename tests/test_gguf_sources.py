"""T5 as GGUF, written and read again, and beside llama.cpp on the same file."""

import json
from collections.abc import Sequence
from pathlib import Path

import gguf
import pytest
import torch
from builders import edit_json, merging_tokenizer
from llama_cpp_runs import ABSENT, ids_of_llama_cpp, logits_of_llama_cpp, start_of_llama_cpp
from source_cases import SOURCE_CASES, START, SourceCase, logits_of

from moesaic.compress.export import export
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
from moesaic.models.families.registry import FAMILIES
from moesaic.models.gguf.architectures import architecture_of
from moesaic.models.gguf.reader import import_gguf, shapes_of
from moesaic.models.gguf.writer import KINDS, write_gguf
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

LLAMA_CPP = pytest.mark.skipif(ABSENT, reason="llama-cpp-python is not installed")
SOURCE, IDS = [(i * 31 + 5) % 250 for i in range(40)], [START, *((i * 37 + 11) % 250 for i in range(29))]
CASES = (
    *(case for case in SOURCE_CASES if case.family == "t5" and case.changes.get("feed_forward_proj") != "gated-silu"),
    SourceCase("t5", {"scale_decoder_outputs": False}),
    SourceCase("t5", {"num_heads": 3, "d_kv": 10, "relative_attention_num_buckets": 8}),
)


@pytest.fixture(scope="module", params=CASES, ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory, and the file that was made of it in fp32."""
    folder = tmp_path_factory.mktemp("gguf")
    request.param.build(folder / "model")
    return folder / "model", file_of(folder / "model")


def file_of(folder: Path, kind: str = "F32") -> Path:
    """The file of a directory, without a tokenizer."""
    checkpoint = open_checkpoint(folder)
    file = folder.with_suffix(".gguf")
    write_gguf(file, folder.name, checkpoint.spec, read_tensors(checkpoint), kind, None)
    return file


def logits(folder: Path, source: Sequence[int] = SOURCE, ids: Sequence[int] = IDS) -> torch.Tensor:
    found: torch.Tensor = logits_of(load(folder), torch.tensor([source]), None, torch.tensor([ids]))
    return found.detach()[0]


def greedy(folder: Path, source: Sequence[int], start: int, count: int) -> list[int]:
    """The start, and the likeliest tokens behind it."""
    ids = [start]
    while len(ids) <= count:
        ids.append(int(logits(folder, source, ids)[-1].argmax()))
    return ids


def test_what_was_written_is_read_as_the_same_function(written: tuple[Path, Path], tmp_path: Path) -> None:
    back = import_gguf(written[1], tmp_path / "back", "float32")
    assert torch.equal(logits(back), logits(written[0]))
    assert open_checkpoint(back).spec == open_checkpoint(written[0]).spec


@LLAMA_CPP
def test_llama_cpp_computes_what_we_do(written: tuple[Path, Path]) -> None:
    ours, theirs = logits(written[0]), torch.from_numpy(logits_of_llama_cpp(written[1], IDS, source=SOURCE))
    with_gelu = open_checkpoint(written[0]).spec.layers[0].ffn.gated  # of which it has a table
    assert (ours - theirs).abs().max() <= (5e-3 if with_gelu else 1e-5) * ours.abs().max()


@LLAMA_CPP
def test_llama_cpp_answers_with_the_same_tokens(written: tuple[Path, Path]) -> None:
    ids = greedy(written[0], SOURCE, START, 20)
    theirs = logits_of_llama_cpp(written[1], ids[:-1], source=SOURCE)
    assert theirs.argmax(1).tolist() == ids[1:]


@LLAMA_CPP
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_opens_each_kind(kind: str, tmp_path: Path) -> None:
    SourceCase("t5", {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4}).build(tmp_path / "model")
    file = file_of(tmp_path / "model", kind)
    ours = logits(import_gguf(file, tmp_path / "back", "float32"))
    theirs = torch.from_numpy(logits_of_llama_cpp(file, IDS, source=SOURCE))
    assert (ours - theirs).square().mean().sqrt() <= 0.08 * ours.std()  # it rounds activations, and the head as well


def test_a_scaled_head_is_there_multiplied_and_any_other_as_it_is(written: tuple[Path, Path]) -> None:
    spec, tensors = open_checkpoint(written[0]).spec, {each.name: each for each in gguf.GGUFReader(written[1]).tensors}
    assert ("output.weight" in tensors) == (not spec.tied_head or spec.head_scale != 1)
    if spec.tied_head and spec.head_scale != 1:
        head, embedding = (torch.tensor(tensors[name].data) for name in ("output.weight", "token_embd.weight"))
        assert torch.equal(head, embedding * spec.head_scale)


def test_names_are_those_that_the_library_of_gguf_has(written: tuple[Path, Path]) -> None:
    library, architecture = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, 8), architecture_of("t5")
    assert architecture is not None
    shapes = shapes_of(open_checkpoint(written[0]).spec)
    for ours, place in architecture.places(shapes).items():
        assert library.get_name(FAMILIES["t5"].their_name(ours), (".weight",)) == place.name


def with_tokenizer(folder: Path) -> Path:
    """A T5 whose tokenizer has merges and ends each text."""
    SourceCase("t5", {"vocab_size": 262}).build(folder)
    merging_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_what_its_answers_begin_with_comes_along(tmp_path: Path) -> None:
    export(with_tokenizer(tmp_path / "model"), tmp_path / "out", "gguf")
    back = import_gguf(tmp_path / "out" / "model-Q8_0.gguf", tmp_path / "back")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((back / name).read_text())
        assert values["decoder_start_token_id"] == START and values["pad_token_id"] == START


@LLAMA_CPP
def test_llama_cpp_begins_answers_with_it(tmp_path: Path) -> None:
    export(with_tokenizer(tmp_path / "model"), tmp_path / "out", "gguf")
    assert start_of_llama_cpp(tmp_path / "out" / "model-Q8_0.gguf") == START


def test_a_beginning_that_nobody_says_is_refused(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, decoder_start_token_id=None)
    with pytest.raises(CheckpointError, match="decoder_start_token_id is None, and llama.cpp needs one of the 262"):
        export(folder, tmp_path / "out", "gguf")


REFUSED = {
    "layers.*ffn.activation is 'silu', and llama.cpp would compute": {"feed_forward_proj": "gated-silu"},
    "relative_distance is 20, and llama.cpp would compute another": {"relative_attention_max_distance": 20},
    "no more layers in the decoder than in the encoder, and this model has 4 and 3": {"num_decoder_layers": 4},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_file_cannot_say_is_refused(said: str, tmp_path: Path) -> None:
    SourceCase("t5", REFUSED[said]).build(tmp_path / "model")
    with pytest.raises(CheckpointError, match=said):
        file_of(tmp_path / "model")


def test_a_head_of_its_own_that_is_scaled_is_refused(tmp_path: Path) -> None:
    SourceCase("t5", older=True).build(tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", scale_decoder_outputs=True)
    with pytest.raises(CheckpointError, match="head_scale is 0.14.*, and llama.cpp would compute another"):
        file_of(tmp_path / "model")


@pytest.mark.parametrize("scaled", [True, False])
def test_files_of_others_have_a_head_of_its_own_or_a_scaled_one(scaled: bool, tmp_path: Path) -> None:
    SourceCase("t5", {"scale_decoder_outputs": not scaled}).build(tmp_path / "model")  # which has two, or one
    file = file_of(tmp_path / "model")
    file.write_bytes(file.read_bytes().replace(b"t5.scale_decoder_outputs", b"t5.unheard_of_by_others_"))
    spec = open_checkpoint(import_gguf(file, tmp_path / "back")).spec
    assert (spec.tied_head, spec.head_scale != 1) == (scaled, scaled)


@pytest.mark.real
@LLAMA_CPP
def test_the_t5_of_a_wheel_answers_in_llama_cpp_as_here(tmp_path: Path) -> None:
    export("t5", tmp_path / "out", "gguf", kind="F32")
    file, tokenizer = tmp_path / "out" / "t5-F32.gguf", Tokenizer.open(locate("t5"))
    source = tokenizer.encode("translate English to German: The house is small.")
    assert ids_of_llama_cpp(file, "translate English to German: The house is small.") == source
    ids = greedy(locate("t5"), source, 0, 8)
    assert logits_of_llama_cpp(file, ids[:-1], source=source).argmax(1).tolist() == ids[1:]
