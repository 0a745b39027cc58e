"""The engine with a tokenizer in front of it, in this process: text in, text out, no network."""

import operator
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Unpack

from ..models.chat import ChatTemplate, Message, message_violations, messages_of
from ..models.errors import InvalidRequest, RequestFailed, Violation
from ..models.locate import locate
from ..models.tokenizer import Tokenizer, is_unicode
from .build import build_engine
from .completion import Chunk, Completion, Usage, joined
from .defaults import sampling_defaults
from .guided import check_constraint
from .options import EngineOptions
from .request import FinishReason, Request, Row, Timing
from .settings import GenerationSettings, Terms, asked_of, check_names
from .text import TextStream

Prompt = str | Sequence[int]
Conversation = Sequence[Mapping[str, str] | Message]


@dataclass(slots=True)
class _Answer:
    """One request under way: the texts of its answers so far, and when they began."""

    request: Request
    texts: list[TextStream]
    tier: str
    open: set[int] = field(init=False)
    num_tokens: int = 0  # of all answers
    timing: Timing = Timing()
    first_at: float = 0.0

    def __post_init__(self) -> None:
        self.open = set(range(len(self.texts)))

    def take(self, row: Row) -> Chunk | None:
        """The chunk of a row; a stop string in it ends its answer at the token that completed it.

        None for what the engine says of an answer that has ended by a stop string. Raises RequestFailed where the
        engine failed on the request.
        """
        if row.finish is FinishReason.FAILED:
            raise RequestFailed(f"the engine failed on this request: {row.error}")
        if row.choice not in self.open:
            return None
        self._clock(row)
        text = self.texts[row.choice]
        before = text.num_tokens_used
        shown = text.push(row.token_ids)
        used = row.token_ids[: text.num_tokens_used - before]
        self.num_tokens += len(used)
        chunk = Chunk(
            shown, used, choice=row.choice, logprobs=row.logprobs[: len(used)], prompt_logprobs=row.prompt_logprobs
        )
        is_last = text.stopped is not None or row.finish is not None
        return self._closed(chunk, text, row) if is_last else chunk

    def _closed(self, chunk: Chunk, text: TextStream, row: Row) -> Chunk:
        """The last chunk of an answer, and with the last of all what was used."""
        self.open.discard(row.choice)
        by_string = text.stopped is not None
        chunk = replace(
            chunk,
            text=chunk.text + text.finish(),
            finish_reason=FinishReason.STOP_STRING if by_string else row.finish,
            matched=text.stopped if by_string else row.stop_token_id,
        )
        if self.open:
            return chunk
        usage = Usage(len(self.request.prompt_ids), self.num_tokens, self.tier, *(row.shares or (None, None)))
        return replace(chunk, usage=usage, timing=self.timing)

    def _clock(self, row: Row) -> None:
        """The engine's figures; decode is timed here, since a stop string ends a request without its knowledge."""
        if not self.num_tokens:
            self.first_at = time.monotonic()
        decode = time.monotonic() - self.first_at
        self.timing = (
            row.timing if row.finish and row.timing else replace(row.timing or self.timing, decode_seconds=decode)
        )


class LLM:
    """A model to generate with, offline.

    llm = LLM("stories260k"); llm.generate(["Once upon a time"], temperature=0)[0].text

    Wrong arguments raise InvalidRequest with every bad field; a directory that cannot be used, SetupError; what of its
    generation_config.json cannot be followed is a GenerationConfigWarning. One thread may use it at a time; several
    streams of that thread may be open together.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        folder = locate(path)
        self.tokenizer = Tokenizer.open(folder)
        self.chat_template = ChatTemplate.open(folder, self.tokenizer)
        defaults = sampling_defaults(folder)
        built = build_engine(str(folder), options or EngineOptions())
        self.engine, self.limits, self.description = built.engine, built.limits, built.description
        self._terms = Terms(defaults, built.limits, built.description.dial)
        self.model = built.model
        self._keys = count()
        self._rows: dict[int, deque[Row]] = {}  # of the open answers, not yet taken

    def generate(self, prompts: Sequence[Prompt], **settings: Unpack[GenerationSettings]) -> list[Completion]:
        """Continues every prompt, batched; answers come in the order of the prompts.

        A prompt is text (the begin token is added where the tokenizer adds one) or token ids, taken as they are.
        What is left open comes from generation_config.json; temperature 0 is greedy.
        """
        many = [prompts] if isinstance(prompts, str) else prompts
        answers = [self._answer(prompt, GenerationSettings(**settings)) for prompt in many]
        return self._whole(answers)

    def stream(self, prompt: Prompt, **settings: Unpack[GenerationSettings]) -> Generator[Chunk, None, None]:
        """The same for one prompt, as it is made. Closing the iterator frees the slot."""
        answer = self._answer(prompt, GenerationSettings(**settings))
        return (chunk for _, chunk in self._run([answer]))

    def chat(
        self, messages: Conversation | Sequence[Conversation], **settings: Unpack[GenerationSettings]
    ) -> list[Completion]:
        """Answers a conversation, or each of several, written out by the model's own chat template.

        llm.chat([{"role": "user", "content": "Hello"}], temperature=0)[0].text

        Settings and answers as in `generate`. Raises Unsupported for a model without a template.
        """
        return self._whole([self._chat_answer(each, GenerationSettings(**settings)) for each in _several(messages)])

    def stream_chat(
        self, messages: Conversation, **settings: Unpack[GenerationSettings]
    ) -> Generator[Chunk, None, None]:
        """The answer to one conversation, as it is made. Closing the iterator frees the slot."""
        answer = self._chat_answer(messages, GenerationSettings(**settings))
        return (chunk for _, chunk in self._run([answer]))

    def chat_prompt(self, messages: object) -> list[int]:
        """The token ids that the model sees of a conversation, up to the header of the answer to come.

        Raises InvalidRequest for what is no conversation, Unsupported for a model without a chat template.
        """
        parsed, found = messages_of(messages)
        found = found or message_violations(parsed)
        if found:
            raise InvalidRequest(found)
        return self.chat_template.prompt_ids(parsed)

    def _chat_answer(self, messages: object, settings: GenerationSettings) -> _Answer:
        return self._answer(self.chat_prompt(messages), settings, self.chat_template.end_ids)

    def _answer(self, prompt: Prompt, settings: GenerationSettings, end_ids: Sequence[int] = ()) -> _Answer:
        """Checks everything that was asked and raises InvalidRequest with all that is wrong."""
        check_names(settings)
        asked = asked_of(self._ids(prompt), settings, self._terms, turn_end_ids=end_ids)
        if asked.request.constraint is not None:
            check_constraint(asked.request.constraint)
        request = replace(asked.request, key=next(self._keys))
        texts = [asked.text_stream(self.tokenizer) for _ in range(request.sampling.n)]
        return _Answer(request, texts, asked.tier)

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        try:
            if isinstance(prompt, str) and is_unicode(prompt):
                return tuple(self.tokenizer.encode(prompt))
            return tuple(operator.index(token) for token in prompt)  # type: ignore[arg-type]
        except TypeError:
            message = f"is {str(prompt)[:40]!r}; it must be text in Unicode, or a sequence of token ids"
            raise InvalidRequest([Violation("prompt", message)]) from None

    def _whole(self, answers: Sequence[_Answer]) -> list[Completion]:
        pieces: dict[int, list[Chunk]] = {answer.request.key: [] for answer in answers}
        for key, chunk in self._run(answers):
            pieces[key].append(chunk)
        return [joined(chunks) for chunks in pieces.values()]

    def _run(self, answers: Sequence[_Answer]) -> Iterator[tuple[int, Chunk]]:
        """Steps until these answers are whole. Rows of other streams that are open meanwhile are kept for them."""
        open_answers = {answer.request.key: answer for answer in answers}
        try:
            for answer in answers:
                self._rows[answer.request.key] = deque()
                self.engine.add(answer.request)
            while open_answers:
                if not any(self._rows[key] for key in open_answers):
                    for row in self.engine.step():
                        if row.key in self._rows:
                            self._rows[row.key].append(row)
                for key in [key for key in open_answers if self._rows[key]]:
                    chunk = open_answers[key].take(self._rows[key].popleft())
                    if not open_answers[key].open:
                        self._forget(open_answers.pop(key))
                    if chunk is not None:
                        yield key, chunk
        finally:
            for answer in open_answers.values():
                self._forget(answer)

    def _forget(self, answer: _Answer) -> None:
        """Frees the slot, if the engine does not know yet that this answer has ended."""
        self.engine.abort(answer.request.key)
        self._rows.pop(answer.request.key, None)


def _several(messages: Any) -> Sequence[object]:
    """A list of conversations; one alone is a list of one."""
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
    return messages if is_list and messages and isinstance(messages[0], Sequence) else [messages]
