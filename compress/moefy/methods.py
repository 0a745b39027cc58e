"""Who sets the tiers of a model, by the name of its router. A third method is a file beside these and a line here."""

from typing import Any

from ...models.spec import BIT_PLANES, NORM_REGRESSION
from .plane_tiers import PlaneTiers
from .router_tiers import RouterTiers
from .tiers import TierSetter

TIER_SETTERS: dict[str, type[TierSetter[Any]]] = {
    NORM_REGRESSION: RouterTiers,
    BIT_PLANES: PlaneTiers,
}
