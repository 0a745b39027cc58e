"""Random submissions, aborts, forks, expiries and steps of an engine, with its books and its tokens checked all along.

The model is a sum over all tokens so far, read back from the blocks in which they were put: whoever loses a block, or
shares one that another writes to, gets other tokens.

    python -m moesaic.bench.engine.storm OUT.json [--operations N]
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.engine import Engine
from ...engine.request import FinishReason, Priority, Request, Row, Stopping
from ...engine.runner import Forward, Span
from ...engine.sampling import Sampling
from ...evaluate.provenance import command_line
from ...models.files import write_whole
from ..machine import machine_facts

VOCABULARY = 97
CONTEXT = 40
BREAKS, NOT_A_NUMBER = 90, 91  # tokens of which the one ends a pass with an exception, the other gives logits of NaN


def require(holds: bool, what: str) -> None:
    """Raises RuntimeError unless it holds."""
    if not holds:
        raise RuntimeError(what)


def after(tokens: Sequence[int]) -> int:
    """The next token."""
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 89


def expected(prompt: Sequence[int], new: int) -> list[int]:
    """The new tokens of a request."""
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(after(tokens))
    return tokens[len(prompt) :]


class SumRunner:
    """Blocks of four tokens that remember what was put in them."""

    max_context, vocab_size, block_tokens = CONTEXT, VOCABULARY, 4

    def __init__(self, num_blocks: int = 30) -> None:
        self.num_blocks = num_blocks
        self.blocks: list[list[int]] = [[-1] * self.block_tokens for _ in range(num_blocks)]
        self.steps: list[list[Span]] = []

    def forward(self, spans: Sequence[Span]) -> Forward:
        """Puts all tokens in their blocks, then reads every sequence back."""
        require(bool(spans), "a step of nothing")
        self.steps.append([Span(tuple(s.token_ids), s.start, tuple(s.table), s.operating_point) for s in spans])
        if any(BREAKS in span.token_ids for span in spans):
            raise RuntimeError("the pass broke")
        for span in spans:
            for position, token in enumerate(span.token_ids, span.start):
                self.blocks[span.table[position // self.block_tokens]][position % self.block_tokens] = token
        rows = [self.logits(span, before) for span in spans for before in reversed(range(span.scored))]
        return Forward(torch.stack(rows))

    def logits(self, span: Span, before: int) -> Tensor:
        """After the last token of a span but `before`: the next one is far above all others. [VOCABULARY]"""
        held = [token for block in span.table for token in self.blocks[block]]
        end = span.start + len(span.token_ids)
        seen = held[: end - before]
        require(len(held) >= end <= CONTEXT and -1 not in seen, "a block is lost")
        found = torch.arange(VOCABULARY).float() / 100
        found[after(seen)] = 9.0
        return found * float("nan") if NOT_A_NUMBER in seen else found

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The second block of each pair becomes the same as the first."""
        for source, target in pairs:
            self.blocks[target] = [*self.blocks[source]]

    @property
    def read(self) -> list[int]:
        """Tokens of each step."""
        return [sum(len(span.token_ids) for span in step) for step in self.steps]


def request(
    key: int, prompt: Sequence[int], new: int = 5, stopping: dict[str, Any] | None = None, n: int = 1, **more: Any
) -> Request:
    """A greedy one."""
    return Request(key, tuple(prompt), Sampling(temperature=0, n=n), Stopping(new, **(stopping or {})), **more)


class Storm:
    """One engine of random size and what happens to it. Raises RuntimeError where its books or a token are wrong."""

    def __init__(self, seed: int) -> None:
        self.chance, self.now, self.key = random.Random(seed), 0.0, 0
        runner = SumRunner(self.chance.randint(10, 40))
        self.engine = Engine(
            runner, (7,), num_slots=self.chance.randint(1, 6), step_tokens=self.chance.randint(1, 40),
            now=lambda: self.now,
        )  # fmt: skip
        self.living: dict[int, Request] = {}
        self.told: dict[tuple[int, int], list[int]] = {}
        self.counts: Counter[str] = Counter()
        self.ended: Counter[int] = Counter()  # answers, by request

    def act(self) -> None:
        """One operation, after which every block has the holders that the ledger says."""
        what = self.chance.random()
        if what < 0.3:
            self.submit()
        elif what < 0.4 and self.living:
            self.abort(self.chance.choice(sorted(self.living)))
        else:
            self.step()
        self.check()

    def end(self) -> None:
        """Aborts all that lives; the engine is then as it was new."""
        for key in [*self.living]:
            self.abort(key)
        self.check()
        load = self.engine.load
        require(not self.engine.has_work and self.engine.step() == [], "an engine without requests has work")
        require((load.free_slots, load.free_blocks) == (load.num_slots, load.num_blocks), f"at idle: {load}")
        self.counts["preempted"] += self.engine.scheduler.num_preempted

    def check(self) -> None:
        """The books."""
        wrong = self.engine.scheduler.differences()
        require(not wrong, "; ".join(wrong))

    def submit(self) -> None:
        """A request of any kind, now and then one that breaks the pass."""
        chance = self.chance
        beginning = [3, 1, 4, 1, 5, 9, 2, 6][: chance.choice([0, 0, 4, 8])]
        prompt = (*beginning, *(chance.randrange(93) for _ in range(chance.randint(1, 20))))
        self.living[self.key] = request(
            self.key, prompt, chance.randint(1, 20), n=chance.choice([1, 1, 1, 2, 3]), caller=chance.choice("ab"),
            salt=chance.choice(["", "s"]), priority=chance.choice(list(Priority)),
            deadline_seconds=chance.choice([None, None, self.now + 5]), stopping={"ignore_eos": chance.random() < 0.5},
        )  # fmt: skip
        self.engine.add(self.living[self.key])
        self.key += 1
        self.counts["submitted"] += 1

    def abort(self, key: int) -> None:
        """Its caller has gone."""
        self.engine.abort(key)
        del self.living[key]
        self.counts["aborted"] += 1

    def step(self) -> None:
        """Some time passes, and a step."""
        self.now += self.chance.random()
        self.counts["steps"] += 1
        for row in self.engine.step():
            if row.key in self.living:  # else another answer to a request that one failure has ended
                self.take(row)

    def take(self, row: Row) -> None:
        """Every token is the one that its own prompt has."""
        mine, wanted = self.told.setdefault((row.key, row.choice), []), self.living[row.key]
        mine += row.token_ids
        require(mine == expected(wanted.prompt_ids, len(mine)), f"request {row.key} got {mine}")
        if row.finish is None:
            return
        self.counts[row.finish.value] += 1
        self.ended[row.key] += 1
        if row.finish in (FinishReason.FAILED, FinishReason.EXPIRED) or self.ended[row.key] == wanted.sampling.n:
            self.engine.abort(row.key)
            del self.living[row.key]


def blown(operations: int, seed: int = 0) -> dict[str, Any]:
    """So many operations over engines of many sizes; what they were, and how many requests ended in which way."""
    began, seeds, left = time.perf_counter(), 0, operations
    totals: Counter[str] = Counter()
    while left > 0:
        storm, count = Storm(seed + seeds), min(left, 500)
        for _ in range(count):
            storm.act()
        storm.end()
        seeds, left = seeds + 1, left - count
        totals.update(storm.counts)
    return {
        "operations": operations, "engines": seeds, "what": dict(totals),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def main() -> int:
    """Blows and writes; a block that is lost or a wrong token ends it with an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--operations", type=int, default=100_000)
    args = parser.parse_args()
    found = {"command": command_line(args.out), "machine": machine_facts(), **blown(args.operations)}
    write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
