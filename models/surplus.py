"""Tensors that a file holds beyond what config.json asks for: proved redundant, obeyed, or refused by name."""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch

from .errors import CheckpointError
from .families.registry import Family
from .rope import inverse_frequencies
from .safetensors_header import TensorEntry
from .spec import RopeSpec, TransformerSpec
from .tensor_reader import FLOATS, are_equal, read_tensor

_FREQUENCIES = re.compile(r"rotary_emb\.inv_freq$")


def find(found: Mapping[str, TensorEntry], theirs: str, family: Family) -> TensorEntry | None:
    """A tensor by its family's name; files of the bare model leave out the first part,
    and those of a head on top of an encoder have it."""
    whole = f"{family.base}."
    return found.get(theirs) or found.get(theirs.removeprefix(whole)) or found.get(whole + theirs)


def has_head_of_its_own(found: Mapping[str, TensorEntry], family: Family) -> bool:
    """Whether the files hold a head that is not the embedding.

    Such weights are untied, whatever config.json says: they were trained so, and `transformers` reads them so too.
    """
    if not family.has_head:
        return False
    head, embedding = (
        find(found, family.their_name(f"{name}.weight"), family) for name in ("untied_head", "embedding")
    )
    return head is not None and embedding is not None and not are_equal(head, embedding)


def check_surplus(
    left: Mapping[str, TensorEntry], family: Family, spec: TransformerSpec, embedding: TensorEntry
) -> None:
    """Refuses what nothing reads, unless it says again what config.json says, or what `embedding` holds."""
    for name in left:
        if family.is_embedding_again(name) and not are_equal(left[name], embedding):
            raise CheckpointError(
                f"{name} differs from {embedding.name}, and moesaic runs a {family.architecture} with one embedding "
                "for both sides; tie them, or start from a model that does"
            )
    tied = family.their_name("untied_head.weight") if spec.tied_head and family.has_head else None
    unknown = [name for name in left if not (family.is_unused(name) or family.is_embedding_again(name) or name == tied)]
    if unknown:
        raise CheckpointError(
            f"the weights hold {len(unknown)} tensors that a {family.architecture} of this config does not have, "
            f"such as {unknown[0]}; config.json does not fit these weights"
        )
    for name, entry in left.items():
        if spec.rope and _FREQUENCIES.search(name):
            _check_frequencies(entry, spec.rope, spec.layers[0].attention.head_size)


def _check_frequencies(entry: TensorEntry, rope: RopeSpec, head_size: int) -> None:
    """Older files keep the frequencies, some in half precision, some from before they were scaled."""
    forms = [inverse_frequencies(each, head_size) for each in (rope, replace(rope, scaling="default"))]
    if entry.dtype in FLOATS and entry.shape == forms[0].shape:
        with entry.file.open("rb") as stream:
            kept = read_tensor(stream, entry)
        if any(torch.allclose(kept.float(), form.to(kept.dtype).float(), rtol=1e-2, atol=1e-6) for form in forms):
            return
    raise CheckpointError(
        f"{entry.file.name}: {entry.name} is of other positions than config.json asks for, "
        f"rope_theta {rope.theta:g}; correct rope_theta there, or remove the tensor"
    )
