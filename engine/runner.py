"""What the scheduler needs of a model: one pass over the tokens of a step, and blocks that can be copied."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.paged_attention import BLOCK_TOKENS, PagedTokens
from ..models.compute import Compute
from ..models.device_step import DeviceStep
from ..models.errors import SetupError
from ..models.program import StepProgram
from ..models.reading import ReadingProgram
from ..models.step_share import StepShare
from ..models.transformer import Layer, Transformer
from ..models.walk import NoProgramError
from .paged_context import PagedContext, tokens_of
from .paged_source import SourceSpan, read_sources, sources_of
from .pages import Pages


@dataclass(frozen=True, slots=True)
class Span:
    """What one sequence does in a step: these tokens, the first at position `start`, over the blocks of its table.

    operating_point: at which they are computed. scored: of how many of the last ones logits are wanted. decodes:
    whether it is the next token of an answer, which may choose its neurons together with those of others. source: of a
    decoder with an encoder.
    """

    token_ids: Sequence[int]
    start: int
    table: Sequence[int]
    operating_point: float = 0.0
    scored: int = 1
    decodes: bool = False
    source: SourceSpan | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """logits: [scored tokens, vocab], span after span.

    shares: fp64 [spans, 2], of the bytes that tiers govern and of the FFN's neurons the parts that the last token of a
    span used; None where the model has one tier only. They stay on the device until somebody asks.
    """

    logits: Tensor
    shares: Tensor | None = None


class Runner(Protocol):
    """A model over a pool of blocks. Thirty lines make a fake one, and the scheduler is tested with that."""

    num_blocks: int
    block_tokens: int
    max_context: int
    vocab_size: int

    def forward(self, spans: Sequence[Span]) -> Forward:
        """Puts the tokens of all spans into their blocks. No span sees another's tokens.

        Spans at the full tier come first. Doing the same again changes nothing, so that a failed pass can be repeated.
        """
        ...

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Makes, of each pair of blocks, the second the same as the first."""
        ...


class ModelRunner:
    """The Transformer over pages. Tokens of a step do not see each other's sequences, unless rows choose together.

    step: what the rows that decode at sparse tiers may read together in a step. spare: a block that is nobody's.
    programmed: whether a pass is one call of the C++ where it can be (models/program.py), on a GPU a decode step of few
    launches (models/device_step.py), which packs the model's weights; without_program: why it is none.
    """

    program: StepProgram | DeviceStep | None

    block_tokens = BLOCK_TOKENS

    def __init__(
        self,
        model: Transformer,
        num_blocks: int,
        max_context: int,
        dtype: torch.dtype,
        step: StepShare | None = None,
        int8_pages: bool = False,
        programmed: bool = True,
    ) -> None:
        if not model.spec.continues_text:
            way_out = "classify" if model.spec.classifies else "embed"
            raise SetupError(
                f"this {model.spec.family} is {model.spec.kind}, which continues no text: `moesaic {way_out}` runs it"
            )
        self.model, self._step = model, step
        self.num_blocks, self.max_context, self.vocab_size = num_blocks, max_context, model.spec.vocab_size
        self.device = model.device
        self.spare = num_blocks
        self.pages = Pages(model.spec, num_blocks + 1, dtype, self.device, int8_pages)
        self.program, self.without_program = self._programmed(step) if programmed else (None, "nobody asked for one")
        self._reading = self._reading_program() if self.program is not None else None
        self._threads: int | None = None  # of a program; None: as many as torch has
        with torch.inference_mode():
            self._past_bias = model.past_bias(max_context)

    @torch.inference_mode()
    def forward(self, spans: Sequence[Span]) -> Forward:
        sources = [span.source for span in spans if span.source is not None]
        self._read([source for source in sources if source.unread])
        sparse = [span.decodes for span in spans if span.operating_point]
        if self._step and len(set(sparse)) > 1:  # a pass has one way of choosing
            first = [span for span in spans if not span.decodes]
            return _in_order(spans, [self.forward(first), self.forward([span for span in spans if span.decodes])])
        counts = [len(span.token_ids) for span in spans]
        scored = torch.tensor(_scored(spans), device=self.device)
        compute = self._compute(spans)
        there = sources_of(sources, counts, self.device) if sources else None
        logits = self.logits(self._ids(spans), self._tokens(spans), compute, scored, there)
        return Forward(logits, last_of_each(compute.spent.columns(1, self.device), counts) if compute else None)

    def _read(self, sources: Sequence[SourceSpan]) -> None:
        if self._reading is None:
            return read_sources(self.model, self.pages, sources)
        if sources:
            places = tokens_of([(0, source.length, source.table) for source in sources], self.device)
            self._reading.run([source.unread for source in sources], self._num_threads, places)

    @property
    def _num_threads(self) -> int:
        return self._threads or torch.get_num_threads()

    def use_threads(self, count: int) -> None:
        """Computes on so many from now on. A program has a team of its own, beside which torch keeps one thread: two
        pools that look out for work would be in each other's way.
        """
        self._threads = count
        torch.set_num_threads(count if self.program is None else 1)

    @torch.inference_mode()
    def logits(
        self,
        ids: Tensor,
        tokens: PagedTokens,
        compute: Compute | None,
        scored: Tensor,
        sources: PagedTokens | None = None,
    ) -> Tensor:
        """Logits [scored, vocab] of tokens, ids int64 [tokens], in either way; `compute` takes their account.

        sources: where what each of them goes on from lies, in a model that reads sources.
        """
        if self.program is not None and self.program.takes(tokens.counts):
            return self.program.run(ids, tokens, compute, scored, self._num_threads, sources)
        states = self._states(ids, tokens, compute, sources)
        every = len(scored) == len(states)
        return self.model.head(states if every else states[scored], compute, None if every else scored)

    @torch.inference_mode()
    def states(self, spans: Sequence[Span]) -> tuple[Tensor, Compute | None]:
        """States [tokens, hidden] of all tokens, module by module, and the account of what they used."""
        compute = self._compute(spans)
        return self._states(self._ids(spans), self._tokens(spans), compute), compute

    def _states(
        self, ids: Tensor, tokens: PagedTokens, compute: Compute | None, sources: PagedTokens | None = None
    ) -> Tensor:
        context = PagedContext(self.pages, tokens, self._past_bias, sources)
        return self.model.hidden(ids.unsqueeze(1), tokens.positions.unsqueeze(1), context, compute)[:, 0]

    def _ids(self, spans: Sequence[Span]) -> Tensor:
        return torch.tensor([token for span in spans for token in span.token_ids], device=self.device)

    def _tokens(self, spans: Sequence[Span]) -> PagedTokens:
        return tokens_of([(span.start, len(span.token_ids), span.table) for span in spans], self.device)

    def _programmed(self, step: StepShare | None) -> tuple[StepProgram | DeviceStep | None, str]:
        """The model as a program, else why there is none."""
        try:
            if self.device.type == "cpu":
                return StepProgram(self.model, self.pages.layers), ""
            if step is not None:
                raise NoProgramError("rows choose their neurons together")
            return DeviceStep(self.model, self.pages.layers, self.max_context), ""
        except NoProgramError as error:
            return None, str(error)

    def _reading_program(self) -> ReadingProgram | None:
        """How the encoder of a model that has one reads sources; None where it does so module by module."""
        model, pages = self.model, self.pages.layers
        if model.encoder is None:
            return None
        pairs = zip(model.layers, pages, strict=True)
        kept = [(layer.cross, there) for layer, there in pairs if isinstance(layer, Layer) and layer.cross is not None]
        try:
            return ReadingProgram(model.encoder, kept)
        except NoProgramError:
            return None

    @torch.inference_mode()
    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.pages.copy(pairs)

    def _compute(self, spans: Sequence[Span]) -> Compute | None:
        """What every token asks, where there is something to ask for."""
        if self.model.spec.num_tiers == 1:
            return None
        points = [span.operating_point for span in spans for _ in span.token_ids]
        together = self._step and any(span.decodes and span.operating_point for span in spans)
        return self.model.compute_of(points, self._step.factors(points) if self._step and together else ())


def _in_order(spans: Sequence[Span], parts: Sequence[Forward]) -> Forward:
    """What two passes gave, of the spans that do not decode and of those that do, in the order of all."""
    order = sorted(range(len(spans)), key=lambda i: spans[i].decodes)
    scored = [spans[i].scored for i in order]
    logits = torch.split(torch.cat([part.logits for part in parts]), scored)
    shares = torch.cat([part.shares for part in parts if part.shares is not None])
    back = sorted(range(len(order)), key=lambda place: order[place])
    return Forward(torch.cat([logits[place] for place in back]), shares[back])


def last_of_each(columns: Tensor, counts: Sequence[int]) -> Tensor:
    """[groups, n] of columns [rows, n], `counts` rows after one another belonging together."""
    if len(counts) == len(columns):
        return columns
    return columns[torch.tensor([end - 1 for end in accumulate(counts)], device=columns.device)]


def _scored(spans: Sequence[Span]) -> list[int]:
    """The places of the tokens whose logits are wanted."""
    found: list[int] = []
    end = 0
    for span in spans:
        end += len(span.token_ids)
        found += range(end - span.scored, end)
    return found
