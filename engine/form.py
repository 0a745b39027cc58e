"""A decode step of fixed size: buffers on the device, and a pass over them that knows no numbers of the host.

What differs from step to step (tokens, positions, tables, operating points, temperatures, random numbers) lies in one
buffer of integers and one of numbers, each filled by one copy. The pass reads them, asks nothing back, and has the same
operations and shapes whatever they hold: a CUDA graph can hold it. One copy brings its outcome to the host.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..kernels.paged_attention import BLOCK_TOKENS, PagedTokens
from ..models.compute import Compute, OperatingPoints
from ..models.device_step import DeviceStep
from .runner import ModelRunner, Span
from .sampler import NOT_FINITE, Drawn, plainly_drawn

_log = logging.getLogger(__name__)
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_ID, _POSITION, _TIER, _TABLE = 0, 1, 2, 3  # columns of the integers; a table is all that follow
_PART, _TEMPERATURE, _UNIFORM = 0, 1, 2  # columns of the numbers


@dataclass(frozen=True, slots=True)
class FormSize:
    """Rows at the full tier, which come first, rows at sparse ones, and blocks that a table may hold."""

    full: int
    sparse: int
    blocks: int

    @property
    def rows(self) -> int:
        return self.full + self.sparse


def size_for(spans: Sequence[Span]) -> FormSize:
    """The smallest form in which these rows have room."""
    full = sum(span.operating_point == 0 for span in spans)
    return FormSize(_bucket(full), _bucket(len(spans) - full), _bucket(max(len(span.table) for span in spans)))


def _bucket(count: int) -> int:
    return next(size for size in (0, *BUCKETS, count) if size >= count)


def _drawn(token: float, finite: float, *shares: float) -> Drawn:
    return Drawn(int(token) if finite else -1, bool(finite), error="" if finite else NOT_FINITE, beside=shares)


class Form:
    """One size of step. Rows that nobody asked for write to the block of the pool that is nobody's."""

    def __init__(self, runner: ModelRunner, size: FormSize) -> None:
        self._runner, self.size = runner, size
        device = runner.device
        self._integers = torch.zeros(size.rows, _TABLE + size.blocks, dtype=torch.int64, device=device)
        self._numbers = torch.zeros(size.rows, 3, dtype=torch.float64, device=device)
        self._row = torch.arange(size.rows, dtype=torch.int32, device=device)
        self._places: list[int] = []
        self.graph: torch.cuda.CUDAGraph | None = None  # once it is captured
        self._captures, self._has_run, self._found = device.type == "cuda", False, self._numbers

    def fill(self, spans: Sequence[Span], temperatures: Sequence[float], uniforms: Sequence[float]) -> None:
        """Takes in the rows of a step, those at the full tier first: two copies to the device."""
        full = sum(span.operating_point == 0 for span in spans)
        self._places = [row if row < full else self.size.full + row - full for row in range(len(spans))]
        integers = [[0, 0, 0, self._runner.spare, *[0] * (self.size.blocks - 1)] for _ in range(self.size.rows)]
        numbers = [[0.0, 0.0, 0.0] for _ in range(self.size.rows)]
        for place, span, temperature, uniform in zip(self._places, spans, temperatures, uniforms, strict=True):
            tier = int(span.operating_point)
            table = [*span.table, *[0] * (self.size.blocks - len(span.table))]
            integers[place] = [span.token_ids[0], span.start, tier, *table]
            numbers[place] = [span.operating_point - tier, temperature, uniform]
        self._integers.copy_(torch.tensor(integers), non_blocking=True)
        self._numbers.copy_(torch.tensor(numbers, dtype=torch.float64), non_blocking=True)

    @torch.inference_mode()
    def run(self) -> Tensor:
        """Token, finite flag and shares of every row: fp64 [rows, 2 or 4], on the device."""
        compute = self._compute() if self._runner.model.spec.num_tiers > 1 else None
        positions = self._integers[:, _POSITION]
        tables = self._integers[:, _TABLE:].to(torch.int32)
        longest = self.size.blocks * BLOCK_TOKENS
        tokens = PagedTokens(tables, self._row, positions.to(torch.int32), [1] * self.size.rows, longest)
        logits = self._runner.logits(self._integers[:, _ID], tokens, compute, self._row.long())
        drawn = plainly_drawn(logits, self._numbers[:, _TEMPERATURE], self._numbers[:, _UNIFORM])
        shares = [compute.spent.columns(1, logits.device)] if compute else []
        return torch.cat([drawn, *shares], 1)

    def outcome(self) -> Tensor:
        """What `run` gives. On a GPU a graph does it, which the second step makes: the first one compiles."""
        if self._captures and self._has_run and self.graph is None:
            self._capture()
        if self.graph is None:
            self._found, self._has_run = self.run(), True
        else:
            self.graph.replay()
        return self._found

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._found = self.run()
            self.graph = graph
        except RuntimeError:
            _log.exception(
                "a step of %d rows cannot be a CUDA graph here, and is launched piece by piece", self.size.rows
            )
            self._captures = False

    def read(self, found: Tensor) -> list[Drawn]:
        """The one copy back: the token of each row that is no filling, and beside it the shares that it used."""
        rows: list[list[float]] = found.tolist()
        return [_drawn(*rows[place]) for place in self._places]

    def _compute(self) -> Compute:
        parts = self._numbers[:, _PART].float().unsqueeze(1)
        asked = OperatingPoints.of_form(self._integers[:, _TIER], parts, self.size.full)
        model = self._runner.model
        return Compute.of(asked, model.whole, model.thresholds)


class Forms:
    """The forms of an engine's decode steps, made as they are needed."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._made: dict[FormSize, Form] = {}

    def step(self, spans: Sequence[Span], temperatures: Sequence[float], uniforms: Sequence[float]) -> list[Drawn]:
        """One token for each span, those at the full tier first, greedy or drawn at its temperature alone."""
        size = self.size_for(spans)
        form = self._made.get(size) or self._made.setdefault(size, Form(self._runner, size))
        form.fill(spans, temperatures, uniforms)
        return form.read(form.outcome())

    def size_for(self, spans: Sequence[Span]) -> FormSize:
        """The smallest with room; where tables cost nothing, as in a device step, those of the longest sequence."""
        size, program = size_for(spans), self._runner.program
        if isinstance(program, DeviceStep) and program.takes([1] * size.rows):
            return replace(size, blocks=self._most_blocks())
        return size

    def warm(self, most_rows: int) -> None:
        """Compiles and captures steps of every number of rows, all full and, where there are tiers, all sparse. What
        mixes them, and without a device step what has shorter tables, is captured when it first comes.
        """
        sparse = self._runner.model.spec.num_tiers > 1
        for rows in [bucket for bucket in BUCKETS if bucket <= _bucket(most_rows)]:
            for point in [0.0, 1.0] if sparse else [0.0]:
                for _ in range(2):
                    spans = [Span([0], 0, [self._runner.spare] * self._most_blocks(), point, decodes=True)] * rows
                    self.step(spans, [0.0] * rows, [0.0] * rows)

    def _most_blocks(self) -> int:
        return -(-self._runner.max_context // BLOCK_TOKENS)
