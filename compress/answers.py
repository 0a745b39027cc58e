"""What a model with an encoder and a decoder answers to texts: what its decoder is looked at, and taught, on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..models.checkpoint import Checkpoint, load_transformer
from ..models.optional_json import read_optional_json
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .windows import Answers, Batch

ANSWER_TOKENS = 32  # of each answer, at most
_ROWS = 16  # answered together


class SourceAnswers:
    """The likeliest tokens of one model, one by one, each answer found once. What a decoder is given of an answer
    begins with the model's start and ends before the answer's last token.
    """

    def __init__(self, original: Checkpoint) -> None:
        self._original = original
        self._known: dict[tuple[int, ...], tuple[int, ...]] = {}  # by source

    def to_all(self, sources: Tensor, device: torch.device) -> Answers:
        """The answers to sources [rows, tokens], those of one length together, the shortest first."""
        by_length: dict[int, list[int]] = defaultdict(list)
        given = self._given(sources, device)
        for row, ids in enumerate(given):
            by_length[len(ids)].append(row)
        groups = (rows for _, rows in sorted(by_length.items()))
        return Answers(tuple(Batch(torch.tensor([given[row] for row in rows]), sources[rows]) for rows in groups))

    def padded(self, sources: Tensor, device: torch.device) -> tuple[Batch, Tensor]:
        """The answers to some sources side by side, and which of their tokens count, bool [rows, tokens]."""
        given = self._given(sources, device)
        longest = max(map(len, given))
        ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in given])
        counts = torch.arange(longest) < torch.tensor([len(each) for each in given])[:, None]
        return Batch(ids, sources.cpu()).to(device), counts.to(device)

    def _given(self, sources: Tensor, device: torch.device) -> Sequence[tuple[int, ...]]:
        rows = [tuple(row) for row in sources.tolist()]
        missing = [row for row in dict.fromkeys(rows) if row not in self._known]
        if missing:
            self._known |= zip(missing, self._found(torch.tensor(missing), device), strict=True)
        return [self._known[row] for row in rows]

    def _found(self, sources: Tensor, device: torch.device) -> Iterator[tuple[int, ...]]:
        model, start = load_transformer(self._original, device, "float32"), _start_of(self._original)
        ends = torch.tensor(Tokenizer.open(self._original.path).eos_ids, device=device)
        for part in torch.split(sources.to(device), _ROWS):
            yield from map(tuple, _decoder_inputs(model, part, start, ends))


@torch.inference_mode()
def _decoder_inputs(model: Transformer, sources: Tensor, start: int, ends: Tensor) -> Iterator[list[int]]:
    """Start and answer of each row, without the answer's last token."""
    source, ids = model.read(sources), torch.full((len(sources), 1), start, device=sources.device)
    ended = torch.zeros(len(sources), dtype=torch.bool, device=sources.device)
    lengths = torch.zeros(len(sources), dtype=torch.long, device=sources.device)
    while not ended.all() and ids.shape[1] <= min(ANSWER_TOKENS, model.spec.max_context - 1):
        states = model.hidden(ids, context=model.context_of(ids, source=source))[:, -1]
        chosen = model.head(states).argmax(-1)
        lengths += ~ended
        ended |= torch.isin(chosen, ends)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return (row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True))


def _start_of(original: Checkpoint) -> int:
    """The token with which answers begin."""
    key = "decoder_start_token_id"
    found = read_optional_json(original.path / "generation_config.json").get(key, original.config.get(key))
    return found if type(found) is int and 0 <= found < original.spec.vocab_size else 0
