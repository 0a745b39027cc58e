"""Whether what was planted is found, and the same measured again is not told apart: what two benches of it share."""

import sys
from collections.abc import Mapping
from typing import Any

from .compare import compared, told

Report = Mapping[str, Any]


def compared_with(first: Report, again: Report, planted: Report, least: float) -> dict[str, Any]:
    """What comparing a first report says with another of the same, and with one of what was planted."""
    return {"again": told(compared(first, again, least)), "planted": told(compared(first, planted, least))}


def status(found: Report) -> int:
    """0 where something is worse with what was planted, nothing is better, and nothing differs of the same."""
    again, planted = found["again"], found["planted"]
    return 0 if planted["worse"] and not planted["better"] and not again["worse"] + again["better"] else 1


def say(text: str) -> None:
    """Tells at once, as such a bench takes minutes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say_of_the_same(found: Report) -> None:
    """How many figures two runs of the same thing were told apart by."""
    again = found["again"]
    say(f"the same again: {len(again['worse'] + again['better'])} of {again['figures']} told apart")
