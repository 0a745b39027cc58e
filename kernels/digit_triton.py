"""digit_linear of a few tokens in Triton: digits of the activations, products of bytes (dp4a), the way into floats.

A program owns blocks of 32 outputs and a part of a chunk of inputs. Its threads read 16 bytes at a time, four outputs
of a quad of inputs, and multiply each word by both digits of every token. Weights stand as w + 128, so that

    partial[split, token, n] = sum over the split's inputs of q (w + 128),  q = 256 h + l

which fits into int32 and is exact in any order; facts say what the 128 add (graded/finish.py).
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment"

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .graded.finish import Sums, finish_
from .graded.fixed_point import CHUNK, fixed_point, steps_of, values_at
from .graded.lists import rows_of, warps_of
from .jit import cdiv, constexpr, jit, tl
from .words import dot_bytes

MOST_TOKENS = 8
BLOCK = 32  # outputs of a tile
_QUADS = CHUNK // 4
_PROGRAMS = 1024  # that keep a GPU's memory busy: about 8 of a warp for each of its multiprocessors
_MOST_PARTS = 4
_READ = 1024  # activations at a time


class TokenDigits(NamedTuple):
    """words: int32 [chunks, rows, 2, quads of a chunk], four digits each; facts and step as in graded/finish.py."""

    words: Tensor
    facts: Tensor
    step: Tensor


@dataclass(frozen=True)
class DigitTile:
    """blocks: of 32 outputs, of a program of one warp; unrolled: how many times four quads are read side by side;
    parts: programs that share a chunk of inputs.
    """

    blocks: int
    unrolled: int
    parts: int


def digit_tile(rows: int, blocks: int, chunks: int) -> DigitTile:
    """Two blocks share the digits that are loaded, where there are enough; more rows have more to do between loads."""
    own, parts = 2 if blocks * chunks >= _PROGRAMS else 1, 1
    while parts < _MOST_PARTS and parts * chunks * cdiv(blocks, own) < _PROGRAMS:
        parts *= 2
    return DigitTile(own, 4 if rows <= 2 else 2, parts)


@jit
def _digits_kernel(
    digits, facts, step,  # int8 [chunks, ROWS, 2, CHUNK], int32 [1, chunks, ROWS, 3], [ROWS]
    x, stride_x, tokens, inputs,
    ROWS: constexpr, CHUNK: constexpr, BLOCK: constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    r = tl.arange(0, ROWS)
    size = steps_of(x, r, stride_x, tokens, inputs, ROWS, BLOCK)
    sound = size < float("inf")
    tl.store(step + r, tl.where(sound, size, float("nan")))  # every chunk says the same
    k = tl.arange(0, CHUNK)
    q = fixed_point(values_at(x, r, chunk.to(tl.int32) * CHUNK + k, stride_x, tokens, inputs), sound, size)
    high = (q + 128) >> 8
    place = digits + (chunk * ROWS + r)[:, None] * (2 * CHUNK) + k[None, :]
    tl.store(place, high.to(tl.int8))
    tl.store(place + CHUNK, (q - 256 * high).to(tl.int8))
    tl.store(facts + (chunk * ROWS + r) * 3 + 2, -256 * tl.sum(q, 1))


@jit
def _tiles_kernel(
    partial,  # int32 [splits, ROWS, blocks * 32]
    tiles, digits,  # words of [blocks, quads, 32], as in TokenDigits
    blocks, quads, parts,
    ROWS: constexpr, OWN: constexpr, UNROLLED: constexpr, QUADS: constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    chunk, part = split // parts, split % parts
    n, four = tl.arange(0, 32), tl.arange(0, 4)
    digits += chunk * ROWS * 2 * QUADS
    zero = tl.zeros([4, 32], tl.int32)
    sums = (zero,) * (2 * ROWS * OWN)
    last = tl.minimum((part + 1) * (QUADS // parts), quads - chunk * QUADS)
    for start in range(part * (QUADS // parts), last, 4 * UNROLLED):
        for turn in tl.static_range(UNROLLED):
            quad = start + 4 * turn + four
            there = tl.minimum(chunk * QUADS + quad, quads - 1)  # beyond the last one digits are 0
            words = ()
            for own in tl.static_range(OWN):
                block = tl.minimum(tl.program_id(0) * OWN + own, blocks - 1).to(tl.int64)
                words = words + (tl.load(tiles + block * quads * 32 + there[:, None] * 32 + n[None, :]),)
            found = ()
            for each in tl.static_range(2 * ROWS):
                digit = tl.load(digits + each * QUADS + quad)[:, None] + zero
                for own in tl.static_range(OWN):
                    found = found + (dot_bytes(words[own], digit, sums[len(found)]),)
            sums = found
    for r in tl.static_range(ROWS):
        for own in tl.static_range(OWN):
            total = tl.sum(sums[2 * r * OWN + own] * 256 + sums[(2 * r + 1) * OWN + own], 0)
            block = tl.program_id(0) * OWN + own
            place = ((split.to(tl.int64) * ROWS + r) * blocks + block) * 32 + n
            tl.store(partial + place, total, mask=block + n * 0 < blocks)


def token_digits(x: Tensor) -> TokenDigits:
    """The digits of x: fp32, bf16 or fp16 [at most 8 tokens, inputs], in one launch."""
    x = x if x.stride(1) == 1 else x.contiguous()
    (tokens, inputs), rows = x.shape, rows_of(len(x))
    chunks = cdiv(inputs, CHUNK)
    words = x.new_empty(chunks, rows, 2, _QUADS, dtype=torch.int32)
    facts = x.new_empty(1, chunks, rows, 3, dtype=torch.int32)
    found = TokenDigits(words, facts, x.new_empty(rows, dtype=torch.float32))
    _digits_kernel[(chunks,)](
        words.view(torch.int8), facts, found.step, x, x.stride(0), tokens, inputs,
        ROWS=rows, CHUNK=CHUNK, BLOCK=_READ, num_warps=warps_of(rows),
    )  # fmt: skip
    return found


def digit_linear_triton(x: Tensor, tiles: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """y, [at most 8 tokens, outputs] in the dtype of x, in three launches. tiles: as DigitWeights has them."""
    found = token_digits(x if x.dtype in (torch.float32, torch.bfloat16, torch.float16) else x.float())
    (blocks, quads), (chunks, rows, *_) = tiles.shape[:2], found.words.shape
    tile = digit_tile(rows, blocks, chunks)
    partial = found.words.new_empty(chunks * tile.parts, rows, blocks * BLOCK)
    _tiles_kernel[cdiv(blocks, tile.blocks), chunks * tile.parts](
        partial, tiles.view(torch.int32), found.words, blocks, quads, tile.parts,
        ROWS=rows, OWN=tile.blocks, UNROLLED=tile.unrolled, QUADS=_QUADS,
        num_warps=1, num_stages=1,
    )  # fmt: skip
    y = x.new_empty(len(x), len(scale))
    finish_(
        y, None, Sums(partial, found.facts, found.step, scale.contiguous(), None if bias is None else bias.contiguous())
    )
    return y
