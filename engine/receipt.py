"""What a request has cost, put together from the rows of all its answers. No torch."""

from .completion import Usage
from .options import ModelDescription
from .request import Request, Row


class Receipt:
    """Takes every row of one request and says, at its end, what was used."""

    def __init__(self, request: Request, model: ModelDescription) -> None:
        self._request, self._model = request, model
        self._shares: dict[int, tuple[float, float]] = {}  # of each answer, as they were last told
        self._num_rows: dict[int, int] = {}
        self._points: set[float] = set()  # told where a floor lets them differ from the one asked for
        self._cached_tokens = 0

    def note(self, row: Row) -> None:
        """Takes in what one step gave to this request."""
        self._cached_tokens = row.cached_tokens
        if row.operating_point is not None:
            self._points.add(row.operating_point)
        if row.shares is not None:
            self._shares[row.choice] = row.shares
            self._num_rows[row.choice] = self._num_rows.get(row.choice, 0) + 1

    def usage(self, completion_tokens: int) -> Usage:
        """What was used, up to the rows that were taken."""
        request, dial, shares = self._request, self._model.dial, self._mean_shares()
        used = self._points or {request.operating_point}
        bytes_share, neurons_share = shares or (None, None)
        return Usage(
            len(request.prompt_ids),
            completion_tokens,
            tier_used=dial.name(*used) if len(used) == 1 else "",
            bytes_share=bytes_share,
            neurons_share=neurons_share,
            tier_asked=dial.name(request.operating_point),
            cached_prompt_tokens=self._cached_tokens,
            weight_bytes_per_token=self._weight_bytes(shares),
        )

    def _mean_shares(self) -> tuple[float, float] | None:
        """Over the tokens of all answers; those of an answer are a mean already, but for the row that began it."""
        computed = {choice: rows - 1 for choice, rows in self._num_rows.items()}
        if not computed:
            return None
        if not any(computed.values()):  # the shares of the prompt's last token
            computed = dict.fromkeys(computed, 1)
        total = sum(computed.values())
        sums = [sum(self._shares[choice][i] * count for choice, count in computed.items()) for i in range(2)]
        return sums[0] / total, sums[1] / total

    def _weight_bytes(self, shares: tuple[float, float] | None) -> int | None:
        """None where the engine does not say, and where several tiers are but no share was told."""
        model = self._model
        if not model.other_bytes or (shares is None and len(model.tiers) > 1):
            return None
        return model.other_bytes + round(model.tier_bytes * (shares[0] if shares else 1.0))
