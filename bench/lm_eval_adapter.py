"""A moesaic model as `lm_eval` (EleutherAI's evaluation harness) drives it, scored by the runner that serves.

    import lm_eval
    from moesaic.bench.lm_eval_adapter import lm_eval_model
    lm_eval.simple_evaluate(model=lm_eval_model("smollm2"), tasks=["lambada_openai"], limit=100)

`lm_eval` is no dependency: it is imported when a model is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..engine.llm import LLM
from ..engine.options import EngineOptions
from ..engine.scoring import Reader
from ..evaluate.likelihood import Passage, encode_pair, score_passages
from ..evaluate.score import cut
from ..models.errors import SetupError
from ..models.threads import torch_threads

_NEW_TOKENS = 256  # where a task names no limit
_CONTEXT = 2048  # at most, unless another is asked for


class Answers:
    """What lm_eval asks a model, on plain values.

    Every text starts with the begin token where the tokenizer adds one, as it is served (lm_eval's own classes do so
    with add_bos_token=True); an empty context is that token, or the end-of-text token.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        self._llm = LLM(path, options or EngineOptions(num_slots=1))
        context = self._llm.limits.max_context
        self._reader = Reader(self._llm.model, context if options else min(context, _CONTEXT))

    def log_likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """ln p of a continuation, and whether each of its tokens is the model's first choice."""
        with self._threads():
            score = score_passages(self._reader, [encode_pair(self._llm.tokenizer, context, continuation)])[0]
        return -score.nats, score.is_greedy

    def rolling_log_likelihood(self, text: str) -> float:
        """ln p of a whole text, each token once; the last window of a long one keeps a full context."""
        tokenizer = self._llm.tokenizer
        first = tokenizer.eos_ids[:1] if tokenizer.bos_id is None else ()
        ids, size = (*first, *tokenizer.encode(text)), self._reader.max_context + 1  # inputs, and one to predict
        passages = [
            Passage(ids[max(0, end - size) : end], scored - max(0, end - size))
            for _, end, scored in cut(len(ids), size)
        ]
        with self._threads():
            return -sum(score_passages(self._reader, [passage])[0].nats for passage in passages)

    def generate(self, context: str, settings: Mapping[str, Any]) -> str:
        """The text up to the first of settings["until"]; the start of too long a context is left out."""
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        wanted = settings.get("max_gen_toks") or settings.get("max_new_tokens") or _NEW_TOKENS
        room = self._llm.limits.max_context
        limit = min(int(wanted), room - 1)
        ids = self._llm.tokenizer.encode(context)[-(room - limit) :]
        temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0
        found = self._llm.generate([ids], stop=stop, max_new_tokens=limit, temperature=temperature)
        return found[0].text

    def _threads(self) -> Any:
        return torch_threads(self._llm.description.threads)


def lm_eval_model(path: str | Path, options: EngineOptions | None = None) -> Any:
    """An `lm_eval.api.model.LM` over the model at a path or short name. Raises SetupError without `lm_eval`."""
    try:
        base = import_module("lm_eval.api.model").LM
    except ImportError as error:
        raise SetupError(f"lm_eval cannot be imported ({error}); install it with: pip install lm_eval") from None
    answers = Answers(path, options)

    class MoesaicLM(base):  # type: ignore[misc, valid-type]  # lm_eval is known only at run time
        """Hands each request's arguments on and keeps lm_eval's cache fed."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self._each("loglikelihood", requests, answers.log_likelihood)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self._each("loglikelihood_rolling", requests, answers.rolling_log_likelihood)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self._each("generate_until", requests, answers.generate)

        def _each(self, name: str, requests: Sequence[Any], call: Callable[..., Any]) -> list[Any]:
            found = []
            for request in requests:
                found.append(call(*request.args))
                self.cache_hook.add_partial(name, request.args, found[-1])
            return found

    return MoesaicLM()
