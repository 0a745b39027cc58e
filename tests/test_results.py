"""Every figure of README.md and docs/ is that of a file below bench/results/, or of the code; there is no other."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from house import ROOT

from moesaic.bench.gpu.run import SECONDS
from moesaic.bench.published.beside import Beside, beside
from moesaic.bench.published.costs import bound, cost, milliseconds
from moesaic.bench.published.figures import UNTAUGHT, Kept, curves, pooled, recipe, result, taught
from moesaic.bench.published.run import MARKDOWN
from moesaic.bench.published.text import TEMPLATES, count, fixed, kept, megabytes, percent, percents, ratios, times
from moesaic.compress.moefy.calibrate import MODEL_PART
from moesaic.engine.engine import STEP_TOKENS
from moesaic.server.backoff import FIRST_SECONDS, LONGEST_SECONDS
from moesaic.server.client_request import MAX_REQUEST_BYTES
from moesaic.server.config_text import settings_page
from moesaic.server.engine_process import END_SECONDS
from moesaic.server.http.body import MOST_NAMES, MOST_VALUES
from moesaic.server.logs import FLUSH_SECONDS
from moesaic.server.long_prompts import MOST_SECONDS
from moesaic.server.options import ServeOptions
from moesaic.server.serve import LAST_WORDS_SECONDS
from moesaic.server.transport import HANDSHAKE_MS, MAX_MESSAGE_BYTES
from moesaic.server.turns import LATE_SECONDS
from moesaic.server.watchdog import TICK_SECONDS, Patience

DOCUMENTS = [ROOT / "README.md", *sorted(file for file in (ROOT / "docs").rglob("*.md"))]
WRITTEN = [file for file in DOCUMENTS if str(file.relative_to(ROOT)) not in MARKDOWN]  # by hand
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")
UNITS = (
    "tokens?(?:/s)?|[kMGT]?i?B|bytes|[mu]?s|seconds?|min(?:utes?)?|hours?|nats|points?|times|parameters|cores|streams"
    "|GB/s|perplexity"
)
FIGURE = re.compile(
    r"(?<![\w.])x\d[\d,]*(?:\.\d+)?(?!\w)"  # a ratio: x1.049
    r"|(?<![\w.])\d[\d,]*(?:\.\d+)? ?%"
    r"|(?<![\w.-])\d[\d,]*\.\d+(?![\w.]*\d)(?:x\b)?"  # a decimal, but for versions and addresses
    rf"|(?<![\w.-])(?:\d[\d,]*[kM]?|{'|'.join(WORDS[2:])}|half|twice)[ -](?:{UNITS})(?!\w)"
)
INTERVAL, SHARE = re.compile(r"\(95 %\)"), re.compile(r"(?<=[Aa]t )0\.\d+|(?<=\| )\d+(?= % \|)")
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


@cache
def plain(text: str) -> str:
    """Text without fenced blocks, code, emphasis and line ends."""
    prose = "".join(text.split("```")[::2])
    return " ".join(re.sub(r"`[^`\n]*`", "`code`", prose).replace("*", "").split())


def figures_in(text: str, held: list[str]) -> list[str]:
    """The figures of a text that are in none of these passages; each passage must be there."""
    left = plain(text)
    for passage in map(plain, held):
        assert passage in left, passage
        left = left.replace(passage, " held ")
    return FIGURE.findall(left)


def held(document: Path) -> list[str]:
    """What a document says with a figure, made anew from the files that hold it."""
    name = str(document.relative_to(ROOT))
    return list(PASSAGES[name]()) if name in PASSAGES else []


def _readme() -> Iterator[str]:
    run, off, peers = result("smollm2-2-cpu-cores"), pooled(*OFF_GRID), beside("smollm2")
    machine, int8, dense = peers.values["machine"], run["retention"]["int8"], run["retention"]["dense"]
    yield f"SmolLM2-135M-Instruct on {machine['processors']} cores of an {machine['device']}, "
    yield "all made from the same weights"
    yield f"tokens/s: 1 stream | 4 streams | 8 streams | first token of {peers.values['long_prompt_tokens']} |"
    yield from (_row(peers, label, name) for label, name in ROWS.items())
    scored = f"{fixed(int8['perplexity'], 3)} on {count(int8['tokens'])} tokens of Python documentation"
    yield f"int8 has a perplexity of {scored}, the original {fixed(dense['perplexity'], 3)}"
    inputs, int4, teal = off.kept(INPUTS, 0.55), off.kept(GPTQ, 0.55), off.kept("TEAL", 0.55)
    assert inputs and int4 and teal
    yield _as_served()
    yield (
        f"Off that grid, with {percent(0.55, 0)} of the linears' bytes read for a token and nothing trained, "
        f"int8 keeps {percent(inputs.top1.value)} and has {times(inputs.perplexity.value)} its perplexity"
        f"; int4 by GPTQ in groups of 32 has {times(int4.perplexity.value)} at {percent(int4.bytes, 0)}, "
        f"TEAL {times(teal.perplexity.value)} at {percent(teal.bytes, 0)}."
    )
    large = beside("llama-3.2-1b")
    half, full = (f"moesaic llama-3.2-1b-graded {tier}" for tier in ("half", "full"))
    alone, four = fixed(large.times(half, full, 1, 2), 2), fixed(large.times(half, full, 4), 2)
    yield f"In the shape of Llama 3.2 1B half of the bytes decodes {alone} times as fast as all"
    yield f"{four} times with four streams"
    yield f"measures everything on a GPU in {WORDS[int(SECONDS) // 60]} minutes"


ROWS = {
    "llama.cpp Q8_0": "llama.cpp Q8_0",
    "llama.cpp Q4_0": "llama.cpp Q4_0",
    "CTranslate2 int8": "CTranslate2 int8",
    "moesaic, int8": "moesaic int8",
    "moesaic, all four in one recipe: full": "moesaic smollm2-graded full",
    "the same, low": "moesaic smollm2-graded low",
}


def _as_served() -> str:
    """What a tier and a control keep by servers of their own."""
    kept = result("served/smollm2")["kept"]
    tiers = {tier["tier"]: tier for tier in kept["graded"]}
    (whole,), (int4,), ours = kept["int8"], kept["gptq"], tiers["balanced"]
    read, of = megabytes(ours["token_bytes"]), megabytes(whole["token_bytes"]).removesuffix(" MB")
    right, beside = (percent(each["relative_top1"]["value"]) for each in (ours, int4))
    said = f"as it is served, {read} of int8's {of} keep {right} of the original's right next tokens"
    return f"{said}; GPTQ's int4 keeps {beside} with {megabytes(int4['token_bytes'])}"


def _row(peers: Beside, label: str, name: str) -> str:
    """A row of the README's table."""
    rates = [count(peers.rate(name, streams)) for streams in (1, 4, 8)]
    first = "" if name.endswith("low") else f"{fixed(peers.first(name), 2)} s"
    return f"| {' | '.join([label, megabytes(peers.bytes(name)), *rates, first])} |"


def _architecture() -> Iterator[str]:
    yield f"of {STEP_TOKENS} tokens at most"
    yield "1.25 a quarter of the way from tier 1 to tier 2"  # an example


def _how_it_works() -> Iterator[str]:
    planes, memory = result("memory/smollm2-moe"), result("memory/smollm2-graded")
    minutes = sum(part["seconds"] for part in planes["parts"]) / 60
    seconds = sum(part["seconds"] for part in memory["parts"])
    yield f"{MODEL_PART} times the original model and a buffer"
    yield f"three tiers of SmolLM2 take {megabytes(memory['peak'])} beyond Python and torch"
    yield f"and {seconds:.0f} seconds on {WORDS[memory['threads']]} cores where inputs choose bits"
    yield f"{megabytes(planes['peak'])} and {minutes:.1f} minutes where neurons are chosen by planes"
    yield f"in {WORDS[int(SECONDS) // 60]} minutes on a machine with torch"


def _planes_over_tiles() -> Iterator[str]:
    smol, ten = curves("smollm2"), curves("relu-10m")
    tiles = curves("smollm2-full", "smollm2-055-later", "smollm2-055")
    yield "| top-1, perplexity | SmolLM2 (SwiGLU), 0.55 of the bytes | relu-10m (ReLU), 0.20 |"
    for label, ours, theirs in COMPARED:
        yield f"| {label} | {kept(smol.kept(ours, 0.55))} | {kept(ten.kept(theirs, 0.2))} |"
    routed = kept(tiles.kept("experts of 64, co-activation, norm regression", 0.55))
    mlp = kept(ten.kept("experts of 64, weights, MLP", 0.2))
    yield f"{routed} (co-activation, norm regression, on half of the text) | {mlp} (by weights, MLP) |"
    speed = recipe("smollm2-recovered").speed("low", 1)["times_full"]
    said = f"decoded {fixed(speed, 2)} times as fast as full with one stream and no faster with four"
    yield f"module by module, the tier `low` {said}"
    yield f"on a model of {result('reference/relu-2m/card')['parameters'] / 1e6:.0f}M parameters tiers were slower"
    yield "At 0.68 of the bytes TEAL is no different from bit planes on SmolLM2"


COMPARED = (
    ("bit planes, the default", "high 4 bits, then 6", "high 1 bit, then 4"),
    ("experts of 16 by weights, perfect router", "experts of 16, weights, perfect", "experts of 16, weights, perfect"),
    ("experts of 64 by weights, perfect router", "experts of 64, weights, perfect", "experts of 64, weights, perfect"),
    ("TEAL", "TEAL", "TEAL"),
    ("neurons, perfect router", "neurons, perfect", "neurons, perfect"),
)


def _bits_by_inputs() -> Iterator[str]:
    off, first, rest = pooled(*OFF_GRID), curves(OFF_GRID[0]), curves("linears-off-grid-rest")
    yield f"{count(off.tokens)} tokens of Kubernetes proposals and WikiText-2, {WORDS[len(OFF_GRID)]} seeds of noise"
    yield "none, 4, 6 or 8, at one price of a byte"
    yield "| | of the linears' bytes | top-1 (95 %) | perplexity (95 %) |"
    yield from (_interval_row(label, off.kept(method, share)) for label, method, share in JUDGED)
    yield _interval_row("int5 by GPTQ, groups of 32, one seed", first.kept("int5 by GPTQ, groups of 32", 0.68))
    ahead = off.against(GPTQ, INPUTS, 0.55)
    top1 = f"{ratios(ahead.top1)} of their top-1"
    yield f"GPTQ has {ratios(ahead.perplexity)} times the perplexity of graded inputs, and {top1}"
    yield f"asked for 0.50, by seed, {', '.join(_perplexity(curves(seed).kept(INPUTS, 0.5)) for seed in OFF_GRID)}"
    yield f"On {count(rest.tokens)} tokens of the first seed, asked for 0.50"
    yield from (f"{label} {_perplexity(rest.kept(method, share))}" for label, method, share in BESIDE)
    grid = curves("linears-smollm2")
    both = (_perplexity(grid.kept(method, 0.55)) for method in (INPUTS, GPTQ))
    yield f"graded inputs {next(both)}, GPTQ in four bits {next(both)}"
    yield from _scratch()
    yield "in nats a token, at 0.55 of the bytes asked for"
    for folder, said in CHOICES.items():
        yield from _kl("linears-choice" + folder, said)
    yield from _relu()
    yield from _costs()
    yield from _one_curve()
    yield from _tiles()
    yield from _taught()


def _error_or_share() -> Iterator[str]:
    """What a bound for each token costs beside one threshold for all of them."""
    found, alone = curves("linears-error-swiglu-1m"), f"{INPUTS}, |x| alone"
    yield "threshold for all tokens, at as many bytes (95 %)"
    yield f"{count(found.tokens)} tokens of Kubernetes proposals and WikiText-2"
    yield f"| asked for | {' | '.join(fixed(share, 2) for share in BOUNDED_AT)} |"
    for label, method in BOUNDS.items():
        every = (found.divergence(f"{INPUTS}, {method}", alone, share) for share in BOUNDED_AT)
        yield f"| {label} | {' | '.join(f'{fixed(each.value, 3)} ({ratios(each)})' for each in every)} |"


BOUNDED_AT = (0.65, 0.55, 0.45)
BOUNDS = {
    "relative error": "relative error the same for each token",
    "relative error, everywhere": "relative error the same everywhere",
    "relative error at most twice the mean": "relative error at most 2 times the mean",
}


def _scratch() -> Iterator[str]:
    """The SwiGLU model that was trained for this from random weights."""
    found, card = curves("linears-swiglu-1m"), result("reference/swiglu-1m/card")
    parameters, tokens = card["parameters"], card["tokens"]
    yield f"{parameters / 1e6:.1f}M parameters, trained from scratch on {tokens / parameters:.0f} tokens for each"
    yield f"{count(found.tokens)} tokens, asked for 0.50: graded inputs {_at(found.kept(INPUTS, 0.5))}"
    int4 = (_at(found.kept(f"int4 {how}, groups of 32", 0.55)) for how in ("by GPTQ", "to nearest"))
    yield f"int4 in groups of 32 by GPTQ {next(int4)}, and to nearest {next(int4)}"
    yield f"neurons by planes {_at(found.kept('neurons by planes, high 2 bits, then 5', 0.5))}"
    yield f"TEAL {_at(found.kept('TEAL', 0.5))}"
    yield "Asked for 0.40, both sides"
    paired = found.against(DENSE_BOTH, INPUTS, 0.4)
    yield f"{_at(found.kept(DENSE_BOTH, 0.4))}, where the default has {_at(found.kept(INPUTS, 0.4))}"
    yield f"{ratios(paired.perplexity)} times its perplexity"


def _one_curve() -> Iterator[str]:
    found, kl = curves("linears-curve"), _kl_of("linears-curve")
    *steps, last = (_perplexity(found.kept(INPUTS, share)) for share in (0.31, 0.4, 0.5, 0.62, 0.75, 0.95))
    yield f"the default {', '.join(steps)} and {last}"
    int4, int5, int6 = (_perplexity(found.kept(method, share)) for method, share in BY_GPTQ.items())
    yield f"int4 {int4}, int5 {int5} and int6 {int6}"
    yield f"KL of {fixed(kl['int6 by GPTQ, groups of 32', 0.8], 4)} nats"
    yield f"near 0.62 of the bytes ({fixed(kl[INPUTS, 0.62], 4)})"
    beside = [kl[FIVE, share] / kl[INPUTS, share] for share in ASKED]
    yield f"has {fixed(min(beside), 2)} to {fixed(max(beside), 2)} times the default's KL over that curve"
    ahead = [share for share in ASKED if found.against(FIVE, INPUTS, share).perplexity.high < 1]
    both = (f"at {fixed(each, 2)} ({ratios(found.against(FIVE, INPUTS, each).perplexity)} times)" for each in ahead)
    yield f"{' and '.join(both)}, and no different at the other {WORDS[len(ASKED) - len(ahead)]} shares"
    finer = [kl[FINER, share] / kl[INPUTS, share] for share in (0.31, 0.4, 0.5, 0.62)]
    yield f"KL is {fixed(min(finer), 2)} to {fixed(max(finer), 2)} times the default's"
    for share in (0.4, 0.5, 0.62):
        yield f"at {fixed(share, 2)} ({ratios(found.against(FINER, INPUTS, share).perplexity)} times)"


def _tiles() -> Iterator[str]:
    found, kl, cheap = curves("linears-tiles"), _kl_of("linears-tiles"), ", skipped at 0.25 times the price"
    knows, learned = (f"tiles of {router}, {INPUTS}" for router in ROUTERS)
    at = {method: _perplexity(found.kept(method, 0.5)) for method, _ in kl}
    yield f"asked for 0.50: the default {at[INPUTS]}"
    yield f"knows their norms for nothing {at[knows]}"
    yield f"learned the norms {at[learned]}"
    yield f"when little is, {at[knows + cheap]} and {at[learned + cheap]}"
    yield f"{fixed(kl[learned + cheap, 0.5] / kl[INPUTS, 0.5], 2)} times the default's KL"
    relu = curves("linears-relu-10m-tiles")
    knows, learned = (f"tiles of {router}, {RELU_INPUTS}" for router in ROUTERS)
    yield " and ".join(_at(relu.kept(knows, share)) for share in (0.131, 0.112))
    first, second, third = (_at(relu.kept(learned + cheap, share)) for share in (0.183, 0.128, 0.11))
    yield f"{first}, {second} and {third}"


def _kl_of(folder: str) -> dict[tuple[str, float], float]:
    points = result(f"retention/{folder}/curves")["points"]
    return {(point["method"], point["share"]): point["kl_per_token"] for point in points}


def _taught() -> Iterator[str]:
    """What a distillation at the tier brings, in the lab and as a recipe's tiers."""
    found, product = taught(TAUGHT, OFF_GRID[0]), recipe("off-grid-recovered")
    full, paired = found.kept("dense int8", 1.0), found.against(INPUTS, INPUTS + UNTAUGHT, 0.5)
    assert full
    yield f"{count(product.stage('distill')['settings']['tokens'])} tokens of other documentation and textbooks"
    yield f"Asked for 0.50, on the {count(found.tokens)} tokens of the first seed"
    yield f"{_wide(found.kept(INPUTS, 0.5))}; untaught {_wide(found.kept(INPUTS + UNTAUGHT, 0.5))}"
    yield f"{ratios(paired.perplexity)} times the perplexity and {ratios(paired.top1)} of the top-1"
    yield f"asked for 0.55 {_at(found.kept(INPUTS, 0.55))}, untaught {_at(found.kept(INPUTS + UNTAUGHT, 0.55))}"
    yield f"full {percent(full.top1.value)} ({percents(full.top1)}), {times(full.perplexity.value)}"
    tokens = count(product.values["evaluation"]["tokens"])
    yield f"as tiers of a recipe, with the head graded too, beside the original in bf16 on {tokens} tokens"
    yield f"{_wide(product.tier('half'))}; untaught {_wide(recipe('off-grid-graded').tier('half'))}"


def _wide(found: Kept | None) -> str:
    assert found
    top1 = f"{percent(found.top1.value)} ({percents(found.top1)})"
    return f"{top1}, {times(found.perplexity.value)} ({ratios(found.perplexity)}) at {fixed(found.bytes, 3)}"


def _perplexity(found: Kept | None) -> str:
    assert found
    return f"{times(found.perplexity.value)} at {fixed(found.bytes, 3)}"


def _relu() -> Iterator[str]:
    found = curves("linears-relu-10m")
    for share in (0.2, 0.14, 0.12):
        kept_by = (_at(found.kept(method, share)) for method in (BOTH, PLANES, RELU_INPUTS))
        yield f"| {fixed(share, 2)} | {' | '.join(kept_by)} |"
        yield f"{ratios(found.against(BOTH, PLANES, share).perplexity)} times that of planes at {fixed(share, 2)}"


def _costs() -> Iterator[str]:
    """What rows together read, and the time that is modelled: int8, graded inputs and int4 by machine."""
    yield "of graded inputs asked for 0.55 and of int4 in groups of 32"
    graded = {rows: cost("graded inputs", 0.55, rows) for rows in TOGETHER}
    yield f"| graded inputs read | {' | '.join(fixed(each['bytes'], 3) for each in graded.values())} |"
    for label, machine, isa in COSTED:
        every = [(cost("int8, two digits", None, rows), graded[rows], cost(INT4, None, rows)) for rows in TOGETHER]
        cells = (", ".join(f"{milliseconds(each, machine, isa):.3g}" for each in three) for three in every)
        yield f"| {label} | {' | '.join(cells)} |"
        assert [bound(each, machine, isa) for each in graded.values()][-len(BINDS[label]) :] == BINDS[label]
    most = f"{milliseconds(graded[8], 2, 'tensor cores'):.3g}"
    yield f"On tensor cores, by the same count, 8 rows would take {most}"


def _kl(folder: str, said: Mapping[str, str]) -> Iterator[str]:
    """What decided the form: KL from int8 at 0.55, in nats a token."""
    run = result(f"retention/{folder}/curves")
    kl = {point["method"]: point["kl_per_token"] for point in run["points"] if point["share"] == 0.55}
    yield f"{count(run['tokens'])} tokens"
    yield from (f"{label} {fixed(kl[method], 4)}" for label, method in said.items())


def _interval_row(label: str, found: Kept | None) -> str:
    assert found
    top1, perplexity = found.top1, found.perplexity
    return (
        f"| {label} | {fixed(found.bytes, 3)} | {percent(top1.value)} ({percents(top1)}) "
        f"| {times(perplexity.value)} ({ratios(perplexity)}) |"
    )


def _at(found: Kept | None) -> str:
    assert found
    return f"{percent(found.top1.value)}, {times(found.perplexity.value)} at {fixed(found.bytes, 3)}"


OFF_GRID = ("linears-off-grid-0", "linears-off-grid-1", "linears-off-grid-2")
TAUGHT = "linears-off-grid-0-recovered"
INPUTS, GPTQ = "inputs at 0, 4, 6 and 8 bits", "int4 by GPTQ, groups of 32"
RELU_INPUTS, PLANES = "inputs at 0, 2, 4, 6 and 8 bits", "neurons by planes, high 1 bit, then 4"
BOTH = f"both sides, {RELU_INPUTS}, first at 8 times the price"
DENSE_BOTH = "both sides, inputs at 0, 2, 4, 6 and 8 bits, first at 2 times the price"
FIVE, FINER = "inputs at 0, 4, 5, 6 and 8 bits", "inputs at 0, 3, 4, 5, 6 and 8 bits"
ASKED = (0.31, 0.35, 0.4, 0.45, 0.5, 0.55, 0.62, 0.68, 0.75, 0.85, 0.95)
BY_GPTQ = {f"int{bits} by GPTQ, groups of 32": share for bits, share in ((4, 0.55), (5, 0.68), (6, 0.8))}
ROUTERS = ("16, perfect router", "64, norm regression router")
JUDGED = (
    ("graded inputs, asked for 0.62", INPUTS, 0.62),
    ("graded inputs, asked for 0.55", INPUTS, 0.55),
    ("graded inputs, asked for 0.50", INPUTS, 0.5),
    ("int4 by GPTQ, groups of 32", GPTQ, 0.55),
    ("TEAL", "TEAL", 0.55),
)
BESIDE = (
    ("the default", INPUTS, 0.5),
    ("without the columns", f"{INPUTS}, |x| alone", 0.5),
    ("both sides", "both sides, inputs at 0, 2, 4, 6 and 8 bits, first at 4 times the price", 0.55),
    ("beside the default's", INPUTS, 0.55),
    ("WINA", "WINA", 0.55),
    ("inputs read whole or not at our prices", "TEAL and WINA at one price", 0.55),
    ("int4 to nearest in groups of 32", "int4 to nearest, groups of 32", 0.55),
    ("neurons by planes with attention whole", "neurons by planes, high 4 bits, then 6", 0.68),
    ("where graded inputs have", INPUTS, 0.68),
    ("int6 to nearest with a scale a row", "int6 to nearest, a row", 0.75),
)
CHOICES = {  # what the page says before the figure: the method
    "": {
        "the default has": INPUTS,
        "0, 4 and 8 bits": "inputs at 0, 4 and 8 bits",
        "none and 3 to 8 bits": "inputs at 0, 3, 4, 5, 6, 7 and 8 bits",
        "Fisher information output by output": f"{INPUTS}, Fisher by output",
        "the error relative to what a matrix gives": f"{INPUTS}, relative error",
        "a scale fitted for each row and level": f"{INPUTS}, a fitted scale",
        "the mean of what is left out": f"{INPUTS}, a constant",
    },
    "-again": {
        "the default": INPUTS,
        "the input alone": f"{INPUTS}, |x| alone",
        "the same share in every matrix": f"{INPUTS}, the same share everywhere",
        "no sensitivity": f"{INPUTS}, no sensitivity",
        "beside the rms of the stream": f"{INPUTS}, beside the stream, all",
        "0, 2, 4, 6 and 8 bits": "inputs at 0, 2, 4, 6 and 8 bits",
        "fixed shares by rank": "inputs at fixed shares of levels",
    },
}
TOGETHER = (1, 4, 8)  # rows
INT4 = "int4, groups of 32"
COSTED = (  # label, machine, instruction set
    ("2 cores here, AVX-512", 0, "avx512_vnni"),
    ("16 cores at 80 GB/s, AVX-512", 1, "avx512_vnni"),
    ("16 cores at 80 GB/s, AVX2", 1, "avx2"),
    ("an H100, a model", 2, "dp4a"),
)
BYTES, INSTRUCTIONS = "bytes", "instructions"
BINDS = {  # graded inputs, in the last of the rows; alone the two are near each other here
    "2 cores here, AVX-512": [INSTRUCTIONS, INSTRUCTIONS],
    "16 cores at 80 GB/s, AVX-512": [BYTES, BYTES, BYTES],
    "16 cores at 80 GB/s, AVX2": [BYTES, INSTRUCTIONS, INSTRUCTIONS],
    "an H100, a model": [BYTES, BYTES, INSTRUCTIONS],
}


def _faults() -> Iterator[str]:
    limits = ServeOptions(())
    for name in ("receive", "write", "request"):
        yield f"| `--{name}-seconds` | {getattr(limits, f'{name}_seconds'):g} s |"
    yield f"| the handshake | {HANDSHAKE_MS // 1000} s |"
    yield f"| its last words | {LAST_WORDS_SECONDS:g} s |"
    yield f"Its turn goes to the next. | {LATE_SECONDS:g} s after its turn |"
    yield from _engine_faults(Patience(), limits)


def _engine_faults(patience: Patience, limits: ServeOptions) -> Iterator[str]:
    """A tick of the watchdog comes on top of what it waits for."""
    silent, hang = (math.ceil(each + TICK_SECONDS) for each in (patience.silent, patience.hang))
    yield f"told at once; again after its load and {FIRST_SECONDS:g} s"
    yield f"| {silent} s, its load and {FIRST_SECONDS:g} s |"
    yield f"all of them; NOT_SERVING | {silent} s |"
    yield f"the same | {hang} s |"
    times = WORDS[round(patience.step / limits.stall_seconds)]
    yield f"{limits.stall_seconds:g} s, then {patience.step:g} s (`--stall-seconds`, and {times} times that)"
    yield f"one sentence | {limits.load_seconds:g} s (`--load-seconds`)"
    yield f"tried again | {limits.load_seconds:g} s (`--load-seconds`)"
    pauses = (FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS)
    yield f"tried after {', '.join(f'{each:g} s' for each in pauses)} ... {LONGEST_SECONDS:g} s"
    yield f"the drain time and {END_SECONDS:g} s"
    yield f"never submitted | {TICK_SECONDS:g} s late"
    yield f"unknown fields in {MAX_MESSAGE_BYTES >> 20} MB"
    yield f"| {MOST_SECONDS:g} s, then INVALID_ARGUMENT"
    yield f"more than {limits.max_request_bytes >> 20} MiB in flight"
    yield f"always; {FLUSH_SECONDS:g} s at the end"


def _settings() -> Iterator[str]:
    yield settings_page()


def _http() -> Iterator[str]:
    yield f"more than {MAX_REQUEST_BYTES >> 20} MiB, {MOST_VALUES} values, or {MOST_NAMES} names, objects and lists"


PASSAGES = {
    "docs/settings.md": _settings,
    "docs/decisions/bits-by-inputs.md": _bits_by_inputs,
    "docs/decisions/error-or-share.md": _error_or_share,
    "README.md": _readme,
    "docs/architecture.md": _architecture,
    "docs/faults.md": _faults,
    "docs/http.md": _http,
    "docs/how-it-works.md": _how_it_works,
    "docs/decisions/planes-over-tiles.md": _planes_over_tiles,
}


@pytest.mark.parametrize("document", WRITTEN, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_figure_of_a_document_is_held_by_a_file_or_by_the_code(document: Path) -> None:
    assert figures_in(document.read_text(), held(document)) == []


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.j2")), ids=lambda file: file.name)
def test_no_figure_is_written_into_a_template(template: Path) -> None:
    """But for labels: the share at which figures stand, which they are looked up by, and the width of intervals."""
    text = template.read_text()
    asked = {float(number) for part in EXPRESSION.findall(text) for number in re.findall(r"0\.\d+", part)}
    words = INTERVAL.sub(" ", plain(EXPRESSION.sub(" ", text)))
    labels = [float(label) for label in SHARE.findall(words)]
    assert {label if label < 1 else label / 100 for label in labels} <= asked
    assert FIGURE.findall(re.sub(rf"{SHARE.pattern}( %)?", " ", words)) == []


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.j2")), ids=lambda file: file.name)
def test_no_command_of_a_result_is_written_into_a_template(template: Path) -> None:
    """It is taken of the file that holds the result."""
    assert "python -m moesaic.bench" not in template.read_text()


def test_what_a_document_says_of_its_rivals_and_losses_is_so() -> None:
    speed = recipe("smollm2-recovered").speed("low", 4)["times_full"]
    even = curves("smollm2").against("TEAL", "high 4 bits, then 6", 0.68)
    slower = [recipe("relu-2m-all-four").speed(tier, 1)["times_full"] for tier in ("balanced", "low")]
    assert round(speed, 2) <= 1 and max(slower) < 1
    assert even.top1.low < 1 < even.top1.high and even.perplexity.low < 1 < even.perplexity.high


def test_the_curve_falls_with_every_step_and_no_tiles_are_ahead_of_the_default() -> None:
    kl, tiles = _kl_of("linears-curve"), curves("linears-tiles")
    for method in (INPUTS, FIVE):
        assert sorted((kl[method, share] for share in ASKED), reverse=True) == [kl[method, share] for share in ASKED]
    for method, share in _kl_of("linears-tiles"):
        assert tiles.against(method, INPUTS, share).perplexity.high >= 1


def test_tiles_on_relu_keep_less_than_inputs_where_the_router_is_learned() -> None:
    relu, kl = curves("linears-relu-10m-tiles"), _kl_of("linears-relu-10m-tiles")
    learned = f"tiles of {ROUTERS[1]}, {RELU_INPUTS}, skipped at 0.25 times the price"
    for share, less in ((0.2, 0.183), (0.14, 0.128), (0.12, 0.11)):
        ours, theirs = relu.kept(RELU_INPUTS, share), relu.kept(learned, less)
        assert ours and theirs and theirs.perplexity.value > ours.perplexity.value
        assert kl[learned, less] > 1.2 * kl[RELU_INPUTS, share]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("it keeps 98.0 % of them", ["98.0 %"]),
        ("1.17 times as fast, or x1.049", ["1.17", "x1.049"]),
        ("106 tokens/s and 25 ms in 269 MB", ["106 tokens/s", "25 ms", "269 MB"]),
        ("in nine minutes on two cores", ["nine minutes", "two cores"]),
        ("KL of 0.9 nats, 135M parameters", ["0.9", "135M parameters"]),
        ("Python 3.11.7 at 127.0.0.1, experts of 64, int8, the high 4 bits, SmolLM2-135M", []),
        ("`--share 0.6` and\n```\n0.5 of it in 10 s\n```\n", []),
    ],
)
def test_a_figure_is_seen(said: str, found: list[str]) -> None:
    assert figures_in(said, []) == found


def test_a_figure_that_moved_is_noticed() -> None:
    text = (ROOT / "README.md").read_text().replace("24.469", "24.470")
    with pytest.raises(AssertionError, match="int8 has a perplexity"):
        figures_in(text, held(ROOT / "README.md"))
    assert figures_in("we keep 99.9 % too; 5 ms", ["we keep 99.9 % too"]) == ["5 ms"]
