"""The forms of a model that what it keeps is measured of, each made by a recipe; all but the first two have a tier."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compress.pipeline import compress
from ..models.errors import RecipeError
from ..models.spec import FULL

_INT8 = {"quantize": {"linears": "int8"}}
_W8A8 = {"quantize": {"linears": "int8", "activations": "dynamic"}}
_INPUTS, _NEURONS = {"grain": "inputs"}, {"expert_size": 1, "router": "bit_planes"}
_UNJUDGED = {"documents": 2, "truncate": 64}  # what is made is judged by whoever asked for it
_FORMS: Mapping[str, Sequence[Mapping[str, Any]]] = {  # the stages of a recipe
    "int8": [_INT8],
    "int8 with int8 activations": [_W8A8],
    "graded inputs at 0.7 of the linears": [{"moefy": {**_INPUTS, "tiers": {"tier": 0.7}}}, _INT8],
    "graded inputs at 0.55 of the linears": [{"moefy": {**_INPUTS, "tiers": {"tier": 0.55}}}, _INT8],
    "planes at 0.55 of the FFNs": [{"moefy": {**_NEURONS, "tiers": {"tier": 0.55}}}, _INT8],
}


@dataclass(frozen=True, slots=True)
class MadeForm:
    """tier: of it, at which it is measured; not_here: why there is none of this model."""

    name: str
    recipe: Mapping[str, Any]
    tier: str
    path: Path
    not_here: str = ""


def made_forms(model: str | Path, scratch: Path, calibration: Mapping[str, Any] | None = None) -> Iterator[MadeForm]:
    """Each below `scratch`, on calibration text of the recipe's own unless it is named."""
    for i, (name, stages) in enumerate(_FORMS.items()):
        recipe = {"stages": stages, "evaluation": _UNJUDGED, **({"calibration": calibration} if calibration else {})}
        tier = "tier" if "moefy" in stages[0] else FULL
        path, reason = scratch / str(i), ""
        try:
            compress(model, path, recipe)
        except RecipeError as error:
            reason = str(error)
        yield MadeForm(name, recipe, tier, path, reason)
