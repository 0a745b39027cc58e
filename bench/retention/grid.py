"""Which methods are measured at which shares, all of them or the telling ones, and what a reader is told of each."""

from collections.abc import Sequence

from ...compress.moefy.settings import MoefySettings
from ...models.spec import FFNSpec, TransformerSpec
from .attention import WithAttention
from .experts import NESTED, PERFECT, Experts
from .inputs import Inputs
from .method import Method
from .planes import LayeredPlanes, Planes
from .shared import CMoE, SharedExperts
from .static import PRUNINGS, FewerBits, Pruned
from .steps import StepPlanes

GATED_SHARES = (0.68, 0.55, 0.50, 0.40)
PLAIN_SHARES = (0.50, 0.30, 0.25, 0.20, 0.14, 0.12)
USUAL_SHARE, _ALMOST_ALL = 0.5, 0.99
DRAWN = (  # in the picture
    "high 4 bits, then 6", "high 3 bits, then 6", "high 2 bits, then 5", "high 1 bit, then 4",
    "neurons, perfect", "experts of 16, weights, perfect",
    "experts of 64, co-activation, perfect", "experts of 64, co-activation, norm regression",
    "experts of 64, co-activation, MLP", "experts of 64, weights, MLP", "scaled CATS", "CATS", "TEAL", "WINA",
    "FLAP pruning", "Fisher pruning", "int4 to nearest, groups of 32", "int4 to nearest, groups of 128",
)  # fmt: skip
NAMES = (  # what the page says of them, and of how they differ from their papers
    "High 4 bits, then 6: of every neuron the four high bits of gate and up are read, which route; of one in "
    "doubt two more; of one that then matters its row of down. Not fitted, two levels: coarse products as they "
    "are, no doubts, and of a neuron all or nothing. Layer by layer: one to four bits in each, as leaves least "
    "error there.",
    "Experts of 64 are tiles, split by balanced k-means on weights, by chance, by co-activation (a graph of what "
    "fires together, as in MoEfication) or by patterns (CMoE's clusters of what fires on which token); nested "
    "ones of 64 lie inside those of 128. Behind it who routes: norm regression (D2DMoE's, but squareplus for "
    "|z| and relu, and as many units as experts), an MLP (MoEfication's), low-rank mass, similarity "
    "to the centroid, a representative neuron (CMoE), the gate (scaled: times what up and down usually add, a "
    "variant of our own), static, or chance. One threshold a layer chooses, unless it says top-k, captured mass "
    "(as many as make up a part of the scores) or relative (to the token's highest, as in D2DMoE). Some always "
    "on: those with the most energy, as many as leave least error. A constant, the mean of what is left out, "
    "stands in for it in tiles and prunings.",
    "Perfect routers know every expert's true output and read nothing for it: a ceiling, not a method. Rivals are "
    "re-implementations from their papers on this model and text, training-free and with thresholds set on the "
    "same calibration text; CATS, TEAL, WINA and CMoE as published have no constant, and are drawn with one too "
    "where it says so. WINA is without its rotation, CMoE without its training and with experts of this size in "
    "place of 8 a layer, half of what is computed shared; int4 is rounded to nearest, without GPTQ or AWQ.",
)


def shares_for(ffn: FFNSpec) -> Sequence[float]:
    return GATED_SHARES if ffn.gated else PLAIN_SHARES


def methods_for(spec: TransformerSpec, full: bool) -> list[Method]:
    """full: every split, router, selection and tile size; else what the defaults rest on."""
    beside = [*_attention(spec), *_steps(spec)] if full else []
    return [*_planes(spec), *rivals(spec.layers[0].ffn.gated), *(_every_expert() if full else _experts()), *beside]


def default_method(spec: TransformerSpec, share: float = USUAL_SHARE) -> Planes:
    """What a recipe does that says nothing of it, where this is its lowest tier."""
    ffn = spec.layers[0].ffn
    settings = MoefySettings(expert_size=1, router="bit_planes", tiers={"lowest": min(share, _ALMOST_ALL)})
    experts = settings.experts(ffn, spec.hidden_size)
    return Planes(experts.router_bits, compensate=settings.compensates(ffn.gated))


def _planes(spec: TransformerSpec) -> list[Method]:
    """All bits, then the default with one part changed."""
    default = default_method(spec)
    best, constant, name = default.bits, default.compensate, default.name
    bits = [Planes(each, compensate=constant) for each in (4, 3, 2, 1)]
    others = sorted({best + 1, best + 2, best + 4, 8})
    refined = [Planes(best, each, compensate=constant) for each in others if default.refined_bits != each <= 8]
    apart = [
        Planes(best, allocation="uniform", compensate=constant, name=f"{name}, the same share in every layer"),
        Planes(best, fisher=False, compensate=constant, name=f"{name}, column norms for importance"),
        Planes(best, fit=False, compensate=constant, name=f"{name}, not fitted, two levels"),
        Planes(best, compensate=not constant, name=f"{name}, {'no' if constant else 'a'} constant"),
    ]
    return [*bits, *refined, LayeredPlanes(constant), *apart]


def _attention(spec: TransformerSpec) -> list[Method]:
    return [WithAttention(default_method(spec), kept) for kept in (1.0, 0.85, 0.7, 0.5)]


def _steps(spec: TransformerSpec) -> list[Method]:
    return [StepPlanes(default_method(spec), tokens, how) for tokens in (2, 4, 8) for how in (False, True)]


def rivals(gated: bool) -> list[Method]:
    """What others leave out of an FFN: columns, neurons for good, bits, or what the gate says."""
    gates: list[Method] = [
        Experts(1, router="gate", compensate=False, group="gate", name="CATS"),
        Experts(1, router="gate", group="gate", name="CATS, with a constant"),
        Experts(1, router="scaled gate", group="gate", name="scaled CATS"),
    ]
    fewer = [FewerBits(4, 128), FewerBits(4, 32)]
    inputs = [Inputs(weighted, constant) for weighted in (False, True) for constant in (False, True)]
    return [*(gates if gated else []), *inputs, *(Pruned(score) for score in PRUNINGS), *fewer]


def _experts() -> list[Method]:
    routers = ("norm regression", "MLP", "random")
    return [
        Experts(1), *(Experts(size) for size in (16, 64)), Experts(16, router="norm regression"),
        *(Experts(64, router=router) for router in routers),
        *(Experts(64, "co-activation", router) for router in (PERFECT, "MLP", "norm regression")),
        Experts(64, "patterns"), CMoE(64),
    ]  # fmt: skip


def _every_expert() -> list[Method]:
    sizes = [Experts(size) for size in (1, 4, 16, 32, 64, 128, 256)]
    splits = [
        Experts(64, split, router)
        for split in ("random", "co-activation", "patterns")
        for router in (PERFECT, "MLP", "norm regression")
    ]
    routers = [
        Experts(size, router=router)
        for size in (16, 64)
        for router in ("norm regression", "MLP", "low-rank mass", "similarity", "static", "random")
    ]
    by_gate = [Experts(64, router="gate"), Experts(64, router="scaled gate"), Experts(64, "patterns", "representative")]
    rules = [
        Experts(64, router=r, selection=s)
        for r in (PERFECT, "MLP")
        for s in ("top-k", "captured mass", "relative threshold")
    ]
    shared = [SharedExperts(64, router=r) for r in (PERFECT, "MLP", "norm regression")]
    shared += [SharedExperts(64, "patterns", "representative")]
    nested = [Experts(size, "nested") for size in NESTED]
    return [*sizes, *splits, *routers, *by_gate, *rules, *shared, *nested, CMoE(64)]
