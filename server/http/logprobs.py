"""Log probabilities in the two forms of OpenAI's answers: tokens are texts there."""

from collections.abc import Iterable, Sequence
from typing import Any

from ...models.tokenizer import Tokenizer
from ...proto import generation_pb2 as pb

LEAST = -9999.0  # JSON has no number for what cannot come
_REPLACEMENT = "\ufffd"


class TokenTexts:
    """The texts of the tokens of one answer, each as it reads behind the one before."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: tuple[int, ...] = ()
        self._offset = 0

    def of_chat(self, told: Iterable[pb.TokenLogprobs]) -> list[dict[str, Any]]:
        """What `logprobs.content` holds."""
        content = []
        for each in told:
            top = [self._entry(*pair) for pair in zip(each.top_ids, each.top_logprobs, strict=True)]
            content.append({**self._entry(each.token_id, each.logprob), "top_logprobs": top})
            self._before = (each.token_id,)
        return content

    def of_completion(self, told: Iterable[pb.TokenLogprobs]) -> dict[str, Any]:
        """What `logprobs` of a completion holds."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for each in told:
            text = self._text(each.token_id)
            found["tokens"].append(text)
            found["token_logprobs"].append(max(each.logprob, LEAST))
            pairs = zip(each.top_ids, each.top_logprobs, strict=True)
            found["top_logprobs"].append({self._text(token): max(logprob, LEAST) for token, logprob in pairs})
            found["text_offset"].append(self._offset)
            self._offset += len(text)
            self._before = (each.token_id,)
        return found

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {
            "token": text,
            "logprob": max(logprob, LEAST),
            "bytes": None if _REPLACEMENT in text else list(text.encode()),
        }

    def _text(self, token: int) -> str:
        """Empty for a special token; with the sign for what is no text where it is a part of a character."""
        before = self._decode(self._before)
        if _REPLACEMENT in before:
            return self._decode((token,))
        return self._decode((*self._before, token))[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)
