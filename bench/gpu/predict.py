"""What a decode step should take on a GPU by its bytes and its launches, before any was measured.

    python -m moesaic.bench.gpu.predict

    time = bytes that a step reads / bandwidth + launches * time of a launch

Bandwidths are those of data sheets, of which copies reach nine tenths (an H200 4.3 of 4.8 TB/s); a launch in a CUDA
graph is taken for 1.3 us, as Hazy Research found on an H100 (mlops.substack.com, "One megakernel to rule Llama 1B").
Writes bench/results/gpu/predicted.json, which `make results` makes docs/gpu.md of.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch

from ...engine.runner import ModelRunner
from ...models.cost import token_cost
from ...models.device_step import DeviceStep
from ...models.families.config import Config
from ...models.families.registry import family_of
from ...models.files import write_whole
from ..published.figures import RESULTS
from ..shapes import SHAPES
from .random_models import SMOLLM2, as_kind, random_model

DEVICES = {"H100": 3.35e12, "H200": 4.8e12}  # bytes a second
LAUNCH = 1.3e-6  # seconds
CONTEXT = 128
SHARES: Mapping[str, tuple[tuple[float, float], ...]] = {  # of the bytes that tiers govern, and of the neurons
    **{"dense": ((1.0, 1.0),), "int8": ((1.0, 1.0),), "graded": ((1.0, 1.0), (0.5, 1.0))},
    **{"planes": ((0.55, 0.5),), "tiles": ((0.25, 0.25),)},  # at full they are int8
}
_ELEMENT = 2  # bytes, of bf16
_TOYS = {"llama": "toy-lines", "opt": "toy-opt"}


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


def predictions() -> Iterator[Predicted]:
    """Every shape in every kind, one row after CONTEXT tokens."""
    for name, values in {"smollm2-135m": SMOLLM2, **SHAPES}.items():
        family = family_of(values)
        spec = family.spec(Config({**values, "architectures": [family.architecture]}))
        for kind, shares in SHARES.items():
            for share, neurons in shares:
                around, layer = launches_of(str(values["model_type"]), kind, full=share == 1)
                launches = around + layer * len(spec.layers)
                cost = token_cost(as_kind(spec, kind), _ELEMENT, CONTEXT, (share, neurons))
                by = {device: cost.bytes / rate + launches * LAUNCH for device, rate in DEVICES.items()}
                yield Predicted(name, kind, share, cost.bytes, cost.flops, launches, layer, by)


def launches_of(family: str, kind: str, full: bool) -> tuple[int, int]:
    """Around the layers and in each of them, of a row at the full tier or at another, as toys have them."""
    model = random_model(_TOYS[family], kind, "cpu", torch.float32)
    pages = ModelRunner(model, 4, 32, torch.float32, programmed=False).pages.layers
    two = DeviceStep(model, pages, 32).program.num_launches(full)
    model.layers = model.layers[:1]
    one = DeviceStep(model, pages[:1], 32).program.num_launches(full)
    return 2 * one - two, two - one


def main() -> int:
    found = [asdict(each) for each in predictions()]
    report = {"devices": DEVICES, "launch_seconds": LAUNCH, "context": CONTEXT, "rows": found}
    write_whole(RESULTS / "gpu" / "predicted.json", json.dumps(report, indent=1).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
