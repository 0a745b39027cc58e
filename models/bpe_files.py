"""The tokenizer of a directory that has vocab.json and merges.txt instead of tokenizer.json, as GPT-2 and OPT came."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from .optional_json import BPE_FILES, read_optional_json

_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")  # others cut text otherwise before it is merged, and look the same
_KEYS = ("bos", "eos", "unk", "pad")
_END = "<|endoftext|>"


def of_bpe_files(folder: Path) -> tokenizers.Tokenizer | None:
    """The byte-level tokenizer of the two files, or None where they are not there or of another class.

    Raises what the library raises where they are damaged.
    """
    settings = read_optional_json(folder / "tokenizer_config.json")
    named = settings.get("tokenizer_class")
    known = named in _CLASSES or (
        named is None and read_optional_json(folder / "config.json").get("model_type") == "gpt2"
    )
    if not known or not all((folder / name).is_file() for name in BPE_FILES):
        return None
    made = tokenizers.Tokenizer(models.BPE.from_file(*(str(folder / name) for name in BPE_FILES)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False) is True)
    made.decoder = decoders.ByteLevel()
    special = {key: _content(settings.get(f"{key}_token", None if key == "pad" else _END)) for key in _KEYS}
    made.add_special_tokens([name for name in dict.fromkeys(special.values()) if name is not None])
    if settings.get("add_bos_token") is True and (begin := special["bos"]):
        begins = [(begin, made.token_to_id(begin))]
        made.post_processor = processors.TemplateProcessing(f"{begin} $A", f"{begin} $A {begin} $B", begins)
    return made


def _content(token: Any) -> str | None:
    """A token as settings name it: its text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
