"""Models in a well-known shape with random weights, dense and as two recipes make them, kept in the cache folder.

For speed alone: bits follow inputs as random weights make them, so that tiers read what they were asked to.
"""

from pathlib import Path

from ...compress.output import write_result
from ...compress.recipe import read_recipe
from ...compress.run import Run
from ...kernels.cache import cache_folder
from ...models.checkpoint import open_checkpoint
from ...models.progress import Progress
from ..shapes import write_shape

_INT8 = {"quantize": {"linears": "int8"}}
_STAGES = {
    "int8": [_INT8],
    "graded": [{"moefy": {"grain": "inputs", "tiers": {"balanced": 0.55, "half": 0.5}}}, _INT8],
}
_CALIBRATION = {"sequences": 2, "length": 64}


def shape_models(shape: str, progress: Progress) -> tuple[Path, list[str]]:
    """The dense directory of a shape, and those of it in int8 and with tiers. Raises SetupError for an unknown name."""
    folder = cache_folder() / "shapes"
    dense = write_shape(shape, folder / shape)
    return dense, [_made(dense, folder / f"{shape}-{name}", name, progress) for name in _STAGES]


def _made(dense: Path, out: Path, name: str, progress: Progress) -> str:
    if not out.exists():
        source = open_checkpoint(dense)
        recipe = read_recipe({"calibration": _CALIBRATION, "stages": _STAGES[name]})
        last = Run(source, recipe, progress).checkpoint()
        write_result(out, source, last, last.record, recipe.sha256(), progress)
    return str(out)
