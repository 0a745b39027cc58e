"""Answers on a terminal: the first as it is made, the others after it, what was told of their tokens on stderr."""

from collections.abc import Iterable

from ..engine.completion import Answer, Chunk, Completion, joined
from ..engine.request import TokenLogprobs
from .terminal import say


def show(chunks: Iterable[Chunk]) -> Completion:
    """Prints what comes and gives it as a whole."""
    taken = []
    for chunk in chunks:
        taken.append(chunk)
        if chunk.choice == 0:
            print(chunk.text, end="", flush=True)
    print()
    whole = joined(taken)
    for number, other in enumerate(whole.others, 2):
        print(f"--- answer {number} of {len(whole.others) + 1}\n{other.text}")
    _tell("prompt", whole.prompt_logprobs)
    answers: list[Completion | Answer] = [whole, *whole.others]
    for number, each in enumerate(answers, 1):
        _tell(f"answer {number}", each.logprobs)
    return whole


def _tell(what: str, told: Iterable[TokenLogprobs]) -> None:
    for each in told:
        others = ", ".join(f"{token} {logprob:.3f}" for token, logprob in each.top)
        say(f"[{what}: token {each.token_id}, log probability {each.logprob:.3f}; {others}]")
