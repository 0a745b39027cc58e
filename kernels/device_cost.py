"""How long a product takes on a GPU by its sizes: the one model that dispatch, plans and predictions ask. No torch.

    seconds = launches * launch + max(bytes / bandwidth, instructions / issue, operations / tensor cores)

Constants of a device (devices.json) follow from its data sheet until `moesaic tune` has measured them on it. How many
bytes of weights a kernel takes in with each instruction of a warp was counted in its machine code.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from .cache import cache_folder
from .graded.bytes import PLANES

Form = Literal["dense", "digits", "matrix", "planes", "unpacked"]
FFNForm = Literal["neurons", "routed"]  # of a whole FFN that chooses neurons by planes, or tiles by a router
Layout = Literal["floats", "tiles", "planes"]
LAYOUTS: Mapping[Form, Layout] = {
    "dense": "floats", "digits": "tiles", "matrix": "tiles", "planes": "planes", "unpacked": "planes",
}  # fmt: skip
WHOLE: tuple[Form, ...] = ("dense", "digits", "matrix")  # forms that read everything, and know no levels
FEW_ROWS = 8  # of the kernels that multiply without tensor cores
PLANE_ROWS = 32  # in groups of 8, each of which reads the weights again
_LAUNCHES: Mapping[Form, int] = {"dense": 1, "digits": 1, "matrix": 2, "planes": 3}
_UNPACKED_LAUNCHES, _UNPACKED_BYTES = 8, 8 << 20  # of each block of weights
_TENSOR_ROWS = 16  # the fewest that tensor cores multiply
_DIGITS, _OPERATIONS = 2, 2  # products of both digits; a multiplication and an addition
_ALIKE = 0.35  # what rows read together grows as if they were rows ** _ALIKE that choose by themselves
_COUNTS = ("bandwidth", "launch", "issue", "int8", "bf16")
_FOLDER = "devices"


@dataclass(frozen=True)
class Device:
    """bandwidth: bytes a second that come from memory; launch: seconds of one in a CUDA graph; issue: instructions of
    warps a second; int8, bf16: operations of tensor cores a second. source: where they are from.
    """

    name: str
    source: str
    measured: bool
    bandwidth: float
    launch: float
    issue: float
    int8: float
    bf16: float


@dataclass(frozen=True)
class Product:
    """`rows` of activations times a weight [outputs, inputs]. share: of the bytes of int8 weights that a row reads;
    union: that all rows read together, None where it is to be guessed. element: bytes of an activation and of a weight
    that is no int8.
    """

    rows: int
    inputs: int
    outputs: int
    share: float = 1.0
    union: float | None = None
    element: int = 2

    @property
    def read(self) -> float:
        """The share of the bytes that a group of rows reads."""
        return union_of(self.share, min(self.rows, FEW_ROWS)) if self.union is None else self.union

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Work:
    """What is to be done: bytes of memory, instructions of warps, operations of tensor cores, launches."""

    bytes: float
    launches: float = 0
    instructions: float = 0.0
    int8: float = 0.0
    bf16: float = 0.0


def seconds(work: Work, device: Device) -> float:
    """The equation above."""
    tensor = work.int8 / device.int8 + work.bf16 / device.bf16
    return work.launches * device.launch + max(work.bytes / device.bandwidth, work.instructions / device.issue, tensor)


def work_of(form: Form, product: Product) -> Work:
    """A product in one of its forms. Raises ValueError for more rows than the form takes."""
    if product.rows > most_rows(form):
        raise ValueError(f"{form} takes {most_rows(form):.0f} rows, not {product.rows}")
    around = product.rows * (product.inputs + product.outputs) * product.element
    vectors, launches = 4 * product.outputs, _LAUNCHES.get(form, 0)
    operations = _OPERATIONS * max(product.rows, _TENSOR_ROWS) * product.weights
    if form == "dense":
        return Work(product.weights * product.element + around, launches, bf16=operations)
    if form == "digits":
        issued = product.weights / bytes_per_instruction(form, product.rows)
        return Work(product.weights + vectors + around, launches, issued)
    if form == "planes":
        groups = -(-product.rows // FEW_ROWS)
        read = groups * product.read * product.weights
        issued = read / bytes_per_instruction(form, min(product.rows, FEW_ROWS))
        return Work(read + vectors + around, launches, issued)
    if form == "unpacked":  # is read, written and read again, and multiplied level by level
        launches = _UNPACKED_LAUNCHES * -(-product.weights // _UNPACKED_BYTES)
        return Work(3 * product.weights + vectors + around, launches, int8=len(PLANES) * _DIGITS * operations)
    return Work(product.weights + vectors + around, launches, int8=_DIGITS * operations)


def product_seconds(form: Form, product: Product, device: Device) -> float:
    """What a product takes in this form."""
    return seconds(work_of(form, product), device)


def forms_of(product: Product, layouts: Collection[Layout]) -> tuple[Form, ...]:
    """All that give the same bits for these weights; those of floats are another function, and stand alone."""
    return tuple(
        form for form, layout in LAYOUTS.items()
        if layout in layouts and product.rows <= most_rows(form) and (product.share >= 1 or form not in WHOLE)
    )  # fmt: skip


def most_rows(form: Form) -> float:
    return {"digits": FEW_ROWS, "planes": PLANE_ROWS}.get(form, float("inf"))


@lru_cache(maxsize=4096)
def choose_form(product: Product, device: Device, layouts: frozenset[Layout]) -> Form:
    """The one that takes least; of equals the first. Raises ValueError where these layouts have none."""
    forms = forms_of(product, layouts)
    if not forms:
        raise ValueError(f"weights as {', '.join(sorted(layouts))} have no product of {product}")
    return min(forms, key=lambda form: product_seconds(form, product, device))


def dense_seconds(product: Product, device: Device) -> float:
    """The same product at the full tier, by tiles that are read whole: what no tier shall be slower than."""
    whole = replace(product, share=1.0, union=None)
    return product_seconds(choose_form(whole, device, frozenset({"tiles"})), whole, device)


def union_of(share: float, rows: int) -> float:
    """Of the bytes, what so many rows read together, as bench/results/cost/unions.json has it of graded inputs."""
    choosing: float = max(rows, 1) ** _ALIKE
    return 1 - float((1 - min(share, 1.0)) ** choosing)


def bytes_per_instruction(form: Form | FFNForm, rows: int) -> float:
    """Of weights, by a kernel that is made for a power of two of rows."""
    counts: Mapping[str, float] = _shipped()["bytes_per_instruction"][form]
    return float(next(count for made, count in counts.items() if rows <= int(made)))


def device_named(name: str) -> Device | None:
    """The constants of a device, by its full name: those measured on it, else those that ship; None for neither."""
    file = constants_file(name)
    if file.is_file():
        return read_device(name, json.loads(file.read_bytes()))
    return shipped_device(name)


def shipped_device(name: str) -> Device | None:
    """The constants of a data sheet for a device whose name holds that of a known one."""
    return next((each for short, each in shipped_devices().items() if short.lower() in name.lower()), None)


@cache
def device_or_nearest(name: str) -> Device:
    """The same; of an unknown device what a known one has: a choice needs some constants."""
    return device_named(name) or replace(next(iter(shipped_devices().values())), name=name)


def constants_file(name: str) -> Path:
    """Where what was measured on a device is kept."""
    return cache_folder() / _FOLDER / f"{'-'.join(name.split()).replace('/', '-')}.json"


def read_device(name: str, values: Mapping[str, Any]) -> Device:
    """Raises ValueError for constants that are missing or no positive numbers."""
    wrong = [each for each in _COUNTS if not _is_positive(values.get(each))]
    if wrong:
        given = values.get(wrong[0])
        raise ValueError(f"{name}: {wrong[0]} is {given!r}, it must be a number above 0; run `moesaic tune` again")
    counts = {each: float(values[each]) for each in _COUNTS}
    return Device(name, str(values.get("source", "")), bool(values.get("measured")), **counts)


def written_device(device: Device) -> str:
    """JSON that `read_device` reads."""
    return json.dumps({key: value for key, value in asdict(device).items() if key != "name"}, indent=1) + "\n"


@cache
def shipped_devices() -> Mapping[str, Device]:
    """By name; none of them measured."""
    return {name: read_device(name, values) for name, values in _shipped()["devices"].items()}


@cache
def _shipped() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(resources.files(__package__).joinpath("devices.json").read_bytes())
    return found


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
