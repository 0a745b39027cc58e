r"""An encoder-decoder and an encoder of ours beside CTranslate2, ONNX Runtime and transformers: one run, in turns.

    moesaic compress t5 out/t5-int8 --recipe int8
    moesaic compress minilm out/minilm-int8 --recipe int8
    python -m moesaic.bench.peers.texts OUT.json --answers t5 out/t5-int8 --vectors minilm out/minilm-int8 --threads 1 2

Each pair is a dense directory, which peers convert themselves and keep in the cache folder, and ours of the same
weights. Whole calls are timed: sources are read and so many tokens answered, greedily; texts of a book become vectors,
each peer padding as it pads. Each contestant has a process of its own.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

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

KIND = "whole calls"
_PREFIX, _SOURCE_TOKENS, _TEXT_TOKENS = "translate English to German: ", 32, 64
_COUNT = Bound(1)
Seconds = dict[tuple[str, int, int], list[float]]  # by contestant, threads and texts


@dataclass(frozen=True, slots=True)
class Task:
    """answers: whether sources are answered; else texts become vectors. batches: texts of a call."""

    answers: bool
    dense: str
    ours: str
    batches: Sequence[int]
    num_new: int

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
        ours = [Entry(f"moesaic {Path(self.ours).name}", maker, self.ours, "", rows)]
        if self.answers:
            ours.append(Entry(f"{ours[0].name}, served", "moesaic served", self.ours, "", rows))
        return [*peers, *ours]


def measured(tasks: Sequence[Task], threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Every figure, with what it was taken on."""
    _COUNT.check("rounds", rounds)
    for count in threads:
        THREADS.check("threads", count)
    for task in tasks:
        for model in (task.dense, task.ours):
            locate(model)
    found = {"answers" if task.answers else "vectors": _of(task, threads, rounds) for task in tasks}
    return {"kind": KIND, "machine": machine_facts(), "threads": [*threads], "rounds": rounds, **found}


def _of(task: Task, threads: Sequence[int], rounds: int) -> dict[str, Any]:
    texts = _texts(task)
    with ExitStack() as ending:
        children = list[Child]()
        for entry in task.entries():
            children.append(Child(entry))
            ending.callback(children[-1].end)
        seconds, tokens = _rounds(children, task, texts, threads, rounds)
        facts = {each.entry.name: each.facts | {"path": Path(each.entry.path).name} for each in children}
    peers = [name for name in facts if not name.startswith("moesaic ")]
    reference = f"moesaic {Path(task.ours).name}"
    return {
        "tokens_read": [len(text) for text in texts], "new_tokens": task.num_new, "batches": [*task.batches],
        "contestants": facts, "peers": peers,
        "skipped": {name: why for name, _, why in task.peers if why},
        "rates": _rates(task, seconds, peers),
        **({"alike": {"reference": reference, **alike(tokens, reference)}} if task.answers else {}),
    }  # fmt: skip


def _rounds(
    children: Sequence[Child], task: Task, texts: Sequence[Sequence[int]], threads: Sequence[int], rounds: int
) -> tuple[Seconds, dict[str, list[int]]]:
    """Contestants take turns within a round; the first round warms up and does not count."""
    seconds, tokens = Seconds(), dict[str, list[int]]()
    for turn in range(rounds + 1):
        for count in threads:
            for batch in task.batches:
                for each in children:
                    answer = each.ask(texts[:batch], task.num_new, count)
                    tokens.setdefault(each.entry.name, answer.tokens)
                    if turn:
                        seconds.setdefault((each.entry.name, count, batch), []).append(answer.seconds)
    return seconds, tokens


def _rates(task: Task, seconds: Seconds, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens of answers, or texts, per second: the median of the rounds, and times each peer's."""
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
    """A table in Markdown for each task, and who was skipped."""
    lines = list[str]()
    for name, unit in (("answers", "tokens/s"), ("vectors", "texts/s")):
        if found := report.get(name):
            head = ["", "threads", "texts", unit, *(f"x {peer}" for peer in found["peers"])]
            lines += [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
            for row in found["rates"]:
                times = (f"{row['times'][peer]:.2f}" for peer in found["peers"])
                cells = [row["contestant"], row["threads"], row["batch"], f"{row['per_second']:.1f}", *times]
                lines.append(f"| {' | '.join(map(str, cells))} |")
            lines += [f"skipped: {why}" for why in found["skipped"].values()] + ["", *_losses(found["rates"]), ""]
    return "\n".join(lines)


def _losses(rates: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Where ours is slower than a peer."""
    slower = [
        f"{times:.2f} times {peer} with {row['batch']} text{'s' * (row['batch'] > 1)} on {row['threads']} "
        f"thread{'s' * (row['threads'] > 1)}"
        for row in rates if row["contestant"] not in row["times"]
        for peer, times in row["times"].items() if times < 1
    ]  # fmt: skip
    if slower:
        yield f"Slower than a peer: {'; '.join(slower)}."


def main() -> int:
    """Measures, prints tables and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--answers", nargs=2, metavar=("DENSE", "OURS"), help="an encoder-decoder, and ours of it")
    parser.add_argument("--vectors", nargs=2, metavar=("DENSE", "OURS"), help="an encoder, and ours of it")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    try:
        check_file(args.out, str(args.out))
        _COUNT.check("new_tokens", args.new_tokens)
        tasks = [Task(True, args.answers[0], args.answers[1], (1, 8), args.new_tokens)] if args.answers else []
        tasks += [Task(False, args.vectors[0], args.vectors[1], (1, 32), 1)] if args.vectors else []
        if not tasks:
            raise SetupError("nothing is to be measured; give --answers DENSE OURS, --vectors DENSE OURS, or both")
        report = measured(tasks, args.threads, args.rounds)
        write_whole(args.out, (json.dumps({"command": command_line(args.out), **report}, indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(as_text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
