"""One answer under way: its tokens, the blocks that hold their keys and values, and what it has spent. No torch."""

from collections import abc
from dataclasses import dataclass, field, replace

from .beams import BeamSearch
from .drawing import Drawing
from .request import Request, Timing, TokenLogprobs


@dataclass(eq=False, slots=True)
class Sequence:
    """Prompt and new tokens of one of a request's answers. The first `num_cached` of them are in the blocks of `table`.

    The tokens behind those are still to be computed: the rest of the prompt, or the last one that was drawn. After a
    preemption they are all of them, each at the operating point at which it was computed before.

    source: what an encoder reads of a prompt, whose keys and values lie in `source_table` once `source_read` says so;
    then the prompt that is continued is the one token with which decoders begin. search: of which it is a beam.
    """

    request: Request
    drawing: Drawing
    arrived: float
    choice: int = 0
    num_answers: int = 1  # that begin when the prompt has been read
    ids: list[int] = field(default_factory=list)
    points: list[float] = field(default_factory=list)  # of the new tokens that were computed
    table: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_reused: int = 0  # of the prompt, found in the prefix cache
    admitted: float | None = None
    decoding_since: float | None = None
    read_shares: tuple[float, float] | None = None  # of bytes and neurons, of the last token of the prompt
    spent: tuple[float, float] = (0.0, 0.0)  # sums over new tokens of the same
    num_spent: int = 0
    num_scored: int = 0  # of the prompt
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # not told yet
    distributions: list[bytes] = field(default_factory=list)  # not told yet
    source: tuple[int, ...] = ()
    source_table: list[int] = field(default_factory=list)
    source_read: bool = False
    search: BeamSearch["Sequence"] | None = None

    @property
    def num_prompt(self) -> int:
        return 1 if self.source else len(self.request.prompt_ids)

    @property
    def unread(self) -> tuple[int, ...]:
        """What of its source is still to be read, which is all or nothing."""
        return () if self.source_read else self.source

    @property
    def new_ids(self) -> tuple[int, ...]:
        return tuple(self.ids[self.num_prompt :])

    @property
    def num_new(self) -> int:
        return len(self.ids) - self.num_prompt

    @property
    def scores_prompt(self) -> bool:
        """Whether the tokens that come next are of a prompt whose log probabilities are still to be told."""
        asked = self.request.sampling.prompt_logprobs is not None and self.num_scored < self.num_prompt - 1
        return asked and self.num_cached < self.num_prompt

    @property
    def pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.ids) - self.num_cached

    @property
    def decodes(self) -> bool:
        """Whether its next step is the one token that was drawn last."""
        return self.pending == 1 and self.num_new > 0

    @property
    def shares(self) -> tuple[float, float] | None:
        """Means over the new tokens that were computed, before there are any those of the prompt's last token; None
        where nothing was told.
        """
        if not self.num_spent:
            return self.read_shares
        return self.spent[0] / self.num_spent, self.spent[1] / self.num_spent

    @property
    def lowered_point(self) -> float | None:
        """The point of the last new token that was computed, where a floor lets it differ from the one asked for."""
        return self.points[-1] if self.points and self.request.floor is not None else None

    def spend(self, shares: abc.Sequence[float]) -> None:
        """Notes what the last token that was computed has used."""
        used = shares[0], shares[1]
        if self.num_new == 0:
            self.read_shares = used
            return
        self.spent = (self.spent[0] + used[0], self.spent[1] + used[1])
        self.num_spent += 1

    def timing(self, now: float) -> Timing:
        """Told with the first token, for those who end a request themselves, and with the last."""
        admitted = now if self.admitted is None else self.admitted
        since = now if self.decoding_since is None else self.decoding_since
        return Timing(admitted - self.arrived, since - admitted, now - since)

    def fork(self, choice: int, drawing: Drawing) -> "Sequence":
        """Another answer to the same prompt, over the same blocks, which the caller has the ledger share."""
        return replace(
            self, choice=choice, drawing=drawing, num_answers=1, ids=[*self.ids], points=[*self.points],
            table=[*self.table], source_table=[*self.source_table], prompt_logprobs=[], distributions=[],
        )  # fmt: skip
