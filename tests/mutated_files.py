"""Files of models that were damaged at random: each is read or refused in a sentence, soon, and in little memory.

`make mutations` tries 10,000 of each kind and prints what came of them; hundreds are in the tests.
"""

import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from builders import merging_tokenizer, word_pieces
from classifier_cases import ClassifierCase
from family_cases import Case
from gguf_builder import unigram_tokenizer
from source_cases import SourceCase

from moesaic.models.checkpoint import load_transformer, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
from moesaic.models.gguf.reader import import_gguf
from moesaic.models.gguf.writer import write_gguf
from moesaic.models.tokenizer import Tokenizer

SECONDS, SPARE_BYTES = 20, 2 << 30  # for one file, in which none may hang; beyond what the process has at the start
_FAMILIES = ("llama", "gpt2", "gemma3_text", "qwen3_moe", "phi3", "olmo3")
_CHANGES: dict[str, dict[str, object]] = {
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "qwen3_moe": {"norm_topk_prob": True},
}
_TEXT = "the cat sat"
_EDGES = (0, 1, 2, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 1 << 31, 1 << 62, 10**30, 0.5, 1e308, "", "llama", [], [1, 2], {}, {"rope_type": "yarn"},
)  # fmt: skip


def model_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Small models of some families and a classifier, as directories and, but for that, as GGUF files with a header
    of a few kilobytes.
    """
    for family in _FAMILIES:
        layers: dict[str, object] = {"n_layer": 1} if family == "gpt2" else {"num_hidden_layers": 2}
        Case(family, layers | {"vocab_size": 262} | _CHANGES.get(family, {})).build(folder / family)
        merging_tokenizer().save(str(folder / family / "tokenizer.json"))
    Case("bert", {"num_hidden_layers": 1}).build(folder / "bert")
    small = {
        "num_layers": 1,
        "num_decoder_layers": 1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    SourceCase("t5", small).build(folder / "t5")
    ClassifierCase("roberta", {"num_hidden_layers": 1, "num_labels": 3}).build(folder / "classifier")
    word_pieces().save(str(folder / "bert" / "tokenizer.json"))
    unigram_tokenizer(("<pad>", "</s>", "<unk>"), 2, "$A </s>").save(str(folder / "t5" / "tokenizer.json"))
    folders = [folder / name for name in (*_FAMILIES, "bert", "t5", "classifier")]
    return folders, [_as_gguf(each) for each in folders if each.name != "classifier"]


def _as_gguf(folder: Path) -> Path:
    checkpoint, file = open_checkpoint(folder), folder.with_suffix(".gguf")
    write_gguf(file, folder.name, checkpoint.spec, read_tensors(checkpoint), "F16", folder)
    return file


def damaged(data: bytes, header: int, chance: random.Random) -> bytes:
    """Cut short, or with some bytes of the header turned, or numbers written over it."""
    if chance.random() < 0.1:
        return data[: chance.randrange(len(data))]
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(header)
        number = struct.pack("<Q", chance.choice(_EDGES))[: chance.choice((1, 4, 8))]
        piece = chance.choice((number, chance.randbytes(4), bytes([made[at] ^ 1 << chance.randrange(8)])))
        made[at : at + len(piece)] = piece
    return bytes(made)


def of_gguf(files: Sequence[Path], folder: Path, chance: random.Random) -> str:
    """ "" for a damaged file that was read, else what was said; all but a CheckpointError goes through."""
    data = chance.choice(files).read_bytes()
    header = data.find(b"blk.0")  # of which the tensors' descriptions are the rest
    (folder / "damaged.gguf").write_bytes(damaged(data, header + 2500, chance))
    shutil.rmtree(folder / "out", ignore_errors=True)
    try:
        open_checkpoint(import_gguf(folder / "damaged.gguf", folder / "out"))
    except CheckpointError as error:
        return str(error)
    return ""


def of_safetensors(folders: Sequence[Path], folder: Path, chance: random.Random) -> str:
    """The same of a directory whose safetensors file is damaged."""
    place = _copied(chance.choice(folders), folder)
    data = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(damaged(data, 8 + int.from_bytes(data[:8], "little"), chance))
    return opened(place)


def of_config(folders: Sequence[Path], folder: Path, chance: random.Random) -> str:
    """The same of a directory whose config.json says something else."""
    place = _copied(chance.choice(folders), folder)
    config = json.loads((place / "config.json").read_text())
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([*config, "quantization_config", "auto_map", "rope_scaling", "num_experts"])
        config[key] = chance.choice(_VALUES)
    (place / "config.json").write_text(json.dumps(config))
    return opened(place)


def of_tokenizer(folders: Sequence[Path], folder: Path, chance: random.Random) -> str:
    """The same of a tokenizer.json that has other bytes, or says something else somewhere."""
    data = (chance.choice(folders) / "tokenizer.json").read_bytes()
    (place := folder / "cut").mkdir(exist_ok=True)
    if chance.random() < 0.2:
        (place / "tokenizer.json").write_bytes(damaged(data, len(data), chance))
    else:
        said = json.loads(data)
        (place / "tokenizer.json").write_text(json.dumps(_changed(said, [*_leaves(said)], chance)))
    return _said_of(lambda: Tokenizer.open(place).encode(_TEXT))


def _changed(value: Any, leaves: Sequence[Any], chance: random.Random) -> Any:
    """The same with another value somewhere in it: any, or one of its own kind that stands elsewhere."""
    keys = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    if not keys or chance.random() < 0.05:
        alike = [each for each in leaves if type(each) is type(value)]
        return chance.choice(alike if alike and chance.random() < 0.7 else _VALUES)
    key = chance.choice(keys)
    value[key] = _changed(value[key], leaves, chance)
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


KINDS: dict[str, Callable[[Sequence[Path], Path, random.Random], str]] = {
    "gguf": of_gguf, "safetensors": of_safetensors, "config": of_config, "tokenizer": of_tokenizer,
}  # fmt: skip


def _copied(source: Path, folder: Path) -> Path:
    shutil.rmtree(folder / "copy", ignore_errors=True)
    return Path(shutil.copytree(source, folder / "copy"))


def opened(place: Path) -> str:
    """What is said of a directory that is loaded, and whose tokenizer cuts a text; "" where all of it was read."""

    def read() -> None:
        load_transformer(open_checkpoint(place), torch.device("cpu"))
        Tokenizer.open(place).encode(_TEXT)

    return _said_of(read)


def _said_of(read: Callable[[], object]) -> str:
    try:
        read()
    except CheckpointError as error:
        return str(error)
    return ""


def main(count: int) -> None:
    """Prints how many files of each kind were read, and how many were refused."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folders, files = model_files(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, resource.RLIM_INFINITY))
        for kind, try_one in KINDS.items():
            found = Counter[str]()
            for seed in range(count):
                signal.alarm(SECONDS)
                found[
                    "refused" if try_one(files if kind == "gguf" else folders, folder, random.Random(seed)) else "read"
                ] += 1
            signal.alarm(0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            sys.stdout.write(f"{kind}: {count:,} files, {dict(found)}, {peak} MiB at most\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
