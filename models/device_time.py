"""What a decode step should take on a GPU: bytes, instructions and launches of a spec, by the cost model of kernels. No
torch, no weights.
"""

from ..kernels.device_cost import Device, Form, Work, bytes_per_instruction, seconds
from .cost import governed_bytes, token_cost
from .spec import DENSE, TransformerSpec

_LAUNCHES: dict[Form, int] = {"dense": 4, "digits": 1, "planes": 3}  # of a linear with what goes before and after it
_LINEARS = 4  # of a layer that stand alone: query, key and value are one, gate and up as well
_ATTEND, _MEASURE, _ACTIVATE = 1, 1, 1


def step_form(spec: TransformerSpec, share: float) -> Form:
    """What the linears of a decode step are: graded ones of which all is read are read as tiles."""
    if spec.layers[0].ffn.up == DENSE and not spec.is_graded:
        return "dense"
    return "planes" if spec.is_graded and share < 1 else "digits"


def step_launches(spec: TransformerSpec, share: float = 1.0) -> tuple[int, int]:
    """Around the layers and in each of them, as kernels/decode/join.py joins them."""
    form = step_form(spec, share)
    measured = 2 * _MEASURE * (spec.norm == "layer" or spec.is_graded)
    more = _ACTIVATE if form == "dense" else measured
    return _LAUNCHES[form] + _MEASURE * (form != "dense"), _LINEARS * _LAUNCHES[form] + _ATTEND + more


def step_work(spec: TransformerSpec, element: int, context: int, share: float = 1.0) -> Work:
    """A step of one row after `context` tokens, which reads this share of the bytes that tiers govern.

    element: bytes of a weight that is no int8, of a key and of a value.
    """
    form, (around, layer) = step_form(spec, share), step_launches(spec, share)
    cost = token_cost(spec, element, context, (share, 1.0))
    read = governed_bytes(spec, element) * share
    issued = 0.0 if form == "dense" else read / bytes_per_instruction(form, 1)
    return Work(cost.bytes, around + layer * len(spec.layers), issued)


def step_seconds(spec: TransformerSpec, device: Device, element: int, context: int, share: float = 1.0) -> float:
    """What that takes, without a gap between launches."""
    return seconds(step_work(spec, element, context, share), device)
