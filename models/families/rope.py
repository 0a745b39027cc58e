"""Rotary positions as config.json says them: rope_parameters of today, rope_theta beside rope_scaling of yesterday."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import CheckpointError
from ..spec import RopeSpec
from .config import Config

Scaling = Literal["default", "linear", "dynamic", "llama3", "yarn"]
SCALINGS: Mapping[Scaling, tuple[str, ...]] = {  # each with the keys that it needs
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_MAY: Mapping[str, tuple[str, ...]] = {  # and those that it obeys where they are there
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
}
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_NEUTRAL = {"factor": 1, "attention_factor": 1}  # where a scaling does not use them


@dataclass(frozen=True, slots=True)
class RopeKeys:
    """What a family calls the base and the part of a head that turns, and their values where config.json has none.

    partial: whether a part is obeyed, else it has to be the whole. scalings: those that the family knows.
    """

    theta: str = "rope_theta"
    default_theta: float = 10000.0
    partial: bool = False
    part: str = "partial_rotary_factor"
    default_part: float = 1.0
    scalings: Collection[str] = tuple(SCALINGS)


ROPE = RopeKeys()  # of most families


def read_rope(config: Config, head_size: int, context: int, keys: RopeKeys) -> RopeSpec:
    """Newer configs keep all in rope_parameters, older ones have the base beside rope_scaling. Both must agree."""
    sections = [config.section(key) for key in ("rope_parameters", "rope_scaling")]
    found = [rope_of_section(section, config, head_size, context, keys) for section in sections if section.values]
    if not found:
        return rope_of_section(sections[0], config, head_size, context, keys)
    if found[0] != found[-1]:
        raise CheckpointError(
            "config.json: rope_scaling and rope_parameters ask for different positions; delete the one that is wrong"
        )
    return found[0]


def rope_of_section(section: Config, config: Config, head_size: int, context: int, keys: RopeKeys) -> RopeSpec:
    """What a section asks for, with what stands beside it in config.json."""
    scaling = _scaling(section, keys.scalings)
    default = config.number(keys.theta, keys.default_theta)
    theta = _agreed(section.number("rope_theta", default), keys.theta, config)
    rope = replace(
        _scaled(section, config, theta, scaling, context), rotated=_rotated(section, config, head_size, keys)
    )
    if scaling == "yarn" and rope.theta <= 1:
        raise config.wrong(keys.theta, "it must be above 1 where rope_type is 'yarn'", rope.theta)
    return rope


def _rotated(section: Config, config: Config, head_size: int, keys: RopeKeys) -> int:
    """How many values of a head turn; 0 for all of them."""
    if not keys.partial:
        for place in (section, config):
            place.only("partial_rotary_factor", 1, 1)
        return 0
    part = section.number("partial_rotary_factor", config.number(keys.part, keys.default_part))
    rotated = int(head_size * _agreed(part, keys.part, config))
    if rotated < 2 or rotated % 2 or part > 1:
        place, key = (section, "partial_rotary_factor") if section.has("partial_rotary_factor") else (config, keys.part)
        raise place.wrong(key, f"of a head of {head_size} that is {rotated} values, and pairs of them turn", part)
    return 0 if rotated == head_size else rotated


def _scaled(section: Config, config: Config, theta: float, scaling: Scaling, context: int) -> RopeSpec:
    if scaling == "dynamic":
        return RopeSpec(theta)  # whose stretch begins behind max_position_embeddings, and so behind this model's end
    if scaling == "yarn":
        return _yarn(section, config, theta, context)
    if scaling == "llama3":
        bounds = section.number("low_freq_factor"), section.number("high_freq_factor")
        return _banded(
            section, config, RopeSpec(theta, "llama3"), bounds, ("low_freq_factor", "high_freq_factor"), context
        )
    return RopeSpec(theta, scaling, section.number("factor", 1.0 if scaling == "default" else None))


def _yarn(section: Config, config: Config, theta: float, context: int) -> RopeSpec:
    bounds = section.number("beta_slow", 1.0), section.number("beta_fast", 32.0)
    rope = _banded(section, config, RopeSpec(theta, "yarn"), bounds, ("beta_slow", "beta_fast"), context)
    if section.has("attention_factor"):
        magnitude = section.number("attention_factor")
    elif section.has("mscale") and section.has("mscale_all_dim"):
        scales = [_magnitude(rope.factor, section.number(key)) for key in ("mscale", "mscale_all_dim")]
        magnitude = scales[0] / scales[1]
    else:
        magnitude = _magnitude(rope.factor, 1.0)
    return replace(rope, magnitude=magnitude, truncate=section.flag("truncate", True))


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _banded(
    section: Config, config: Config, rope: RopeSpec, bounds: tuple[float, float], names: tuple[str, str], context: int
) -> RopeSpec:
    """A scaling that goes over between two numbers of turns within the length before it, which, where that is left out,
    is the length of now, as in transformers.
    """
    key = "original_max_position_embeddings"
    original = config.count(key, context)
    if not bounds[0] < bounds[1]:
        raise section.wrong(names[0], f"it must be below {names[1]}, {bounds[1]}", bounds[0])
    return replace(
        rope,
        factor=section.number("factor"),
        low_frequency_factor=bounds[0],
        high_frequency_factor=bounds[1],
        original_context=int(_agreed(section.count(key, original), key, config)),
    )


def _scaling(section: Config, known: Collection[str]) -> Scaling:
    """The name of the scaling, by either key; it has all that it needs, and nothing that it cannot obey."""
    kinds: dict[str, Scaling] = {name: name for name in SCALINGS if name in known}
    names = [section.choice(key, kinds, "default") for key in ("rope_type", "type") if section.has(key)] or ["default"]
    name = names[0]
    if name != names[-1]:
        raise section.wrong("type", f"and rope_type is {name!r}; delete the one that is wrong")
    for key in SCALINGS[name]:
        if not section.has(key):
            raise section.wrong(key, f"and rope_type {name!r} needs it")
    obeyed = {*_COMMON, *SCALINGS[name], *_MAY.get(name, ())}
    for key, value in section.values.items():
        if key not in obeyed and value is not None and value != _NEUTRAL.get(key):
            way_out = f"which rope_type {name!r} does not have; name the rope_type that has it, or delete it"
            raise section.wrong(key, way_out)
    return name


def _agreed(value: float, key: str, config: Config) -> float:
    """The value that a section has or takes from config.json itself, which must not say something else."""
    if config.has(key) and config.number(key) != value:
        raise config.wrong(key, f"beside another in the rope section, {value:g}; delete the one that is wrong")
    return value
