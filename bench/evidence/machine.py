"""What the machine allows and what is reached of it: streams beside peers, products, sizes, and GPUs by count alone."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ..published.beside import Beside, beside
from ..published.costs import cost, costs, time
from ..published.figures import RecipeResult, recipe, result
from ..published.text import count, fixed, megabytes, percent
from .chart import Chart, Point, Series
from .section import Section, Table, commands, machine_line

_NAMES = {"smollm2": "SmolLM2-135M", "llama-3.2-1b": "The shape of Llama 3.2 1B, random weights"}
_PEERS = ("llama.cpp Q8_0", "llama.cpp Q4_0", "CTranslate2 int8")
_PRODUCTS = (
    "int8_linear fp32",
    "int8_linear bf16",
    "torch int8pack bf16",
    "torch dynamic int8 fp32",
    "torch linear fp32",
)
_CANDIDATES = (
    ("int8, two digits", None),
    ("graded inputs", 0.62),
    ("graded inputs", 0.5),
    ("int4, groups of 32", None),
)
_KINDS = {
    "dense": "bf16", "int8": "int8", "graded": "int8, graded", "planes": "int8, neurons by planes",
    "tiles": "int8, tiles by a router",
}  # fmt: skip
_FOLDERS = ("smollm2-graded", "smollm2-all-four", "relu-2m-all-four", "relu-2m-shipped", "off-grid-graded")
NOT_MEASURED = "not measured"


@cache
def throughput() -> Section:
    """Streams together beside peers, and the part of what plain reads allow."""
    found = {name: beside(name) for name in _NAMES}
    return Section(
        "peers", "Streams together, beside llama.cpp and CTranslate2",
        ["All made from the same weights, in a process each, in turns, each at the number of threads that suits it."],
        [_streams(name, each) for name, each in found.items()],
        [Table(_NAMES[name], _peer_rows(each)) for name, each in found.items()],
        [
            "Of plain reads: of what reading the weights once a token would allow at the speed of a plain sum over "
            "memory in the same run. A stream with prefetches can be faster.",
        ],
        commands(*(each.values for each in found.values())),
        [f"bench/results/peers/{name}.json: {machine_line(each.values['machine'])}" for name, each in found.items()],
    )  # fmt: skip


def _streams(name: str, peers: Beside) -> Chart:
    batches, shown = peers.values["batches"], [(each, _colour(each)) for each in peers.values["contestants"]]
    series = [
        Series(each, tuple(Point(batch, peers.rate(each, batch)) for batch in batches), colour)
        for each, colour in shown
        if colour is not None
    ]
    return Chart(f"streams-{name}", _NAMES[name], "streams", "tokens/s of all streams", tuple(series), from_zero=True)


def _colour(contestant: str) -> int | None:
    """Its place in the palette, the same as where it is beside retention; None where it is not drawn."""
    if contestant in _PEERS:
        return 3 + _PEERS.index(contestant)
    ends = {"full": 0, "int8": 1, "low": 2, "half": 2}
    return next((colour for end, colour in ends.items() if contestant.endswith(end)), None)


def _peer_rows(peers: Beside) -> tuple[list[str], list[list[str]]]:
    batches, threads = peers.values["batches"], max(peers.values["threads"])
    head = [
        "",
        "a token reads",
        *(f"tokens/s, {each}" for each in batches),
        "of plain reads, 1 stream",
        "first token, s",
    ]
    first = {each["contestant"] for each in peers.values["first_token"]}
    return head, [
        [
            name, megabytes(peers.bytes(name)), *(f"{peers.rate(name, each):,.4g}" for each in batches),
            percent(peers.of_limit(name, threads), 0), fixed(peers.first(name), 2) if name in first else "",
        ]
        for name in peers.values["contestants"]
    ]  # fmt: skip


@cache
def kernels() -> Section:
    """Products as measured beside the limit of memory, and what bytes and instructions allow elsewhere."""
    run = result("smollm2-2-cpu-cores")
    products = [each for each in run["kernels"] if each["tokens"] == 1 and each["contestant"] in _PRODUCTS]
    limit = products[0]["limit_gigabytes_per_second"]
    return Section(
        "kernels", "Kernels, beside what the machine allows",
        [f"One row, one thread: bytes of weights by the second, where plain reads give {limit:.1f} GB/s."],
        [_products(products, limit)],
        [Table("Milliseconds for a billion weights by the model of bytes and instructions; b: bytes bind, "
               "i: instructions", _cost_rows())],
        [
            f"{each['name']}: {each['bytes'] / 1e9:,.0f} GB/s, {'measured' if each['measured'] else NOT_MEASURED}; "
            f"{each['origin']}." for each in costs()["machines"]
        ] + ["Times of the table are modelled of counted instructions, and no GPU has run any of it."],
        commands(run, costs()),
        [
            f"bench/results/smollm2-2-cpu-cores.json: {machine_line(run['machine'])}",
            f"bench/results/cost/costs.json: {machine_line(costs()['provenance'])}",
        ],
    )  # fmt: skip


def _products(products: Sequence[Any], limit: float) -> Chart:
    shapes = list(dict.fromkeys((each["outputs"], each["inputs"]) for each in products))
    rates = {(each["contestant"], each["outputs"], each["inputs"]): each["gigabytes_per_second"] for each in products}
    series = [
        Series(name, tuple(Point(i, rates[name, *shape]) for i, shape in enumerate(shapes)), colour, joined=False)
        for colour, name in enumerate(_PRODUCTS)
    ]
    return Chart(
        "products", "Products of one row, SmolLM2's shapes", "outputs of inputs", "GB/s", tuple(series),
        level=("plain reads", limit), places=tuple(f"{out:,}\nof {into:,}" for out, into in shapes), from_zero=True,
    )  # fmt: skip


def _cost_rows() -> tuple[list[str], list[list[str]]]:
    here, there, gpu = (each["name"] for each in costs()["machines"])
    head = ["", "rows", "bytes a weight", here, there, f"{gpu}, {NOT_MEASURED}"]
    columns = ((0, "avx512_vnni"), (1, "avx512_vnni"), (2, "dp4a"))
    found = [(name, asked, rows, cost(name, asked, rows)) for name, asked in _CANDIDATES for rows in (1, 8)]
    return head, [
        [
            f"{name}{f' at {asked:.2f}' if asked else ''}", str(rows), fixed(each["bytes"], 3),
            *(time(each, machine, isa) for machine, isa in columns),
        ]
        for name, asked, rows, each in found
    ]  # fmt: skip


@cache
def sizes() -> Section:
    """What a result takes on disk and of a token's reads, and what making it takes."""
    found = {name: recipe(name) for name in _FOLDERS}
    memory = {name: result(f"memory/{name}") for name in ("smollm2-graded", "smollm2-moe")}
    head = ["", "bytes on disk", "of the original", "a token reads at full", "at the lowest tier"]
    made = ["", "model", "most memory beyond Python and torch", "seconds in all"]
    return Section(
        "size", "Size and memory", ["Shares are of what tiers govern, as the original has it in int8."], [],
        [
            Table("Results of recipes", (head, [_size_row(name, each) for name, each in found.items()])),
            Table("Making them", (made, [_memory_row(name, each) for name, each in memory.items()])),
        ],
        [],
        commands(*(each.values for each in found.values()), *memory.values()),
        [f"bench/results/memory/{name}.json: {machine_line(each['provenance'])}" for name, each in memory.items()]
        + ["bench/results/compress/ has a report.json of each, with its machine."],
    )  # fmt: skip


def _size_row(name: str, found: RecipeResult) -> list[str]:
    tiers, last = found.values["tiers"], found.values["stages"][-1]["weight_bytes"]
    return [name, megabytes(last) if last > 1e7 else f"{last / 1e6:.1f} MB", percent(found.size),
            *(percent(tiers[place]["bytes_share"]) for place in (0, -1))]  # fmt: skip


def _memory_row(name: str, found: Any) -> list[str]:
    seconds = sum(part["seconds"] for part in found["parts"])
    return [name, found["model"], megabytes(found["peak"]), f"{seconds:.0f}"]


@cache
def gpus() -> Section:
    """Steps by their bytes and launches; a column says of each that nobody measured it."""
    predicted = result("gpu/predicted")
    head = [
        "shape",
        "weights",
        "of the bytes",
        "MB",
        *(f"{name}, predicted, ms" for name in predicted["devices"]),
        "measured",
    ]
    return Section(
        "gpu", "GPUs: predictions, not measured",
        [
            f"A token of one stream after {predicted['context']} others, by its bytes at the bandwidth of the data "
            f"sheet and {1e6 * predicted['devices']['H100']['launch']:.1f} us a launch. No GPU has run any of it.",
        ],
        [], [Table("Milliseconds a step, predicted", (head, list(_gpu_rows(predicted))))], [],
        f"{commands(predicted)}   # what is said here\nbash bench/gpu.sh OUT   # what measures it",
        ["bench/results/gpu/predicted.json"],
    )  # fmt: skip


def _gpu_rows(predicted: Any) -> Iterator[list[str]]:
    for row in predicted["rows"]:
        times = [f"{1e3 * row['by'][name]:.3f}" for name in predicted["devices"]]
        size = [f"{row['share']:g}", count(row["bytes"] / 1e6)]
        yield [row["shape"], _KINDS.get(row["kind"], row["kind"]), *size, *times, row.get("measured", NOT_MEASURED)]
