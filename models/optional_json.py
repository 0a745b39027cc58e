"""The small JSON files that a model directory may have or lack. No torch."""

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
BPE_FILES = ("vocab.json", "merges.txt")  # a tokenizer in two, where there is no tokenizer.json
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json")  # or in three
SPM_FILES = ("spiece.model", "tokenizer.model")  # or in one of these
FORMS = ((TOKENIZER_FILE,), BPE_FILES, MARIAN_FILES, *((name,) for name in SPM_FILES))
OLDER_FILES = (*MARIAN_FILES[:2], *SPM_FILES)  # of no use beside a tokenizer.json


def read_optional_json(file: Path) -> dict[str, Any]:
    """The object in a small JSON file, or {} where there is none. Raises CheckpointError for a damaged one."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return values
