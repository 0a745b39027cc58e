"""Blocks that are kept after their request has ended, for the next one that begins with the same tokens. No torch.

A tree of whole blocks: a block's keys and values depend on all tokens before it, so a node is found by its parent and
its own tokens, compared and not hashed alone. Roots are apart by salt and by the operating point that wrote them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .blocks import BlockLedger


@dataclass(frozen=True, slots=True)
class Origin:
    """What makes equal tokens have equal keys and values: the caller's salt, and the operating point of the prefill."""

    salt: str = ""
    operating_point: float = 0.0


@dataclass(eq=False, slots=True)
class _Node:
    key: tuple[int, ...]
    block: int
    parent: "_Node | None"
    children: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)


class PrefixCache:
    """Holds blocks in the ledger once each, and gives up those that were not used for the longest time."""

    def __init__(self, ledger: BlockLedger, block_tokens: int) -> None:
        self._ledger, self._block_tokens = ledger, block_tokens
        self._roots: dict[Origin, dict[tuple[int, ...], _Node]] = {}
        self._nodes: OrderedDict[_Node, Origin] = OrderedDict()  # least recently used first, children before parents

    @property
    def blocks(self) -> list[int]:
        return [node.block for node in self._nodes]

    @property
    def evictable(self) -> int:
        """Blocks that nobody else holds."""
        return sum(self._ledger.holders(node.block) == 1 for node in self._nodes)

    def find(self, ids: Sequence[int], origin: Origin) -> list[int]:
        """The blocks that hold the longest known beginning of these tokens, now held by the caller too.

        At least one token is left over, since somebody wants what follows the last.
        """
        path = self._path(ids[: len(ids) - 1], origin)
        for node in reversed(path):
            self._nodes.move_to_end(node)
        found = [node.block for node in path]
        self._ledger.share(found)
        return found

    def keep(self, ids: Sequence[int], origin: Origin, blocks: Sequence[int]) -> None:
        """Remembers the whole blocks of these tokens; what is known already is left as it is."""
        path = self._path(ids, origin)
        for index in range(len(path), len(ids) // self._block_tokens):
            parent = path[-1] if path else None
            key = self._key(ids, index)
            node = _Node(key, blocks[index], parent)
            self._siblings(parent, origin)[key] = node
            self._nodes[node] = origin
            self._ledger.share([node.block])
            path.append(node)
        for node in reversed(path):
            self._nodes.move_to_end(node)

    def evict(self, count: int) -> int:
        """Frees up to this many blocks that nobody else holds, those first that were used least; how many it were."""
        done, progress = 0, True
        while done < count and progress:
            progress = False
            for node in [*self._nodes]:
                if done < count and not node.children and self._ledger.holders(node.block) == 1:
                    self._forget(node)
                    done, progress = done + 1, True
        return done

    def _path(self, ids: Sequence[int], origin: Origin) -> list[_Node]:
        path: list[_Node] = []
        known = self._roots.get(origin, {})
        for index in range(len(ids) // self._block_tokens):
            node = known.get(self._key(ids, index))
            if node is None:
                break
            path.append(node)
            known = node.children
        return path

    def _key(self, ids: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(ids[index * self._block_tokens : (index + 1) * self._block_tokens])

    def _siblings(self, parent: _Node | None, origin: Origin) -> dict[tuple[int, ...], _Node]:
        return self._roots.setdefault(origin, {}) if parent is None else parent.children

    def _forget(self, node: _Node) -> None:
        origin = self._nodes.pop(node)
        siblings = self._siblings(node.parent, origin)
        del siblings[node.key]
        if not siblings and node.parent is None:
            del self._roots[origin]
        self._ledger.give([node.block])
