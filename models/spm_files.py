"""The tokenizer of a directory that has one SentencePiece model instead of tokenizer.json, as T5 and Llama came.

The library that knows how each class of tokenizers cuts text, transformers, makes it; no other directory imports it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
from google.protobuf.message import DecodeError

from .errors import CheckpointError
from .extras import absent, is_missing
from .optional_json import SPM_FILES
from .suggestion import resaved

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

_PROBE = "The house is small, and 12 people live in it."


def of_spm_file(folder: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of the file, or None where there is none. Needs sentencepiece and transformers.

    Raises CheckpointError where it cuts text otherwise than sentencepiece does, and what the libraries raise where the
    file is damaged.
    """
    name = next((name for name in SPM_FILES if (folder / name).is_file()), None)
    if name is None:
        return None
    if missing := absent("sentencepiece", "transformers"):
        lacking = is_missing(f"its {name}", "sentencepiece", *missing)
        raise CheckpointError(f"{folder} has no tokenizer.json, and {lacking}")
    from sentencepiece import SentencePieceProcessor

    try:
        read_spm(folder / name)
        expected = SentencePieceProcessor(model_file=str(folder / name)).encode(_PROBE)
    except (DecodeError, OSError, RuntimeError):
        raise CheckpointError(
            f"{folder / name} is no SentencePiece model; where it is of another kind that transformers reads, make "
            f"tokenizer.json of it, once: {resaved('AutoTokenizer', folder)}"
        ) from None
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    inner: tokenizers.Tokenizer | None = getattr(found, "backend_tokenizer", None)
    if inner is None or inner.encode(_PROBE, add_special_tokens=False).ids != expected:
        raise CheckpointError(
            f"{folder}: what transformers makes of {name} cuts text otherwise than sentencepiece does; name the "
            "tokenizer_class of the model in its tokenizer_config.json"
        )
    return inner


def read_spm(file: Path) -> "ModelProto":
    """What a SentencePiece model holds. Raises DecodeError for other bytes, CheckpointError for a map of letters over
    which the libraries fail.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    from .charsmap import checked_charsmap

    proto = ModelProto()
    proto.ParseFromString(file.read_bytes())
    checked_charsmap(proto.normalizer_spec.precompiled_charsmap, str(file))
    return proto
