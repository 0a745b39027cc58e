"""The families that can be run. Adding one is a file beside this one, a line here and a parity test."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..spec import TransformerSpec
from . import llama, opt
from .config import Config

# All that a dense FFN lacks, and what graded linears add to int8 ones.
_SPARSE_TENSOR = re.compile(r"layers\.\d+\.ffn\.(?!(?:gate|up|down)\.).+|.+\.worth|thresholds")
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Family:
    """How one kind of Hugging Face checkpoint becomes ours.

    names: our module path -> theirs, with {} for the layer's number. unused: tensors that some files hold and no
    forward pass reads. width_key, bias_key: where config.json has the FFN's width, and the flag for its biases;
    activation_key: the name of its activation.
    """

    architecture: str
    spec: Callable[[Config], TransformerSpec]
    names: Mapping[str, str]
    unused: str = r"$^"
    width_key: str = "intermediate_size"
    bias_key: str | None = None
    activation_key: str = "hidden_act"

    def their_name(self, ours: str) -> str:
        """`layers.3.ffn.up.weight` -> `model.layers.3.mlp.up_proj.weight`. A sparse FFN's own are ours alone."""
        if is_sparse_tensor(ours):
            return ours
        module, _, leaf = ours.rpartition(".")
        template = _LAYER_NUMBER.sub("{}", module)
        return f"{self.names[template].format(*_LAYER_NUMBER.findall(module))}.{leaf}"

    def is_unused(self, theirs: str) -> bool:
        """Whether a tensor of this name may be left aside."""
        return re.search(self.unused, theirs) is not None


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", llama.llama_spec, llama.NAMES, r"rotary_emb\.inv_freq$", bias_key="mlp_bias"),
    "opt": Family("OPTForCausalLM", opt.opt_spec, opt.NAMES, width_key="ffn_dim", activation_key="activation_function"),
}


def is_sparse_tensor(name: str) -> bool:
    """Whether tiers need it and no dense model: it is kept apart from the weights, where other loaders do not look."""
    return _SPARSE_TENSOR.fullmatch(name) is not None


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names. Raises CheckpointError for one that is not here, or that brings code."""
    if config.get("auto_map"):
        raise CheckpointError(
            "config.json: auto_map asks to run Python code from the checkpoint, which moesaic never does; "
            "convert the model to one of the families " + ", ".join(FAMILIES)
        )
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(f"config.json: model_type is {name!r}; moesaic runs the families {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    architectures = config.get("architectures") or [family.architecture]
    if not isinstance(architectures, list) or family.architecture not in architectures:
        raise CheckpointError(
            f"config.json: architectures is {architectures!r}; of the family {name} moesaic runs {family.architecture}"
        )
    return family
