"""Who may call: the one check behind every door."""

import hmac
import time
from collections.abc import Callable, Mapping, Sequence

from ..models.errors import Overloaded, PermissionDenied, Unauthenticated
from .budget import Budget
from .caller import Caller
from .scopes import Asked, Door, Scope
from .tokens import Known, digest_of

MOST_CHARACTERS = 512  # of an authorization; none that is right is as long
_HOW = "send `authorization: Bearer TOKEN` (our clients: token_file, or MOESAIC_TOKEN_FILE)"


class Access:
    """Lets in who has the right; everybody where no tokens are known, as on a laptop.

    tokens: those in force now, by their hashes.
    """

    def __init__(
        self,
        tokens: Callable[[], Mapping[bytes, Known]] | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._wall, self._clock = wall, clock
        self._budgets: dict[tuple[str, str], Budget] = {}

    @property
    def asks(self) -> bool:
        """Whether a caller must say who it is."""
        return self._tokens is not None

    def admit(self, authorization: Sequence[str], asked: Asked) -> Caller:
        """Who calls. authorization: the values of this header, or metadata, as they came.

        Raises Unauthenticated without a token that is in force, PermissionDenied for one that may not do this,
        Overloaded (RATE_LIMITED) for one that did it too often.
        """
        if self._tokens is None or asked is Door.OPEN:
            return Caller()
        known = self._known(authorization)
        if isinstance(asked, Scope) and asked not in known.scopes:
            may = ", ".join(sorted(known.scopes))
            raise PermissionDenied(f"the token of {known.name} may {may}; this call takes {asked}")
        if asked is not Scope.GENERATE:
            return Caller(known.name)
        return self._within_rates(known)

    def _known(self, authorization: Sequence[str]) -> Known:
        known = self._tokens_by_hash.get(digest := digest_of(_token(authorization)))
        # Equal by construction; what is compared are hashes, which nobody can steer towards one that is known.
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise Unauthenticated("this token is not known here", "TOKEN_UNKNOWN")
        if known.expires is not None and known.expires <= self._wall():
            raise Unauthenticated(f"this token of {known.name} is out of date; ask for a new one", "TOKEN_EXPIRED")
        return known

    @property
    def _tokens_by_hash(self) -> Mapping[bytes, Known]:
        return self._tokens() if self._tokens else {}

    def _within_rates(self, known: Known) -> Caller:
        requests = self._budget(known.name, "requests", known.requests_per_minute)
        tokens = self._budget(known.name, "tokens", known.tokens_per_minute)
        for what, budget in (("requests", requests), ("tokens", tokens)):
            if budget is not None and (seconds := budget.wait()) > 0:
                text = f"{known.name} has spent its {budget.per_minute} {what} a minute"
                raise Overloaded(text, "RATE_LIMITED", seconds)
        if requests is not None:
            requests.spend(1)
        return Caller(known.name, tokens, requests)

    def _budget(self, name: str, what: str, per_minute: int | None) -> Budget | None:
        """The one of this caller; a new one when the file says another rate."""
        if per_minute is None:
            self._budgets.pop((name, what), None)
            return None
        budget = self._budgets.get((name, what))
        if budget is None or budget.per_minute != per_minute:
            budget = self._budgets[name, what] = Budget(per_minute, self._clock)
        return budget


def _token(authorization: Sequence[str]) -> str:
    if not authorization:
        raise Unauthenticated(f"this server asks who calls: {_HOW}", "TOKEN_MISSING")
    if len(authorization) > 1 or len(authorization[0]) > MOST_CHARACTERS:
        raise Unauthenticated(f"the authorization is no single token; {_HOW}", "TOKEN_MALFORMED")
    scheme, _, token = authorization[0].strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(f"the authorization is none of the kind Bearer; {_HOW}", "TOKEN_MALFORMED")
    return token.strip()
