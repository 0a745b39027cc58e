"""What lost: missed targets, and own methods behind a control. Each line is there as long as its file says so."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ..published.beside import beside
from ..published.figures import RESULTS, Kept, RecipeResult, curves, pooled, recipe, result, taught
from ..published.text import fixed, percent, ratios, render, times
from .kept import INPUTS, OFF_GRID
from .section import Section, Table, machine_line

_WHOLE_BYTES, _LEAST_TOP1 = 0.6, 0.985  # what is to be reached: of all int8 weight bytes, top-1 as well
_DEFAULTS = {  # folder: what is the default there
    "linears-curve": INPUTS, "linears-off-grid-rest": INPUTS, "linears-smollm2": INPUTS,
    "linears-smollm2-rivals": INPUTS, "linears-off-grid-sizes": INPUTS, "linears-swiglu-1m-sizes": INPUTS,
    "linears-swiglu-1m": INPUTS,
    "linears-relu-10m": "neurons by planes, high 1 bit, then 4", "smollm2": "high 4 bits, then 6",
    "relu-2m": "high 2 bits, then 5", "relu-10m": "high 1 bit, then 4",
}  # fmt: skip
_LOWEST = {("relu-2m", 0.2): "high 1 bit, then 4"}  # where another one is the default at a share
_ALIKE = 0.005  # of bytes
_DIALS = (  # run, what the dial is called there, plain int8, the lowest tier
    ("smollm2", "moesaic smollm2-graded", "moesaic int8", "moesaic smollm2-graded low"),
    ("llama-3.2-1b", "moesaic llama-3.2-1b-graded", "moesaic llama-3.2-1b-int8", "moesaic llama-3.2-1b-graded half"),
)
_PERFECT = "perfect"  # routers that cannot be had
_GAIN = 1.1  # times full; less is next to nothing
_SLOWER = 0.995  # less than that is no difference of rounds


@cache
def lost() -> Section:
    """One line each."""
    groups = {
        "Targets that were missed": [*_frontier(), *_served()],
        "Behind plain int8 or llama.cpp": list(_beside_peers()),
        "Tiers that are slower than full": list(_slow_tiers()),
        "Operations that take longer than a peer, beyond the interval": list(_slow_operations()),
        "Methods ahead of the default at equal bytes, in perplexity, beyond a paired interval": list(_rivals_ahead()),
        "Controls and training": [*_controls_ahead(), *_teaching()],
        "Not measured": list(_unknown()),
    }
    return Section(
        "lost", "What lost",
        ["Every line is made from a file, and goes when it no longer says so; the last say what no file has."], [],
        [Table("", ([title], [[line] for line in lines])) for title, lines in groups.items() if lines], [], "",
        [f"bench/results/server/load.json: {machine_line(result('server/load')['machine'])}; the others as above."],
    )  # fmt: skip


def _frontier() -> Iterator[str]:
    """Whether a model off its grid keeps enough at the bytes that were to be reached."""
    off, points = pooled(*OFF_GRID), result(f"retention/{OFF_GRID[0]}/curves")["points"]
    whole = {point["share"]: point["whole_share"] for point in points if point["method"] == INPUTS}
    within = [found for share in whole if whole[share] <= _WHOLE_BYTES and (found := off.kept(INPUTS, share))]
    lowest = off.kept(INPUTS, min(whole))
    if lowest and max((each.top1.value for each in within), default=0.0) < _LEAST_TOP1:
        yield (
            f"{percent(_LEAST_TOP1)} of top-1 at {fixed(_WHOLE_BYTES, 1)} of all int8 weight bytes, off the 4-bit grid "
            f"with the head whole: {percent(lowest.top1.value)} at {fixed(whole[min(whole)], 3)}."
        )
    for name in ("off-grid-graded", "off-grid-recovered"):
        best = _best_within(recipe(name))
        if best.top1.low < _LEAST_TOP1:
            yield (
                f"With the head graded too ({name}), the best tier within these bytes keeps {percent(best.top1.value)} "
                f"at {fixed(best.bytes, 3)}, with an interval that begins at {percent(best.top1.low)}."
            )


def _best_within(found: RecipeResult) -> Kept:
    tiers = [found.tier(tier["name"]) for tier in found.values["tiers"] if tier["bytes_share"] <= _WHOLE_BYTES]
    return max(tiers, key=lambda tier: tier.top1.value)


def _beside_peers() -> Iterator[str]:
    """The dial beside plain int8 and beside llama.cpp, with one stream and several."""
    for run, dial, int8, lowest in _DIALS:
        peers, full = beside(run), f"{dial} full"
        part = peers.times(full, int8, 1)
        if part < 1:
            yield f"{run}: full of the dial makes {times(part)} the tokens of plain int8, one stream."
        for streams in peers.values["batches"]:
            slower = {name: peers.times(lowest, name, streams) for name in (int8, "llama.cpp Q4_0")}
            behind = [f"{times(ratio)} those of {name}" for name, ratio in slower.items() if ratio < 1]
            shown, gain = f"{streams} stream{'s' * (streams > 1)}", peers.times(lowest, full, streams)
            if behind:
                yield f"{run}, {shown}: the lowest tier makes {' and '.join(behind)}."
            if gain < _GAIN:
                yield f"{run}, {shown}: the lowest tier gains next to nothing, {times(gain)} full."


def _slow_tiers() -> Iterator[str]:
    """Tiers that are slower than full."""
    for file in sorted(RESULTS.glob("compress/*/report.json")):
        found = recipe(file.parent.name)
        for batch in (1, 4) if found.values["speed"] else ():
            slow = [(name, found.speed(name, batch)["times_full"]) for name in _tiers(found)]
            said = ", ".join(f"{name} {times(ratio)}" for name, ratio in slow if ratio < _SLOWER)
            if said:
                yield f"{file.parent.name}: slower than full with {batch} stream{'s' * (batch > 1)}: {said}."


def _tiers(found: RecipeResult) -> list[str]:
    return [tier["name"] for tier in found.values["tiers"][1:]]


def _rivals_ahead() -> Iterator[str]:
    """Methods with a lower perplexity than the default at the same bytes asked for, beyond a paired interval."""
    for folder, default in _DEFAULTS.items():
        run = result(f"retention/{folder}/curves")
        for share in sorted({each["share"] for each in run["points"] if each["method"] == default}):
            ours = _LOWEST.get((folder, share), default)
            best = _ahead(folder, ours, share, run["points"])
            if best:
                name = min(best, key=lambda each: best[each].perplexity.value)
                more = f" (and {len(best) - 1} more are ahead)" if len(best) > 1 else ""
                yield (
                    f"{folder}, {fixed(share, 2)} of the bytes asked for: {name}, at {fixed(best[name].bytes, 3)}, "
                    f"has {ratios(best[name].perplexity)} times the perplexity of {ours}{more}."
                )


def _ahead(folder: str, ours: str, share: float, points: Sequence[Any]) -> dict[str, Kept]:
    """Methods that can be had, read no more, and have less perplexity, by name."""
    found, there = curves(folder), [each for each in points if each["share"] == share and not each["reason"]]
    most = next((each["bytes_share"] for each in there if each["method"] == ours), 0.0) + _ALIKE
    rivals = [each["method"] for each in there if each["bytes_share"] <= most and each["method"] != ours]
    kept = {name: found.against(name, ours, share) for name in rivals if _PERFECT not in name}
    return {name: each for name, each in kept.items() if each.perplexity.high < 1}


def _controls_ahead() -> Iterator[str]:
    """Controls of a recipe that keep more top-1 than its tier."""
    for file in sorted(RESULTS.glob("compress/*/report.json")):
        for each in recipe(file.parent.name).values["controls"]:
            beside_it = (each["tier_against_it"] or {}).get("top1_accuracy", {})
            if beside_it.get("verdict") == "behind" and _PERFECT not in each["name"]:
                yield (
                    f"{file.parent.name}, tier {each['tier']}: {each['name']} keeps {percent(each['relative_top1'])} "
                    f"at {percent(each['bytes_share'])} of the bytes, more than the recipe."
                )


def _teaching() -> Iterator[str]:
    """Shares at which a model that was taught keeps no more."""
    found = taught("linears-off-grid-0-recovered", OFF_GRID[0])
    for share in (0.5, 0.55):
        paired = found.against(INPUTS, f"{INPUTS}, untaught", share)
        if paired.top1.low < 1:
            yield (
                f"Taught at half of the bytes, asked for {fixed(share, 2)}: {ratios(paired.top1)} of the top-1 of the "
                "untaught, which shows no gain."
            )


def _slow_operations() -> Iterator[str]:
    """Products, samplers and the like, each alone, on one thread."""
    for operation in result("ops/2-cores")["ops"]:
        for point in operation["points"]:
            for peer, found in point["beside"].items():
                if found["low"] > 1:
                    yield f"{operation['name']}, {point['name']}: {times(found['value'])} the time of {peer}."


def _served() -> Iterator[str]:
    """Targets of the server that its page says were not reached."""
    for line in render("server").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[-1] == "**no**" and len(cells) == 4:
            what, measured, target, _ = cells
            yield f"Server, {what}: {measured}, where {target} was to be reached."
        elif cells[-1] == "**no**":
            yield (
                f"Server, beside {cells[0]} {cells[3]} times the quiet time between tokens at p99, "
                f"{cells[4]} ms to the worst health answer, {cells[5]} MB at the peak."
            )


def _unknown() -> Iterator[str]:
    """What no file has a figure of."""
    if not any("measured" in row for row in result("gpu/predicted")["rows"]):
        yield "A GPU, of which there are predictions alone."
    yield "A model above 1B parameters with weights of its own."
    if not any(RESULTS.glob("served/*.json")):
        yield "What tiers keep through the server."
    if not any(RESULTS.glob("load/*.json")):
        yield "Servers side by side under an open loop of requests, and joules a token."
