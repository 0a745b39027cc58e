"""Retention as served: an original and what was made of it, each by its own server, at every tier, on the same text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...evaluate.tasks.items import Task, TaskScore
from ...evaluate.texts import embedded_text, encode_documents, read_documents
from ...models.checkpoint import open_checkpoint, read_json
from ...models.errors import MoesaicError, SetupError, TextError
from ...models.locate import locate
from ...models.progress import Progress
from ...models.tokenizer import Tokenizer
from ...server.client import Client
from ...server.scoring import MOST_NUMBERS
from ..local_server import local_server
from ..resumed import begun, write_report
from .figures import against, beside, tier_of
from .int4 import RECORD
from .plan import FLOOR, Contestant, RetentionPlan, contestants
from .score import Distributions, Kept, Window, score_tier, windows_of
from .tasks import questions_of, score_task

KIND = "retention"
_MOST_BYTES = 1 << 30  # of the original's distributions, which are kept in memory
Report = dict[str, Any]


def run_retention(plan: RetentionPlan, machine: Callable[[], dict[str, Any]], progress: Progress) -> Report:
    """Scores all and writes the report after each tier; goes on with one that was cut off.

    A server that does not start, dies or answers with an error is asked no further, and the report says so; what is
    left is tried again by the same command. Raises SetupError where models read text as other tokens than the original.
    """
    plan.check()
    every = contestants(plan)
    tokenizer = Tokenizer.open(locate(every[0].path))
    tasks = [questions_of(name, plan.tasks_dir, plan.limit) for name in plan.tasks]
    windows = _windows(plan, every, tokenizer)
    report = begun(plan.out, plan.key) or {
        "kind": KIND, "command": plan.command, "plan": plan.key, "complete": False, "machine": machine(),
        "windows": len(windows), "length": plan.length, "context": plan.held,
        "tokens": sum(window.num_scored for window in windows),
        "compared": sum(len(window.places) for window in windows),
        "text": [Path(file).name for file in plan.text],
        "models": {
            each.name: {
                "path": each.path, "of": each.of, "counted_as": _control(each), "has": [], "stopped": "", "tiers": [],
            }
            for each in every
        },
        "kept": {}, "against": [],
    }  # fmt: skip
    run = _Run(report, plan, windows, tasks, tokenizer, progress)
    left = [each for each in every if not run.has_all(each)]
    if left and report["models"][plan.original]["tiers"]:
        run.ask_again(every[0])
    for each in left:
        if not run.finish(each):
            break
    others = {name: tiers for name, tiers in grouped(report).items() if name not in (plan.original, FLOOR)}
    report["against"] = list(against(others))
    report["complete"] = all(map(run.has_all, every))
    write_report(plan.out, report)
    return report


class _Run:
    """A report under way."""

    def __init__(
        self,
        report: Report,
        plan: RetentionPlan,
        windows: Sequence[Window],
        tasks: Sequence[Task],
        tokenizer: Tokenizer,
        progress: Progress,
    ) -> None:
        self._report, self._plan, self._windows, self._tasks = report, plan, windows, tasks
        self._tokenizer, self._progress = tokenizer, progress
        self._known: list[Distributions] = []  # what the original foresees; a report has no room for it

    def has_all(self, each: Contestant) -> bool:
        """Every tier that it was found to have is in the report."""
        about = self._report["models"][each.name]
        return bool(about["has"]) and len(about["tiers"]) == len(about["has"])

    def ask_again(self, original: Contestant) -> None:
        """For what the original foresees, of which a report that was cut off holds nothing."""
        if self._plan.places:
            with self._served(original) as client:
                self._score(client, original, self._report["models"][original.name]["has"][0])

    def finish(self, each: Contestant) -> bool:
        """Scores the tiers of one that are not in the report. False where nothing can be held against the original."""
        about = self._report["models"][each.name]
        about["stopped"] = ""
        try:
            with self._served(each) as client:
                about["has"] = list(client.model().tiers) or ["full"]
                for tier in about["has"][len(about["tiers"]) :]:
                    kept = self._score(client, each, tier)
                    answers = [self._answer(client, each, tier, task) for task in self._tasks]
                    about["tiers"].append(tier_of(_counted(kept, about["counted_as"]), self._windows, answers))
                    self._note(each.of)
        except TextError:  # a question for which a context has no room
            raise
        except MoesaicError as error:
            about["stopped"] = str(error)
            write_report(self._plan.out, self._report)
        return not about["stopped"] or each.of != self._plan.original

    @contextmanager
    def _served(self, each: Contestant) -> Iterator[Client]:
        threads = [] if self._plan.threads is None else ["--threads", str(self._plan.threads)]
        with local_server({"model": locate(each.path)}, *threads, *each.options) as address, Client(address) as client:
            yield client

    def _score(self, client: Client, each: Contestant, tier: str) -> Kept:
        return score_tier(client, tier, self._windows, self._known, partial(self._progress, f"{each.name}, {tier}"))

    def _answer(self, client: Client, each: Contestant, tier: str, task: Task) -> TaskScore:
        say = partial(self._progress, f"{each.name}, {tier}, {task.name}")
        return score_task(client, tier, task, self._tokenizer, say)

    def _note(self, name: str) -> None:
        """Puts what there is of a model, of all its seeds together, beside the original, and writes the report."""
        original = self._report["models"][self._plan.original]["tiers"][0]
        self._report["kept"][name] = [beside(tiers, original) for tiers in grouped(self._report)[name]]
        write_report(self._plan.out, self._report)


def grouped(report: Report) -> dict[str, list[list[dict[str, Any]]]]:
    """By name, for each tier what the seeds have of it: those tiers that every seed has."""
    seeds: dict[str, list[list[dict[str, Any]]]] = {}
    for about in report["models"].values():
        seeds.setdefault(about["of"], []).append(about["tiers"])
    return {name: [list(same) for same in zip(*found, strict=False)] for name, found in seeds.items()}


def _counted(kept: Kept, counted_as: Mapping[str, Any] | None) -> Kept:
    """With the bytes of what a control stands for."""
    return replace(kept, token_bytes=counted_as["token_bytes"]) if counted_as else kept


def _control(each: Contestant) -> dict[str, Any] | None:
    """What a control that is served in floating point stands for."""
    file = locate(each.path) / RECORD
    return read_json(file) if file.exists() else None


def _tokenizer_file(each: Contestant) -> bytes | None:
    """What lies in it, which a copy of a model has the same; None where there is none."""
    file = locate(each.path) / "tokenizer.json"
    return file.read_bytes() if file.is_file() else None


def _windows(plan: RetentionPlan, every: Sequence[Contestant], tokenizer: Tokenizer) -> list[Window]:
    documents = read_documents(plan.text or (embedded_text(),))
    ids = encode_documents(documents, tokenizer, None)
    first, file = every[0].name, _tokenizer_file(every[0])
    for each in every[1:]:
        if file is not None and _tokenizer_file(each) == file:
            continue
        if encode_documents(documents, Tokenizer.open(locate(each.path)), None) != ids:
            raise SetupError(
                f"{each.name} reads text as other tokens than {first}; only models of one tokenizer can be compared"
            )
    vocab = open_checkpoint(every[0].path).spec.vocab_size
    found = windows_of(ids, plan.length, plan.held, plan.windows, min(plan.places, MOST_NUMBERS // vocab))
    if len(found) < 2:
        longest = max(map(len, ids))
        raise TextError(
            f"the text has {len(found)} pieces of {plan.length} tokens, its longest document {longest} tokens, and an "
            "interval needs two pieces; give longer text, or a smaller --length"
        )
    size = 4 * vocab * sum(len(window.places) for window in found)
    if size > _MOST_BYTES:
        raise SetupError(
            f"what the original foresees would be {size:,} bytes, the limit is {_MOST_BYTES:,}; lower --kl or --windows"
        )
    return found
