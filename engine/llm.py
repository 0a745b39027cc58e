"""The engine with a tokenizer in front of it, in this process: text in, text out, no network."""

import operator
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Unpack

from ..models.chat import ChatTemplate, Message, message_violations, messages_of
from ..models.errors import InvalidRequest, Violation
from ..models.locate import locate
from ..models.progress import Count
from ..models.tokenizer import Tokenizer, is_unicode
from .build import build_engine
from .classification import Classified, classified, classifier_labels, classify_request
from .completion import Chunk, Completion, Scored, check_row, joined
from .defaults import sampling_defaults
from .embedding import Embedded, embed_request, encoder_pooling, pooling_of, to_read
from .guided import check_constraint
from .options import EngineOptions
from .receipt import Receipt
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
    receipt: Receipt
    open: set[int] = field(init=False)
    num_tokens: int = 0  # of all answers
    timing: Timing = Timing()
    first_at: float = 0.0

    def __post_init__(self) -> None:
        self.open = set(range(len(self.texts)))

    def take(self, row: Row) -> Chunk | None:
        """The chunk of a row; a stop string in it ends its answer at the token that completed it.

        None for what the engine says of an answer that has ended by a stop string. Raises what `check_row` raises.
        """
        check_row(row, self.request)
        if row.choice not in self.open:
            return None
        self.receipt.note(row)
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
        return replace(chunk, usage=self.receipt.usage(self.num_tokens), timing=self.timing)

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
        self._terms = Terms(defaults, built.limits, built.description.dial, built.description.instead)
        self.model = built.model  # packed for the engine's step, beside which torch has one thread
        self._keys = count()
        self._rows: dict[int, deque[Row]] = {}  # of the open answers, not yet taken

    def generate(
        self, prompts: Sequence[Prompt], *, progress: Count | None = None, **settings: Unpack[GenerationSettings]
    ) -> list[Completion]:
        """Continues every prompt, batched; answers come in the order of the prompts.

        A prompt is text (the begin token is added where the tokenizer adds one) or token ids, taken as they are.
        What is left open comes from generation_config.json; temperature 0 is greedy. progress: called with the number
        of prompts that are answered, and of how many, whenever one is.
        """
        many = [prompts] if isinstance(prompts, str) else prompts
        answers = [self._answer(prompt, GenerationSettings(**settings)) for prompt in many]
        return self._whole(answers, progress)

    def stream(self, prompt: Prompt, **settings: Unpack[GenerationSettings]) -> Generator[Chunk, None, None]:
        """The same for one prompt, as it is made. Closing the iterator frees the slot."""
        answer = self._answer(prompt, GenerationSettings(**settings))
        return (chunk for _, chunk in self._run([answer]))

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        progress: Count | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> list[Completion]:
        """Answers a conversation, or each of several, written out by the model's own chat template.

        llm.chat([{"role": "user", "content": "Hello"}], temperature=0)[0].text

        Settings and answers as in `generate`. Raises Unsupported for a model without a template.
        """
        answers = [self._chat_answer(each, GenerationSettings(**settings)) for each in _several(messages)]
        return self._whole(answers, progress)

    def stream_chat(
        self, messages: Conversation, **settings: Unpack[GenerationSettings]
    ) -> Generator[Chunk, None, None]:
        """The answer to one conversation, as it is made. Closing the iterator frees the slot."""
        answer = self._chat_answer(messages, GenerationSettings(**settings))
        return (chunk for _, chunk in self._run([answer]))

    def score(self, texts: Sequence[Prompt], *, tier: str | None = None, progress: Count | None = None) -> list[Scored]:
        """What the model makes of texts that are there: log probabilities of their tokens but the first.

        A text is read as a prompt of `generate` is, at the full tier or the one that is named; it leaves room for one
        token of the context.
        """
        settings = GenerationSettings(temperature=0, max_new_tokens=1, prompt_logprobs=0, prefill_tier=tier)
        answers = self.generate(texts, progress=progress, **settings)
        return [Scored.of(answer.prompt_logprobs, answer.timing) for answer in answers]

    def embed(
        self, texts: Sequence[Prompt], *, pooling: str | None = None, normalised: bool | None = None,
        truncate: bool = False, tier: str | None = None, progress: Count | None = None,
    ) -> list[Embedded]:  # fmt: skip
        """A vector of each text, by a model that is an encoder; batched, and in the order of the texts.

        llm = LLM("minilm"); llm.embed(["The cat sat."])[0].values

        pooling: "mean", "cls" or "last"; it and normalised are by default as the model's directory has them, which may
        be that of sentence-transformers. truncate: cut what is longer than the window, which is refused else. tier: at
        which texts are computed, by default the full one. Raises Unsupported for a model that is no encoder, and for a
        tier that it does not have.
        """
        own = encoder_pooling(self.description.pooling, self.description.family)
        how, point = pooling_of(pooling, normalised, own), self.description.dial.operating_point(tier, None)
        found = self._read(texts, truncate, lambda ids: embed_request(ids, how, self.limits, point), progress)
        return [Embedded(row.embedding, num_tokens, was_cut) for row, num_tokens, was_cut in found]

    def classify(
        self, texts: Sequence[Prompt], *, truncate: bool = False, progress: Count | None = None
    ) -> list[Classified]:
        """The labels of each text with their scores, by a model that has a classifier; batched, and in the order of the
        texts.

        llm = LLM("./my-classifier"); llm.classify(["A fine film."])[0].label

        truncate: cut what is longer than the window, which is refused else. Raises Unsupported for a model without a
        classifier.
        """
        labels = classifier_labels(self.description.labels, self.description.family)
        found = self._read(texts, truncate, lambda ids: classify_request(ids, self.limits), progress)
        return [classified(labels, row.logits, num_tokens, was_cut) for row, num_tokens, was_cut in found]

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
        request = replace(asked.arrived(time.monotonic()), key=next(self._keys))
        texts = [asked.text_stream(self.tokenizer) for _ in range(request.sampling.n)]
        return _Answer(request, texts, Receipt(request, self.description))

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        try:
            if isinstance(prompt, str) and is_unicode(prompt):
                return tuple(self.tokenizer.encode(prompt))
            return tuple(operator.index(token) for token in prompt)  # type: ignore[arg-type]
        except TypeError:
            message = f"is {str(prompt)[:40]!r}; it must be text in Unicode, or a sequence of token ids"
            raise InvalidRequest([Violation("prompt", message)]) from None

    def _read(
        self, texts: Sequence[Prompt], truncate: bool, asked: Callable[[Sequence[int]], Request], progress: Count | None
    ) -> list[tuple[Row, int, bool]]:
        """Of each text the row that it came to, how many tokens of it were read, and whether it had more."""
        window = self.limits.max_context if truncate else None
        many = [texts] if isinstance(texts, str) else texts
        whole = [(self._ids(text), self.tokenizer if isinstance(text, str) else None) for text in many]
        read = [to_read(ids, tokenizer, window) for ids, tokenizer in whole]
        rows = self._rows_of([replace(asked(ids), key=next(self._keys)) for ids in read], progress)
        found = zip(rows, read, whole, strict=True)
        return [(row, len(ids), len(ids) < len(every)) for row, ids, (every, _) in found]

    def _rows_of(self, requests: Sequence[Request], progress: Count | None) -> list[Row]:
        """The rows of these, which stand in the engine by their lengths meanwhile."""
        found = dict[int, Row]()
        try:
            for request in sorted(requests, key=lambda request: len(request.prompt_ids)):
                self.engine.add(request)
            while len(found) < len(requests):
                found |= {row.key: row for row in self.engine.step()}
                if progress:
                    progress(len(found), len(requests))
        finally:
            for request in requests:
                self.engine.abort(request.key)
        for request in requests:
            check_row(found[request.key], request)
        return [found[request.key] for request in requests]

    def _whole(self, answers: Sequence[_Answer], progress: Count | None = None) -> list[Completion]:
        pieces: dict[int, list[Chunk]] = {answer.request.key: [] for answer in answers}
        done = 0
        for key, chunk in self._run(answers):
            pieces[key].append(chunk)
            if progress and chunk.usage is not None:
                done += 1
                progress(done, len(answers))
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
                    answer = open_answers[key]
                    chunk = answer.take(self._rows[key].popleft())
                    if not answer.open:
                        self._forget(open_answers.pop(key))
                    elif chunk is not None and chunk.finish_reason is FinishReason.STOP_STRING:
                        self.engine.abort(key, chunk.choice)
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
