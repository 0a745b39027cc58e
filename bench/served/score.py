"""What a served model makes of text at one of its tiers, asked over gRPC as anybody would ask.

A window's first tokens are its context, which is read at the full tier as a prompt is; the rest is scored at the tier,
as an answer is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...server.client import Client

_TIMED_TOKENS = 8  # of an answer that tells what a token reads


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids of a piece of text, the first `held` of which are context."""

    ids: tuple[int, ...]
    held: int

    @property
    def num_scored(self) -> int:
        return len(self.ids) - self.held


@dataclass(frozen=True, slots=True)
class Kept:
    """Sums over the scored tokens of each window: nats, and how often the likeliest token was the right one.

    token_bytes: of the weights, what a new token reads; None where the engine does not say.
    """

    tier: str
    nats: tuple[float, ...]
    right: tuple[int, ...]
    token_bytes: int | None


def score_tier(
    client: Client, model: str, tier: str, windows: Sequence[Window], progress: Callable[[int, int], None]
) -> Kept:
    """Scores all windows. Raises what the client does."""
    nats, right = [], []
    for done, window in enumerate(windows):
        context, rest = list(window.ids[: window.held]), list(window.ids[window.held :])
        (found,) = client.score(context, [rest], logprobs=True, model=model, tier=tier, full_context=True)
        nats.append(-found.logprob)
        right.append(sum(token.token_id == token.top[0][0] for token in found.tokens))
        progress(done + 1, len(windows))
    return Kept(tier, tuple(nats), tuple(right), _token_bytes(client, model, tier, windows[0]))


def _token_bytes(client: Client, model: str, tier: str, window: Window) -> int | None:
    """As an answer's usage tells it."""
    prompt = list(window.ids[: window.held])
    answer = client.generate(
        prompt, model=model, tier=tier, max_new_tokens=_TIMED_TOKENS, temperature=0.0, ignore_eos=True
    )
    return answer.usage.weight_bytes_per_token


def windows_of(documents: Sequence[Sequence[int]], length: int, held: int, most: int | None) -> list[Window]:
    """Whole windows of the documents, one after the other; what is left of a document is left out."""
    pieces = [
        Window(tuple(ids[begin : begin + length]), held)
        for ids in documents for begin in range(0, len(ids) - length + 1, length)
    ]  # fmt: skip
    return pieces[:most]
