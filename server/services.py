"""The services of generation.proto. Headers, messages and methods; what they do is elsewhere."""

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from ..proto import generation_pb2 as pb
from .caller import caller_of
from .catalog import Catalog
from .generation import Call, Generation


class GenerationService:
    """moesaic.v1.Generation. Headers are sent with the first token: until then a refusal can be retried."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

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
        response.model = self._generation.catalog.find(message.model, "model").name
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

    def _chunks(
        self, message: pb.GenerateRequest, request_id: str, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateChunk]:
        """The answer as it is made; leaving it by any door frees all that it holds."""
        return self._generation.chunks(message, call_of(context, request_id))


def call_of(context: grpc.aio.ServicerContext, request_id: str) -> Call:
    """Who makes a call of gRPC, and how long they wait."""
    return Call(caller_of(context), request_id, context.time_remaining)


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
