"""Calls of attention over blocks, for its tests: sequences anywhere in the pool, beside what must not be read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from kernel_harness import library
from torch import Tensor
from torch.nn import functional

from moesaic.kernels.native import ISAS, Native
from moesaic.kernels.paged_attention import (
    BLOCK_TOKENS,
    KVPages,
    PagedTokens,
    by_library,
    padded_size,
    paged_attention_torch,
)
from moesaic.kernels.weighing import PLAIN, Weighing

FORMS = ["fp32", "bf16", "fp16", "int8", "int8 of bf16"]  # of pages
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NATIVE = [isa for isa in ISAS if isa != "avx512_bf16"]  # which is avx512 here


@dataclass(frozen=True)
class Case:
    """The operands of a call."""

    query: Tensor
    key: Tensor
    value: Tensor
    pages: KVPages
    tokens: PagedTokens

    def torch(self, weighing: Weighing = PLAIN) -> Tensor:
        return paged_attention_torch(self.query, self.key, self.value, self.pages, self.tokens, weighing)

    def native(self, using: Native | None = None, weighing: Weighing = PLAIN) -> Tensor:
        return by_library(self.query, self.key, self.value, self.pages, self.tokens, using or library(), weighing)

    def copied(self) -> "Case":
        """The case with pages of its own."""
        scales = (None if each is None else each.clone() for each in parts(self.pages)[2:])
        return replace(self, pages=KVPages(self.pages.keys.clone(), self.pages.values.clone(), *scales))

    def part(self, chosen: Sequence[int]) -> "Case":
        """The step of these tokens alone, in the same pages."""
        index = torch.tensor(chosen, dtype=torch.long)
        row, positions = self.tokens.row[index], self.tokens.positions[index]
        counts = [row.tolist().count(each) for each in dict.fromkeys(row.tolist())]
        tokens = replace(self.tokens, row=row, positions=positions, counts=counts)
        return replace(self, query=self.query[index], key=self.key[index], value=self.value[index], tokens=tokens)


def parts(pages: KVPages) -> tuple[Tensor | None, ...]:
    return pages.keys, pages.values, pages.key_scale, pages.value_scale


def case_of(
    sequences: Sequence[tuple[int, int]],
    heads: int = 9,
    kv_heads: int = 3,
    size: int = 64,
    form: str = "fp32",
    beyond: float = torch.nan,
) -> Case:
    """Blocks anywhere in the pool; what lies where no token was is `beyond`, and unused entries of tables are wild."""
    random = torch.Generator().manual_seed(heads * size + len(sequences))
    used = [-(-(before + new) // BLOCK_TOKENS) for before, new in sequences]
    order = torch.randperm(sum(used) + 3, generator=random).int()
    tables = torch.full((len(used), max(used) + 1), 1 << 30, dtype=torch.int32)
    for sequence, blocks in enumerate(used):
        tables[sequence, :blocks] = order[sum(used[:sequence]) :][:blocks]
    counts = [new for _, new in sequences]
    row = torch.arange(len(used)).repeat_interleave(torch.tensor(counts)).int()
    positions = torch.cat([torch.arange(before, before + new) for before, new in sequences]).int()
    tokens = PagedTokens(tables, row, positions, counts, max(sum(each) for each in sequences))
    dtype = DTYPES.get(form.split()[-1], torch.float32)
    query, key, value = (
        torch.randn(len(row), n, size, generator=random).to(dtype) for n in (heads, kv_heads, kv_heads)
    )
    held = torch.zeros(len(order), BLOCK_TOKENS, dtype=torch.bool)
    for table, (before, _) in zip(tables, sequences, strict=True):
        past = torch.arange(before)
        held[table[past // BLOCK_TOKENS].long(), past % BLOCK_TOKENS] = True
    return Case(query, key, value, pages_of(held, kv_heads, size, form, beyond, random), tokens)


def pages_of(held: Tensor, kv_heads: int, size: int, form: str, beyond: float, random: torch.Generator) -> KVPages:
    shape, nothing = (len(held), kv_heads, BLOCK_TOKENS, size), ~held[:, None, :].expand(-1, kv_heads, -1)
    padding = padded_size(size) - size
    if form.startswith("int8"):
        kept = [torch.randint(-127, 128, shape, generator=random, dtype=torch.int8) for _ in range(2)]
        scales = [torch.rand(shape[:3], generator=random) / 64 for _ in range(2)]
        return KVPages(
            *(functional.pad(each, (0, padding)) for each in kept), *(s.masked_fill(nothing, beyond) for s in scales)
        )
    dtype = DTYPES.get(form, torch.float32)
    kept = [torch.randn(shape, generator=random).masked_fill(nothing[..., None], beyond).to(dtype) for _ in range(2)]
    return KVPages(*(functional.pad(each, (0, padding)) for each in kept))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert (found.float() - expected.float()).norm() <= ROUNDING[found.dtype] * expected.float().norm()
