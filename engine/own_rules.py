"""What a model's own files say of every answer that it makes: where its decoder begins, and which tokens must or may
not come. No torch.

generation_config.json says it, or config.json where there is none, as `transformers` has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.errors import SetupError
from ..models.optional_json import read_optional_json

FOLLOWED = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens")
BAD_WORDS = "bad_words_ids"  # of which words of one token are followed


@dataclass(frozen=True, slots=True)
class OwnRules:
    """start_id: what a decoder begins with that goes on from a source; None where the prompt itself is continued.

    first_ids: of which the first new token must be one, last_ids: the last where no more may come; empty is any.
    banned_ids never come.
    """

    start_id: int | None = None
    first_ids: tuple[int, ...] = ()
    last_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path, vocab_size: int, sourced: bool) -> "OwnRules":
        """The rules of a model directory. sourced: whether it has an encoder that reads the prompt. Raises SetupError
        for an id that no token has, or for a decoder without a beginning.
        """
        values = generation_values(folder, sourced)
        start = values.get("decoder_start_token_id", values.get("bos_token_id")) if sourced else None
        if sourced and start is None:
            raise SetupError(
                f"{folder.name} says nowhere which token its decoder begins with; add decoder_start_token_id to its "
                "generation_config.json"
            )
        read = {name: _ids(values, name, vocab_size) for name in FOLLOWED[1:]}
        starts = _ids({"decoder_start_token_id": start}, "decoder_start_token_id", vocab_size)
        words = values.get(BAD_WORDS)
        banned = [word for word in words if single_word(word)] if isinstance(words, list) else []
        singles = _ids({BAD_WORDS: [token for (token,) in banned]}, BAD_WORDS, vocab_size)
        return cls(
            starts[0] if starts else None, read["forced_bos_token_id"], read["forced_eos_token_id"],
            tuple(sorted({*read["suppress_tokens"], *singles})),
        )  # fmt: skip

    def forced(self, position: int, num_new: int) -> tuple[int, ...]:
        """Of which the new token at this position must be one, of `num_new` that may come; empty is any."""
        if self.last_ids and position == num_new - 1:
            return self.last_ids
        return self.first_ids if position == 0 else ()


def generation_values(folder: Path, sourced: bool) -> Mapping[str, Any]:
    """What is said of generation: generation_config.json, and where an encoder reads the prompt config.json, as far as
    the former says nothing of where the decoder begins, or is not there; null says nothing.
    """
    values = read_optional_json(folder / "generation_config.json")
    if sourced:
        config = read_optional_json(folder / "config.json")
        begin = {"decoder_start_token_id": config.get("decoder_start_token_id")}
        values = {**begin, **values} if (folder / "generation_config.json").is_file() else config
    return {name: value for name, value in values.items() if value is not None}


def single_word(word: object) -> bool:
    """Whether a list of ids is of one token."""
    return isinstance(word, list) and len(word) == 1


def _ids(values: Mapping[str, Any], name: str, vocab_size: int) -> tuple[int, ...]:
    value = values.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for each in ids:
        if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < vocab_size:
            raise SetupError(
                f"generation_config.json: {name} names {each!r}, which is none of the {vocab_size} ids of the "
                "vocabulary; correct it there"
            )
    return tuple(ids)
