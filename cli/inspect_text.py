"""What `moesaic inspect` shows of a model that it has run over text: sparsity, experts, and neurons as memories."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .terminal import ProgressLine, print_table

if TYPE_CHECKING:
    from ..compress.diagnose.diagnosis import Diagnosis
    from ..compress.diagnose.knowledge import Knowledge
    from ..compress.diagnose.usage import LayerUsage
    from ..models.checkpoint import Checkpoint

_LISTED = 12  # rare experts of a layer that are named; JSON has all


@dataclass(frozen=True, slots=True)
class Findings:
    """What text showed; where none was asked for, nothing."""

    diagnosis: "Diagnosis | None" = None
    memories: Sequence["Knowledge"] = ()
    text: str = ""
    tokens: int = 0
    picture: str = ""
    shipped: bool = False  # the text is the one that ships for calibration

    def to_json(self) -> dict[str, Any]:
        """The keys that were asked for."""
        found: dict[str, Any] = {"diagnosis": self.diagnosis.to_json()} if self.diagnosis else {}
        if self.memories:
            found["memory"] = {
                "text": self.text, "tokens": self.tokens, "places": [each.to_json() for each in self.memories]
            }  # fmt: skip
        return found


def look(checkpoint: "Checkpoint", args: argparse.Namespace, progress: ProgressLine) -> Findings:
    """Runs the model over the text as the arguments ask, and draws the picture. Raises SetupError and TextError."""
    diagnosed = args.experts and args.text is not None
    _check(args, diagnosed)
    if not diagnosed and not args.memory:
        return Findings()
    from ..compress.diagnose.diagnosis import diagnose
    from ..compress.diagnose.knowledge import Place, check_places, read_knowledge
    from ..compress.diagnose.passages import read_passages
    from ..models.devices import choose_device
    from ..models.errors import SetupError

    if not checkpoint.spec.continues_text or checkpoint.spec.reads_sources:
        what = "has an encoder" if checkpoint.spec.reads_sources else f"is {checkpoint.spec.kind}"
        raise SetupError(
            f"{checkpoint.path.name} {what}, and experts and neurons are looked at where text is continued; "
            "leave --text and --memory out"
        )
    places = [Place.parse(text) for text in args.memory]
    check_places(places, checkpoint.spec)
    passages = read_passages(checkpoint, args.text or [], args.tokens)
    device = choose_device(args.device)
    memories = read_knowledge(checkpoint, places, passages, args.top, progress, device) if places else []
    diagnosis = diagnose(checkpoint, passages, progress, device) if diagnosed else None
    if diagnosis and args.picture:
        _draw(diagnosis, checkpoint.path.name, Path(args.picture))
    return Findings(diagnosis, memories, passages.names, passages.tokens, args.picture or "", not args.text)


def _check(args: argparse.Namespace, diagnosed: bool) -> None:
    """Checks before any work that the options fit each other, and that what was asked for can be written."""
    from ..evaluate.files import check_can_draw
    from ..models.errors import SetupError
    from ..models.files import check_file

    if args.text is not None and not args.experts and not args.memory:
        raise SetupError("--text names what to run the model over; say what to look for: --experts or --memory")
    if args.top < 1:
        raise SetupError(f"top is {args.top}, it must be at least 1")
    if args.picture and not diagnosed:
        raise SetupError("--picture draws what --experts --text finds; add both")
    if args.picture:
        check_file(Path(args.picture), f"--picture {args.picture}")
        check_can_draw("--picture")


def _draw(diagnosis: "Diagnosis", title: str, file: Path) -> None:
    from ..compress.diagnose.picture import draw
    from ..models.files import write_whole

    write_whole(file, draw(diagnosis, title))


def print_findings(found: Findings) -> None:
    """Tables of what the neurons and, at each tier, the experts do; then the memories."""
    if found.diagnosis:
        _print_diagnosis(found.diagnosis)
        if found.shipped and found.diagnosis.tiers:
            print("this text ships for calibration, so the tiers may have been set on it; --text FILE shows other text")
    for memory in found.memories:
        _print_memory(memory, f"on {found.tokens:,} tokens of {found.text}")
    if found.picture:
        print(f"written to {found.picture}")


def _print_diagnosis(diagnosis: "Diagnosis") -> None:
    part = (
        "" if diagnosis.tokens == diagnosis.available else f" of {diagnosis.available:,}, in passages at even distances"
    )
    print(f"\nrun over {diagnosis.text}: {diagnosis.tokens:,} tokens{part}")
    rows = [
        [str(i), str(each.neurons), each.activation, f"{each.inactive:.3f}", str(len(each.dead))]
        for i, each in enumerate(diagnosis.layers)
    ]
    print_table(["layer", "neurons", "activation", "inactive", "dead"], rows)
    for line in _activity_notes(diagnosis):
        print(line)
    for name, layers in diagnosis.tiers.items():
        print()
        _print_tier(name, layers)
    for line in _tier_notes() if diagnosis.tiers else ():
        print(line)


def _activity_notes(diagnosis: "Diagnosis") -> Iterator[str]:
    from ..compress.diagnose.activity import NEGLIGIBLE

    exact = all(layer.exact for layer in diagnosis.layers)
    limit = "h = 0" if exact else f"|h| times the norm of its down column at most {NEGLIGIBLE:.0%} of the layer's rms"
    yield f"inactive: share of (token, neuron) with {limit}; dead: inactive on every token"
    if not any(diagnosis.experts):
        yield "this model has no experts; a recipe with the stage moefy gives it some"
    elif not diagnosis.tiers:
        yield "this model's experts have no tier that would choose among them; a recipe with tiers gives it some"


def _tier_notes() -> Iterator[str]:
    from ..compress.diagnose.usage import RARE

    yield "k: share of the experts that a token uses, mean and percentiles; used by: share of tokens that use an expert"
    yield f"Gini: 0 where all experts are used alike; rare: experts that fewer than {RARE:.1%} of the tokens use"
    yield "recall: of the computed experts, those that a perfect router takes when it takes as many of the same token"
    yield "captured, perfect: share of the norms of all outputs in the experts that this and a perfect router take"


def _print_tier(name: str, layers: Sequence["LayerUsage"]) -> None:
    print(f"experts at {name}")
    head = ["layer", "experts", "k mean", "p10", "p90", "used by min", "median", "max", "Gini", "rare"]
    print_table([*head, "recall", "captured", "perfect"], [_tier_row(i, each) for i, each in enumerate(layers)])
    print()
    print_table(*_union_table(layers))
    for line in _rare_lines(layers):
        print(line)


def _tier_row(index: int, layer: "LayerUsage") -> list[str]:
    figures = [layer.k_mean, layer.k_p10, layer.k_p90, min(layer.usage), median(layer.usage), max(layer.usage)]
    routed = [layer.recall, layer.captured, layer.perfect]
    shares = [f"{figure:.3f}" for figure in (*figures, layer.gini)]
    return [str(index), str(len(layer.usage)), *shares, str(len(layer.rare)), *(f"{figure:.3f}" for figure in routed)]


def _union_table(layers: Sequence["LayerUsage"]) -> tuple[list[str], list[list[str]]]:
    from ..compress.diagnose.usage import mean_unions

    unions = mean_unions(layers)
    rows = [["used together"], ["by chance"]]
    for pair in unions.values():
        for row, share in zip(rows, pair, strict=True):
            row.append(f"{share:.3f}")
    return ["consecutive tokens", *map(str, unions)], rows


def _rare_lines(layers: Sequence["LayerUsage"]) -> Iterator[str]:
    for i, layer in enumerate(layers):
        if layer.rare:
            more = f" and {len(layer.rare) - _LISTED} more" if len(layer.rare) > _LISTED else ""
            yield f"rare in layer {i}: {', '.join(map(str, layer.rare[:_LISTED]))}{more}"


def _print_memory(memory: "Knowledge", where: str) -> None:
    size = f"{memory.neurons} neuron{'s' * (memory.neurons != 1)}"
    whose = "neuron" if memory.alignment is None else f"expert of {size}"
    print(f"\n{memory.place}, {whose}, {where}")
    print("  fires most at" if memory.firings else "  never fires on this text")
    for each in memory.firings:
        print(f"    {each.strength:+10.4g}  {each.before}[[{each.token}]]{each.after}")
    if memory.alignment is None and any(each.strength < 0 for each in memory.firings):
        print("  (a negative activation turns about what its value promotes and suppresses)")
    for what, tokens in (("promotes", memory.promotes), ("suppresses", memory.suppresses)):
        print(f"  {what:10} {'  '.join(f'{token!r} {score:+.3g}' for token, score in tokens)}")
    if memory.alignment is not None:
        print(f"  (the mean of its outputs, each weighted by its norm; alignment {memory.alignment:.2f} of 1)")
