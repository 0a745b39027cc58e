"""Decoders that were made for vectors of texts: what sentence-transformers keeps beside them says so."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..spec import TransformerSpec
from .config import Config
from .family import Family
from .registry import family_of

MODULES = "modules.json"


def family_in(folder: Path, config: Mapping[str, Any]) -> Family:
    """The family that the config.json of this directory names; of a decoder in a directory of sentence-transformers, as
    it is there: without its head. Raises what `family_of` raises.
    """
    family = family_of(config)
    return _without_head(family) if family.bare and (folder / MODULES).is_file() else family


def _without_head(family: Family) -> Family:
    def spec(config: Config) -> TransformerSpec:
        return replace(family.spec(config), embeds=True, tied_head=True, head_bias=False)

    names = {ours: theirs for ours, theirs in family.names.items() if ours != "untied_head"}
    left_aside = rf"|^{family.names['untied_head']}\." if family.has_head else ""
    return replace(family, names=names, unused=family.unused + left_aside, spec=spec)
