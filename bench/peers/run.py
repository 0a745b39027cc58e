r"""Our models beside llama.cpp, OpenVINO, CTranslate2 and transformers, the same weights: one run, in turns, greedily.

    python -m moesaic.bench.peers.run OUT.json --gguf FILE --dense MODEL --model MODEL [MODEL ...] \
        --threads 1 2 --batch 1 4 8 16
    python -m moesaic.bench.peers.run OUT.json --shape llama-3.2-1b

FILE and the dense MODEL hold the weights that the others were made of; what peers make of them is kept in the cache
folder. A shape has random weights, and its GGUF is written here. Each contestant has a process of its own. `of limit`
is a part of what reading the weights once a step allows.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...evaluate.provenance import command_line
from ...evaluate.texts import embedded_text, read_documents
from ...models.bounds import THREADS, Bound
from ...models.errors import MoesaicError, SetupError, TextError
from ...models.files import check_file, write_whole
from ...models.locate import locate
from ...models.spec import FULL
from ...models.tokenizer import Tokenizer
from ..machine import machine_facts, read_bandwidth
from ..rounds import quiet
from ..shapes import SHAPES
from . import ctranslate2, llama_cpp, openvino, transformers
from .child import CTRANSLATE2, LLAMA_CPP, OPENVINO, OURS, TRANSFORMERS, Child, Entry
from .figures import Measured, alike, as_text, decode_figures, first_figures
from .gguf_file import gguf_of
from .ours import tiers_of
from .shape import shape_models

_PROMPT, _COUNT = 16, Bound(1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: every model at each of its tiers, and the peers, where there is a GGUF of the same weights."""

    models: Sequence[str]
    gguf: str | None = None
    dense: str | None = None
    threads: Sequence[int] = (1, 2)
    batches: Sequence[int] = (1, 4, 8, 16)
    steps: int = 32
    rounds: int = 5
    long_prompt: int = 256

    @property
    def context(self) -> int:
        return max(self.long_prompt, _PROMPT + self.steps + 1)


def measured(plan: Plan) -> dict[str, Any]:
    """Every figure, with what it was taken on."""
    _check(plan)
    skipped = {name: why for name, why in _why_absent(plan).items() if why}
    entries = [*(each for each in _peers(plan) if each.maker not in skipped), *_ours(plan)]
    peers = [each.name for each in entries if each.maker != OURS]
    bandwidth = {threads: _bandwidth(threads) for threads in plan.threads}
    with _opened([each.over(max(plan.batches), plan.context) for each in entries]) as children:
        found = _rounds(children, plan)
        facts = {each.entry.name: each.facts | {"path": Path(each.entry.path).name} for each in children}
    token_bytes = {name: each["token_bytes"] for name, each in facts.items()}
    return {
        "machine": machine_facts(), "threads": [*plan.threads], "batches": [*plan.batches], "rounds": plan.rounds,
        "read_bandwidth_gb_per_s": {str(threads): round(each / 1e9, 1) for threads, each in bandwidth.items()},
        "prompt_tokens": _PROMPT, "steps": plan.steps, "long_prompt_tokens": plan.long_prompt,
        "contestants": facts, "peers": peers, "skipped": skipped,
        "decode": decode_figures(found, token_bytes, bandwidth, peers), "first_token": first_figures(found, peers),
        "alike": {"reference": entries[0].name, "tokens": plan.steps + 1, **alike(found.tokens, entries[0].name)},
    }  # fmt: skip


def _check(plan: Plan) -> None:
    """Refuses, before any work, what no machine could run."""
    for threads in plan.threads:
        THREADS.check("threads", threads)
    for batch in plan.batches:
        _COUNT.check("batch", batch)
    _COUNT.check("rounds", plan.rounds)
    if plan.gguf is not None and not Path(plan.gguf).is_file():
        raise SetupError(f"--gguf: there is no file {plan.gguf}; name one, or leave it out to skip llama.cpp")
    for model in [*plan.models, *([plan.dense] if plan.dense else [])]:
        locate(model)


def _why_absent(plan: Plan) -> dict[str, str]:
    """Of each peer why it is skipped; nothing where it takes part."""
    no_file = "needs a GGUF file of the same weights; give --gguf FILE"
    no_directory = "needs a dense directory of the same weights; give --dense MODEL"
    return {
        LLAMA_CPP: llama_cpp.why_absent() if plan.gguf else f"{LLAMA_CPP} {no_file}",
        OPENVINO: openvino.why_absent(plan.gguf) if plan.gguf else f"{OPENVINO} {no_file}",
        CTRANSLATE2: ctranslate2.why_absent() if plan.dense else f"{CTRANSLATE2} {no_directory}",
        TRANSFORMERS: transformers.why_absent() if plan.dense else f"{TRANSFORMERS} {no_directory}",
    }


def _peers(plan: Plan) -> list[Entry]:
    """In the order in which they take turns."""
    from_file = [(LLAMA_CPP, llama_cpp.KINDS), (OPENVINO, openvino.KINDS)]
    from_directory = [(CTRANSLATE2, ctranslate2.KINDS), (TRANSFORMERS, transformers.KINDS)]
    return [
        Entry(f"{maker} {kind}", maker, str(source), kind)
        for source, makers in ((plan.gguf, from_file), (plan.dense, from_directory))
        for maker, kinds in makers
        for kind in kinds
    ]


def _ours(plan: Plan) -> list[Entry]:
    return [
        Entry(f"{OURS} {Path(model).name}" + (f" {tier}" if len(tiers) > 1 else ""), OURS, model, tier)
        for model in plan.models
        for tiers in [tiers_of(model)]
        for tier in tiers
    ]


def _bandwidth(threads: int) -> float:
    with quiet(threads):
        found: float = read_bandwidth()
    return found


@contextmanager
def _opened(entries: Sequence[Entry]) -> Iterator[list[Child]]:
    """A process for each; all are ended, also where one does not open."""
    children: list[Child] = []
    try:
        for entry in entries:
            children.append(Child(entry))
        yield children
    finally:
        for each in children:
            each.end()


def _rounds(children: Sequence[Child], plan: Plan) -> Measured:
    """Contestants take turns within a round; the first round warms up and does not count."""
    ids, found = _text(plan), Measured(plan.steps)
    prompts = [ids[row : row + _PROMPT] for row in range(max(plan.batches))]
    for turn in range(plan.rounds + 1):
        for threads in plan.threads:
            for batch in plan.batches:
                for each in children:
                    answer = each.ask(prompts[:batch], plan.steps, threads)
                    if turn:
                        found.decode.setdefault((each.entry.name, threads, batch), []).append(answer.seconds)
                    found.tokens.setdefault(each.entry.name, answer.tokens)
            for each in children:
                if each.entry.maker == OURS and each.entry.variant != FULL:
                    continue  # its prompts are read at the full tier
                answer = each.ask([ids[: plan.long_prompt]], 0, threads)
                if turn:
                    found.first.setdefault((each.entry.name, threads), []).append(answer.seconds)
    return found


def _text(plan: Plan) -> list[int]:
    """Tokens of the text that ships, by the first model's tokenizer: as many as the long prompt has."""
    tokenizer = Tokenizer.open(locate(plan.models[0]))
    ids = [token for document in read_documents([embedded_text()]) for token in tokenizer.encode(document)]
    needed = max(plan.long_prompt, _PROMPT + max(plan.batches))
    if len(ids) < needed:
        raise TextError(f"the text that ships has {len(ids)} tokens, {needed} are needed; ask for a smaller batch")
    return ids[:needed]


def _say(what: str, done: int, total: int) -> None:
    sys.stderr.write(f"{what}: {done} of {total}\n")


def main() -> int:
    """Measures, prints two tables and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", metavar="FILE", help="of the same weights, for llama.cpp and OpenVINO")
    parser.add_argument(
        "--dense", metavar="MODEL", help="directory of the same weights, for CTranslate2 and transformers"
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--model", nargs="+")
    chosen.add_argument("--shape", metavar="NAME", help=f"instead of models: {', '.join(SHAPES)}")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    try:
        check_file(args.out, str(args.out))
        models, gguf = args.model, args.gguf
        if args.shape:
            dense, models = shape_models(args.shape, _say)
            gguf = gguf or str(gguf_of(dense))
        report = measured(Plan(models, gguf, args.dense, args.threads, args.batch, rounds=args.rounds))
        write_whole(args.out, (json.dumps({"command": command_line(args.out), **report}, indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(as_text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
