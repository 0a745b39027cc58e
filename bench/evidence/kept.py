"""What is kept: against the speed that it brings, and beside rivals at equal bytes."""

import math
from collections.abc import Iterator, Sequence
from functools import cache

from ..published.beside import Beside, beside
from ..published.figures import Curves, Kept, curves, pooled, recipe, result
from ..published.text import count, fixed, percent, percents, ratios, times
from .chart import Chart, Point, Series
from .section import Section, Table, commands, machine_line

OFF_GRID = ("linears-off-grid-0", "linears-off-grid-1", "linears-off-grid-2")
INPUTS, GPTQ = "inputs at 0, 4, 6 and 8 bits", "int4 by GPTQ, groups of 32"
TIERS = ("full", "high", "balanced", "low")
STREAMS = (1, 4)
_NOT_SCORED = ("llama.cpp Q8_0", "llama.cpp Q4_0", "CTranslate2 int8")
_WHOLE = "% of the int8 bytes of linears and head that a token reads"
_ONE_SEED = ("linears-curve", "linears-off-grid-rest", "linears-tiles")  # on the same windows
_DRAWN = (*OFF_GRID, *_ONE_SEED, "smollm2", "linears-swiglu-1m")
_RIVALS = (  # what the picture calls them, and how names of methods begin and end
    ("variants of the dial", ("inputs at",), ""), ("int4, int5 and int6 by GPTQ", ("int",), "by GPTQ, groups of 32"),
    ("int4 and int6 to nearest", ("int4 to nearest", "int6 to nearest"), ""),
    ("TEAL, WINA and both at one price", ("TEAL", "WINA"), ""),
    ("neurons: planes, both sides, tiles", ("neurons", "both sides", "tiles"), ""),
)  # fmt: skip
_ASKED = 0.55  # of the linears' bytes: where most methods were measured
PRIOR_ART = (
    "GRINQH (2026) grades the inputs of a matrix so; Precision Gating (2020), PredictiveNet (2017) and SparseInfer let "
    "high bits decide what is computed; TEAL, WINA and CATS leave inputs out; GPTQ rounds once."
)
NEW_HERE = (
    "New here, as far as we know, is no more than this: one threshold for all linears of a model, at one price of a "
    "byte, so that a request turns it between a tier and exactly int8 while others in its batch stand elsewhere, with "
    "one copy of the weights and a receipt of the bytes that were read."
)
_FFN = (
    ("high 4 bits, then 6", "bit planes", 0), ("TEAL", "TEAL", 2), ("scaled CATS", "scaled CATS", 4),
    ("Fisher pruning", "Fisher pruning", 3), ("FLAP pruning", "FLAP pruning", 5),
    ("int4 to nearest, groups of 32", "int4 to nearest", 1),
)  # fmt: skip


@cache
def against_speed() -> Section:
    """A point a tier and a method; who was timed and not scored is a line at its speed."""
    peers, graded = beside("smollm2"), recipe("smollm2-graded")
    rows = [[*_tier_row(peers, name), _top1(graded.tier(name))] for name in TIERS]
    plain = [["moesaic int8", *_rates(peers, "moesaic int8"), f"{percent(_int8_top1())}, on other text"]]
    others = [[name, *_rates(peers, name), "not measured"] for name in _NOT_SCORED]
    head = ["", "MB a token", *(f"tokens/s, {each} stream{'s' * (each > 1)}" for each in STREAMS), "top-1 kept (95 %)"]
    return Section(
        "speed", "Retention against speed",
        [
            "SmolLM2-135M-Instruct. Top-1: how many of the original's right next tokens are still right, relative to "
            "the original in bf16. A request chooses its tier, or any share between two of them.",
        ],
        [_speed_chart(peers, streams) for streams in STREAMS],
        [Table("Retention and tokens per second", (head, [*rows, *plain, *others]))],
        [
            f"Tiers were scored on {count(graded.values['evaluation']['tokens'])} tokens of "
            f"{' and '.join(graded.values['evaluation']['text'])}, which no stage and no setting was chosen on; plain "
            f"int8 on {count(_scored()['tokens'])} tokens of Python documentation.",
            "A file of llama.cpp or CTranslate2 was timed and not scored: it has a line, no point.",
            "Scored by the engine that serves, in its own process.",
        ],
        commands(graded.values, peers.values, result("smollm2-2-cpu-cores")),
        [
            f"bench/results/compress/smollm2-graded/report.json: {machine_line(graded.values['provenance'])}",
            f"bench/results/peers/smollm2.json: {machine_line(peers.values['machine'])}",
            f"bench/results/smollm2-2-cpu-cores.json: {machine_line(result('smollm2-2-cpu-cores')['machine'])}",
        ],
    )  # fmt: skip


def _scored() -> dict[str, float]:
    found: dict[str, float] = result("smollm2-2-cpu-cores")["retention"]["int8"]
    return found


def _int8_top1() -> float:
    return float(_scored()["top1_accuracy"] / result("smollm2-2-cpu-cores")["retention"]["dense"]["top1_accuracy"])


def _rates(peers: Beside, name: str) -> list[str]:
    return [f"{peers.bytes(name) / 1e6:,.0f}", *(count(peers.rate(name, each)) for each in STREAMS)]


def _tier_row(peers: Beside, tier: str) -> list[str]:
    name = f"moesaic smollm2-graded {tier}"
    return [name, *_rates(peers, name)]


def _top1(found: Kept) -> str:
    return f"{percent(found.top1.value)} ({percents(found.top1)})"


def _speed_chart(peers: Beside, streams: int) -> Chart:
    tiers = [_top1_point(recipe("smollm2-graded").tier(name), peers, name, streams) for name in TIERS]
    plain = Point(peers.rate("moesaic int8", streams), 100 * _int8_top1(), label="int8")
    dense = Point(peers.rate("moesaic smollm2", streams), 100.0, label="bf16")
    return Chart(
        f"speed-{streams}", f"SmolLM2, {streams} stream{'s' * (streams > 1)}", "tokens/s of all streams",
        "% of the original's top-1",
        (
            Series("moesaic, tiers of one model", tuple(tiers), 0),
            Series("moesaic, int8", (plain,), 1, joined=False),
            Series("moesaic, original in bf16", (dense,), 2, joined=False),
        ),
        tuple((name, peers.rate(name, streams)) for name in _NOT_SCORED),
    )  # fmt: skip


def _top1_point(found: Kept, peers: Beside, tier: str, streams: int) -> Point:
    top1, rate = found.top1, peers.rate(f"moesaic smollm2-graded {tier}", streams)
    return Point(rate, 100 * top1.value, 100 * top1.low, 100 * top1.high, tier)


@cache
def at_equal_bytes() -> Section:
    """Graded inputs over every linear beside rivals, and the older planes over the FFN beside theirs."""
    off, run = pooled(*OFF_GRID), result(f"retention/{OFF_GRID[0]}/curves")
    return Section(
        "bytes", "Retention at equal bytes",
        [
            f"SmolLM2 with noise that takes its weights off the 4-bit grid that its file came from, relative to the "
            f"same model in int8, on {count(off.tokens)} tokens of {' and '.join(run['text'])}; nothing was trained, "
            "and nothing was chosen on these texts. The head stays in int8 everywhere.",
        ],
        [_curve(), _top1_curve(off), _ffn(), _scratch()],
        [
            Table("Over every linear, three seeds together", (_HEAD, list(_rows(off)))),
            Table(f"One seed, every method that was asked for {_ASKED} of the linears' bytes", (_HEAD, _by_name())),
        ],
        list(_remarks(off)),
        commands(*(result(f"retention/{name}/curves") for name in _DRAWN)),
        [
            f"bench/results/retention/ ({', '.join(_DRAWN)}): "
            f"{machine_line(run['provenance'])}; the texts are not shipped. What each name means, and how a rival "
            "differs from its paper, is on the page beside each file.",
        ],
    )  # fmt: skip


_HEAD = ["", "of the linears' bytes", "with the head's", "top-1 kept (95 %)", "perplexity (95 %)"]


def _rows(off: Curves) -> Iterator[list[str]]:
    for label, method, share in [
        *(("graded inputs", INPUTS, share) for share in (0.62, 0.55, 0.5)),
        ("int4 by GPTQ, groups of 32", GPTQ, 0.55), ("TEAL", "TEAL", 0.55),
    ]:  # fmt: skip
        found = off.kept(method, share)
        if found:
            yield _row(label, found)


def _remarks(off: Curves) -> Iterator[str]:
    ahead = off.against(GPTQ, INPUTS, 0.55)
    leaves_out = "leaves out 1" if ahead.perplexity.low > 1 else "does not leave out 1"
    yield (
        f"int4 by GPTQ has {ratios(ahead.perplexity)} times the perplexity of graded inputs at nearly the same bytes: "
        f"an interval that {leaves_out}. It reads as many for every token, and is a copy of its own."
    )
    yield f"Prior art. {PRIOR_ART}"
    yield NEW_HERE


def _curve() -> Chart:
    """Perplexity over bytes, one seed: the dial at every share beside everything else that was measured there."""
    found = curves(*_ONE_SEED)
    dial = sorted(share for method, share in found.measured if method == INPUTS)
    series = [Series("graded inputs, one dial", _perplexities([found.kept(INPUTS, share) for share in dial]), 0)]
    for colour, (label, begins, ends) in enumerate(_RIVALS, 1):
        keys = [key for key in found.measured if key[0].startswith(begins) and key[0].endswith(ends)]
        points = _perplexities([found.kept(*key) for key in keys if key[0] != INPUTS])
        series.append(Series(label, points, colour, joined=False))
    return Chart(
        "bytes-perplexity", "Every linear of SmolLM2 off its grid, one seed", _WHOLE, "perplexity, times int8's",
        tuple(series),
    )  # fmt: skip


def _by_name() -> list[list[str]]:
    """All that the picture has at one share, best first."""
    found = curves(*_ONE_SEED)
    asked = [kept for method, share in found.measured if share == _ASKED and (kept := found.kept(method, share))]
    return [_row(each.method, each) for each in sorted(asked, key=lambda kept: kept.perplexity.value)]


def _row(label: str, found: Kept) -> list[str]:
    spread = f"{times(found.perplexity.value)} ({ratios(found.perplexity)})"
    return [label, fixed(found.bytes, 3), fixed(found.whole, 3), _top1(found), spread]


def _top1_curve(off: Curves) -> Chart:
    graded = [off.kept(INPUTS, share) for share in (0.5, 0.55, 0.62)]
    return Chart(
        "bytes-top1", "The same, three seeds together", _WHOLE, "% of int8's top-1",
        (
            Series("graded inputs", _top1s(graded), 0),
            Series("int4 by GPTQ", _top1s([off.kept(GPTQ, 0.55)]), 1, joined=False),
            Series("TEAL", _top1s([off.kept("TEAL", 0.55)]), 2, joined=False),
        ),
    )  # fmt: skip


def _ffn() -> Chart:
    """The design before, over the FFN alone, with everything that it stood beside."""
    found = curves("smollm2")
    series = [
        Series(label, _top1s([found.kept(method, share) for share in (0.5, 0.55, 0.68)]), colour)
        for method, label, colour in _FFN
    ]
    return Chart(
        "bytes-ffn", "SmolLM2's FFN alone, where neurons are chosen", "% of the FFN's int8 bytes that a token reads",
        "% of int8's top-1", tuple(series),
    )  # fmt: skip


def _scratch() -> Chart:
    """A model that was trained here and never on a grid."""
    found, shares = curves("linears-swiglu-1m"), (0.4, 0.45, 0.5, 0.55, 0.62)
    both = "both sides, inputs at 0, 2, 4, 6 and 8 bits, first at 2 times the price"
    return Chart(
        "bytes-scratch", "A SwiGLU model of 1M trained from scratch", _WHOLE, "perplexity, times int8's",
        (
            Series("graded inputs", _perplexities([found.kept(INPUTS, share) for share in shares]), 0),
            Series("int4 by GPTQ", _perplexities([found.kept(GPTQ, 0.55)]), 1, joined=False),
            Series("TEAL", _perplexities([found.kept("TEAL", share) for share in shares]), 2),
            Series("both sides, no kernel", _perplexities([found.kept(both, share) for share in shares]), 3),
        ),
    )  # fmt: skip


def _perplexities(found: Sequence[Kept | None], names: Sequence[str] = ()) -> tuple[Point, ...]:
    """Points of perplexity, by the bytes that were read."""
    labels = names or [""] * len(found)
    pairs = zip(found, labels, strict=True)
    each = [(_read(kept), kept.perplexity, name) for kept, name in pairs if kept]
    return tuple(Point(read, ratio.value, ratio.low, ratio.high, name) for read, ratio, name in each)


def _top1s(found: Sequence[Kept | None]) -> tuple[Point, ...]:
    each = [(_read(kept), kept.top1) for kept in found if kept]
    return tuple(Point(read, 100 * top.value, 100 * top.low, 100 * top.high) for read, top in each)


def _read(kept: Kept) -> float:
    """Per cent of the bytes of the whole model, of an FFN where that alone was counted."""
    return 100 * (kept.bytes if math.isnan(kept.whole) else kept.whole)
