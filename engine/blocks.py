"""Who holds which block of keys and values. Numbers only: the blocks themselves lie in pages.py. No torch."""

from collections.abc import Iterable, Sequence


class OutOfBlocksError(Exception):
    """There are not as many free blocks as were asked for; nothing was taken."""


class BlockLedger:
    """Counts the holders of every block. A block without a holder is free; one that several hold is read only.

    Whoever takes blocks or shares them gives them back once.
    """

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks
        self._holders = [0] * num_blocks
        self._free = list(reversed(range(num_blocks)))  # the lowest first, so that a pool is touched from its start

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Takes free blocks, which are then held once. Raises OutOfBlocksError when there are fewer."""
        if count > len(self._free):
            raise OutOfBlocksError(f"{count} blocks are asked for, {len(self._free)} of {self.total} are free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a holder to each of these. Raises ValueError for a block that nobody holds."""
        for block in blocks:
            if not self._holders[block]:
                raise ValueError(f"block {block} is free: nobody can share it")
            self._holders[block] += 1

    def give(self, blocks: Iterable[int]) -> None:
        """Takes a holder from each of these. Raises ValueError for a block that nobody holds."""
        for block in blocks:
            if not self._holders[block]:
                raise ValueError(f"block {block} is free: nobody can give it back")
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free.append(block)

    def holders(self, block: int) -> int:
        return self._holders[block]

    def differences(self, held: Iterable[Sequence[int]]) -> list[str]:
        """Where the books and what is really held differ: nothing, unless a block was lost or given twice.

        held: the blocks of each holder.
        """
        counts = [0] * self.total
        for blocks in held:
            for block in blocks:
                counts[block] += 1
        found = [
            f"block {block} has {wanted} holders, the ledger says {noted}"
            for block, (wanted, noted) in enumerate(zip(counts, self._holders, strict=True))
            if wanted != noted
        ]
        idle = {block for block, count in enumerate(self._holders) if not count}
        if idle != set(self._free) or len(idle) != len(self._free):
            found.append(f"{len(idle)} blocks have no holder, {len(self._free)} are listed as free")
        return found
