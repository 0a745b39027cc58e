"""What GGUF calls the models that run here: one table for files that come in and for files that go out.

GGUF has a dialect for each architecture. It says which of our tensors lie under which name, and it leaves unsaid what
llama.cpp does by itself: activations, scales, which layers slide.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import CheckpointError

_ATTENTION_NORM = {"layers.{}.attention_norm": "blk.{}.attn_norm"}
_SEPARATE = {
    "layers.{}.attention.query": "blk.{}.attn_q",
    "layers.{}.attention.key": "blk.{}.attn_k",
    "layers.{}.attention.value": "blk.{}.attn_v",
}
_FUSED = dict.fromkeys(_SEPARATE, "blk.{}.attn_qkv")
_OUTPUT = {"layers.{}.attention.output": "blk.{}.attn_output"}
_QK_NORM = {
    "layers.{}.attention.query_norm": "blk.{}.attn_q_norm",
    "layers.{}.attention.key_norm": "blk.{}.attn_k_norm",
}
_FFN_NORM = {"layers.{}.ffn_norm": "blk.{}.ffn_norm"}
_POST_NORMS = {
    "layers.{}.attention_post_norm": "blk.{}.post_attention_norm",
    "layers.{}.ffn_post_norm": "blk.{}.post_ffw_norm",
}
_PLAIN = {"layers.{}.ffn.up": "blk.{}.ffn_up", "layers.{}.ffn.down": "blk.{}.ffn_down"}
_GATED = {"layers.{}.ffn.gate": "blk.{}.ffn_gate", **_PLAIN}
_GATE_UP = dict.fromkeys(("layers.{}.ffn.gate", "layers.{}.ffn.up"), "blk.{}.ffn_up")
_MIXTURE = {
    "layers.{}.ffn.choice": "blk.{}.ffn_gate_inp",
    **{f"layers.{{}}.ffn.experts.{{}}.{each}": f"blk.{{}}.ffn_{each}_exps" for each in ("gate", "up", "down")},
}
_QKV_BIASES = ("query", "key", "value")
_BIASES = (*_QKV_BIASES, "output", "gate", "up", "down")
_ENDS = {"embedding": "token_embd", "norm": "output_norm", "untied_head": "output"}
_BERT = {
    "embedding": "token_embd", "positions": "position_embd", "token_types": "token_types",
    "embedding_norm": "token_embd_norm", **_SEPARATE, **_OUTPUT, **_PLAIN,
    "layers.{}.attention_post_norm": "blk.{}.attn_output_norm", "layers.{}.ffn_post_norm": "blk.{}.layer_output_norm",
}  # fmt: skip
_LLAMA = {**_ENDS, **_ATTENTION_NORM, **_SEPARATE, **_OUTPUT, **_FFN_NORM, **_GATED}
_GPT = {**_ENDS, **_ATTENTION_NORM, **_FUSED, **_OUTPUT, **_FFN_NORM, **_PLAIN}
_QWEN3 = {**_LLAMA, **_QK_NORM}
_MIXTRAL = {name: theirs for name, theirs in _LLAMA.items() if name not in _GATED} | _MIXTURE
_GEMMA2 = {**_LLAMA, **_POST_NORMS}
_OLMO2 = {**_ENDS, **_SEPARATE, **_OUTPUT, **_QK_NORM, **_POST_NORMS, **_GATED}
_T5_SIDE = {
    "distances": "blk.0.attn_rel_b", **_ATTENTION_NORM, **_SEPARATE, "layers.{}.attention.output": "blk.{}.attn_o",
    **_FFN_NORM, **_GATED, "norm": "output_norm",
}  # fmt: skip
_CROSS = {
    "layers.{}.cross_norm": "dec.blk.{}.cross_attn_norm", "layers.{}.cross.query": "dec.blk.{}.cross_attn_q",
    "layers.{}.cross.key": "dec.blk.{}.cross_attn_k", "layers.{}.cross.value": "dec.blk.{}.cross_attn_v",
    "layers.{}.cross.output": "dec.blk.{}.cross_attn_o",
}  # fmt: skip
_T5 = {
    "embedding": "token_embd", "untied_head": "output", **_CROSS,
    **{ours: f"dec.{theirs}" for ours, theirs in _T5_SIDE.items()},
    **{f"encoder.{ours}": f"enc.{theirs}" for ours, theirs in _T5_SIDE.items()},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of ours lies in a file: from row `first` on of a tensor of this name and shape."""

    name: str
    first: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How GGUF has the models of a family.

    name: general.architecture. names: our module path -> theirs, {} for the number of a layer; all experts of a layer
    lie in one tensor, and so do those of ours that share a name. interleaved: whether the two numbers of a rotary pair
    are neighbours among the rows of query and key. norm_offset: what files add to weights of norms. head: whether a
    head of its own may be there, must be, or never is. sliding: of so many layers in a row all but the last have the
    window; 0 where llama.cpp computes none. biases: the linears whose biases it adds; biased: whether all must be
    there. factors: whether it obeys a factor for each frequency, as positions of llama3 are written.
    """

    name: str
    family: str
    names: Mapping[str, str]
    interleaved: bool = False
    norm_offset: float = 0.0
    head: Literal["may", "must", "never"] = "may"
    sliding: int = 0
    biases: Collection[str] = ()
    biased: bool = False
    factors: bool = False

    def places(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
        """The places of our tensors. Raises CheckpointError for one that GGUF has no name for."""
        counts = Counter(self._theirs(ours) for ours in shapes)
        return {ours: self._place(ours, shapes, counts) for ours in shapes}

    def _place(self, ours: str, shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> Place:
        theirs, shape = self._theirs(ours), shapes[ours]
        if _EXPERT.search(ours):
            return Place(theirs, int(_NUMBER.findall(ours)[1]) * shape[0], (counts[theirs], *shape))
        together = [each for each in self._together(ours) if each in shapes]
        rows = [shapes[each][0] for each in together]
        return Place(theirs, sum(rows[: together.index(ours)]), (sum(rows), *shape[1:]))

    def _theirs(self, ours: str) -> str:
        module, _, leaf = ours.rpartition(".")
        template = self.names.get(_NUMBER.sub("{}", module))
        if template is None:
            raise CheckpointError(f"the architecture {self.name} of GGUF has no name for {ours}; export --to dense")
        return f"{template.format(*_NUMBER.findall(module)[:1])}.{leaf}"

    def _together(self, ours: str) -> list[str]:
        """Names of ours that lie in one tensor with this one, in order."""
        module, _, leaf = ours.rpartition(".")
        theirs = self.names[_NUMBER.sub("{}", module)]
        numbers = _NUMBER.findall(module)
        return [f"{each.format(*numbers)}.{leaf}" for each, name in self.names.items() if name == theirs]


_EXPERT = re.compile(r"\.experts\.\d+\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_ALL = (
    Architecture("llama", "llama", _LLAMA, interleaved=True, factors=True, biases=_BIASES),
    Architecture("llama", "mixtral", _MIXTRAL, interleaved=True, factors=True),
    Architecture("gpt2", "gpt2", {**_GPT, "positions": "position_embd"}, biases=_BIASES, biased=True),
    Architecture("gptneox", "gpt_neox", _GPT, head="must", biases=_BIASES, biased=True),
    Architecture("qwen2", "qwen2", _LLAMA, biases=_QKV_BIASES),
    Architecture("qwen3", "qwen3", _QWEN3),
    Architecture("phi3", "phi3", {**_LLAMA, **_FUSED, **_GATE_UP}),
    Architecture("gemma", "gemma", _LLAMA, norm_offset=1.0, head="never"),
    Architecture("gemma2", "gemma2", _GEMMA2, norm_offset=1.0, head="never", sliding=2),
    Architecture("gemma3", "gemma3_text", {**_GEMMA2, **_QK_NORM}, norm_offset=1.0, sliding=6),
    Architecture("olmo2", "olmo2", _OLMO2, head="must"),
    Architecture("olmo2", "olmo3", _OLMO2, head="must", sliding=4),
    Architecture("olmoe", "olmoe", {**_MIXTRAL, **_QK_NORM}, head="must"),
    Architecture("qwen3moe", "qwen3_moe", {**_MIXTRAL, **_QK_NORM}),
    Architecture(
        "seed_oss", "seed_oss", {**_LLAMA, "layers.{}.ffn_norm": "blk.{}.post_attention_norm"}, biases=_QKV_BIASES
    ),
    Architecture("starcoder2", "starcoder2", {**_GPT, **_SEPARATE}, biases=_BIASES, biased=True),
    Architecture("bert", "bert", _BERT, biases=_BIASES, biased=True),
    Architecture("smollm3", "smollm3", _LLAMA, interleaved=True),
    Architecture("t5", "t5", _T5),
)  # fmt: skip
_ALIASES = {  # whose files are those of another family: a Mistral without its window, encoders that a BERT can say
    "mistral": "llama", **dict.fromkeys(("roberta", "xlm-roberta", "distilbert"), "bert"),
}  # fmt: skip
NAMES = tuple(dict.fromkeys(each.name for each in _ALL))


def architecture_of(family: str) -> Architecture | None:
    """How GGUF has a family, or None where it has none."""
    wanted = _ALIASES.get(family, family)
    return next((each for each in _ALL if each.family == wanted), None)


def architectures_named(name: str) -> list[Architecture]:
    """Those of a name: a file is of the first, unless it has what the second is about."""
    return [each for each in _ALL if each.name == name]
