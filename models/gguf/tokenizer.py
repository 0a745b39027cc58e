"""The tokenizer that a GGUF file describes, as the files that Hugging Face readers expect.

Four kinds are read: byte-level BPE with merges (`gpt2`), SentencePiece BPE with scores (`llama`), whose merges are
found again from the scores, as transformers does, WordPiece (`bert`), and Unigram (`t5`). Ids are those of llama.cpp.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..charsmap import CHARSMAP, checked_charsmap
from ..errors import CheckpointError
from .pretokenizers import ADD_BOS, EXPRESSIONS, WHOLE_WORDS, pre_tokenizer
from .unigram import SINGLE_SPACES, UNIGRAM, unigram
from .values import Values

_KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # kinds of tokens
WORD_PIECE = "bert"
WITHOUT = "no_vocab"  # the kind of a file whose ids nobody turns into text
_MAX_PIECE = 256  # characters of a SentencePiece token: its splits are tried one by one
_SPECIAL = {  # our name -> the file's
    "bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "cls": "cls", "sep": "seperator",
}  # fmt: skip
_UNSAID = {UNIGRAM: {"eos": 1, "unk": 2, "pad": 0}}  # special ones of a kind, where a file does not name them
START = "decoder_start_token_id"
_ENDS = ("eos", "eot", "eom")  # of text, of a turn, of a message: generation ends at each


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file, by id: text and kind; and the ids of the special ones."""

    tokens: Sequence[str]
    kinds: npt.NDArray[np.generic]
    special: Mapping[str, int]
    end_ids: Sequence[int]


def write_tokenizer(folder: Path, values: Values) -> tuple[int, dict[str, Any]]:
    """tokenizer.json, tokenizer_config.json with the chat template, and generation_config.json.

    A file without a tokenizer gives none of them. Returns the number of tokens and what config.json says of them.
    Raises CheckpointError for another kind of tokenizer, with the list, and for a damaged one.
    """
    if values.text(_KEY + "model", "") == WITHOUT:
        return 0, {}
    tokenizer, vocabulary = read_tokenizer(values)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    special = {f"{name}_token": vocabulary.tokens[i] for name, i in vocabulary.special.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", **special,
        "model_max_length": values.count(".context_length"), "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if template := values.text("tokenizer.chat_template", ""):
        config["chat_template"] = template
    ids = _token_ids(vocabulary, values)
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "generation_config.json", ids)
    return len(vocabulary.tokens), ids


def read_tokenizer(values: Values) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer of a file, and what it is made of. Raises CheckpointError."""
    kind = values.text(_KEY + "model", "")
    if kind not in _KINDS:
        raise CheckpointError(f"{values.file}: its tokenizer is {kind!r}; moesaic reads {', '.join(_KINDS)}")
    vocabulary = _vocabulary(values, _UNSAID.get(kind, {}))
    try:
        tokenizer, added = _KINDS[kind](values, vocabulary)
        _add_special(tokenizer, vocabulary)
        if kind != WORD_PIECE:  # which has its ends by itself
            _add_ends(tokenizer, values, vocabulary, added)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{values.file}: no tokenizer can be made of it: {error}") from error
    return tokenizer, vocabulary


def _token_ids(vocabulary: Vocabulary, values: Values) -> dict[str, Any]:
    """bos_token_id, eos_token_id (a list where several end a text), pad_token_id and what a decoder begins with that
    goes on from a source, as configs have them.
    """
    ids: dict[str, Any] = {f"{n}_token_id": i for n, i in vocabulary.special.items() if n in ("bos", "pad")}
    if vocabulary.end_ids:
        ids["eos_token_id"] = list(vocabulary.end_ids) if len(vocabulary.end_ids) > 1 else vocabulary.end_ids[0]
    if (start := values.token_id(f".{START}", len(vocabulary.tokens))) is not None:
        ids[START] = start
    return ids


def _vocabulary(values: Values, unsaid: Mapping[str, int]) -> Vocabulary:
    tokens = values.texts(_KEY + "tokens")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{values.file}: a token stands twice in its vocabulary; copy it again")
    found = {
        name: values.token_id(f"{_KEY}{theirs}_token_id", len(tokens), unsaid.get(name))
        for name, theirs in _SPECIAL.items()
    }
    ends = [found["eos"], *(values.token_id(f"{_KEY}{name}_token_id", len(tokens)) for name in _ENDS[1:])]
    return Vocabulary(
        tokens,
        values.numbers(_KEY + "token_type", len(tokens)),
        {name: i for name, i in found.items() if i is not None},
        list(dict.fromkeys(i for i in ends if i is not None)),
    )


def _byte_level(values: Values, vocabulary: Vocabulary) -> tuple[Tokenizer, str]:
    name = values.text(_KEY + "pre", "default")
    if name not in EXPRESSIONS:
        raise CheckpointError(
            f"{values.file}: its text is cut the way of {name[:80]!r}; moesaic knows {', '.join(sorted(EXPRESSIONS))}"
        )
    merges = [_pair(merge, values.file) for merge in values.texts(_KEY + "merges")]
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=name in WHOLE_WORDS))
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, "bos" if name in ADD_BOS else ""


def _pair(merge: str, file: str) -> tuple[str, str]:
    """`Ġ t`: the first letter may itself be a space."""
    at = merge.find(" ", 1)
    if at < 0:
        raise CheckpointError(f"{file}: the merge {merge[:40]!r} has no two parts; copy it again")
    return merge[:at], merge[at + 1 :]


def _sentence_piece(values: Values, vocabulary: Vocabulary) -> tuple[Tokenizer, str]:
    scores = values.numbers(_KEY + "scores", len(vocabulary.tokens))
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    unknown = vocabulary.special.get("unk")
    bpe = models.BPE(
        ids, _merges(ids, scores, values.file), byte_fallback=True, fuse_unk=True,
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
    )  # fmt: skip
    tokenizer = Tokenizer(bpe)
    spaced = values.flag(_KEY + "add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if spaced else []), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if spaced else [])])
    return tokenizer, "bos"


def _unigram(values: Values, vocabulary: Vocabulary) -> tuple[Tokenizer, str]:
    if not values.flag(_KEY + SINGLE_SPACES, False):
        raise CheckpointError(
            f"{values.file}: {_KEY}{SINGLE_SPACES} is false, and moesaic reads Unigram where it is true; convert the "
            "model from its own files again"
        )
    if "unk" not in vocabulary.special:
        raise CheckpointError(f"{values.file}: its Unigram names no token for what is unknown; copy the file again")
    scores = values.numbers(_KEY + "scores", len(vocabulary.tokens))
    used = np.flatnonzero(vocabulary.kinds != UNUSED).max(initial=-1) + 1  # rows behind these are no tokens
    matched = np.isin(vocabulary.kinds, (NORMAL, UNUSED))[:used]
    charsmap = checked_charsmap(values.data(_KEY + CHARSMAP), values.file)
    return unigram(vocabulary.tokens[:used], scores[:used], matched, vocabulary.special["unk"], charsmap), "eos"


def _word_piece(values: Values, vocabulary: Vocabulary) -> tuple[Tokenizer, str]:
    """WordPiece of BERT in lower case; a file has ▁ before what begins a word instead of ## before what does not."""
    tokens = [_as_word_piece(token, kind) for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)]
    ids = {token: i for i, token in enumerate(tokens)}
    names = {name: tokens[i] for name, i in vocabulary.special.items() if name in ("cls", "sep", "unk")}
    if len(names) < 3 or len(ids) < len(tokens):
        raise CheckpointError(f"{values.file}: its WordPiece names no [CLS], [SEP] and [UNK], or a token twice")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=names["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    begin, end = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{begin} $A {end}", f"{begin} $A {end} $B:1 {end}:1", [(begin, ids[begin]), (end, ids[end])]
    )
    return tokenizer, ""


def _as_word_piece(token: str, kind: int) -> str:
    if kind != NORMAL:
        return token
    return token[1:] if token.startswith("▁") else f"##{token}"


def _merges(ids: Mapping[str, int], scores: npt.NDArray[np.generic], file: str) -> list[tuple[str, str]]:
    """Every way to make a token of two others, the highest score first, then the lowest ids."""
    if longest := max((token for token in ids if len(token) > _MAX_PIECE), key=len, default=""):
        raise CheckpointError(f"{file}: a token has {len(longest):,} characters, the limit is {_MAX_PIECE:,}")
    found = []
    for token, i in ids.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-scores[i].item(), ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_special(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Tokens that are found in the text as they stand; control tokens are left out of what is decoded."""
    kinds = vocabulary.kinds.tolist()
    control = [token for token, kind in zip(vocabulary.tokens, kinds, strict=True) if kind in (UNKNOWN, CONTROL)]
    shown = [token for token, kind in zip(vocabulary.tokens, kinds, strict=True) if kind == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in shown])


def _add_ends(tokenizer: Tokenizer, values: Values, vocabulary: Vocabulary, added: str) -> None:
    """The begin and end tokens that encoding adds. added: the one that a file of this kind need not ask for."""
    wanted = {name: values.flag(f"{_KEY}add_{name}_token", name == added) for name in ("bos", "eos")}
    for name, wants in wanted.items():
        if wants and name not in vocabulary.special:
            raise CheckpointError(f"{values.file}: {_KEY}add_{name}_token is set, and no {name} token is named")
    if any(wanted.values()):
        ids = {name: vocabulary.special[name] for name, wants in wanted.items() if wants}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*(["bos"] if wanted["bos"] else []), "$A", *(["eos"] if wanted["eos"] else [])],
            special_tokens=[{"id": n, "ids": [i], "tokens": [vocabulary.tokens[i]]} for n, i in ids.items()],
        )


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")


_Builder = Callable[[Values, Vocabulary], tuple[Tokenizer, str]]
_KINDS: Mapping[str, _Builder] = {
    "gpt2": _byte_level, "llama": _sentence_piece, WORD_PIECE: _word_piece, UNIGRAM: _unigram,
}  # fmt: skip
