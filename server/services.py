"""The services of generation.proto. Every request has one owner here, which frees what it holds in `finally`."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import grpc

from ..engine.request import Request
from ..engine.settings import Asked
from ..proto import generation_pb2 as pb
from .answer import answer
from .byte_budget import ByteBudget
from .caller import caller_of, this_caller
from .catalog import Catalog
from .request_log import RequestRecord
from .validation import checked


class GenerationService:
    """moesaic.v1.Generation. Headers are sent with the first token: until then a refusal can be retried."""

    def __init__(self, catalog: Catalog, budget: ByteBudget, log_requests: bool = False) -> None:
        self._catalog, self._budget = catalog, budget
        self._log_requests = log_requests

    async def Generate(self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        """The whole answer at once: what the chunks say, put together."""
        request_id = message.request_id or uuid.uuid4().hex
        response = pb.GenerateResponse(request_id=request_id)
        texts: list[list[str]] = []
        async with aclosing(self._chunks(message, request_id, context)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                while len(texts) <= chunk.choice:
                    texts.append([])
                texts[chunk.choice].append(chunk.text)
                _add(response, chunk)
        for choice, text in enumerate(texts):
            _answer_of(response, choice).text = "".join(text)
        response.model = self._catalog.find(message.model, "model").name
        await context.send_initial_metadata((("x-request-id", request_id),))
        return response

    async def GenerateStream(
        self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateChunk]:
        """The answer as it is made."""
        request_id = message.request_id or uuid.uuid4().hex
        begun = False
        async with aclosing(self._chunks(message, request_id, context)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if not begun:
                    await context.send_initial_metadata((("x-request-id", request_id),))
                    begun = True
                yield chunk

    async def _chunks(
        self, message: pb.GenerateRequest, request_id: str, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateChunk]:
        """Admission, the engine, and the way back; leaving this block by any door frees all of it."""
        with RequestRecord(request_id, message.model, self._log_requests) as record:
            with self._catalog.under_way(caller_of(context), request_id), self._budget.request(message.ByteSize()):
                model = self._catalog.find(message.model, "model")
                terms = model.ready()
                with model.admission.place(caller_of(context)) as place:
                    asked = await checked(message, model.prompts, terms)
                    num_tokens, most_tokens = len(asked.request.prompt_ids), model.max_prompt_tokens(terms.limits)
                    model.admission.hold_prompt(place, num_tokens, most_tokens)
                    this_caller().spend(num_tokens)
                    running = model.engine.submit(submitted(asked, record.arrived, time.monotonic(), context))
                    place.running = running
                    end = model.engine.end_answer
                    try:
                        async for chunk in answer(running, asked, model.prompts.tokenizer, record.arrived, end):
                            this_caller().spend(len(chunk.token_ids))
                            if chunk.HasField("usage"):
                                record.last = chunk
                            yield chunk
                    finally:
                        model.engine.release(running)


def submitted(asked: Asked, arrived: float, now: float, context: grpc.aio.ServicerContext) -> Request:
    """The request with its caller and with the deadline of its call."""
    left = context.time_remaining()
    request = asked.arrived(arrived, None if left is None else left + now - arrived)
    return replace(request, caller=caller_of(context), salt=this_caller().salt(request.salt))


def _add(response: pb.GenerateResponse, chunk: pb.GenerateChunk) -> None:
    """All that a chunk says but its text."""
    whole = _answer_of(response, chunk.choice)
    whole.token_ids.extend(chunk.token_ids)
    whole.logprobs.extend(chunk.logprobs)
    response.prompt_logprobs.extend(chunk.prompt_logprobs)
    if chunk.HasField("finish"):
        whole.finish.CopyFrom(chunk.finish)
    if chunk.HasField("usage"):
        response.usage.CopyFrom(chunk.usage)
        response.timing.CopyFrom(chunk.timing)


def _answer_of(response: pb.GenerateResponse, choice: int) -> pb.GenerateResponse | pb.Answer:
    """Where an answer is written: the first is the response itself."""
    while len(response.others) < choice:
        response.others.add()
    return response.others[choice - 1] if choice else response


class ModelsService:
    """moesaic.v1.Models: what is served here, while it loads and drains too."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(
        self, message: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        """All models, in the order in which they were given."""
        draining = self._catalog.draining
        return pb.ListModelsResponse(models=[model.info(draining) for model in self._catalog.models.values()])

    async def GetModel(self, message: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfo:
        """One model by name; empty means the only one."""
        return self._catalog.find(message.name, "name").info(self._catalog.draining)
