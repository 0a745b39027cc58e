"""One contestant of section 4, in every width and number of tokens that its time allows.

    python -m moesaic.bench.gpu.contest "int8_linear bf16" --rows FILE        (how long it has comes on standard input)

Calls walk over copies of the weights that together exceed the last cache many times, as a CUDA graph, and choose other
experts each time. `ratio` is a contestant's median time over that of torch in bf16, dense, in its own process before.
"""

import math
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...kernels.digit_linear import digit_linear_cost
from ...kernels.expert_ffn import expert_ffn_cost
from ...kernels.graded.bytes import PLANES, GradedShape, graded_linear_bytes, level_bits
from ...kernels.graded_linear import graded_levels, graded_linear_torch
from ...kernels.int8_linear import int8_linear_cost
from ...kernels.plane_ffn import PlaneWeights, plane_ffn_torch, plane_scores
from ...kernels.planes.bytes import FFNShape, plane_ffn_bytes
from ...kernels.route import route_cost
from ..clock import replayed, samples_of, seconds_of
from ..energy import energy_of
from ..machine import read_bandwidth
from ..rounds import CANNOT_RUN, DEVICE, quiet
from .operands import FFNWeights, LinearWeights
from .peers import (
    BF16,
    CONTESTANTS,
    PLANE_BITS,
    REFINED_BITS,
    ROUTER_WIDTH,
    Call,
    Contestant,
    RouterWeights,
    graded_weights,
    plane_weights,
)
from .rows import Row
from .section import TAIL, Plan, found_before, run_section, sentence
from .sizes import Sizes, Width, sizes_for

DRAWS = 7  # of who is active; calls take turns with them
JUDGED_TOKENS = 2  # of bit planes, whose reference is computed on a CPU
MOST_BAD = 2  # points: who fails twice, or has ruined the device for itself, fails at all
MOST_ERROR = (1e-4, 0.05)  # of ours, by norm: where all but int8 is in fp32, and where bf16 comes in


@dataclass(frozen=True)
class Point:
    width: Width
    tokens: int
    share: float

    @property
    def named(self) -> Row:
        found = {"hidden": self.width.hidden, "width": self.width.width, "gated": self.width.gated}
        return {**found, "tokens": self.tokens, "share": self.share}


def measure(plan: Plan) -> None:
    contestant = next(each for each in CONTESTANTS if each.name == plan.name)
    sizes, before, limit = sizes_for(plan.dry), list(plan.rows), limit_of(plan)
    points, bad = list(points_of(sizes, contestant)), 0
    torch.manual_seed(0)
    layers: Layers | None = None
    for done, point in enumerate(points):
        if plan.left < 0:
            plan.rows.add(contestant=plan.name, cut=f"{done} of {len(points)} points in its time")
            return
        try:
            with quiet():
                if layers is None or layers.width != point.width:
                    layers = None  # its memory first
                    layers = Layers.made(contestant, point.width, sizes)
                found = judged(contestant, point, measured(layers, point, sizes), limit, before)
        except Exception as error:
            found, bad = {**point.named, **why_not(contestant, error)}, bad + 1
        plan.rows.add(contestant=plan.name, **found)
        if bad == MOST_BAD:
            return


def why_not(contestant: Contestant, error: Exception) -> Row:
    """A peer may be absent, or not made for this device or shape; what ours cannot do is a failure."""
    if isinstance(error, CANNOT_RUN) and not contestant.ours:
        return {"skipped": sentence(error)}
    return {"failed": sentence(error), "traceback": traceback.format_exc()[-TAIL:]}


def points_of(sizes: Sizes, contestant: Contestant) -> Iterator[Point]:
    """The most telling first: each width at a few numbers of tokens and the first share, then the rest."""
    shares = (contestant.shares or sizes.shares) if contestant.has_shares else (1.0,)
    most, half = contestant.most_tokens or max(sizes.tokens), len(sizes.tokens) // 2
    first = [tokens for tokens in sizes.tokens[:half] if tokens <= most]
    rest = [] if contestant.few else [tokens for tokens in sizes.tokens[half:] if tokens <= most]
    for some, of in ((first, shares[:1]), (first, shares[1:]), (rest, shares)):
        for width in sizes.widths:
            yield from (Point(width, tokens, share) for tokens in some for share in of)


def limit_of(plan: Plan) -> float:
    """Bytes per second of a plain read, from section 2 where it was run."""
    rows = [row for row in found_before(plan, "constants") if row.get("what") == "read" and "failed" not in row]
    return float(rows[0]["best_gigabytes_per_second"]) * 1e9 if rows else read_bandwidth()


@dataclass(frozen=True)
class Layers:
    """One contestant over copies of the same random weights."""

    contestant: Contestant
    width: Width
    weights: Any
    calls: list[Call]

    @classmethod
    def made(cls, contestant: Contestant, width: Width, sizes: Sizes) -> "Layers":
        if contestant.is_linear:
            weights: Any = LinearWeights.random(width.width, width.hidden, DEVICE)
            prepare: Callable[[], Call] = lambda: contestant.prepare(weights)  # noqa: E731
        elif contestant.kind == "route":
            weights = RouterWeights.random(width, DEVICE)
            prepare = lambda: contestant.prepare(weights)  # noqa: E731
        else:
            weights = FFNWeights.random(width, DEVICE)
            prepare = lambda: contestant.prepare(weights, width)  # noqa: E731
        copies = sizes.copies(weights_of(contestant, width) * contestant.weight_bytes)
        return cls(contestant, width, weights, [prepare() for _ in range(copies)])


def weights_of(contestant: Contestant, width: Width) -> int:
    """How many weights one layer has."""
    if contestant.is_linear:
        return width.width * width.hidden
    if contestant.kind == "route":
        return ROUTER_WIDTH * (width.hidden + width.experts)
    return width.matrices * width.width * width.hidden


def measured(layers: Layers, point: Point, sizes: Sizes) -> Row:
    """Times, bytes and errors of one point."""
    kind, width = layers.contestant.kind, point.width
    x = torch.randn(point.tokens, width.hidden, device=DEVICE).to(layers.contestant.dtype)
    choices = [chosen(layers, x, point.share) for _ in range(DRAWS if kind == "experts" else 1)]

    def run() -> None:
        for i, call in enumerate(layers.calls):
            call(x, choices[i % len(choices)])

    run()  # compiles whatever there is to compile
    answer = layers.calls[0](x, choices[0])
    timed = replayed(run) if DEVICE == "cuda" else run
    taken = samples_of(timed, sizes.seconds)
    wanted = point.tokens == 1 and width == sizes.widths[-1]  # of each it would take too long
    spent = energy_of(lambda: seconds_of(timed), len(layers.calls)) if wanted else {}
    per_call = [seconds / len(layers.calls) for seconds in taken]
    moved = bytes_of(layers, x, choices, point)
    return {
        **point.named, "copies": len(layers.calls), "samples": len(taken),
        "microseconds": median(per_call) * 1e6, "best_microseconds": min(per_call) * 1e6, "bytes": moved,
        "gigabytes_per_second": moved / median(per_call) / 1e9, **spent, **errors(layers, x, choices[0], answer),
    }  # fmt: skip


def chosen(layers: Layers, x: Tensor, share: float) -> Tensor | None:
    """Who is computed, at this share: drawn at random, or by thresholds that let so many pass."""
    kind, width = layers.contestant.kind, layers.width
    if kind == "experts":
        count = max(1, round(share * width.experts))
        return torch.rand(len(x), width.experts, device=DEVICE).argsort(1) < count
    if kind == "graded":
        return graded_thresholds(x, graded_weights(layers.weights).worth, share)
    if kind == "planes":
        weights = plane_weights(layers.weights, width)
        ratio = plane_ratio(width)
        scores = plane_scores(x, weights, PLANE_BITS, width.activation).touched_below(ratio)
        values = quantiles(scores, 1 - share) if share < 1 else torch.full((len(x),), -1.0, device=DEVICE)
        return torch.stack([values, values * (ratio if share < 1 else 1)], dim=1).float()
    return None


def graded_thresholds(x: Tensor, worth: Tensor, share: float) -> Tensor:
    """fp32 [tokens], above which each token reads this share of its bits: of a level in pieces of two bits."""
    if share >= 1:
        return torch.zeros(len(x), device=x.device)
    pieces = [level for level, bits in enumerate(PLANES) for _ in range(bits // 2)]
    return quantiles((x.float().abs().unsqueeze(1) * worth[pieces].unsqueeze(1)).flatten(1), 1 - share)


def quantiles(scores: Tensor, share: float) -> Tensor:
    """The value of each row below which this share of it lies: fp32 [tokens]."""
    place = min(scores.shape[1], max(1, round(share * scores.shape[1])))
    return scores.float().kthvalue(place, dim=1).values


def plane_shape(width: Width) -> FFNShape:
    return FFNShape(width.hidden, width.width, width.gated)


def plane_ratio(width: Width) -> float:
    """The threshold for doubts over that for values at which a byte has one price."""
    nothing, row, fine = (
        plane_ffn_bytes(plane_shape(width), PLANE_BITS, *counts, REFINED_BITS) for counts in ((0, 0), (1, 0), (0, 1))
    )
    return math.sqrt((fine - nothing) / (row - nothing))


def bytes_of(layers: Layers, x: Tensor, choices: list[Tensor | None], point: Point) -> float:
    """What a call must move: each weight that anyone needs once, the activations in and out."""
    kind, width, each = layers.contestant.kind, point.width, layers.contestant.dtype.itemsize
    size, rows = layers.contestant.weight_bytes, each * point.tokens
    if kind == "linear":
        plain = int8_linear_cost(point.tokens, width.hidden, width.width, each).bytes
        return plain + (size - 1) * width.hidden * width.width
    if kind == "digits":
        return digit_linear_cost(point.tokens, width.hidden, width.width, each).bytes
    if kind == "graded":
        return _graded_bytes(layers, x, choices[0]) + rows * (width.hidden + width.width)
    if kind == "route":
        return route_cost(point.tokens, width.hidden, ROUTER_WIDTH, width.experts, size).bytes
    if kind == "planes":
        return _plane_bytes(layers, x, choices[0], point) + 2 * rows * width.hidden
    unions = [width.experts if active is None else int(active.any(0).sum()) for active in choices]
    used = sum(unions) / len(unions)
    weights = expert_ffn_cost(0, 1, 0, width.expert, width.hidden, width.matrices, size).bytes * used
    return min(weights, width.matrices * width.hidden * width.width * size) + 2 * rows * width.hidden


def _graded_bytes(layers: Layers, x: Tensor, thresholds: Tensor | None) -> float:
    """Each input as far as any token reads it, once."""
    if thresholds is None:
        raise ValueError("inputs are read above thresholds")
    levels = graded_levels(x, graded_weights(layers.weights).worth, thresholds).amax(0)
    bits = torch.tensor(level_bits(PLANES), device=x.device)[levels]
    return graded_linear_bytes(GradedShape(x.shape[1], layers.width.width), float(bits.sum()))


def _plane_bytes(layers: Layers, x: Tensor, thresholds: Tensor | None, point: Point) -> float:
    """The bytes that several tokens read, as if each chose at random: unions are not counted one by one."""
    if thresholds is None:
        raise ValueError("neurons are computed above thresholds")
    weights = plane_weights(layers.weights, point.width)
    counts = plane_ffn_torch(x, weights, thresholds, PLANE_BITS, point.width.activation).counts
    shares = counts.double().mean(1) / point.width.width
    active, fine = ((1 - (1 - shares) ** point.tokens) * point.width.width).tolist()
    return plane_ffn_bytes(plane_shape(point.width), PLANE_BITS, active, fine, REFINED_BITS)


def errors(layers: Layers, x: Tensor, choice: Tensor | None, answer: Tensor) -> Row:
    """The norm of what differs from fp64 on the same int8 weights, and the largest of it, over those of the answer.

    Bit planes are held against their plain torch on a CPU, graded inputs against theirs, whose bits they are to have.
    """
    kind = layers.contestant.kind
    if kind == "planes" and len(x) > JUDGED_TOKENS:
        return {}
    if kind == "planes":
        exact = plane_reference(layers, x, choice)
    elif kind == "graded" and choice is not None:
        exact = graded_linear_torch(x, graded_weights(layers.weights), choice).y.double()
    elif kind == "route":
        exact = layers.weights.exact(x)
    else:
        exact = layers.weights.exact(x, *([] if layers.contestant.is_linear else [choice]))
    off = (answer.to(exact.device).double() - exact).abs()
    return {"error": float(off.norm() / exact.norm()), "largest_error": float(off.max() / exact.abs().max())}


def plane_reference(layers: Layers, x: Tensor, thresholds: Tensor | None) -> Tensor:
    weights = plane_weights(layers.weights, layers.width)
    moved: dict[str, Any] = {name: value.cpu() for name, value in vars(weights).items() if isinstance(value, Tensor)}
    fit = replace(weights.fit, **{name: value.cpu() for name, value in vars(weights.fit).items()})
    on_cpu: PlaneWeights = replace(weights, **moved, fit=fit, packed=None, whole=None)
    if thresholds is None:
        raise ValueError("neurons are computed above thresholds")
    found = plane_ffn_torch(x.float().cpu(), on_cpu, thresholds.cpu(), PLANE_BITS, layers.width.activation)
    return found.y.double()


def judged(contestant: Contestant, point: Point, found: Row, limit: float, before: list[Row]) -> Row:
    """Adds what a figure is held against: a plain read, and dense torch. A wrong answer of ours is a failure."""
    same = [row for row in before if row.get("contestant") == contestant.baseline and _alike(row, point)]
    found = {**found, "limit_gigabytes_per_second": limit / 1e9}
    found["of_limit"] = found["gigabytes_per_second"] * 1e9 / limit
    if same:
        found["ratio"] = found["microseconds"] / same[0]["microseconds"]
    most = MOST_ERROR[contestant.dtype == BF16 or contestant.weight_bytes == 2]
    if contestant.ours and "error" in found and not found["error"] <= most:
        found["failed"] = f"its error is {found['error']:.2e}, more than {most}"
    return found


def _alike(row: Row, point: Point) -> bool:
    same = all(row.get(key) == point.named[key] for key in ("hidden", "width", "tokens"))
    return same and "microseconds" in row


if __name__ == "__main__":
    sys.exit(run_section(measure))
