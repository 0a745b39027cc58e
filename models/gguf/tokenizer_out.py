"""The tokenizer of a model directory as values of a GGUF file; our own reader reads them before they are believed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ..chat import read_template
from ..errors import CheckpointError
from ..optional_json import read_optional_json
from ..spec import TransformerSpec
from ..tokenizer import Tokenizer
from .header import GGUFHeader
from .pretokenizers import EXPRESSIONS, WHOLE_WORDS, pre_tokenizer
from .spec_values import Said
from .tokenizer import BYTE, CONTROL, NORMAL, START, UNKNOWN, UNUSED, USER_DEFINED, WITHOUT, WORD_PIECE, read_tokenizer
from .unigram import UNIGRAM, unigram_form
from .values import Values

_KEY = "tokenizer.ggml."
PROBE = (
    "Hello world, it's 12345 o'clock: don't WE'LL  see? \n\n\tif (x_1 != 0x7f) { return [a, b]; }  Größe café 你好世界 "
    "Привет мир ١٢٣ 😀👍🏽 a   b \r\n ...--- $5.00 #tag @me https://a.b/c?d=e   "
)


def tokenizer_values(folder: Path | None, spec: TransformerSpec) -> list[Said]:
    """(key, value) of the tokenizer that lies in a folder; of none, that there is none.

    Raises CheckpointError for one that GGUF has no words for, and where what is written would cut text otherwise.
    """
    if folder is None:
        return [(f"{_KEY}model", WITHOUT)]
    tokenizer = Tokenizer.open(folder)
    inner = tokenizers.Tokenizer.from_str(tokenizer.as_json())
    written = json.loads(tokenizer.as_json())
    model = written["model"]
    if model.get("type") not in ("BPE", "WordPiece", "Unigram"):
        raise _unsayable(folder, f"is of the kind {model.get('type')}")
    if model["type"] == "Unigram" and model.get("byte_fallback"):
        raise _unsayable(folder, "is a Unigram that falls back on bytes, which llama.cpp has none of,")
    if not model.get("merges", True):
        raise _unsayable(folder, "has no merges, without which llama.cpp opens no file,")
    unknown = _unknown(model)
    tokens, kinds = _vocabulary(inner, spec.vocab_size, unknown, folder)
    special = _ends_of_word_piece(inner) if model["type"] == "WordPiece" else _special(tokenizer, inner, unknown)
    described: dict[str, Any] = {"tokens": tokens, "token_type": kinds, **_padding(folder, spec), **dict(special)}
    found = next((each for each in _forms(written, tokens, inner) if _is_alike(described | each, inner)), None)
    if found is None:
        raise _unsayable(folder, "cuts text in a way that llama.cpp has no name for")
    template = _template(folder)
    said = [(f"{_KEY}{key}", value) for key, value in (described | found).items()]
    return said + ([("tokenizer.chat_template", template)] if template else [])


def start_values(folder: Path | None, spec: TransformerSpec) -> list[Said]:
    """The key of a file for what a decoder begins with that goes on from a source; of no folder, nothing.

    Raises CheckpointError where the folder does not say it.
    """
    if folder is None:
        return []
    said = [read_optional_json(folder / name).get(START) for name in ("generation_config.json", "config.json")]
    found = next((each for each in said if each is not None), None)
    if type(found) is not int or not 0 <= found < spec.vocab_size:
        raise CheckpointError(
            f"{folder.name}: {START} is {found!r}, and llama.cpp needs one of the {spec.vocab_size:,} tokens to begin "
            "an answer with; set it in generation_config.json"
        )
    return [(f".{START}", found)]


def _padding(folder: Path, spec: TransformerSpec) -> dict[str, int]:
    """The padding token, for models that are given whole texts, of which some are shorter."""
    found = read_optional_json(folder / "config.json").get("pad_token_id")
    whole = spec.reads_sources or not spec.causal
    return {"padding_token_id": found} if whole and type(found) is int and 0 <= found < spec.vocab_size else {}


def _template(folder: Path) -> str:
    """The chat template, or nothing where there is none."""
    try:
        return read_template(folder, read_optional_json(folder / "tokenizer_config.json"))
    except CheckpointError:
        return ""


def _unsayable(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{folder.name}: its tokenizer {why}, and is not written as GGUF; export --to dense")


def _vocabulary(inner: Any, num_rows: int, unknown: str | None, folder: Path) -> tuple[list[str], list[int]]:
    """A token and its kind for each row of the embedding; rows beyond the vocabulary have names that no text holds."""
    added = inner.get_added_tokens_decoder()
    found = {i: token for token, i in inner.get_vocab(with_added_tokens=True).items()}
    if found and max(found) >= num_rows:
        raise CheckpointError(f"{folder.name}: {max(found) + 1:,} tokens, and {num_rows:,} rows of embedding")
    tokens = [found.get(i, f"[PAD{i}]") for i in range(num_rows)]
    return tokens, [_kind(i, token, found, added, unknown) for i, token in enumerate(tokens)]


def _kind(i: int, token: str, found: Mapping[int, str], added: Mapping[int, Any], unknown: str | None) -> int:
    if i not in found:
        return UNUSED
    if token == unknown:
        return UNKNOWN
    if i in added:
        return CONTROL if added[i].special else USER_DEFINED
    return BYTE if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The token of what is unknown; a Unigram has its id."""
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    found: str | None = model.get("unk_token")
    return found


def _special(tokenizer: Tokenizer, inner: Any, unknown: str | None) -> Iterator[tuple[str, Any]]:
    """Which tokens begin and end a text, and whether the tokenizer writes them itself."""
    ends, eos_ids = inner.encode("").ids, tokenizer.eos_ids or tokenizer.around[1][-1:]
    bos = tokenizer.bos_id if tokenizer.bos_id not in eos_ids else None
    yield "add_bos_token", bos is not None
    yield "add_eos_token", bool(ends) and ends[-1] in eos_ids and len(ends) > (bos is not None)
    if bos is not None:
        yield "bos_token_id", bos
    for name, end in zip(("eos", "eot"), eos_ids, strict=False):
        yield f"{name}_token_id", end
    if unknown and (found := inner.token_to_id(unknown)) is not None:
        yield "unknown_token_id", found


def _forms(written: Mapping[str, Any], tokens: Sequence[str], inner: Any) -> Iterator[dict[str, Any]]:
    """The ways in which llama.cpp may cut text as this tokenizer does. written: what tokenizer.json holds of it."""
    model = written["model"]
    if model["type"] == "Unigram":
        yield unigram_form(written, len(tokens), inner.get_added_tokens_decoder())
        return
    if model["type"] == "WordPiece":
        yield {"model": WORD_PIECE, "tokens": [_from_word_piece(token) for token in tokens]}
        return
    merges = [tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    if model.get("byte_fallback"):
        scores = _scores(merges, tokens)
        yield from ({"model": "llama", "scores": scores, "add_space_prefix": each} for each in (True, False))
        return
    if inner.pre_tokenizer is None:
        return
    pieces = inner.pre_tokenizer.pre_tokenize_str(PROBE)
    for name in EXPRESSIONS:
        same_words = bool(model.get("ignore_merges")) == (name in WHOLE_WORDS)
        if same_words and pre_tokenizer(name).pre_tokenize_str(PROBE) == pieces:
            yield {"model": "gpt2", "pre": name, "merges": [" ".join(each) for each in merges]}


def _from_word_piece(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else f"▁{token}"


def _ends_of_word_piece(inner: Any) -> Iterator[tuple[str, Any]]:
    """[CLS], [SEP] and the others by the names that BERT gives them."""
    names = {"cls": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]", "padding": "[PAD]", "mask": "[MASK]"}
    for name, token in names.items():
        if (found := inner.token_to_id(token)) is not None:
            yield f"{name}_token_id", found


def _scores(merges: Sequence[tuple[str, ...]], tokens: Sequence[str]) -> list[float]:
    """A score for each token, the higher the earlier its merge: SentencePiece has scores where others have an order."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def _is_alike(described: Mapping[str, Any], inner: Any) -> bool:
    """Whether our own reader makes a tokenizer of these values that gives the same ids.

    Spaces at the end of a text are left aside for Unigram: SentencePiece and llama.cpp drop them, some files do not.
    """
    probe = PROBE.rstrip() if described["model"] == UNIGRAM else PROBE
    values = {f"{_KEY}{key}": _as_read(value) for key, value in described.items()}
    try:
        made, _ = read_tokenizer(Values(GGUFHeader("what is written", values, {})))
    except CheckpointError:
        return False
    return bool(made.encode(probe).ids == inner.encode(probe).ids)


def _as_read(value: Any) -> Any:
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    return np.array(value) if isinstance(value, list) and not isinstance(value[0], str) else value
