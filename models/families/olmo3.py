"""OLMo 3 (OLMo Team 2025): OLMo 2 with a window in three layers of four, and scaled positions in the fourth alone."""

from dataclasses import replace

from ..spec import TransformerSpec
from .config import Config
from .olmo2 import olmo2_spec
from .rope import RopeKeys
from .two_ropes import read_two_ropes
from .windows import KEYS, window_of, with_windows

_WINDOW, _PATTERN = 4096, 4
_KEYS = RopeKeys(default_theta=500000.0)
_OWN = (*KEYS, "rope_parameters", "rope_scaling", "rope_theta")


def olmo3_spec(config: Config) -> TransformerSpec:
    """The spec of an `Olmo3ForCausalLM` config."""
    spec = olmo2_spec(Config({key: value for key, value in config.values.items() if key not in _OWN}))
    spec = with_windows(
        replace(spec, family="olmo3"), config, window_of(config, _WINDOW), lambda i: (i + 1) % _PATTERN != 0
    )
    return read_two_ropes(spec, config, _KEYS, _KEYS)
