"""The operating points of a request: of its new tokens, of its prompt, and how far it may be lowered. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..models.dial import Dial
from ..models.errors import InvalidRequest, Unsupported, Violation


class ComputeSettings(TypedDict, total=False):
    """tier: how much of the feed-forward layers to spend, by name; or share: the part of their bytes that a token
    shall read, 1 or less, down to that of the lowest tier.

    floor_tier, floor_share: how far the engine may lower the request, step by step, while others wait; never below it.
    prefill_tier: at which the prompt is read, by default the full one.
    """

    tier: str | None
    share: float | None
    floor_tier: str | None
    floor_share: float | None
    prefill_tier: str | None


@dataclass(frozen=True, slots=True)
class Points:
    """Operating points of new tokens, of the prompt, and the furthest that the engine may go to; None is not at all."""

    asked: float = 0.0
    prefill: float = 0.0
    floor: float | None = None


def points_of(said: Mapping[str, Any], dial: Dial, prefix: str = "", found: Sequence[Violation] = ()) -> Points:
    """The operating points that were asked for.

    Raises InvalidRequest with what else was found wrong with the request and all that is wrong here, whose fields begin
    with `prefix`; where nothing is, Unsupported for what this model does not have.
    """
    asking = _Asking(dial, prefix, [*found])
    asked = asking.point(said.get("tier"), said.get("share"))
    floor = None
    if said.get("floor_tier") or said.get("floor_share") is not None:
        floor = asking.point(said.get("floor_tier"), said.get("floor_share"), "floor_")
        asking.check_floor(asked, floor, said)
    prefill = asking.point(said.get("prefill_tier"), None, "prefill_")
    asking.end()
    return Points(asked or 0.0, prefill or 0.0, floor)


class _Asking:
    """Asks a dial for several points and keeps all that is wrong with them."""

    def __init__(self, dial: Dial, prefix: str, wrong: list[Violation]) -> None:
        self._dial, self._prefix, self._wrong = dial, prefix, wrong
        self._missing: list[Unsupported] = []

    def point(self, tier: str | None, share: float | None, name: str = "") -> float | None:
        """The operating point; None where there is none."""
        try:
            return self._dial.operating_point(tier, share, self._prefix + name)
        except InvalidRequest as error:
            self._wrong += error.violations
        except Unsupported as error:
            self._missing.append(error)
        return None

    def check_floor(self, asked: float | None, floor: float | None, said: Mapping[str, Any]) -> None:
        """A floor is where the request may be lowered to."""
        if asked is None or floor is None or floor >= asked:
            return
        name = "floor_share" if said.get("floor_share") is not None else "floor_tier"
        above = f"tier {said['tier']!r}" if said.get("tier") else f"share {said.get('share')}"
        message = (
            f"is {said[name]!r}, which spends more than the {above} that was asked for; name one at or below it, "
            "or leave it out"
        )
        self._wrong.append(Violation(self._prefix + name, message))

    def end(self) -> None:
        """Raises what was found."""
        if self._wrong:
            raise InvalidRequest(self._wrong)
        if self._missing:
            raise self._missing[0]
