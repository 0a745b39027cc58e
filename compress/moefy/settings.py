"""What a recipe says of experts, and what follows from it for a model."""

import re
from dataclasses import replace
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ...kernels.planes.bytes import WHOLE_BITS, FFNShape, constant_bytes, int8_ffn_bytes, plane_ffn_bytes
from ...models.errors import RecipeError
from ...models.spec import BIT_PLANES, FULL, INT8_FORMATS, NORM_REGRESSION, ExpertSpec, FFNSpec, TransformerSpec
from ..strict import Strict
from .patterns import PATTERN_ACTIVE

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# Bits that route, the most that leave the lowest tier so large a share of the FFN's bytes to compute with: of a plain
# ReLU FFN, whose zeros few bits foresee, and of all others.
_RELU, _SMOOTH = ((2, 1), 0.08), ((4, 3, 2), 0.12)
_MORE, _REFINED, _LEAST_MORE = 3, 6, 2  # bits of a neuron in doubt: so many more than route, up to six, or two more
_GROUPED_SIZE, _MOST_UNITS = 64, 128

Grouping = Literal["weight_kmeans", "coactivation", "patterns"]
Grain = Literal["inputs", "neurons", "tiles"]
_OF_EXPERTS = (
    "split", "split_active", "expert_size", "router", "router_width", "bits", "refined_bits", "allocation",
    "compensate",
)  # fmt: skip


class MoefySettings(Strict):
    """Which parts of a layer a token computes, and the tiers: the share of bytes that each may read.

    grain: `inputs` reads of every linear as many high bits for each input as that is worth to the token, none for some,
    so that a neuron of small value reads no row of down; shares are of the bytes of all linears that are graded. keep:
    those left whole, by their paths: layers.0.*, *.ffn.down. The other grains leave out of the FFN, and shares are of
    its bytes: `neurons`, by their own high bits, or `tiles` of them, by a router. None: neurons for an FFN of plain
    ReLU, whose zeros few bits foresee, inputs for all others, and where a setting of experts is named, what it is of.

    Experts have `expert_size` neurons. split: how neurons are grouped: by their weights, by which fire together on
    the calibration text (both Zhang et al. 2022), or by the tokens they are strongest for (CMoE, Pei et al. 2025,
    without shared experts). For the last two, `split_active` of a token's neurons count as firing; None: one in 8,
    and for patterns the published 10; co-activation where nothing is said. router: `norm_regression` is a small
    network (Szatkowski et al. 2024) with `router_width` hidden units, None: as many as experts, up to 128;
    `bit_planes` reads the high `bits` of the int8 weights themselves, and `refined_bits` of a neuron that is in
    doubt. None: single neurons by bit planes, and where an expert_size above 1, a split or router_width is named,
    norm regression for experts of that size, or of 64. allocation: the same share in every layer, thresholds that
    discard the same share of each layer's energy (trained routers), or bytes where they save most of the whole
    model's expected loss (`global`, bit planes). compensate: what is left out is replaced by its mean. None: chosen
    by what measured best for the model's kind.
    """

    grain: Grain | None = None
    keep: list[str] = []
    split: Grouping | None = None
    split_active: int | None = Field(default=None, ge=1)
    expert_size: int | None = Field(default=None, ge=1)
    router: Literal["norm_regression", "bit_planes"] | None = None
    router_width: int | None = Field(default=None, ge=1)
    bits: int | None = Field(default=None, ge=1, le=7)
    refined_bits: int | None = Field(default=None, ge=2, le=8)
    tiers: dict[str, float] = {"high": 0.7, "balanced": 0.55, "low": 0.48}
    allocation: Literal["uniform", "energy", "global"] | None = None
    compensate: bool | None = None

    @field_validator("split", mode="before")
    @classmethod
    def _not_by_chance(cls, split: Any) -> Any:
        if split == "random":
            raise ValueError(
                "neurons grouped by chance are a control: --controls random-experts; "
                f"choose {', '.join(get_args(Grouping))}"
            )
        return split

    @field_validator("tiers", mode="after")
    @classmethod
    def _named_shares(cls, tiers: dict[str, float]) -> dict[str, float]:
        for name, share in tiers.items():
            if not _NAME.fullmatch(name) or name == FULL:
                raise ValueError(
                    f"{name!r} cannot name a tier: at most 32 of a-z, 0-9, _ and -, a letter first, and not {FULL!r}, "
                    "which every model has"
                )
            if not 0 < share < 1:
                raise ValueError(f"tier {name!r} is {share}, it must be a share of bytes between 0 and 1")
        if not tiers:
            raise ValueError("names no tier; give at least one, such as {balanced: 0.5}")
        return dict(sorted(tiers.items(), key=lambda tier: -tier[1]))

    @model_validator(mode="after")
    def _of_one_grain(self) -> Self:
        named = [name for name in _OF_EXPERTS if getattr(self, name) is not None]
        if self.grain == "inputs" and named:
            raise ValueError(f"grain is 'inputs', and {named[0]} is a setting of experts; leave one of them out")
        if self.keep and (self.grain in ("neurons", "tiles") or named):
            raise ValueError("keep is for grain: inputs; the other grains leave all linears but the FFN's as they are")
        if self.grain == "neurons" and self.size > 1:
            raise ValueError(f"grain is 'neurons', and expert_size is {self.size}; say grain: tiles, or expert_size: 1")
        if self.grain == "tiles" and self.size == 1:
            raise ValueError("grain is 'tiles', and expert_size is 1; say grain: neurons, or a larger expert_size")
        return self

    @property
    def named_grain(self) -> Grain | None:
        """The grain that is named, or that a named setting is of: linears that are kept are of inputs."""
        if self.keep:
            return "inputs"
        if self.grain or all(getattr(self, name) is None for name in _OF_EXPERTS):
            return self.grain
        return "neurons" if self.size == 1 else "tiles"

    def grain_of(self, spec: TransformerSpec) -> Grain:
        """The grain that is named, or the one that measured best for such a model."""
        if self.named_grain:
            return self.named_grain
        return "neurons" if all(_is_plain_relu(layer.ffn) for layer in spec.layers) else "inputs"

    @property
    def by_planes(self) -> bool:
        return self.routed_by == BIT_PLANES

    @property
    def routed_by(self) -> str:
        """The router that is named, or that follows."""
        return self.router or (BIT_PLANES if self.size == 1 else NORM_REGRESSION)

    @property
    def size(self) -> int:
        """How many neurons an expert has."""
        if self.expert_size is not None:
            return self.expert_size
        grouped = self.grain == "tiles" or self.router == NORM_REGRESSION
        grouped = grouped or any((self.split, self.split_active, self.router_width))
        return _GROUPED_SIZE if grouped else 1

    @property
    def grouping(self) -> Grouping:
        """How neurons are grouped: where nothing is said, by which fire together."""
        return self.split or "coactivation"

    @property
    def split_needs_text(self) -> bool:
        """Whether neurons are grouped by what they do on the calibration text."""
        return self.size > 1 and self.grouping in ("coactivation", "patterns")

    @property
    def marks(self) -> int | None:
        """How many of a token's neurons count as firing when they are grouped by that; None: one in 8."""
        if self.split_active is None and self.grouping == "patterns":
            return PATTERN_ACTIVE
        return self.split_active

    def experts(self, ffn: FFNSpec, hidden: int) -> ExpertSpec:
        """The experts of one layer of a model of this hidden size."""
        if not self.by_planes:
            experts = ExpertSpec(self.size, self.routed_by)
            return replace(experts, router_width=self.router_width or min(experts.count(ffn.width), _MOST_UNITS))
        bits = self.bits or self._best_bits(ffn, hidden)
        return ExpertSpec(self.size, self.routed_by, router_bits=bits, refined_bits=self.refined_beyond(bits))

    def _best_bits(self, ffn: FFNSpec, hidden: int) -> int:
        choices, needed = _RELU if _is_plain_relu(ffn) else _SMOOTH
        possible = [bits for bits in choices if bits < (self.refined_bits or WHOLE_BITS)] or [choices[-1]]
        shape, lowest = ffn_shape(ffn, hidden), min(self.tiers.values())
        read = {bits: plane_ffn_bytes(shape, bits, 0, 0) / int8_ffn_bytes(shape) for bits in possible}
        return next((bits for bits in possible if lowest - read[bits] >= needed), possible[-1])

    def refined_beyond(self, bits: int) -> int:
        """The bits of a neuron in doubt where so many route. Raises RecipeError where they are no more."""
        best = max(min(bits + _MORE, _REFINED), bits + _LEAST_MORE)
        refined = self.refined_bits or min(best, WHOLE_BITS)
        if refined <= bits:
            raise RecipeError(f"refined_bits is {refined}, it must be more than bits, {bits}; raise it")
        return refined

    def by_energy(self, gated: bool) -> bool:
        """Whether layers share the tier's bytes by their energy."""
        return not gated if self.allocation is None else self.allocation == "energy"

    def compensates(self, gated: bool) -> bool:
        """Whether a constant stands in for what is left out. Coarse values of a plain FFN are unbiased without."""
        return (gated or not self.by_planes) if self.compensate is None else self.compensate

    def check(self, spec: TransformerSpec) -> None:
        """Raises RecipeError where these experts cannot route on such a model, or a tier is below its router."""
        if self.allocation == ("energy" if self.by_planes else "global"):
            raise RecipeError(
                f"moefy: allocation {self.allocation!r} is not for the router {self.routed_by}; "
                f"choose {'global' if self.by_planes else 'energy'} or uniform"
            )
        for i, layer in enumerate(spec.layers):
            ffn = layer.ffn
            formats = {ffn.up, ffn.down, *({ffn.gate} if ffn.gated else ())}
            if self.by_planes and not formats <= set(INT8_FORMATS):
                raise RecipeError(
                    "moefy: the router bit_planes reads int8 weights, and these stay in floating point; add "
                    "`- quantize: {linears: int8}` to the stages, or choose router: norm_regression"
                )
            least, most = self._router_share(ffn, spec.hidden_size), self._most(ffn, spec.hidden_size)
            for name, share in self.tiers.items():
                if share >= most:
                    bits = self.experts(ffn, spec.hidden_size).refined_bits
                    raise RecipeError(
                        f"moefy: tier {name!r} may read {share} of the FFN's bytes, and in layer {i} {bits} bits of "
                        f"every neuron are {most:.3f} of them; lower the tier or raise refined_bits"
                    )
                if share <= least:
                    raise RecipeError(
                        f"moefy: tier {name!r} may read {share} of the FFN's bytes, and in layer {i} the router alone "
                        f"reads {least:.3f}; raise the tier, or lower {'bits' if self.by_planes else 'router_width'}"
                    )

    def _most(self, ffn: FFNSpec, hidden: int) -> float:
        """What all neurons take where each is refined."""
        if not self.by_planes:
            return 1.0
        experts, shape = self.experts(ffn, hidden), ffn_shape(ffn, hidden)
        every = plane_ffn_bytes(shape, experts.router_bits, ffn.width, ffn.width, experts.refined_bits)
        return (every + constant_bytes(hidden)) / int8_ffn_bytes(shape)

    def _router_share(self, ffn: FFNSpec, hidden: int) -> float:
        """What is read before a neuron is computed, the constant for what is left out too."""
        shape, experts = ffn_shape(ffn, hidden), self.experts(ffn, hidden)
        whole, constant = int8_ffn_bytes(shape), constant_bytes(hidden)
        if self.by_planes:
            return (plane_ffn_bytes(shape, experts.router_bits, 0, 0) + constant) / whole
        element = 1 if ffn.up in INT8_FORMATS else 2
        router = 2 * experts.router_width * (hidden + experts.count(ffn.width))  # bf16
        return (router + constant) / (whole * element)


def _is_plain_relu(ffn: FFNSpec) -> bool:
    return ffn.activation == "relu" and not ffn.gated


def ffn_shape(ffn: FFNSpec, hidden: int) -> FFNShape:
    """The shape that bytes are counted from."""
    return FFNShape(hidden, ffn.width, ffn.gated, ffn.bias, ffn.output_bias)
