"""`moesaic compress MODEL OUT --recipe NAME`: run a recipe, show what it kept, and hold it against other ways."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.errors import SetupError
from .figures import ANSWER_FIGURES, VECTOR_FIGURES, cells
from .terminal import ProgressLine, print_table, say

if TYPE_CHECKING:
    from ..compress.pipeline import Compression
    from ..compress.recipe import Recipe
    from ..compress.run import Estimate
    from ..kernels.device_cost import Device

_ELEMENT, _CONTEXT = 2, 128  # bytes of a bf16 weight; tokens before the one whose time is foretold
LONG_SECONDS = 60.0  # a stage that takes longer is announced
EXAMPLES = """examples:
  moesaic compress stories260k out/int8
  moesaic compress ./my-model out/moe --recipe moe --dry-run
  moesaic compress ./my-model out/moe --recipe moe --controls --report out/report
  moesaic compress ./my-model out/moe --recipe moe --controls static routers

Controls are other ways to the same bytes, scored on the same text. Groups: alone (each method by itself), static
(pruning to the bytes that each tier reads: FLAP, by magnitude, by chance), static-distilled (the same, learning as much
as the recipe's model: as long as its distillation for each tier), experts-of-64, random-experts, routers (perfect and
random, on the finished model). They take about as long as the recipe itself, some of them several times; what was made
before is not made again. The same command on a finished OUT makes the report again."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "compress", help="make a model smaller by a recipe", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="model directory or short name")
    parser.add_argument("out", help="new directory; it appears whole or not at all")
    parser.add_argument("--recipe", default="int8", help="YAML file, or a name from `moesaic recipes list`")
    parser.add_argument("--text", nargs="+", metavar="FILE", help="score on these instead of the recipe's own text")
    parser.add_argument("--device", help="cpu, cuda ...; by default what the recipe says, or a GPU where there is one")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say sizes and times, write nothing")
    parser.add_argument(
        "--predict", metavar="GPU", help="with --dry-run: how long a token takes there, such as H200, with what is made"
    )
    parser.add_argument(
        "--controls", nargs="*", metavar="GROUP", help="hold the tiers against controls; default: all that fit"
    )
    parser.add_argument(
        "--no-rival", action="store_true",
        help="after stages that lost something, do not measure the recipe without them, which takes about as long",
    )  # fmt: skip
    parser.add_argument("--report", metavar="DIR", help="write report.json, report.png and report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compresses, then prints bytes and scores before and after; with controls or a report, those as well."""
    from ..compress.pipeline import compress

    recipe, gpu = _recipe(args), _predicted_on(args)
    groups = _checked_groups(args, recipe)
    _check_compared(args)
    with ProgressLine() as progress:
        done = compress(args.model, args.out, recipe, progress, args.dry_run, _announce, not args.no_rival)
    if args.dry_run:
        _print_plan(args.recipe, done)
        if gpu:
            _print_decode(gpu, done)
        _print_control_plan(args.model, done, groups)
        return 0
    _print_result(done)
    if groups or args.report:
        _report(args, done, groups)
    return 0


def _recipe(args: argparse.Namespace) -> "Recipe":
    """Reads the recipe that is named, scored on --text and computed on --device where they are given."""
    from ..compress.recipe import read_recipe

    recipe = read_recipe(args.recipe)
    given: dict[str, Any] = {"device": args.device} if args.device else {}
    if args.text:
        given["evaluation"] = recipe.evaluation.model_copy(update={"text": args.text})
    return recipe.model_copy(update=given)


def _checked_groups(args: argparse.Namespace, recipe: "Recipe") -> Sequence[str]:
    """Checks before any work that the controls fit the recipe, and that a report can be drawn and written."""
    from ..bench.controls.derive import groups_for
    from ..evaluate.files import check_can_report

    if args.report:
        check_can_report("--report", Path(args.report))
        if Path(args.report).absolute() == Path(args.out).absolute():
            raise SetupError(f"--report {args.report} is where the model goes; name another directory")
    return () if args.controls is None else groups_for(recipe, args.controls or None)


def _check_compared(args: argparse.Namespace) -> None:
    """Refuses what compares or foretells what models continue, for a model with an encoder, before any work."""
    from ..models.checkpoint import open_checkpoint

    compares = args.report or args.controls is not None
    spec = open_checkpoint(args.model).spec if compares or args.predict else None
    if spec is None or (spec.continues_text and not spec.reads_sources):
        return
    if args.predict:
        raise SetupError(f"--predict {args.predict} foretells tokens of a model without an encoder; leave it out")
    if not spec.continues_text:
        raise SetupError(f"--report and --controls compare perplexities, which {spec.kind} has none of; leave them out")
    raise SetupError("--report and --controls are of models that continue text, and this one answers; leave them out")


def _command(args: argparse.Namespace, groups: Sequence[str]) -> str:
    """What makes the report again, as one would type it."""
    parts = ["moesaic", "compress", args.model, args.out, "--recipe", args.recipe, "--report", args.report or ""]
    parts += ["--device", args.device] if args.device else []
    parts += ["--text", *args.text] if args.text else []
    return shlex.join([*parts, *(["--controls", *groups] if groups else [])])


def _announce(estimate: "Estimate") -> None:
    if estimate.seconds > LONG_SECONDS:
        say(f"{estimate.stage}: about {_duration(estimate.seconds)} on this machine")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > LONG_SECONDS else f"{seconds:.3g} s"


def _print_plan(recipe: str, done: "Compression") -> None:
    rows = [
        [
            each.stage, "done" if each.done else _duration(each.seconds), f"{each.bytes:,}",
            f"{each.memory:,}" if each.memory else "",
        ]
        for each in done.estimates
    ]  # fmt: skip
    print_table(["stage", "about", "bytes of weights", "of memory"], rows)
    ratio = done.bytes_after / done.bytes_before
    sizes = f"{done.bytes_before:,} -> {done.bytes_after:,} bytes of weights ({ratio:.3f}x)"
    print(f"{recipe}: {sizes}; nothing written")


def _predicted_on(args: argparse.Namespace) -> "Device | None":
    """The GPU that --predict names. Raises SetupError for one whose constants nobody knows."""
    from ..kernels.device_cost import device_named, shipped_devices

    if args.predict and not args.dry_run:
        raise SetupError(f"--predict {args.predict} says what a plan would take; add --dry-run")
    found = device_named(args.predict) if args.predict else None
    if args.predict and found is None:
        raise SetupError(
            f"--predict {args.predict}: constants are known of {', '.join(shipped_devices())} and of GPUs that "
            "`moesaic tune` has measured; name one of them"
        )
    return found


def _print_decode(gpu: "Device", done: "Compression") -> None:
    """A token of one stream, full and at each tier."""
    from ..models.device_time import step_seconds

    before, after = done.specs
    taken = [("original", 1.0, step_seconds(before, gpu, _ELEMENT, _CONTEXT))]
    for name, share in {"full": 1.0, **done.recipe.tiers()}.items():
        taken.append((name, share, step_seconds(after, gpu, _ELEMENT, _CONTEXT, share)))
    shown = [[name, f"{share:.3f}", f"{each * 1e3:.3f} ms", f"{1 / each:,.0f}"] for name, share, each in taken]
    print_table(["tier", "bytes read", "a token", "tokens/s"], shown)
    how = "measured" if gpu.measured else "of its data sheet, not measured"
    print(f"{gpu.name}, by constants that are {how}: one stream after {_CONTEXT} tokens, captured, without gaps")


def _print_control_plan(model: str, done: "Compression", groups: Sequence[str]) -> None:
    from ..bench.controls.effort import control_seconds
    from ..models.checkpoint import open_checkpoint

    if groups:
        seconds = control_seconds(open_checkpoint(model), done.recipe, groups)
        rows = [[group, _duration(each)] for group, each in seconds.items()]
        print_table(["controls", "about"], [*rows, ["together", _duration(sum(seconds.values()))]])


def _print_result(done: "Compression") -> None:
    if done.already_there:
        print(f"{done.out} is already the result of this recipe on this model")
    for notice in done.notices:
        print(f"note: {notice}\n")
    ratio = done.bytes_after / done.bytes_before
    if "mean_cosine" in done.result or "exact_match" in done.result:
        of_encoder = "mean_cosine" in done.result
        print_table(*_ends(done, VECTOR_FIGURES if of_encoder else ANSWER_FIGURES))
        what = f"{done.result['documents']:,} " + ("texts, a half finds the other" if of_encoder else "own answers")
        print(f"{ratio:.3f}x the bytes; {what}; written to {done.out}")
        return
    head = ["", "bytes of weights", "perplexity", "top-1", "KL, nats/token", "agreement"]
    ends = (("original", done.bytes_before, done.original), ("result", done.bytes_after, done.result))
    print_table(head, [_row(*each) for each in ends])
    if done.tiers:
        head = ["tier", "bytes read", "neurons", "perplexity", "top-1", "relative top-1", "KL, nats/token"]
        tiers = {"full": done.result, **done.tiers}
        print_table(head, [_tier_row(name, figures, done.original) for name, figures in tiers.items()])
    if done.tasks:
        from ..bench.controls.report import task_rows

        print_table(*task_rows(done.tasks))
    print(f"{ratio:.3f}x the bytes; scored on {done.result['tokens']:,} tokens; written to {done.out}")


def _ends(done: "Compression", columns: Mapping[str, tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Of a model with an encoder: the original, and the result at each of its tiers."""
    rows = [["original", f"{done.bytes_before:,}", "", *cells(done.original, columns)]]
    for name, figures in {"full": done.result, **done.tiers}.items():
        read = f"{figures.get('bytes_share', 1):.3f}"
        rows.append([name, f"{done.bytes_after:,}", read, *cells(figures, columns)])
    return ["", "bytes of weights", "bytes read", *(head for head, _ in columns.values())], rows


def _row(name: str, num_bytes: int, figures: Mapping[str, float | int]) -> list[str]:
    compared = "kl_nats_per_token" in figures
    return [
        name, f"{num_bytes:,}", f"{figures['perplexity']:.4f}", f"{figures['top1_accuracy']:.2%}",
        f"{figures['kl_nats_per_token']:.5f}" if compared else "",
        f"{figures['top1_agreement']:.2%}" if compared else "",
    ]  # fmt: skip


def _tier_row(name: str, figures: Mapping[str, float | int], original: Mapping[str, float | int]) -> list[str]:
    whole = original["top1_accuracy"]
    return [
        name, f"{figures.get('bytes_share', 1):.3f}", f"{figures.get('neurons_share', 1):.3f}",
        f"{figures['perplexity']:.4f}", f"{figures['top1_accuracy']:.2%}",
        f"{figures['top1_accuracy'] / whole:.4f}" if whole else "", f"{figures['kl_nats_per_token']:.5f}",
    ]  # fmt: skip


def _report(args: argparse.Namespace, done: "Compression", groups: Sequence[str]) -> None:
    from ..bench.controls.collect import collect
    from ..bench.controls.report import control_rows, notes, speed_rows, write_report
    from ..evaluate.speed import ROUNDS

    rounds = ROUNDS if args.report else 0
    with ProgressLine() as progress:
        report = collect(args.model, done, groups, progress, _announce, rounds, _command(args, groups))
    if groups:
        print_table(*control_rows(report))
    if report["speed"]:
        print_table(*speed_rows(report))
    for line in notes(report):
        print(line)
    if args.report:
        print(f"written: {', '.join(map(str, write_report(report, Path(args.report))))}")
