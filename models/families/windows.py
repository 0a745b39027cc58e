"""Which layers see a window of the last positions and which see all, as config.json says it."""

from collections.abc import Callable

from ..spec import TransformerSpec
from .config import Config
from .llama import with_layers

KEYS = ("sliding_window", "layer_types")
_KINDS = {"full_attention": False, "sliding_attention": True}


def window_of(config: Config, default: int | None) -> int:
    """The positions that a query sees. Absent is `default`; null, which stands for none, is 0, as is no default."""
    if default is None or "sliding_window" in config.values:
        return config.count("sliding_window") if config.has("sliding_window") else 0
    return default


def with_windows(spec: TransformerSpec, config: Config, window: int, slides: Callable[[int], bool]) -> TransformerSpec:
    """The spec whose layers have the window where layer_types says so, or `slides` of the layer's number without it."""
    sliding = _sliding(config, len(spec.layers)) or [slides(i) for i in range(len(spec.layers))]
    if any(sliding) and not window:
        raise config.wrong("sliding_window", "and layers of sliding_attention need it")
    return with_layers(spec, window=[window if each else 0 for each in sliding])


def _sliding(config: Config, num_layers: int) -> list[bool]:
    """Whether each layer slides; nothing where layer_types is not there."""
    if not config.has("layer_types"):
        return []
    kinds = config.values["layer_types"]
    if not isinstance(kinds, list) or len(kinds) != num_layers or not all(isinstance(kind, str) for kind in kinds):
        raise config.wrong("layer_types", f"it must be a list of {num_layers} names, one a layer")
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise config.wrong("layer_types", f"and moesaic knows {', '.join(_KINDS)}, not {unknown[0][:40]!r}")
    return [_KINDS[kind] for kind in kinds]
