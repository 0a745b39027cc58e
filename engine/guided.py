"""Answers of a given form: which tokens may come next, by llguidance, which an extra brings. No torch.

A constraint is checked at the edge, within limits of size and work, so that a bad one fails its request alone. In the
engine it is compiled beside the steps, and read by one mask a step.
"""

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from functools import cache, cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..models.errors import InvalidRequest, Unsupported, Violation
from ..models.extras import is_missing
from .constraint import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_KEPT = 64  # compiled constraints, which requests of one form share
_MOST_REASON = 300
_MOST_REMAINDERS = 20_000  # a tenth of a second of the library's, which its own limits do not bound
_POWERS_FOR_A_STATE = 13
_LEAST = -(2**63) + 1024  # below it numbers become -2**63, of which the library has no absolute value: it crashes


def check_constraint(constraint: Constraint) -> None:
    """Raises InvalidRequest with the library's reason, or Unsupported where it is not installed.

    Takes milliseconds; a server calls it in a thread.
    """
    if find_spec("llguidance") is None:
        raise Unsupported(is_missing("an answer of a given form", "guided", "llguidance"))
    from llguidance import LLMatcher

    divisors, numbers = _numbers(constraint)
    if min(numbers, default=0) < _LEAST:
        message = f"holds a number below {_LEAST}, which no answer can be held to; leave it out"
        raise InvalidRequest([Violation(f"constraint.{constraint.kind}", message)])
    if _remainders(divisors) > _MOST_REMAINDERS:
        message = f"asks for multiples whose remainders are more than {_MOST_REMAINDERS}; lower multipleOf"
        raise InvalidRequest([Violation(f"constraint.{constraint.kind}", message)])
    try:
        matcher = LLMatcher(_bytes(), grammar_of(constraint), log_level=0, limits=_limits())
        matcher.compute_bitmask()  # what is too wide shows at its first step, or where it first has a choice
        matcher.consume_tokens(matcher.compute_ff_tokens())
        matcher.compute_bitmask()
        reason = matcher.get_error()
    except ValueError as error:
        reason = str(error)
    if reason:
        message = f"cannot be followed: {_in_one_line(reason)}"
        raise InvalidRequest([Violation(f"constraint.{constraint.kind}", message)])


def _numbers(constraint: Constraint) -> tuple[list[Decimal], list[Decimal]]:
    """What multipleOf names in the schemas of a constraint, and all numbers in them."""
    divisors: list[Decimal] = []
    numbers: list[Decimal] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        divisors.extend(value for name, value in pairs if name == "multipleOf" and isinstance(value, Decimal))

    def number(text: str) -> Decimal:
        numbers.append(Decimal(text))
        return numbers[-1]

    decoder = json.JSONDecoder(object_pairs_hook=note, parse_int=number, parse_float=number)
    text = constraint.texts[0] if constraint.kind in ("json_schema", "grammar") else ""
    begins = (
        [len(text) - len(text.lstrip())]
        if constraint.kind == "json_schema"
        else [each.end() for each in re.finditer(r"%json\s*", text)]
    )
    for begin in begins:
        with suppress(ValueError, RecursionError):  # no JSON, or nested too deep: the library says so
            decoder.raw_decode(text, begin)
    return divisors, numbers


def _remainders(divisors: Sequence[Decimal]) -> int:
    """What the library's work for them grows with: states, about so many or fewer."""
    return sum(map(_states, divisors))


def _states(number: Decimal) -> int:
    """Of one divisor: its digits without zeros at their end; of a power of 2 or 5 alone a part, as was measured."""
    digits = int("".join(map(str, number.as_tuple().digits[:20])))
    while digits and digits % 10 == 0:
        digits //= 10
    rest = digits
    for factor in (2, 5):
        while rest and rest % factor == 0:
            rest //= factor
    return digits // _POWERS_FOR_A_STATE if rest == 1 else digits


def grammar_of(constraint: Constraint) -> str:
    """The same in the library's own form. Raises ValueError."""
    from llguidance import LLMatcher

    text = constraint.texts[0]
    if constraint.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(text)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    if constraint.kind == "grammar":
        return LLMatcher.grammar_from_lark(text)
    choices = " | ".join(json.dumps(text, ensure_ascii=False) for text in constraint.texts)
    return LLMatcher.grammar_from_lark(f"start: {choices}")


class Guide:
    """Where one answer stands in its constraint."""

    def __init__(self, compiled: "Future[LLMatcher]") -> None:
        self._compiled = compiled

    @property
    def ready(self) -> bool:
        """Whether it is compiled. Whoever asks for a mask before waits."""
        return self._compiled.done()

    @property
    def error(self) -> str:
        """Why it cannot be followed any further, else ""."""
        return _in_one_line(self._matcher.get_error()) if self._matcher.is_error() else ""

    def mask(self, vocab_size: int) -> NDArray[np.bool_]:
        """[vocab] whether a token may come next; none where there is an error."""
        allowed = np.zeros(vocab_size, dtype=np.bool_)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if not self._matcher.is_error():
            known = np.unpackbits(bits, bitorder="little")[:vocab_size]
            allowed[: len(known)] = known
        return allowed

    def take(self, token: int) -> None:
        """A token has come. After the end of the text nothing changes."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    @cached_property
    def _matcher(self) -> "LLMatcher":
        return self._compiled.result().deep_copy()


class Guides:
    """The constraints of one model. A thread of its own compiles, while steps go on."""

    def __init__(self, folder: Path, eos_ids: Sequence[int]) -> None:
        self._folder, self._eos_ids = folder, list(eos_ids)
        self._compiled = lru_cache(_KEPT)(self._begin)

    def start(self, constraint: Constraint | None) -> Guide | None:
        """What guides one answer. It may be asked at once, and answers when it is ready."""
        return None if constraint is None else Guide(self._compiled(constraint))

    def _begin(self, constraint: Constraint) -> "Future[LLMatcher]":
        return self._thread.submit(self._compile, constraint)

    def _compile(self, constraint: Constraint) -> "LLMatcher":
        from llguidance import LLMatcher

        return LLMatcher(self._tokenizer, grammar_of(constraint), log_level=0, limits=_limits())

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "guided")

    @cached_property
    def _tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        return LLTokenizer(str(self._folder / "tokenizer.json"), eos_token=self._eos_ids or None)


def _limits() -> "LLParserLimits":
    """Half to a tenth of the library's default limits: a step waits for the mask of each of its rows."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=10_000,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


class _Bytes:
    """A vocabulary of bytes, to check with where no model is."""

    bos_token_id, eos_token_id, special_token_ids = None, 256, (256,)
    tokens = (*(bytes([number]) for number in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _bytes() -> "LLTokenizer":
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _in_one_line(reason: str) -> str:
    text = re.sub(r"\s+", " ", reason).strip()
    return text if len(text) <= _MOST_REASON else f"{text[: _MOST_REASON - 3]}..."
