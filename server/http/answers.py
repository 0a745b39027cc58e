"""From the chunks of one request to OpenAI's objects: the whole answer, or the parts of a stream."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...models.tokenizer import Tokenizer
from ...proto import generation_pb2 as pb
from .logprobs import TokenTexts

_FINISHES = {
    pb.Finish.STOP_TOKEN: "stop",
    pb.Finish.STOP_STRING: "stop",
    pb.Finish.LENGTH: "length",
    pb.Finish.CONTEXT_FULL: "length",
}


class Answer:
    """What is the same in all parts of an answer, and how its parts are written. chat: of which of the two kinds."""

    def __init__(self, request_id: str, model: str, chat: bool, tokenizer: Tokenizer, logprobs: bool) -> None:
        self._chat, self._tokenizer, self._logprobs = chat, tokenizer, logprobs
        self._texts: dict[int, TokenTexts] = {}
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._begun: set[int] = set()  # choices

    def whole(self, chunks: Sequence[pb.GenerateChunk]) -> dict[str, Any]:
        """All of them as one object."""
        usage = chunks[-1].usage
        numbers = sorted({chunk.choice for chunk in chunks})
        choices = [self._choice(number, [each for each in chunks if each.choice == number]) for number in numbers]
        return {
            **self._head,
            "choices": choices,
            "usage": usage_of(usage),
            "service_tier": usage.tier_used or None,
            "system_fingerprint": None,
        }

    def part(self, chunk: pb.GenerateChunk, counting: bool) -> dict[str, Any]:
        """A part of a stream."""
        choice: dict[str, Any] = {"index": chunk.choice, **self._delta(chunk)}
        choice["logprobs"] = self._told(chunk.choice, chunk.logprobs)
        choice["finish_reason"] = _FINISHES.get(chunk.finish.reason)
        usage = {"usage": usage_of(chunk.usage)} if counting else {}
        return {**self._head, **self._part_kind, "choices": [choice], **usage}

    def last_part(self, usage: pb.Usage) -> dict[str, Any]:
        """What ends a stream that was asked for its usage."""
        return {
            **self._head, **self._part_kind, "choices": [], "usage": usage_of(usage),
            "service_tier": usage.tier_used or None,
        }  # fmt: skip

    @property
    def _part_kind(self) -> Mapping[str, str]:
        return {"object": "chat.completion.chunk"} if self._chat else {}

    def _delta(self, chunk: pb.GenerateChunk) -> dict[str, Any]:
        if not self._chat:
            return {"text": chunk.text}
        role = {} if chunk.choice in self._begun else {"role": "assistant"}
        self._begun.add(chunk.choice)
        return {"delta": {**role, "content": chunk.text}}

    def _choice(self, choice: int, parts: list[pb.GenerateChunk]) -> dict[str, Any]:
        text = "".join(part.text for part in parts)
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        told = [each for part in parts for each in part.logprobs]
        reason = _FINISHES.get(parts[-1].finish.reason)
        return {"index": choice, **content, "logprobs": self._told(choice, told), "finish_reason": reason}

    def _told(self, choice: int, told: Any) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        texts = self._texts.setdefault(choice, TokenTexts(self._tokenizer))
        return {"content": texts.of_chat(told), "refusal": None} if self._chat else texts.of_completion(told)


def usage_of(usage: pb.Usage) -> dict[str, Any]:
    """What was used, and under a key of ours the receipt: what was asked for beside what was read."""
    shares = {name: getattr(usage, name) for name in ("bytes_share", "neurons_share", "weight_bytes_per_token")
              if usage.HasField(name)}  # fmt: skip
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        "moesaic": {
            "tier_asked": usage.tier_asked,
            "tier_used": usage.tier_used,
            "cached_prompt_tokens": usage.cached_prompt_tokens,
            **shares,
        },
    }
