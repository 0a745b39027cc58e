"""Rules about single tokens, of any number: what is added to their logits, which may come, which may not. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..models.errors import Violation
from .sampling import as_carried

MOST_BIASED = 300
MOST_BIAS = 100.0
MOST_LISTED = 1 << 16


@dataclass(frozen=True, slots=True)
class TokenRules:
    """logit_bias: (id, number) pairs, in the order of ids. allowed_token_ids: empty allows all. Banned is banned."""

    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    banned_token_ids: tuple[int, ...] = ()


class TokenSettings(TypedDict, total=False):
    """The same as it may be asked for: numbers by token id, and lists of ids."""

    logit_bias: Mapping[int, float] | None
    allowed_token_ids: Sequence[int] | None
    banned_token_ids: Sequence[int] | None


def token_rules_of(settings: Mapping[str, Any]) -> TokenRules:
    """Numbers are those that the wire carries, wherever they come from."""
    bias = sorted((settings.get("logit_bias") or {}).items())
    return TokenRules(
        tuple((int(token), as_carried(number)) for token, number in bias),
        tuple(sorted(set(settings.get("allowed_token_ids") or ()))),
        tuple(sorted(set(settings.get("banned_token_ids") or ()))),
    )


def token_rule_violations(rules: TokenRules, vocab_size: int) -> list[Violation]:
    """Every list that is too long or names what no token is, every number out of range, and what leaves no token."""
    found = [*_bias_violations(rules.logit_bias)]
    biased = tuple(token for token, _ in rules.logit_bias)
    lists = {
        "logit_bias": biased,
        "allowed_token_ids": rules.allowed_token_ids,
        "banned_token_ids": rules.banned_token_ids,
    }
    for name, ids in lists.items():
        found += _id_violations(name, ids, vocab_size)
    left = set(rules.allowed_token_ids or range(vocab_size)) - set(rules.banned_token_ids)
    if not found and not left:
        message = "leaves no token that may be drawn; ban fewer, or allow one that is not banned"
        found.append(Violation("token_rules.banned_token_ids", message))
    return found


def _bias_violations(bias: Sequence[tuple[int, float]]) -> list[Violation]:
    found = []
    if len(bias) > MOST_BIASED:
        found.append(Violation("token_rules.logit_bias", f"has {len(bias)} entries, the limit is {MOST_BIASED}"))
    wrong = [(token, number) for token, number in bias if not -MOST_BIAS <= number <= MOST_BIAS]
    if wrong:
        token, number = wrong[0]
        rule = f"it must be from {-MOST_BIAS:g} to {MOST_BIAS:g}"
        found.append(Violation("token_rules.logit_bias", f"is {number:g} for token {token}, {rule}"))
    return found


def _id_violations(name: str, ids: Sequence[int], vocab_size: int) -> list[Violation]:
    found = []
    if len(ids) > MOST_LISTED:
        found.append(Violation(f"token_rules.{name}", f"has {len(ids)} entries, the limit is {MOST_LISTED}"))
    bad = next((token for token in ids if not 0 <= token < vocab_size), None)
    if bad is not None:
        message = f"names token {bad}, which is outside the vocabulary of {vocab_size} ids"
        found.append(Violation(f"token_rules.{name}", message))
    return found
