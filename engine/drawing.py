"""What is known on the host of one answer that is being made: its position, and what its tokens changed so far.

It outlives the row that it is drawn from: a request that was preempted goes on where it was.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .counter import uniforms
from .guided import Guide
from .own_rules import OwnRules
from .request import Request

_AHEAD = 64  # random numbers that are made in one go


class Changes:
    """What a row's logits are changed by: a few ids, each with a factor and a summand.

    A logit above 0 becomes logit / factor, another one logit * factor; then the summand is added, and -inf bans.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # of an id in the arrays
        self._ids, self._numbers = np.empty(16, np.int64), np.empty((2, 16), np.float32)

    def __len__(self) -> int:
        return len(self._places)

    def put(self, token: int, factor: float, summand: float) -> None:
        """Puts the numbers of one token in the place of those that it had."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._numbers = np.concatenate([self._numbers, np.empty_like(self._numbers)], axis=1)
        self._ids[place] = token
        self._numbers[:, place] = factor, summand

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Ids [changed] and their factors and summands [2, changed], on the host."""
        return torch.from_numpy(self._ids[: len(self)]), torch.from_numpy(self._numbers[:, : len(self)])


class Drawing:
    """The state of one sequence that is being continued."""

    def __init__(
        self,
        request: Request,
        choice: int,
        fallback_seed: int,
        end_ids: Iterable[int] = (),
        guide: Guide | None = None,
        own: OwnRules = OwnRules(),  # noqa: B008  # frozen
    ) -> None:
        """choice: 0 .. n-1 of a request with n answers. fallback_seed: for a request that brings none.

        end_ids: the model's own, which together with the request's may not come before min_new_tokens. guide: where
        the request has a constraint, one of its own for each answer. own: what else the model says of its answers.
        """
        self.request, self.choice, self.position = request, choice, 0
        self._guide, self._own = guide, own
        seed = request.sampling.seed
        self._seed = fallback_seed if seed is None else seed
        self._ahead: list[float] = []
        self._counts: Counter[int] = Counter()
        self._bias = dict(request.token_rules.logit_bias)
        self._banned = frozenset((*request.token_rules.banned_token_ids, *own.banned_ids))
        stopping = request.stopping
        self._ends = frozenset((*stopping.stop_token_ids, *(() if stopping.ignore_eos else end_ids)))
        seen = request.prompt_ids if own.start_id is None else (own.start_id,)
        self._prompt = frozenset(seen if request.sampling.repetition_penalty != 1 else ())
        self._allowed: Tensor | None = None
        self.changes = Changes()
        self._put((*self._prompt, *self._bias, *self._banned, *(self._ends if self._may_not_end else ())))

    @property
    def uniform(self) -> float:
        """The random number of this position, in [0, 1)."""
        if self.position % _AHEAD == 0 or not self._ahead:
            start = self.position - self.position % _AHEAD
            self._ahead = uniforms(self._seed, self.choice, torch.arange(start, start + _AHEAD)).tolist()
        return self._ahead[self.position % _AHEAD]

    def take(self, token: int) -> None:
        """A token was accepted: the next one is another position, and what was there may be penalised."""
        could_not_end = self._may_not_end
        self.position += 1
        if self._guide is not None:
            self._guide.take(token)
        sampling = self.request.sampling
        if sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty:
            self._counts[token] += 1
            self._put((token,))
        if could_not_end and not self._may_not_end:
            self._put(self._ends)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self._ends

    @property
    def is_changed(self) -> bool:
        """Whether its logits are not taken as the model gives them."""
        return bool(len(self.changes) or self.request.token_rules.allowed_token_ids or self._guide or self.forced)

    @property
    def forced(self) -> tuple[int, ...]:
        """Of which the next token must be one, by the model's own rules; empty is any, as where a constraint rules."""
        return () if self._guide else self._own.forced(self.position, self.request.stopping.max_new_tokens)

    @property
    def error(self) -> str:
        """Why no token may come, where that is known; else ""."""
        return self._guide.error if self._guide is not None else ""

    @property
    def is_ready(self) -> bool:
        """Whether what it waits for, the compiling of a grammar, is done."""
        return self._guide is None or self._guide.ready

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked of it but the likeliest token, or one drawn at its temperature from all."""
        sampling = self.request.sampling
        cut = sampling.top_k or sampling.top_p < 1 or sampling.min_p or sampling.typical_p < 1
        other = sampling.logprobs is not None or sampling.num_beams > 1
        return not (self.is_changed or (cut and sampling.temperature) or other)

    def allowed(self, vocab_size: int, device: torch.device) -> Tensor | None:
        """[vocab] whether a token may come, where the request says so; else None."""
        listed = self._listed(vocab_size, device)
        if self._guide is None:
            return listed
        guided = torch.from_numpy(self._guide.mask(vocab_size)).to(device)
        return guided if listed is None else guided & listed

    def _listed(self, vocab_size: int, device: torch.device) -> Tensor | None:
        ids = self.request.token_rules.allowed_token_ids
        if ids and self._allowed is None:
            self._allowed = torch.zeros(vocab_size, dtype=torch.bool)
            self._allowed[list(ids)] = True
            self._allowed = self._allowed.to(device)
        return self._allowed

    @property
    def _may_not_end(self) -> bool:
        return self.position < self.request.sampling.min_new_tokens

    def _put(self, tokens: Sequence[int] | Iterable[int]) -> None:
        for token in tokens:
            self.changes.put(token, self._factor(token), self._summand(token))

    def _factor(self, token: int) -> float:
        is_seen = token in self._prompt or token in self._counts
        return self.request.sampling.repetition_penalty if is_seen else 1.0

    def _summand(self, token: int) -> float:
        if token in self._banned or (self._may_not_end and token in self._ends):
            return -np.inf
        sampling, count = self.request.sampling, self._counts.get(token, 0)
        return self._bias.get(token, 0.0) - sampling.presence_penalty * (count > 0) - sampling.frequency_penalty * count
