"""The services of moesaic.v1: methods and headers; what they do is in generation.py and beside it."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from ..proto import generation_pb2 as pb
from ..proto import scoring_pb2
from . import texts
from .batch import generate_batch
from .caller import caller_of
from .catalog import Catalog
from .classification import classify
from .embedding import embed
from .fields import receipt_metadata
from .generation import Call, Generation, new_id
from .scoring import score

_BATCH = "/moesaic.v1.Generation/GenerateBatch"


class GenerationService:
    """moesaic.v1.Generation. Headers are sent with the first token: until then a refusal can be retried."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    async def Generate(self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        """The whole answer at once: what the chunks say, put together."""
        call = call_of(context, message.request_id)
        response = await self._generation.whole(message, call)
        context.set_trailing_metadata(receipt_metadata(response.usage))
        await _send_id(context, call)
        return response

    async def GenerateStream(
        self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateChunk]:
        """The answer as it is made."""
        call, begun = call_of(context, message.request_id), False
        async with aclosing(self._generation.chunks(message, call)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if not begun:
                    await _send_id(context, call)
                    begun = True
                if chunk.HasField("timing"):  # the last
                    context.set_trailing_metadata(receipt_metadata(chunk.usage))
                yield chunk

    async def GenerateBatch(
        self, message: pb.GenerateBatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.BatchItem]:
        """Each answer when it is whole."""
        batch = generate_batch(self._generation, message, call_of(context), _BATCH)
        async with aclosing(batch) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def Validate(self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.ValidateResponse:
        """What Generate would say before it begins."""
        return await texts.validate(self._generation, message, call_of(context))

    async def Tokenize(self, message: pb.TokenizeRequest, context: grpc.aio.ServicerContext) -> pb.TokenizeResponse:
        """The ids of a text or of a conversation."""
        return await texts.tokenize(self._generation, message, call_of(context))

    async def Detokenize(
        self, message: pb.DetokenizeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetokenizeResponse:
        """The text of ids."""
        return await texts.detokenize(self._generation, message, call_of(context))

    async def ApplyChatTemplate(
        self, message: pb.ApplyChatTemplateRequest, context: grpc.aio.ServicerContext
    ) -> pb.ApplyChatTemplateResponse:
        """A conversation as the template writes it."""
        return await texts.apply_chat_template(self._generation, message, call_of(context))


class ScoringService:
    """moesaic.v1.Scoring."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    async def Score(
        self, message: scoring_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> scoring_pb2.ScoreResponse:
        """How likely each continuation is."""
        call = call_of(context, message.request_id)
        response = await score(self._generation, message, call)
        await _send_id(context, call)
        return response

    async def Embed(
        self, message: scoring_pb2.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> scoring_pb2.EmbedResponse:
        """A vector of each text."""
        call = call_of(context, message.request_id)
        response = await embed(self._generation, message, call)
        await _send_id(context, call)
        return response

    async def Classify(
        self, message: scoring_pb2.ClassifyRequest, context: grpc.aio.ServicerContext
    ) -> scoring_pb2.ClassifyResponse:
        """The labels of each text."""
        call = call_of(context, message.request_id)
        response = await classify(self._generation, message, call)
        await _send_id(context, call)
        return response


class ModelsService:
    """moesaic.v1.Models: what is served here, while it loads and drains too."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(
        self, message: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        """All models, in the order in which they were given or came."""
        return pb.ListModelsResponse(models=self._catalog.infos())

    async def GetModel(self, message: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfo:
        """One model by name; empty means the only one."""
        return self._catalog.find(message.name, "name").info(self._catalog.draining)


def call_of(context: grpc.aio.ServicerContext, request_id: str = "") -> Call:
    """Who makes a call of gRPC, and until when it waits. An id is made up where none is given."""
    return Call(caller_of(context), request_id or new_id(), context.time_remaining)


async def _send_id(context: grpc.aio.ServicerContext, call: Call) -> None:
    await context.send_initial_metadata((("x-request-id", call.request_id),))
