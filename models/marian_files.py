"""The tokenizer of a directory that has source.spm, target.spm and vocab.json instead of tokenizer.json: a Marian's.

Each side is cut by its own SentencePiece model; what a piece is called decides its id, in vocab.json, which both share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, normalizers, processors

from .errors import CheckpointError
from .extras import absent, is_missing
from .optional_json import MARIAN_FILES, read_optional_json
from .side import Side, TwoSided, literal
from .spm_files import read_spm

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, NormalizerSpec

_SPACE = "▁"
_NORMAL, _USER_DEFINED, _BYTE, _UNIGRAM = 1, 4, 6, 1  # as sentencepiece_model.proto numbers them
_ENDS = tokenizers.Regex(f"^ +|[ {_SPACE}]+$")
_NOWHERE = "\uffff"  # a letter that no text has
_NAMES = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}


@dataclass(frozen=True, slots=True)
class MarianSide(Side):
    """A side whose pieces have the ids that vocab.json gives their names; others are unknown.

    A text may begin with a code of its language, `>>fra<<`, which is no letters.
    """

    names: Mapping[str, int]
    unknown: int

    def ids(self, text: str, ended: bool = True) -> list[int]:
        return self._cut(text, ended)[0]

    def ids_and_ends(self, text: str) -> tuple[list[int], list[int]]:
        ids, encoding, begin = self._cut(text, True)
        ends = [begin + end if end else 0 for _, end in encoding.offsets]
        return ids, [begin, *ends] if begin else ends

    def plain(self) -> "MarianSide":
        return MarianSide(literal(self.inner), self.names, self.unknown)

    def _cut(self, text: str, ended: bool) -> tuple[list[int], tokenizers.Encoding, int]:
        """Ids, what `inner` made of the text behind a code, and where that begins."""
        begin = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
        encoding = self.inner.encode(text[begin:], add_special_tokens=ended)
        pieces = [text[:begin], *encoding.tokens] if begin else encoding.tokens
        return [self.names.get(piece, self.unknown) for piece in pieces], encoding, begin


def of_marian_files(folder: Path) -> TwoSided | None:
    """The tokenizer of the three files, or None where they are not there. Needs sentencepiece.

    Raises CheckpointError where they cannot be read so, and what the libraries raise where they are damaged.
    """
    if not all((folder / name).is_file() for name in MARIAN_FILES):
        return None
    if missing := absent("sentencepiece"):
        lacking = is_missing("its source.spm", "sentencepiece", *missing)
        raise CheckpointError(f"{folder} has no tokenizer.json, and {lacking}")
    settings, ids = (read_optional_json(folder / name) for name in ("tokenizer_config.json", "vocab.json"))
    special = {key: _content(settings.get(f"{key}_token"), name) for key, name in _NAMES.items()}
    _check(folder, settings, ids, special)
    known = [name for name in special.values() if name in ids]
    names = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=special["unk"]))
    names.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(_ENDS, "")]
    )
    names.add_special_tokens(known)
    source, target = (_side(folder / name, ids, special, known) for name in ("source.spm", "target.spm"))
    return TwoSided(names, source, target)


def _content(token: Any, default: str) -> str:
    """A token as settings name it: its text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else default


def _check(folder: Path, settings: Mapping[str, Any], ids: Mapping[str, Any], special: Mapping[str, str]) -> None:
    if settings.get("separate_vocabs") is True:
        raise CheckpointError(
            f"{folder}: separate_vocabs is true in tokenizer_config.json, and moesaic reads a Marian whose sides share "
            "vocab.json; take a model of one vocabulary"
        )
    for key in ("unk", "eos"):
        if special[key] not in ids:
            raise CheckpointError(
                f"{folder}: vocab.json has no {special[key]!r}, which is the {key}_token; copy it again"
            )


def _side(file: Path, ids: Mapping[str, int], special: Mapping[str, str], known: list[str]) -> MarianSide:
    """What cuts the texts of a side as sentencepiece does."""
    proto, end = _read(file), special["eos"]
    trained = proto.trainer_spec
    inner = tokenizers.Tokenizer(models.Unigram(_pieces(proto), trained.unk_id, trained.byte_fallback))
    inner.normalizer = _normalizer(proto.normalizer_spec)
    inner.add_special_tokens(known)
    inner.post_processor = processors.TemplateProcessing(f"$A {end}", None, [(end, inner.token_to_id(end))])
    return MarianSide(inner, ids, ids[special["unk"]])


def _pieces(proto: "ModelProto") -> list[tuple[str, float]]:
    """The name by which each piece is looked for in texts, and its score.

    What sentencepiece never looks for has a name that no text has; what a person defined has a score that always wins.
    """
    best, found = max(piece.score for piece in proto.pieces if piece.type == _NORMAL), list[tuple[str, float]]()
    for piece in proto.pieces:
        name = piece.piece if piece.type in (_NORMAL, _USER_DEFINED, _BYTE) else f"{_NOWHERE}{piece.piece}"
        found.append((name, len(name) * best - 0.1 if piece.type == _USER_DEFINED else piece.score))
    return found


def _normalizer(spec: "NormalizerSpec") -> normalizers.Normalizer:
    """What is done to a text before it is cut."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(_ENDS, ""), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _read(file: Path) -> "ModelProto":
    proto = read_spm(file)
    kind = proto.trainer_spec.model_type
    if kind != _UNIGRAM or proto.trainer_spec.treat_whitespace_as_suffix:
        raise CheckpointError(
            f"{file} is no unigram model with spaces before words, as those of Marian are; copy a tokenizer.json from "
            "a conversion of the model"
        )
    return proto
