"""How likely a model finds given continuations, with the reading of what they share done once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.scoring import READ_TOKENS, Reader
from ..models.errors import TextError
from ..models.tokenizer import Tokenizer

_WORTH_A_PASS = 32  # tokens saved by reading a shared prefix once, from which the extra pass pays


@dataclass(frozen=True, slots=True)
class Passage:
    """Token ids, of which those from `begin` on are scored; at least one stands before."""

    ids: tuple[int, ...]
    begin: int

    def within(self, max_context: int) -> "Passage":
        """Without the start for which a context has no room. Raises TextError where what is scored alone fills it."""
        excess = len(self.ids) - 1 - max_context
        if excess <= 0:
            return self
        if excess >= self.begin:
            scored = len(self.ids) - self.begin
            raise TextError(f"a continuation has {scored} tokens, the context holds {max_context}; shorten it")
        return Passage(self.ids[excess:], self.begin - excess)


@dataclass(frozen=True, slots=True)
class PassageScore:
    """What the scored tokens gave: -ln p of all, how many, and whether each was the model's first choice."""

    nats: float
    num_tokens: int
    is_greedy: bool


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Passage:
    """A continuation after its context, tokenized together; white space at the context's end goes to the continuation.

    An empty context is the begin token, or the end-of-text token where the tokenizer adds no begin token.
    """
    kept = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    before = tokenizer.encode(kept) if kept else [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    after = whole[len(before) :]
    if not before:
        before = list(tokenizer.eos_ids[:1])
    if not before or not after:
        raise TextError(f"{continuation!r} after {context[-40:]!r} leaves no token to predict")
    return Passage((*before, *after), len(before))


@torch.inference_mode()
def score_passages(reader: Reader, passages: Sequence[Passage]) -> list[PassageScore]:
    """Scores in one pass, side by side; a long common prefix is prefilled once. Too long a context loses its start.

    Raises TextError where the scored tokens alone fill the context.
    """
    fitted = [passage.within(reader.max_context) for passage in passages]
    shared = _prefix_to_prefill(fitted)
    for start in range(0, shared, READ_TOKENS):
        reader.read(fitted[0].ids[start : min(start + READ_TOKENS, shared)], start, context=shared)
    contexts = [passage.begin - shared for passage in fitted]
    states = reader.branches([passage.ids[shared:-1] for passage in fitted], shared, contexts)
    scores, row = [], 0
    for passage in fitted:
        end = row + len(passage.ids) - 1 - shared
        targets = torch.tensor(passage.ids[passage.begin :], device=states.device)
        logits = reader.head(states[end - len(targets) : end]).float()
        nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().sum()
        scores.append(PassageScore(float(nats), len(targets), bool((logits.argmax(-1) == targets).all())))
        row = end
    return scores


def grouped(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Neighbours put together as long as a pass stays within a prefill chunk."""
    groups: list[list[Passage]] = []
    held = READ_TOKENS
    for passage in passages:
        if held + len(passage.ids) > READ_TOKENS:
            groups.append([])
            held = 0
        groups[-1].append(passage)
        held += len(passage.ids)
    return groups


def _prefix_to_prefill(passages: Sequence[Passage]) -> int:
    """How many tokens to read once before the branches; 0 where one pass over everything is cheaper."""
    limit = min(passage.begin for passage in passages) - 1
    if len(passages) == 1:
        return limit // READ_TOKENS * READ_TOKENS
    first, last = min(passage.ids for passage in passages), max(passage.ids for passage in passages)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = min(limit, same)
    return shared if shared * (len(passages) - 1) >= _WORTH_A_PASS else 0
