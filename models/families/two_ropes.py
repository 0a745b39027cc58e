"""Positions of global and of local layers, each of their own, as config.json says them."""

from dataclasses import replace

from ..spec import TransformerSpec
from .config import Config
from .llama import with_layers
from .rope import RopeKeys, rope_of_section


def read_two_ropes(spec: TransformerSpec, config: Config, main: RopeKeys, local: RopeKeys) -> TransformerSpec:
    """The spec with these positions, local ones where a layer has a window.

    Newer configs have a section for each kind of layer, older ones two bases and a scaling of the global layers.
    """
    size, context, sections = spec.layers[0].attention.head_size, spec.max_context, config.section("rope_parameters")
    rotary = ["local" if layer.attention.window else "main" for layer in spec.layers]
    named = {"full_attention": main, "sliding_attention": local}
    if sections.values and config.has("rope_scaling"):
        raise config.wrong("rope_scaling", "beside rope_parameters; delete the one that is wrong")
    if unknown := [key for key in sections.values if key not in named]:
        raise sections.wrong(unknown[0], f"it must hold {' and '.join(named)}", unknown[0][:40])
    parts = (
        [sections.section(key) for key in named] if sections.values else [config.section("rope_scaling"), Config({})]
    )
    pairs = zip(parts, named.values(), strict=True)
    found = [rope_of_section(part, config, size, context, keys) for part, keys in pairs]
    return replace(with_layers(spec, rotary=rotary), rope=found[0], local_rope=found[1])
