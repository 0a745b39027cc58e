"""Engines run to their end, and what is left of them."""

from collections.abc import Sequence

from moesaic.engine.engine import Engine
from moesaic.engine.request import Row


def finish(engine: Engine, limit: int = 10_000) -> dict[int, list[Row]]:
    """Steps until nothing is left; the rows of each request. No block may be lost on the way."""
    rows: dict[int, list[Row]] = {}
    while engine.has_work:
        limit -= 1
        assert limit, "the engine does not come to an end"
        for row in engine.step():
            rows.setdefault(row.key, []).append(row)
        assert engine.scheduler.differences() == []
    return rows


def tokens_of(rows: Sequence[Row], choice: int = 0) -> list[int]:
    return [token for row in rows for token in row.token_ids if row.choice == choice]


def idle(engine: Engine) -> bool:
    load = engine.load
    books = engine.scheduler.differences()
    return (
        not books and (load.free_slots, load.free_blocks) == (load.num_slots, load.num_blocks) and not engine.has_work
    )
