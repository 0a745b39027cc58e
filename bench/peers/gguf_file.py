"""A dense directory as a GGUF file, for llama.cpp: the same numbers, matrices in bf16, without a vocabulary."""

from pathlib import Path

from ...models.checkpoint import open_checkpoint, read_tensors
from ...models.gguf.writer import write_gguf
from .kept import made_once

_FILE = "model.gguf"


def gguf_of(dense: Path) -> Path:
    """The file of a directory's weights, made once. Raises CheckpointError for what GGUF cannot say."""
    checkpoint = open_checkpoint(dense)

    def write(folder: Path) -> None:
        write_gguf(folder / _FILE, dense.name, checkpoint.spec, read_tensors(checkpoint), "BF16", None)

    return made_once(checkpoint.files[0], "GGUF", write) / _FILE
