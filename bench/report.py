"""The figures of one run: measured, put in one place, printed as a table, written as JSON and one picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..compress.pipeline import compress
from ..engine.options import EngineOptions
from ..evaluate.texts import embedded_text, read_documents
from ..models.bounds import THREADS, Bound
from ..models.checkpoint import open_checkpoint
from ..models.files import check_writable
from ..models.locate import locate
from ..models.progress import Progress
from ..models.threads import choose_threads, torch_threads
from ..models.tokenizer import Tokenizer
from .contestants import Contestant, MoesaicContestant, TransformersContestant
from .energy import told as energy_told
from .engine_speed import measure_speed
from .kept import ScoredText, score_ours, score_theirs
from .local_server import local_server
from .machine import machine_facts
from .ops.run import OpsPlan, run_ops
from .ops.run import notes as ops_notes
from .resumed import cut_off, key_of, write_report
from .serving import measure_serving
from .shapes import is_shape

Report = dict[str, Any]
SUITES = ("retention", "engine", "serve", "kernels", "ops")
_PROMPT_TOKENS = 16
_UNSCORED = {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"documents": 1, "truncate": 2}}
_CACHED_BYTES = 32 << 20
_COUNT, _TRUNCATE = Bound(1), Bound(2, way_out="one token to read, one to predict")


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured on, and how long. `quick` is for a look; figures to quote come from the full run."""

    model: str
    out: Path
    suites: tuple[str, ...] = SUITES
    text: tuple[str, ...] = ()
    documents: int | None = None
    truncate: int | None = 512
    quick: bool = False
    threads: int | None = None
    command: str = ""

    @property
    def key(self) -> str:
        """Of all that decides what is measured."""
        asked = (self.model, self.suites, self.text, self.documents, self.truncate, self.quick, self.threads)
        return key_of(*asked)

    @property
    def num_new(self) -> int:
        return 48 if self.quick else 64

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 7

    @property
    def num_requests(self) -> int:
        return 24 if self.quick else 64


def run_bench(plan: BenchPlan, progress: Progress) -> Report:
    """Measures dense and int8 of one model, beside transformers, and writes report.json to `out` after each suite.

    Goes on with a report of the same plan that was cut off.
    """
    _check(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    file = plan.out / "report.json"
    dense, int8 = locate(plan.model), plan.out / "int8"
    shape = is_shape(open_checkpoint(dense).config)
    compressed = compress(dense, int8, _UNSCORED if shape else "int8", progress)
    models = {"dense": dense, "int8": int8}
    report: Report = cut_off(file, plan.key) or {
        "command": plan.command,
        "plan": plan.key,
        "complete": False,
        "model": plan.model,
        "random_weights": shape,
        "quick": plan.quick,
        "machine": machine_facts(),
        "bytes": {"dense": compressed.bytes_before, "int8": compressed.bytes_after},
    }
    for suite in plan.suites:
        if suite not in report and not (suite == "retention" and shape):
            report[suite] = _MEASURES[suite](models, plan, progress)
            write_report(file, report)
    report["complete"] = True
    write_report(file, report)
    return report


def _check(plan: BenchPlan) -> None:
    """Refuses a plan that cannot be carried out, before any work."""
    THREADS.check("threads", plan.threads)
    _COUNT.check("documents", plan.documents)
    _TRUNCATE.check("truncate", plan.truncate)
    check_writable(plan.out, str(plan.out))


def _retention(models: Mapping[str, Path], plan: BenchPlan, progress: Progress) -> dict[str, Any]:
    text, dense = ScoredText(plan.text, plan.documents, plan.truncate), models["dense"]
    figures = {name: score_ours(path, dense, text, plan.threads, progress) for name, path in models.items()}
    if find_spec("transformers"):
        threads = choose_threads(plan.threads, open_checkpoint(dense).weight_bytes)
        peer = TransformersContestant("transformers", dense, "float32", threads)
        with torch_threads(threads):
            figures["transformers float32"] = score_theirs(peer, text.encoded(dense))
    return figures


def prompts_for(path: Path, count: int = 8) -> list[list[int]]:
    """Prompts of equal length, cut from the text that ships."""
    tokenizer = Tokenizer.open(path)
    documents = read_documents([embedded_text()], count)
    return [tokenizer.encode(document)[:_PROMPT_TOKENS] for document in documents]


def _engine(models: Mapping[str, Path], plan: BenchPlan, progress: Progress) -> dict[str, Any]:
    dense = models["dense"]
    threads = choose_threads(plan.threads, open_checkpoint(dense).weight_bytes)
    contestants: list[Contestant] = [
        MoesaicContestant(f"moesaic {name}", path, EngineOptions(threads=plan.threads)) for name, path in models.items()
    ]
    if find_spec("transformers"):
        contestants += [
            TransformersContestant(f"transformers {dtype}", dense, dtype, threads) for dtype in ("float32", "bfloat16")
        ]
    speeds: dict[str, Any] = dict(measure_speed(contestants, prompts_for(dense), plan.num_new, plan.rounds, progress))
    return {"threads": threads, "new_tokens": plan.num_new, "prompt_tokens": _PROMPT_TOKENS, "speed": speeds}


def _serve(models: Mapping[str, Path], plan: BenchPlan, progress: Progress) -> dict[str, Any]:
    prompts = prompts_for(models["dense"])
    options = [] if plan.threads is None else ["--threads", str(plan.threads)]
    figures = {}
    for name, path in models.items():
        with local_server({name: path}, *options) as address:
            figures[name] = measure_serving(address, name, prompts, plan.num_new, plan.num_requests, progress)
    return figures


def _kernels(models: Mapping[str, Path], plan: BenchPlan, progress: Progress) -> list[dict[str, Any]]:
    from .benchmark_int8_linear import measure

    return measure(plan.quick)


def _ops(models: Mapping[str, Path], plan: BenchPlan, progress: Progress) -> dict[str, Any]:
    """Sittings that were made when a run was cut off are in a file of their own."""
    sittings = plan.out / "ops.json"
    asked = OpsPlan(sittings, 3 if plan.quick else 5, plan.quick, command=plan.command)
    if cut_off(sittings, asked.key) is None:
        sittings.unlink(missing_ok=True)
    report = run_ops(asked, machine_facts, progress)
    return {key: report[key] for key in ("complete", "sittings", "ops")}


_MEASURES: Mapping[str, Callable[[Mapping[str, Path], BenchPlan, Progress], Any]] = {
    "retention": _retention, "engine": _engine, "serve": _serve, "kernels": _kernels, "ops": _ops,
}  # fmt: skip


def limit(report: Report) -> str:
    """What bounds tokens per second at batch 1: reading every weight once, unless they stay in the caches."""
    if report["bytes"]["dense"] < _CACHED_BYTES:
        return "the weights fit the caches, so calls and not memory are the limit"
    bandwidth = report["machine"]["read_bandwidth_gb_per_s"] * 1e9
    allowed = ", ".join(f"{name} {bandwidth / report['bytes'][name]:,.4g}" for name in ("dense", "int8"))
    return f"reading every weight once would allow, at batch 1: {allowed}"


def rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """The report as a table: a row each for dense, int8 and the peers that were there."""
    head = [
        "",
        "MB",
        "perplexity",
        "top-1",
        "tokens/s, batch 1",
        "batch 8",
        "TTFT ms, 1",
        "TTFT, 8",
        "ITL ms, 1",
        "ITL, 8",
    ]
    peers = [*report.get("engine", {}).get("speed", {}), *report.get("retention", {})]
    names = [name for name in dict.fromkeys(peers) if name.startswith("transformers")]
    lines = [_row(report, name, f"moesaic {name}") for name in ("dense", "int8")]
    lines += [_row(report, name, name) for name in names]
    filled = [i for i in range(len(head)) if not i or any(line[i] for line in lines)]
    return [head[i] for i in filled], [[line[i] for i in filled] for line in lines]


def _row(report: Report, name: str, shown: str) -> list[str]:
    kept = report.get("retention", {}).get(name)
    speed = report.get("engine", {}).get("speed", {}).get(shown)
    served = report.get("serve", {}).get(name)
    keys = [(c, key) for key in ("ttft_ms_p50", "itl_ms_p50") for c in ("1", "8")]
    return [
        shown,
        f"{report['bytes'][name] / 1e6:.4g}" if name in report["bytes"] else "",
        f"{kept['perplexity']:.4f}" if kept else "",
        f"{kept['top1_accuracy']:.2%}" if kept else "",
        *(f"{speed[batch]['tokens_per_second']:,.4g}" if speed else "" for batch in ("1", "8")),
        *(f"{served[c][key]:.2f}" if served else "" for c, key in keys),
    ]


def kernel_rows(kernels: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The kernel suite as a table; `x ours` says how many times longer a contestant took on equal activations."""
    head = ["kernel", "shape", "tokens", "us", "GB/s", "of limit", "x ours"]
    return head, [
        [line["contestant"], "", "", line["skipped"], "", "", ""] if "skipped" in line else [
            line["contestant"], f"{line['outputs']}x{line['inputs']}", str(line["tokens"]),
            f"{line['microseconds']:.1f}", f"{line['gigabytes_per_second']:.1f}",
            f"{line['gigabytes_per_second'] / line['limit_gigabytes_per_second']:.0%}", f"{line['ratio']:.2f}",
        ]
        for line in kernels
    ]  # fmt: skip


def notes(report: Report) -> Sequence[str]:
    """What one must know to read the table."""
    machine = report["machine"]
    said = [] if report.get("complete", True) else [f"the report is not complete, {_so_far(report)}"]
    said.append(
        f"{machine['device']}, {machine['processors']} processors, reads {machine['read_bandwidth_gb_per_s']} GB/s; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    )
    if not find_spec("transformers"):
        said.append("transformers is not installed, so that nobody stands beside: pip install 'moesaic[bench]'")
    if report["random_weights"]:
        said.append("random weights: these are speeds of a shape and say nothing about quality")
    if "engine" in report:
        said.append(
            f"tokens/s: median of rounds taken in turn, {report['engine']['threads']} thread(s), "
            f"{report['engine']['new_tokens']} new tokens; {limit(report)}"
        )
    if "serve" in report:
        at_8 = report["serve"]["int8"]["8"]
        said.append(
            f"TTFT, ITL: p50 through gRPC; around the engine the server adds {at_8['front_end_ms_p50']:.2f} ms, gRPC "
            f"and the client {at_8['wire_ms_p50']:.2f} ms (p50 at 8 streams)"
        )
    said += energy_told(_spent(report))
    if "ops" in report:
        said += ops_notes(report["ops"])
    return said


def _so_far(report: Report) -> str:
    """What a run that was cut off had measured, and the way out."""
    measured = ", ".join(name for name in SUITES if name in report)
    return f"it was cut off after {measured}: the same command goes on with it"


def _spent(report: Report) -> dict[str, Mapping[str, Any]]:
    """Who made the tokens, and what was counted meanwhile."""
    groups = {"": report.get("engine", {}).get("speed", {}), " through gRPC": report.get("serve", {})}
    return {
        f"{name}{through}, {batch} at a time": figures
        for through, group in groups.items() for name, by_batch in group.items() for batch, figures in by_batch.items()
    }  # fmt: skip
