"""Who sets tiers, by the name of the router. Another is a file beside these, a line here, its keys in settings.py."""

from typing import Any

from ...models.spec import BIT_PLANES, NORM_REGRESSION
from .plane_tiers import PlaneTiers
from .router_tiers import RouterTiers
from .tiers import TierSetter

TIER_SETTERS: dict[str, type[TierSetter[Any]]] = {
    NORM_REGRESSION: RouterTiers,
    BIT_PLANES: PlaneTiers,
}
