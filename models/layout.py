"""How our tensors lie in those of a family's files: turned over, or several in one. Most lie there as they are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from .errors import CheckpointError
from .families.registry import Family
from .safetensors_header import ITEM_BYTES, TensorEntry
from .spec import TransformerSpec


@dataclass(frozen=True, slots=True)
class Part(TensorEntry):
    """A tensor of ours in one of a file, whose place and size `begin` and `end` are; `shape` is ours.

    turned: whether the file has the transpose. Of its rows it is, in each of `groups` runs of equal length, `rows` from
    `first` on; all where `rows` is 0.
    """

    turned: bool = False
    groups: int = 1
    first: int = 0
    rows: int = 0
    stored_shape: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def whole(self) -> TensorEntry:
        """The tensor of the file."""
        kept = {field.name: getattr(self, field.name) for field in fields(TensorEntry)}
        return TensorEntry(**kept | {"shape": self.stored_shape})

    def cut(self, whole: Tensor) -> Tensor:
        """This tensor, of what the file has."""
        rows = whole.T if self.turned else whole
        if self.rows:
            runs = rows.reshape(self.groups, -1, *rows.shape[1:])
            rows = runs[:, self.first : self.first + self.rows].flatten(0, 1)
        return rows.contiguous()


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a family for models of a spec."""

    family: Family
    spec: TransformerSpec

    def stored_shape(self, ours: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the tensor in which ours lies. shapes: of all of ours."""
        rows = sum(shapes[name][0] for name in self.family.together(ours))
        shape = (rows, *shapes[ours][1:])
        return shape[::-1] if self._is_turned(ours, shape) else shape

    def part(self, ours: str, entry: TensorEntry, shapes: Mapping[str, tuple[int, ...]]) -> TensorEntry:
        """What is ours of an entry of the stored shape; the entry itself where that is all of it."""
        names, shape = self.family.together(ours), shapes[ours]
        turned = self._is_turned(ours, shape)
        if len(names) == 1 and not turned:
            return entry
        groups = self._groups(ours)
        first = sum(shapes[name][0] for name in names[: names.index(ours)]) // groups
        rows = shape[0] // groups if len(names) > 1 else 0
        place = (entry.name, entry.file, entry.dtype, shape, entry.begin, entry.end, entry.data_start, entry.divisor)
        return Part(*place, turned, groups, first, rows, entry.shape)

    def stored(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor) as files have them, one at a time: of several in one, by the name of the first.

        Raises CheckpointError where some of these are missing, or of another dtype than the rest.
        """
        waiting: dict[tuple[str, ...], dict[str, Tensor]] = {}
        for ours, tensor in tensors:
            names = self.family.together(ours)
            held = waiting.setdefault(names, {})
            held[ours] = tensor
            if len(held) == len(names):
                yield names[0], self._joined(names, waiting.pop(names))
        if waiting:
            whole, held = next(iter(waiting.items()))
            raise CheckpointError(f"{self.family.their_name(whole[0])} is made of {len(whole)}, here are {len(held)}")

    def _joined(self, names: tuple[str, ...], held: Mapping[str, Tensor]) -> Tensor:
        parts = [held[name] for name in names]
        if len({part.dtype for part in parts}) > 1:
            kinds = ", ".join(str(part.dtype)[6:] for part in parts)
            raise CheckpointError(
                f"{self.family.their_name(names[0])} is one tensor in the files of {self.spec.family}, and would be "
                f"{kinds} here; give all of its parts one format"
            )
        if len(parts) > 1:
            groups = self._groups(names[0])
            runs = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
            joined = torch.cat(runs, dim=1).flatten(0, 1)
        else:
            joined = parts[0]
        return joined.T if self._is_turned(names[0], joined.shape) else joined

    def _is_turned(self, ours: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and self.family.turns(ours)

    def _groups(self, ours: str) -> int:
        """Runs of rows in which parts alternate: the heads, where files have them head by head."""
        if not self.family.by_head or not ours.startswith("layers."):
            return 1
        return self.spec.layers[int(ours.split(".")[1])].attention.num_heads
