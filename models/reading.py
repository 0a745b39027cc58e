"""A pass of an encoder as one call of the C++, on a CPU: texts of any lengths one after the other, without padding.

Every layer keeps the keys and values of a text in blocks that the next layer uses again. What an encoder of a decoder
has read goes, with each decoder layer's keys and values of it, straight to the pages where that looks for them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..kernels.native_program import Asked, Beside, Program
from ..kernels.paged_attention import BLOCK_TOKENS, KVPages, PagedTokens, padded_size
from .packing import pack_digits_
from .program import Positions, check_parts, library_of_programs
from .transformer import CrossAttention, Transformer
from .walk import NoProgramError, write_reading

_BLOCKS = 256  # that there are at first


class ReadingProgram:
    """An encoder, run by one call for all texts of a pass. Raises NoProgramError where that cannot be.

    kept: attention of a decoder to what this has read, and its pages. Int8 linears are packed for digits on the way,
    and the model has to stay as it is from then on.
    """

    def __init__(self, encoder: Transformer, kept: Sequence[tuple[CrossAttention, KVPages]] = ()) -> None:
        self._library = library_of_programs()
        check_parts(encoder)
        pack_digits_(encoder, num_digits=(1, 2))
        self._encoder, self._kept, self._positions = encoder, kept, Positions(encoder)
        self._heads = _heads(encoder)
        self._program: Program | None = None
        self._blocks = 0

    def run(self, texts: Sequence[Sequence[int]], threads: int, sources: PagedTokens | None = None) -> Tensor:
        """States fp32 [tokens, hidden] of all texts, none of them empty. sources: where their keys and values go, for
        `kept`.
        """
        tokens, seen = _laid(texts)
        ids = torch.tensor([token for text in texts for token in text])
        x = self._positions.embedded(ids, tokens.positions)
        beside = Beside(sources, seen, *self._positions.distances(tokens.longest))
        asked, every = Asked(torch.zeros(len(ids)), len(ids)), torch.arange(len(ids))
        program = self._program_of(int(tokens.tables.max()) + 1)
        return program.run(x, tokens, self._positions.turns(tokens.longest), asked, every, threads, beside)[0]

    def _program_of(self, blocks: int) -> Program:
        """The instructions, over pages of so many blocks at least."""
        if self._program is None or self._blocks < blocks:
            self._blocks = max(_BLOCKS, 1 << (blocks - 1).bit_length())
            self._program = Program(self._library, self._encoder.spec.hidden_size)
            shape = self._blocks, self._heads[0], BLOCK_TOKENS, self._heads[1]
            pages = KVPages(torch.zeros(shape), torch.zeros(shape))  # what fills up heads has to be zero
            write_reading(self._program, self._encoder, pages, self._kept)
        return self._program


def _laid(texts: Sequence[Sequence[int]]) -> tuple[PagedTokens, Tensor]:
    """Where the tokens of texts stand, each text in blocks of its own, and the last position that each of them sees."""
    counts = [len(text) for text in texts]
    blocks = [-(-count // BLOCK_TOKENS) for count in counts]
    firsts = torch.tensor([0, *accumulate(blocks)][:-1], dtype=torch.int32)
    longest, lengths = max(counts), torch.tensor(counts)
    tables = firsts[:, None] + torch.arange(max(blocks), dtype=torch.int32)
    last = firsts + torch.tensor(blocks, dtype=torch.int32) - 1
    tables = torch.minimum(tables, last[:, None])  # what stands behind the last block is never looked at
    row = torch.arange(len(texts), dtype=torch.int32).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(count, dtype=torch.int32) for count in counts])
    seen = (lengths - 1).to(torch.int32).repeat_interleave(lengths)
    return PagedTokens(tables, row, positions, counts, longest), seen


def _heads(encoder: Transformer) -> tuple[int, int]:
    """How many heads of keys each layer has, and how many values are stored of one."""
    attentions = [layer.attention for layer in encoder.spec.layers]
    found = {(each.num_kv_heads, padded_size(each.head_size)) for each in attentions}
    if len(found) != 1:
        raise NoProgramError("its layers have heads of different sizes")
    return found.pop()
