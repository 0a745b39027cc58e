"""The twins of the dense FFN by the name of their router. Adding one is a file beside these, its name in spec.py, what
it multiplies to route in cost.py, and a line here; what calibrates it joins in compress/moefy/methods.py.
"""

from ..spec import BIT_PLANES, NORM_REGRESSION, FFNSpec
from .dense import FFN
from .mixture import MixtureFFN
from .planes import PlaneFFN
from .routed import RoutedFFN
from .sparse import SparseFFN

SPARSE_FFNS: dict[str, type[SparseFFN]] = {
    NORM_REGRESSION: RoutedFFN,
    BIT_PLANES: PlaneFFN,
}


def ffn_of(hidden_size: int, spec: FFNSpec, num_tiers: int) -> FFN:
    """The FFN of a spec: dense where it has no tiles, or no tier but the full one, and is no mixture."""
    if spec.mixture.num_experts:
        return MixtureFFN(hidden_size, spec, num_tiers)
    if spec.experts.size and num_tiers > 1:
        return SPARSE_FFNS[spec.experts.router](hidden_size, spec, num_tiers)
    return FFN(hidden_size, spec)


def check_ffn(spec: FFNSpec, num_tiers: int, widest: int) -> None:
    """Raises ValueError for tiles that no twin can have, in a model whose widest FFN has so many neurons, and for a
    mixture of which a token takes more experts than there are.
    """
    if not spec.mixture.active <= spec.mixture.num_experts or bool(spec.mixture.active) != bool(
        spec.mixture.num_experts
    ):
        raise ValueError(f"a token takes {spec.mixture.active} of {spec.mixture.num_experts} experts")
    if spec.experts.size > widest:
        raise ValueError(f"experts.size is {spec.experts.size:,}, and the widest FFN has {widest:,} neurons")
    twin = SPARSE_FFNS.get(spec.experts.router)
    if twin:
        twin.check(spec.experts)
    elif spec.experts.size and num_tiers > 1:
        raise ValueError(f"tiers choose among tiles by a router, one of {', '.join(SPARSE_FFNS)}, and there is none")
