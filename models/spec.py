"""What a Transformer is made of, layer by layer: plain frozen numbers, no torch.

A spec says everything that the forward pass needs, so pruned and mixed models need no special case. Each linear
has a *format*: how its weight is kept and multiplied. A checkpoint stores only where its spec differs from what
its family makes of config.json: `spec_overrides` finds the differences, `with_overrides` puts them back.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Scalar = str | int | float | bool | None

DENSE = "dense"  # 16 or 32 bit floating point
INT8 = "int8"  # int8 weight and one fp32 scale per output channel, activations as they are
INT8_DYNAMIC = "int8_dynamic"  # the same weights; activations become int8 as they come, one scale a token
GRADED = "int8_graded"  # the same weights; a token reads as many of their high bits as each input is worth to it
CENTRED = "int8_graded_centred"  # the same; what an input is worth counts from what it mostly is
FORMATS = (DENSE, INT8, INT8_DYNAMIC, GRADED, CENTRED)
INT8_FORMATS = (INT8, INT8_DYNAMIC, GRADED, CENTRED)
GRADED_FORMATS = (GRADED, CENTRED)
NO_ROUTER = "none"
NORM_REGRESSION = "norm_regression"  # a small network that predicts the norm of each expert's output
BIT_PLANES = "bit_planes"  # the high bits of the int8 weights of up and gate
ROUTERS = (NO_ROUTER, NORM_REGRESSION, BIT_PLANES)
KV_CACHES = ("model", INT8)  # how keys and values are kept: as activations are, or int8 with a scale a token and head
FULL = "full"  # the tier that every model has: all of every FFN
ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh")
_CHOICES = {
    "activation": ACTIVATIONS,
    "norm": ("rms", "layer"),
    "norms": ("before", "after", "both", "of sums"),
    "qk_norm": ("none", "heads", "whole"),
    "rotary": ("main", "local", "none"),
    "positions": ("learned", "sinusoidal", "none"),
    "scaling": ("default", "linear", "llama3", "yarn"),
    "router": ROUTERS,
    "kv_cache": KV_CACHES,
    "state": ("first", "last"),
    "dense": ("none", "tanh", "relu"),
}


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions (Su et al. 2021).

    factor: of every scaling. Between low_frequency_factor and high_frequency_factor turns in the original context,
    `llama3` and `yarn` go from stretched to as they were; truncate: whether yarn rounds these bounds outwards.
    rotated: the values of a head that turn, its first ones, all where it is 0. magnitude: of sines and cosines.
    """

    theta: float
    scaling: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    truncate: bool = True
    rotated: int = 0
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """num_heads query heads share num_kv_heads keys and values (GQA); query, key, value, output are formats.

    rotary: which positions turn queries and keys, `rope` or `local_rope` of the model, or none. qk_norm: an RMS norm of
    queries and keys before they turn, of each head or of all heads as one vector. window, soft_cap, scale: how scores
    become weights (kernels/weighing.py).
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    bias: bool = False
    output_bias: bool = False
    rotary: Literal["main", "local", "none"] = "main"
    qk_norm: Literal["none", "heads", "whole"] = "none"
    window: int = 0
    soft_cap: float = 0.0
    scale: float = 0.0
    query: str = DENSE
    key: str = DENSE
    value: str = DENSE
    output: str = DENSE


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """Tiles of `size` neurons in a row, the last one shorter where they do not divide; 0 is none. Experts by another
    name, which moesaic.json has.

    router_width: hidden units of a `norm_regression` router. router_bits: high bits that a `bit_planes` router reads;
    refined_bits: those that a neuron is computed from which it refines.
    """

    size: int = 0
    router: str = NO_ROUTER
    router_width: int = 0
    router_bits: int = 0
    refined_bits: int = 8

    def count(self, width: int) -> int:
        """How many tiles `width` neurons make."""
        return -(-width // self.size) if self.size else 0


@dataclass(frozen=True, slots=True)
class MixtureSpec:
    """Experts that the model was trained with, each an FFN of its own, of which a token takes `active` by a choice that
    is a part of the model; 0 is none. normalised: whether what those taken count for adds up to 1.
    """

    num_experts: int = 0
    active: int = 0
    normalised: bool = False


@dataclass(frozen=True, slots=True)
class FFNSpec:
    """down(act(up x)), or down(act(gate x) * up x) when gated; up, gate, down are formats.

    bias is of up and gate, output_bias of down. experts: runs of its neurons. mixture: as many FFNs like this one.
    """

    width: int
    activation: str
    gated: bool
    bias: bool = False
    output_bias: bool = False
    up: str = DENSE
    gate: str = DENSE
    down: str = DENSE
    experts: ExpertSpec = ExpertSpec()
    mixture: MixtureSpec = MixtureSpec()


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """norms: whether attention and FFN have a norm before them, after them (of what they add to the state), or both; or
    one of the state that they were added to (BERT).

    parallel: whether the FFN is given the state before attention instead of the one after it. cross: attention to a
    source between the two, with norms like theirs.
    """

    attention: AttentionSpec
    ffn: FFNSpec
    norms: Literal["before", "after", "both", "of sums"] = "before"
    parallel: bool = False
    cross: AttentionSpec | None = None


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """Logits of so many labels, 0 for no classifier, of the state of a text's first token or of its last: by a linear
    with or without a bias, behind a dense layer with this activation or none. models/classifier.py

    padding: an id that is no text's last token, -1 for none.
    """

    labels: int = 0
    state: Literal["first", "last"] = "first"
    dense: Literal["none", "tanh", "relu"] = "none"
    bias: bool = True
    padding: int = -1

    def place(self, ids: Sequence[int]) -> int:
        """Which token's state it takes of a text of these ids: the first, or the last that is no padding."""
        if self.state == "first":
            return 0
        return max((i for i, token in enumerate(ids) if token != self.padding), default=0)


@dataclass(frozen=True, slots=True)
class TransformerSpec:
    """A decoder, or where it is not `causal` an encoder: each token sees all of its text, and there is no head.
    Positions are rotary when `rope` is given, else as `positions` says, learned ones with `position_offset` unused
    rows. encoder: what reads the source that a decoder attends to, by the decoder's own embedding; None for none.
    classifier: what tells labels of texts apart; a decoder that has one continues no text. embeds: nor does one whose
    last states are there for vectors of texts.

    token_types: rows of a table of which every token of a text has the first added. relative_buckets: of distances
    between tokens, for each of which every head adds a number of its own to its scores, 0 for none; from
    relative_distance tokens on they share the last. embedding_norm,
    last_norm: whether there is a norm of what the first layer takes, and of what the last one gives.
    norm_offset: what is added to the weight of every norm. embedding_scale: what embeddings are multiplied by.
    head_scale: what states are before the head; head_bias: whether there is a number of each token added to its logit.
    logit_soft_cap: c of c tanh(logit / c), 0 for none.
    num_tiers: names on the dial, the full one included. With the full one alone, tiles are no more
    than an order of the neurons. kv_cache: how an engine keeps keys and values unless it is told otherwise.
    """

    family: str
    vocab_size: int
    hidden_size: int
    max_context: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    tied_head: bool
    layers: tuple[LayerSpec, ...]
    norm_bias: bool = False
    norm_offset: float = 0.0
    rope: RopeSpec | None = None
    local_rope: RopeSpec | None = None
    position_offset: int = 0
    embedding_scale: float = 1.0
    logit_soft_cap: float = 0.0
    embedding: str = DENSE
    head: str = DENSE
    num_tiers: int = 1
    kv_cache: str = "model"
    causal: bool = True
    token_types: int = 0
    relative_buckets: int = 0
    relative_distance: int = 128
    embedding_norm: bool = False
    last_norm: bool = True
    positions: Literal["learned", "sinusoidal", "none"] = "learned"
    head_scale: float = 1.0
    head_bias: bool = False
    encoder: "TransformerSpec | None" = None
    classifier: ClassifierSpec = ClassifierSpec()
    embeds: bool = False

    @property
    def classifies(self) -> bool:
        """Whether it tells labels of texts apart."""
        return self.classifier.labels > 0

    @property
    def continues_text(self) -> bool:
        """Whether it makes new tokens: each token sees those before it, and nothing stands in the place of the head."""
        return self.causal and not self.classifies and not self.embeds

    @property
    def kind(self) -> str:
        """What it is instead, where it continues no text."""
        if self.embeds:
            return "a decoder made for embeddings"
        return "a classifier" if self.causal else "an encoder"

    @property
    def is_mixture(self) -> bool:
        """Whether some FFNs are mixtures of experts that the model was trained with."""
        return any(layer.ffn.mixture.num_experts for layer in self.layers)

    @property
    def reads_sources(self) -> bool:
        """Whether it goes on from what an encoder has read."""
        return self.encoder is not None

    @property
    def is_graded(self) -> bool:
        """Whether tiers govern the linears that grade their inputs; else they govern the FFNs."""
        parts = [each for layer in self.layers for each in (layer.attention, layer.ffn)]
        formats = {value for part in parts for value in dataclasses.asdict(part).values() if isinstance(value, str)}
        return not formats.isdisjoint(GRADED_FORMATS) or GRADED in (self.embedding, self.head)


def spec_overrides(spec: TransformerSpec, default: TransformerSpec) -> dict[str, Scalar]:
    """What differs in `spec` from `default`, by path: {"layers.3.ffn.width": 1024, "layers.*.ffn.up": "int8"}."""
    ours, theirs = dict(_leaves(spec)), dict(_leaves(default))
    changed = {path: value for path, value in ours.items() if theirs.get(path) != value}
    return _fold_equal_layers(changed, len(spec.layers))


def with_overrides(default: TransformerSpec, overrides: Mapping[str, Any]) -> TransformerSpec:
    """`default` with the values at these paths.

    A path that does not exist is a KeyError that names it, a value that cannot stand there a ValueError.
    """
    for path, value in overrides.items():
        default = _replaced(default, path.split("."), value, path)
    return default


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Scalar]]:
    if dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _leaves(getattr(node, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from _leaves(item, f"{path}.{i}")
    else:
        yield path, node


def _fold_equal_layers(changed: Mapping[str, Scalar], num_layers: int) -> dict[str, Scalar]:
    by_rest: dict[str, list[Scalar]] = {}
    for path, value in changed.items():
        if path.startswith("layers."):
            by_rest.setdefault(path.split(".", 2)[2], []).append(value)
    everywhere = {
        rest: values[0]
        for rest, values in by_rest.items()
        if len(values) == num_layers and all(value == values[0] for value in values)
    }
    folded: dict[str, Scalar] = {f"layers.*.{rest}": value for rest, value in everywhere.items()}
    for path, value in changed.items():
        if not (path.startswith("layers.") and path.split(".", 2)[2] in everywhere):
            folded[path] = value
    return folded


def _replaced(node: Any, keys: list[str], value: Any, path: str) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(node, tuple):
        wanted = range(len(node)) if key == "*" else [int(key)] if key.isdecimal() else []
        if not rest or not wanted or max(wanted) >= len(node):
            raise KeyError(path)
        return tuple(_replaced(item, rest, value, path) if i in wanted else item for i, item in enumerate(node))
    if not dataclasses.is_dataclass(node) or key not in {field.name for field in dataclasses.fields(node)}:
        raise KeyError(path)
    if rest:
        value = _replaced(getattr(node, key), rest, value, path)
    elif dataclasses.is_dataclass(getattr(node, key)) or isinstance(getattr(node, key), tuple):
        raise KeyError(path)
    else:
        _check_value(key, value, getattr(node, key), path)
    return dataclasses.replace(node, **{key: value})  # type: ignore[type-var]


def _check_value(key: str, value: Any, default: Scalar, path: str) -> None:
    """A leaf keeps its type; counts stay counts, and names are of those that exist."""
    formats = [each for each in FORMATS if each != CENTRED or key == "down"]  # nothing else has an input of its own
    choices = formats if default in FORMATS else _CHOICES.get(key)
    is_count = type(value) is int and 0 <= value < 1 << 31
    if type(value) is not type(default) or (type(value) is int and not is_count):
        raise ValueError(f"{path} is {value!r}, where the family has {default!r}")
    if choices and value not in choices:
        raise ValueError(f"{path} is {value!r}, it must be one of {', '.join(choices)}")
