r"""An encoder-decoder and an encoder of ours beside CTranslate2, ONNX Runtime and transformers: one run, in turns.

    moesaic compress t5 out/t5-int8 --recipe int8
    moesaic compress minilm out/minilm-int8 --recipe int8
    python -m moesaic.bench.peers.texts OUT.json --answers t5 out/t5-int8 --vectors minilm out/minilm-int8 --threads 1 2

First comes a dense directory, which peers convert themselves and keep in the cache folder, then ours of the same
weights. Whole calls are timed: sources are read and so many tokens answered, greedily, by the engine and by a server of
it; texts of a book become vectors, each peer padding as it pads. Each contestant has a process of its own, calls
several times in its turn, and waits before that until threads of the one before it sleep, which spin for a while.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ...evaluate.provenance import command_line
from ...evaluate.texts import embedded_text, read_documents
from ...models.bounds import THREADS, Bound
from ...models.errors import MoesaicError, SetupError, TextError
from ...models.files import check_file, write_whole
from ...models.locate import locate
from ...models.tokenizer import Tokenizer
from ..machine import machine_facts
from . import ctranslate2, onnx_runtime, transformers
from .child import Child, Entry
from .figures import alike
from .peer import Answer

KIND = "whole calls"
_PREFIX, _SOURCE_TOKENS, _TEXT_TOKENS = "translate English to German: ", 32, 64
_COUNT = Bound(1)
_CALLS, _PAUSE_SECONDS = 3, 0.3  # of a turn; threads of LLVM's OpenMP spin for 0.2 seconds
Seconds = dict[tuple[str, int, int], list[float]]  # by contestant, threads and texts


@dataclass(frozen=True, slots=True)
class Task:
    """answers: whether sources are answered; else texts become vectors. batches: texts of a call."""

    answers: bool
    dense: str
    ours: Sequence[str]
    batches: Sequence[int]
    num_new: int

    def check(self) -> None:
        """Raises what locating raises, and SetupError where two would have one name."""
        for model in (self.dense, *self.ours):
            locate(model)
        names = [entry.name for entry in self.entries()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SetupError(f"two contestants are called {twice[0]}; give their directories names of their own")

    @property
    def peers(self) -> list[tuple[str, str, str]]:
        """Of each its maker, its quantization, and why it is absent, or nothing."""
        if self.answers:
            int8 = ("CTranslate2 answers", ctranslate2.KINDS[0], ctranslate2.why_absent())
            return [int8, ("transformers answers", "fp32", transformers.why_absent())]
        int8 = ("ONNX Runtime vectors", onnx_runtime.KINDS[0], onnx_runtime.why_absent())
        return [int8, ("transformers vectors", "fp32", transformers.why_absent())]

    def entries(self) -> list[Entry]:
        rows, maker = max(self.batches), "moesaic answers" if self.answers else "moesaic vectors"
        there = [(name, kind) for name, kind, why in self.peers if not why]
        peers = [Entry(f"{name.rsplit(' ', 1)[0]} {kind}", name, self.dense, kind, rows) for name, kind in there]
        makers = {"": maker, ", served": "moesaic served"} if self.answers else {"": maker}
        ours = [
            Entry(f"moesaic {Path(path).resolve().name}{how}", made_by, path, "", rows)
            for path in self.ours for how, made_by in makers.items()
        ]  # fmt: skip
        return [*peers, *ours]


def measured(tasks: Sequence[Task], threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Every figure, with what it was taken on."""
    _COUNT.check("rounds", rounds)
    for count in threads:
        THREADS.check("threads", count)
    for task in tasks:
        task.check()
    found = {"answers" if task.answers else "vectors": _of(task, threads, rounds) for task in tasks}
    return {"kind": KIND, "machine": machine_facts(), "threads": [*threads], "rounds": rounds, "calls": _CALLS, **found}


def _of(task: Task, threads: Sequence[int], rounds: int) -> dict[str, Any]:
    texts = _texts(task)
    with ExitStack() as ending:
        children = list[Child]()
        for entry in task.entries():
            children.append(Child(entry))
            ending.callback(children[-1].end)
        seconds, answers = _rounds(children, task, texts, threads, rounds)
        facts = {each.entry.name: each.facts | {"path": Path(each.entry.path).name} for each in children}
    peers = [name for name in facts if not name.startswith("moesaic ")]
    return {
        "tokens_read": [len(text) for text in texts], "new_tokens": task.num_new, "batches": [*task.batches],
        "contestants": facts, "peers": peers,
        "skipped": {name: why for name, _, why in task.peers if why},
        "rates": _rates(task, seconds, peers),
        "alike": _alike(answers, peers[-1]) if peers else {},
    }  # fmt: skip


def _rounds(
    children: Sequence[Child], task: Task, texts: Sequence[Sequence[int]], threads: Sequence[int], rounds: int
) -> tuple[Seconds, dict[str, Answer]]:
    """Contestants take turns within a round; the first round warms up and does not count. The answers: the last ones of
    the largest batch.
    """
    seconds, answers = Seconds(), dict[str, Answer]()
    for turn in range(rounds + 1):
        for count in threads:
            for batch in task.batches:
                for each in children:
                    time.sleep(_PAUSE_SECONDS)
                    found = [each.ask(texts[:batch], task.num_new, count) for _ in range(_CALLS)]
                    answers[each.entry.name] = found[-1]
                    if turn:
                        taken = seconds.setdefault((each.entry.name, count, batch), [])
                        taken.extend(answer.seconds for answer in found)
    return seconds, answers


def _alike(answers: Mapping[str, Answer], reference: str) -> dict[str, Any]:
    """Beside what the reference made: how many first tokens of an answer are the same, the cosines of vectors."""
    found: dict[str, Any] = {
        "reference": reference,
        **alike({name: a.tokens for name, a in answers.items()}, reference),
    }
    if expected := answers[reference].vectors:
        for name, answer in answers.items():
            cosines = torch.cosine_similarity(torch.tensor(answer.vectors), torch.tensor(expected))
            found[name] = {"mean_cosine": round(cosines.mean().item(), 6), "least": round(cosines.min().item(), 6)}
    return found


def _rates(task: Task, seconds: Seconds, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens of answers, or texts, per second: the median of the calls, and times each peer's."""
    each = task.num_new if task.answers else 1
    rates = {key: batch * each / median(taken) for key, taken in seconds.items() for batch in [key[2]]}
    return [
        {
            "contestant": name, "threads": threads, "batch": batch, "per_second": round(rate, 2),
            "times": {peer: round(rate / rates[peer, threads, batch], 3) for peer in peers},
        }
        for (name, threads, batch), rate in rates.items()
    ]  # fmt: skip


def _texts(task: Task) -> list[list[int]]:
    """Sentences of the text that ships, as the model's tokenizer makes ids of them."""
    tokenizer = Tokenizer.open(locate(task.dense))
    lines = [line for document in read_documents([embedded_text()]) for line in document.splitlines() if len(line) > 30]
    if len(lines) < max(task.batches):
        raise TextError(f"the text that ships has {len(lines)} lines, {max(task.batches)} are needed; ask for fewer")
    before, most = (_PREFIX, _SOURCE_TOKENS) if task.answers else ("", _TEXT_TOKENS)
    ends = tokenizer.num_ends
    ids = [tokenizer.encode(before + line) for line in lines[: max(task.batches)]]
    return [[*each[: most - ends], *each[len(each) - ends :]] if len(each) > most else each for each in ids]


def as_text(report: dict[str, Any]) -> str:
    """A table in Markdown for each task, a row for each contestant; below it who was skipped and what lost."""
    lines = list[str]()
    for name, unit in (("answers", "tokens/s"), ("vectors", "texts/s")):
        if found := report.get(name):
            points = sorted({(row["threads"], row["batch"]) for row in found["rates"]})
            head = [unit, *(f"{_number(t, 'thread')}, {_number(b, 'text')}" for t, b in points)]
            lines += [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(points)}"]
            rows = {(row["contestant"], row["threads"], row["batch"]): row for row in found["rates"]}
            for contestant in dict.fromkeys(row["contestant"] for row in found["rates"]):
                cells = (_cell(rows[contestant, *point], found["peers"][:1]) for point in points)
                lines.append(f"| {' | '.join([contestant, *cells])} |")
            lines += ["", *(f"skipped: {why}" for why in found["skipped"].values())]
            lines += [*_losses(found), *_likeness(found.get("alike", {})), ""]
    return "\n".join(lines)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _cell(row: Mapping[str, Any], first: Sequence[str]) -> str:
    """The rate, and times that of the first peer."""
    times = [f" ({row['times'][peer]:.2f}x)" for peer in first if peer != row["contestant"]]
    return f"{row['per_second']:.1f}{''.join(times)}"


def _losses(found: Mapping[str, Any]) -> Iterator[str]:
    """Where ours is slower than a peer."""
    ours = dict.fromkeys(row["contestant"] for row in found["rates"] if row["contestant"] not in found["peers"])
    for name in ours:
        for peer in found["peers"]:
            times = [row["times"][peer] for row in found["rates"] if row["contestant"] == name]
            if lost := sorted(each for each in times if each < 1):
                least, most = f"{lost[0]:.3f}", f"{lost[-1]:.3f}"
                said = f"{least} to {most}" if least != most else least
                yield f"{name} is {said} times as fast as {peer} at {len(lost)} of {len(times)} points."


def _likeness(found: Mapping[str, Any]) -> Iterator[str]:
    """How near vectors or answers are to the reference's."""
    others = {name: each for name, each in found.items() if name not in ("reference", found["reference"])}
    cosines = [f"{name} {each['mean_cosine']:.4f}" for name, each in others.items() if isinstance(each, dict)]
    same = [f"{name} {each}" for name, each in others.items() if isinstance(each, int)]
    if cosines:
        yield f"Mean cosine with the vectors of {found['reference']}: {', '.join(cosines)}."
    if same:
        yield f"Tokens of the first answer before it parts from that of {found['reference']}: {', '.join(same)}."


def main() -> int:
    """Measures, prints tables and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--answers", nargs="+", metavar="MODEL", help="an encoder-decoder, then ours of it, one or more"
    )
    parser.add_argument("--vectors", nargs="+", metavar="MODEL", help="an encoder, then ours of it, one or more")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    try:
        check_file(args.out, str(args.out))
        _COUNT.check("new_tokens", args.new_tokens)
        tasks = [Task(True, args.answers[0], args.answers[1:], (1, 8), args.new_tokens)] if args.answers else []
        tasks += [Task(False, args.vectors[0], args.vectors[1:], (1, 32), 1)] if args.vectors else []
        if not tasks or not all(task.ours for task in tasks):
            raise SetupError(
                "nothing is to be measured; give --answers DENSE OURS [OURS], --vectors DENSE OURS [OURS], or both"
            )
        report = measured(tasks, args.threads, args.rounds)
        write_whole(args.out, (json.dumps({"command": command_line(args.out), **report}, indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(as_text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
