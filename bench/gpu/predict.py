"""What a decode step should take on a GPU by its bytes and its launches, before any was measured.

    python -m moesaic.bench.gpu.predict

The model is that of kernels/device_cost.py, which dispatch asks as well. Bandwidths are those of data sheets, of which
copies reach nine tenths (an H200 4.3 of 4.8 TB/s). Writes bench/results/gpu/predicted.json, which `make results` makes
docs/gpu.md of.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...kernels.device_cost import Device, Form, Product, choose_form, dense_seconds, product_seconds, shipped_devices
from ...models.cost import token_cost
from ...models.device_time import step_launches, step_seconds, step_work
from ...models.families.config import Config
from ...models.families.registry import family_of
from ...models.files import write_whole
from ..published.figures import RESULTS
from ..shapes import SHAPES
from .random_models import SMOLLM2, as_kind

COMMAND = "python -m moesaic.bench.gpu.predict --out predicted.json"
CONTEXT = 128
SHARES: Mapping[str, tuple[tuple[float, float], ...]] = {  # of the bytes that tiers govern, and of the neurons
    **{"dense": ((1.0, 1.0),), "int8": ((1.0, 1.0),), "graded": ((1.0, 1.0), (0.5, 1.0))},
    **{"planes": ((0.55, 0.5),), "tiles": ((0.25, 0.25),)},  # whose bytes at full are those of int8
}
WIDTHS = ((768, 3072), (2048, 8192), (4096, 14336))
ROWS = (1, 2, 4, 8, 32, 256)
_TIER = 0.55
_ELEMENT = 2  # bytes, of bf16


@dataclass(frozen=True)
class Predicted:
    """share: of the bytes that tiers govern. bytes: read by a step of one row; by: seconds on each device."""

    shape: str
    kind: str
    share: float
    bytes: int
    flops: int
    launches: int
    launches_a_layer: int
    by: Mapping[str, float]


@dataclass(frozen=True)
class Chosen:
    """A linear on a device. whole: the form at the full tier; tier: that of graded inputs at their share.

    times: what the tier takes over what the whole takes.
    """

    device: str
    inputs: int
    outputs: int
    rows: int
    whole: Form
    share: float
    tier: Form
    times: float


def predictions() -> Iterator[Predicted]:
    """Every shape in every kind, one row after CONTEXT tokens."""
    for name, values in {"smollm2-135m": SMOLLM2, **SHAPES}.items():
        family = family_of(values)
        spec = family.spec(Config({**values, "architectures": [family.architecture]}))
        for kind, shares in SHARES.items():
            model = as_kind(spec, kind)
            for share, neurons in shares:
                work = step_work(model, _ELEMENT, CONTEXT, share)
                cost = token_cost(model, _ELEMENT, CONTEXT, (share, neurons))
                devices = shipped_devices().values()
                by = {each.name: step_seconds(model, each, _ELEMENT, CONTEXT, share) for each in devices}
                launches, layer = round(work.launches), step_launches(model, share)[1]
                yield Predicted(name, kind, share, cost.bytes, cost.flops, launches, layer, by)


def choices() -> Iterator[Chosen]:
    """What dispatch would take for each linear, whole and at a tier."""
    for device in shipped_devices().values():
        for inputs, outputs in WIDTHS:
            yield from (chosen(device, inputs, outputs, rows) for rows in ROWS)


def chosen(device: Device, inputs: int, outputs: int, rows: int) -> Chosen:
    """One of them."""
    whole, tier = Product(rows, inputs, outputs), Product(rows, inputs, outputs, _TIER)
    first, then = choose_form(whole, device, frozenset({"tiles"})), choose_form(tier, device, frozenset({"planes"}))
    times = product_seconds(then, tier, device) / dense_seconds(tier, device)
    return Chosen(device.name, inputs, outputs, rows, first, _TIER, then, round(times, 2))


def main() -> int:
    parser = argparse.ArgumentParser(description="What steps and products would take on GPUs, by a model.")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu/predicted.json", help="default: %(default)s")
    args = parser.parse_args()
    devices = {name: asdict(each) for name, each in shipped_devices().items()}
    found, chosen = [asdict(each) for each in predictions()], [asdict(each) for each in choices()]
    report = {"command": COMMAND, "devices": devices, "context": CONTEXT, "rows": found, "choices": chosen}
    write_whole(args.out, json.dumps(report, indent=1).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
