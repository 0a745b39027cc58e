"""From the chunks of one request to OpenAI's objects: the whole answer, or the parts of a stream."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...models.tokenizer import Tokenizer
from ...proto import generation_pb2 as pb
from ..tool_calls import CallReader, Piece
from .logprobs import TokenTexts
from .tools import call_objects

_FINISHES = {
    pb.Finish.STOP_TOKEN: "stop",
    pb.Finish.STOP_STRING: "stop",
    pb.Finish.LENGTH: "length",
    pb.Finish.CONTEXT_FULL: "length",
}


class Answer:
    """What is the same in all parts of an answer, and how its parts are written. chat: of which of the two kinds.

    reader: makes what finds calls of tools in the text of one choice. one: of several calls the first alone is told.
    """

    def __init__(
        self, request_id: str, model: str, chat: bool, tokenizer: Tokenizer, logprobs: bool,
        reader: Callable[[], CallReader | None] = lambda: None, one: bool = False,
    ) -> None:  # fmt: skip
        self._reader, self._one = reader, one
        self._readers: dict[int, CallReader | None] = {}
        self._num_calls = Counter[int]()  # by choice
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
        choice["finish_reason"] = self._finish_reason(chunk)
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
        piece, first = self._read(chunk.choice, chunk.text, chunk.HasField("finish"))
        calls = {"tool_calls": call_objects(piece.calls, first)} if piece.calls else {}
        content = {} if calls and not piece.text else {"content": piece.text}
        return {"delta": {**role, **content, **calls}}

    def _choice(self, choice: int, parts: list[pb.GenerateChunk]) -> dict[str, Any]:
        text = "".join(part.text for part in parts)
        content = {"message": self._message(choice, text)} if self._chat else {"text": text}
        told = [each for part in parts for each in part.logprobs]
        reason = self._finish_reason(parts[-1])
        return {"index": choice, **content, "logprobs": self._told(choice, told), "finish_reason": reason}

    def _message(self, choice: int, text: str) -> dict[str, Any]:
        piece, _ = self._read(choice, text, True)
        calls = [{key: each[key] for key in each if key != "index"} for each in call_objects(piece.calls, 0)]
        content = None if calls and not piece.text else piece.text
        return {
            "role": "assistant", "content": content, "refusal": None, **({"tool_calls": calls} if calls else {}),
        }  # fmt: skip

    def _read(self, choice: int, text: str, ends: bool) -> tuple[Piece, int]:
        """What a part of a choice's text makes certain, and how many calls it had before."""
        if choice not in self._readers:
            self._readers[choice] = self._reader()
        reader = self._readers[choice]
        before = self._num_calls[choice]
        if reader is None:
            return Piece(text), before
        pieces = [reader.push(text), *([reader.finish()] if ends else [])]
        calls = tuple(call for piece in pieces for call in piece.calls)
        calls = calls[: max(0, 1 - before)] if self._one else calls
        self._num_calls[choice] += len(calls)
        return Piece("".join(piece.text for piece in pieces), calls), before

    def _finish_reason(self, chunk: pb.GenerateChunk) -> str | None:
        reason = _FINISHES.get(chunk.finish.reason)
        return "tool_calls" if reason == "stop" and self._num_calls[chunk.choice] else reason

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
