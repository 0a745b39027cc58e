"""What a served model makes of text at one of its tiers, asked over gRPC as anybody would ask.

A window's first tokens are its context, which is read at the full tier as a prompt is; the rest is scored at the tier,
as an answer is computed. At some places of it the model's whole distribution is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...server.client import Client

Distributions = NDArray[np.float32]  # ln p, [places, vocab]
_TIMED_TOKENS = 8  # of an answer that tells what a token reads


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids of a piece of text, the first `held` of which are context. places: of those behind it, 0 the first,
    where distributions are compared.
    """

    ids: tuple[int, ...]
    held: int
    places: tuple[int, ...] = ()

    @property
    def num_scored(self) -> int:
        return len(self.ids) - self.held


@dataclass(frozen=True, slots=True)
class Kept:
    """Sums over the scored tokens of each window: nats, and how often the likeliest token was the right one. kl: over
    its places, in nats, of the original's distribution to the model's.

    token_bytes: of the weights, what a new token reads; None where the engine does not say.
    """

    tier: str
    nats: tuple[float, ...]
    right: tuple[int, ...]
    kl: tuple[float, ...]
    token_bytes: int | None


def score_tier(
    client: Client,
    tier: str,
    windows: Sequence[Window],
    known: list[Distributions],
    progress: Callable[[int, int], None],
) -> Kept:
    """Scores all windows. known: what the original foresees at the places of each; filled where it is empty, by the
    original itself. Raises what the client does.
    """
    nats, right, kl = [], [], []
    for done, window in enumerate(windows):
        context, rest = list(window.ids[: window.held]), list(window.ids[window.held :])
        (found,) = client.score(
            context, [rest], logprobs=True, tier=tier, full_context=True, distributions_at=window.places
        )
        told = _distributions(found.distributions)
        if len(known) == done:
            known.append(told)
        nats.append(-found.logprob)
        right.append(sum(token.token_id == token.top[0][0] for token in found.tokens))
        kl.append(divergence(known[done], told))
        progress(done + 1, len(windows))
    return Kept(tier, tuple(nats), tuple(right), tuple(kl), _token_bytes(client, tier, windows[0]))


def divergence(original: Distributions, ours: Distributions) -> float:
    """KL(original || ours) = sum p (ln p - ln q) in nats, summed over places; of ln p and ln q [places, vocab]."""
    p, q = original.astype(np.float64), ours.astype(np.float64)
    return float((np.exp(p) * (p - q)).sum())


def _distributions(told: Sequence[bytes]) -> Distributions:
    return np.stack([np.frombuffer(each, "<f4") for each in told]) if told else np.empty((0, 0), np.float32)


def _token_bytes(client: Client, tier: str, window: Window) -> int | None:
    """As an answer's usage tells it."""
    prompt = list(window.ids[: window.held])
    answer = client.generate(prompt, tier=tier, max_new_tokens=_TIMED_TOKENS, temperature=0.0, ignore_eos=True)
    return answer.usage.weight_bytes_per_token


def windows_of(
    documents: Sequence[Sequence[int]], length: int, held: int, most: int | None, places: int = 0
) -> list[Window]:
    """Whole windows of the documents, what is left of a document left out; of more than `most` as many, evenly spread
    over all of the text. places: how many of each, evenly spread too.
    """
    scored = length - held
    count = min(places, scored)
    at = tuple(scored * i // count for i in range(count))
    pieces = [
        Window(tuple(ids[begin : begin + length]), held, at)
        for ids in documents for begin in range(0, len(ids) - length + 1, length)
    ]  # fmt: skip
    wanted = min(most or len(pieces), len(pieces))
    return [pieces[len(pieces) * i // wanted] for i in range(wanted)]
