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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from builders import merging_tokenizer
from family_cases import Case

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
_EDGES = (0, 1, 2, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 1 << 31, 1 << 62, 10**30, 0.5, 1e308, "", "llama", [], [1, 2], {}, {"rope_type": "yarn"},
)  # fmt: skip


def model_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Small models of some families, as directories and as GGUF files with a header of a few kilobytes."""
    folders, files = [], []
    for family in _FAMILIES:
        layers: dict[str, object] = {"n_layer": 1} if family == "gpt2" else {"num_hidden_layers": 2}
        Case(family, layers | {"vocab_size": 262} | _CHANGES.get(family, {})).build(folder / family)
        merging_tokenizer().save(str(folder / family / "tokenizer.json"))
        checkpoint = open_checkpoint(folder / family)
        file = folder / f"{family}.gguf"
        write_gguf(file, family, checkpoint.spec, read_tensors(checkpoint), "F16", folder / family)
        folders.append(folder / family)
        files.append(file)
    return folders, files


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
    return _opened(place)


def of_config(folders: Sequence[Path], folder: Path, chance: random.Random) -> str:
    """The same of a directory whose config.json says something else."""
    place = _copied(chance.choice(folders), folder)
    config = json.loads((place / "config.json").read_text())
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([*config, "quantization_config", "auto_map", "rope_scaling", "num_experts"])
        config[key] = chance.choice(_VALUES)
    (place / "config.json").write_text(json.dumps(config))
    return _opened(place)


KINDS: dict[str, Callable[[Sequence[Path], Path, random.Random], str]] = {
    "gguf": of_gguf, "safetensors": of_safetensors, "config": of_config,
}  # fmt: skip


def _copied(source: Path, folder: Path) -> Path:
    shutil.rmtree(folder / "copy", ignore_errors=True)
    return Path(shutil.copytree(source, folder / "copy"))


def _opened(place: Path) -> str:
    try:
        load_transformer(open_checkpoint(place), torch.device("cpu"))
        Tokenizer.open(place)
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
