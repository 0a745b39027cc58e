"""What a decode step should take on a GPU: bytes, instructions and launches of a spec, by the cost model of kernels. No
torch, no weights.
"""

from ..kernels.device_cost import Device, FFNForm, Form, Work, bytes_per_instruction, seconds
from .cost import governed_bytes, token_cost
from .spec import BIT_PLANES, DENSE, NORM_REGRESSION, TransformerSpec

_LAUNCHES: dict[Form, int] = {"dense": 4, "digits": 1, "planes": 3}  # of a linear with what goes before and after it
_LINEARS, _OF_FFN = 4, 2  # of a layer that stand alone: query, key and value are one, gate and up as well
_CHOOSING = 4  # launches of an FFN that chooses neurons or tiles, which measure what they take
_ATTEND, _MEASURE, _ACTIVATE = 1, 1, 1


def step_form(spec: TransformerSpec, share: float) -> Form:
    """What the linears of a decode step are: graded ones of which all is read are read as tiles."""
    if spec.layers[0].ffn.up == DENSE and not spec.is_graded:
        return "dense"
    return "planes" if spec.is_graded and share < 1 else "digits"


def ffn_form(spec: TransformerSpec, share: float) -> FFNForm | None:
    """What the FFNs of a decode step are; None where they are linears, as bit planes are at the full tier."""
    ffn = spec.layers[0].ffn
    if ffn.up == DENSE or spec.is_graded or not ffn.experts.size or spec.num_tiers == 1:
        return None
    if ffn.experts.router == BIT_PLANES:
        return "neurons" if share < 1 and ffn.experts.size == 1 else None
    return "routed" if ffn.experts.router == NORM_REGRESSION else None


def step_launches(spec: TransformerSpec, share: float = 1.0) -> tuple[int, int]:
    """Around the layers and in each of them, as kernels/decode/join.py joins them."""
    form, chosen = step_form(spec, share), ffn_form(spec, share) is not None
    measured = _MEASURE * (1 if chosen else 2) * (spec.norm == "layer" or spec.is_graded)
    more = _ACTIVATE if form == "dense" else measured
    linears = (_LINEARS - _OF_FFN * chosen) * _LAUNCHES[form] + _CHOOSING * chosen
    return _LAUNCHES[form] + _MEASURE * (form != "dense"), linears + _ATTEND + more


def step_work(spec: TransformerSpec, element: int, context: int, share: float = 1.0) -> Work:
    """A step of one row after `context` tokens, which reads this share of the bytes that tiers govern.

    element: bytes of a weight that is no int8, of a key and of a value.
    """
    form, (around, layer) = step_form(spec, share), step_launches(spec, share)
    cost = token_cost(spec, element, context, (share, 1.0))
    read = governed_bytes(spec, element) * share
    issued = 0.0 if form == "dense" else read / bytes_per_instruction(ffn_form(spec, share) or form, 1)
    return Work(cost.bytes, around + layer * len(spec.layers), issued)


def step_seconds(spec: TransformerSpec, device: Device, element: int, context: int, share: float = 1.0) -> float:
    """What that takes, without a gap between launches."""
    return seconds(step_work(spec, element, context, share), device)
