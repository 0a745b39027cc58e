"""A run: a folder OUT that holds a description, its packed text, the last saved state and, at the end, the model.

Starting and resuming are the same call. What decides the result (description, limit, precision, workers) is written
into OUT/run.json at the start and kept by whatever resumes.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...models.errors import SetupError
from ...models.files import check_writable, write_whole
from ...models.threads import torch_threads
from .corpus import Corpus, Say, names_of, pack
from .description import Description
from .learner import Learner
from .loop import Limit, Loop
from .model import build_model, check_memory
from .place import Place, choose_place, free_memory, keep_freed_memory

RUN_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The content of run.json."""

    description: dict[str, object]
    description_sha256: str
    limit: Limit
    dtype: str
    num_workers: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Files to train on and to validate on, and how large train.bin may become."""

    train: Sequence[Path] = ()
    valid: Sequence[Path] = ()
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the caller says about where to run; None chooses."""

    device: str | None = None
    threads: int | None = None
    compiled: bool = False
    save_seconds: float = 180.0


@contextmanager
def only_process(out: Path, description: Description) -> Iterator[None]:
    """Makes OUT and holds it: a second process is a SetupError, and so is a folder that is no run or another's."""
    check_writable(out, str(out))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not any((out / name).exists() for name in (RUN_NAME, "run.lock")):
        raise SetupError(f"{out} holds something else than a training run; name another folder")
    with (out / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetupError(f"another process is training in {out}; wait for it or name another folder") from None
        facts = read_facts(out)
        if facts and facts.description_sha256 != description.sha256():
            raise SetupError(
                f"{out} is the run of another description ({_difference(facts, description)}); name another folder"
            )
        yield


def read_facts(out: Path) -> RunFacts | None:
    """run.json of a folder, if there is one."""
    try:
        values = json.loads((out / RUN_NAME).read_bytes())
        return RunFacts(**{**values, "limit": Limit(**values["limit"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise SetupError(f"{out / RUN_NAME} is damaged ({error}); remove {out} to start again") from None


def open_corpus(out: Path, description: Description, texts: Texts, say: Say) -> Corpus:
    """The packed text of a run, made where it is not yet there. Other files than it was made from are refused."""
    folder = out / "corpus"
    if not (folder / "corpus.json").exists():
        if not texts.train:
            raise SetupError(f"{out} has no packed text yet; say which with --text FILE ...")
        return pack(folder, description, texts.train, texts.valid, texts.max_bytes, say)
    corpus = Corpus(folder)
    if corpus.vocabulary != description.vocabulary:
        raise SetupError(
            f"{out} was packed with {corpus.vocabulary:,} entries, the description asks for "
            f"{description.vocabulary:,}; name another folder"
        )
    if texts.train and names_of(texts.train) != corpus.names():
        raise SetupError(
            f"{out} was packed from other text ({', '.join(name for name, _ in corpus.names())}); "
            "leave --text out to train on that, or name another folder"
        )
    return corpus


def train(out: Path, description: Description, texts: Texts, limit: Limit, machine: Machine, say: Say) -> bool:
    """Trains from where OUT is to the end of the plan; False where SIGTERM or Ctrl-C ended it, saved."""
    place = choose_place(machine.device, description.precision, machine.threads, description.batch, machine.compiled)
    facts = read_facts(out) or _new_facts(description, limit, place)
    place = _kept(place, facts)
    if limit != Limit() and limit != facts.limit:
        raise SetupError(f"{out} was planned for {facts.limit}; leave --steps and --minutes out to go on")
    check_memory(description, place.num_workers, free_memory(place.device))
    corpus = open_corpus(out, description, texts, say)
    _write_facts(out, facts)
    keep_freed_memory()
    with torch_threads(1 if place.device.type == "cpu" else torch.get_num_threads()):
        learner = Learner(build_model(description, place.device), description, place)
        try:
            return Loop(out, description, facts.limit, corpus, learner, machine.save_seconds, say).run()
        finally:
            learner.close()


def _new_facts(description: Description, limit: Limit, place: Place) -> RunFacts:
    return RunFacts(description.model_dump(), description.sha256(), limit, str(place.dtype)[6:], place.num_workers)


def _kept(place: Place, facts: RunFacts) -> Place:
    """This machine, with the precision and the number of workers that the run began with."""
    workers = 1 if place.device.type == "cuda" else facts.num_workers
    return Place(place.device, getattr(torch, facts.dtype), workers, place.compiled)


def _write_facts(out: Path, facts: RunFacts) -> None:
    write_whole(out / RUN_NAME, json.dumps(asdict(facts), indent=2).encode() + b"\n")


def _difference(facts: RunFacts, description: Description) -> str:
    """The first key that differs, with both values."""
    for key, value in description.model_dump().items():
        if facts.description.get(key) != value:
            return f"{key} is {facts.description.get(key)!r} there and {value!r} here"
    return "written by another version"
