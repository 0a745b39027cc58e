"""The routes of the HTTP door. Requests go where those of gRPC go."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ...models.errors import InvalidRequest
from ...models.suggestion import likely
from ...proto import generation_pb2 as pb
from ..access import Access
from ..catalog import ServedModel
from ..classification import classify
from ..embedding import embed
from ..exchange import TimeLimits
from ..generation import Call, Generation, new_id
from ..health import HealthService
from ..metrics import CONTENT_TYPE, Metrics
from .answers import Answer
from .body import BodyReader
from .caller import caller_of
from .classification import classification_asking_of
from .embeddings import embedding_asking_of
from .errors import HttpError
from .guard import Guard
from .models import model_object
from .page import page, page_headers
from .requests import Asking, asking_of
from .stream import DONE, EventStream, event

_NO_STORE = {"cache-control": "no-store"}


class HttpApp:
    """Everything that is answered here."""

    def __init__(self, generation: Generation, health: HealthService, metrics: Metrics, limits: TimeLimits) -> None:
        self._generation, self._health, self._metrics, self._limits = generation, health, metrics, limits
        self._bodies = BodyReader(generation.budget, limits.receive)
        self._since = int(time.time())

    def guarded(self, access: Access) -> ASGIApp:
        """The whole, as a server calls it."""
        routes = [
            Route("/", self.page),
            Route("/livez", self.live),
            Route("/health", self.ready),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/completions", self.completion, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/classify", self.classify, methods=["POST"]),
        ]
        paths = {route.endpoint: route.path for route in routes}
        router = Router(routes, redirect_slashes=False, default=_unknown(list(paths.values())))
        return Guard(router, self._limits, paths, self._metrics.responded, access, self._generation.tracing)

    async def page(self, request: Request) -> Response:
        """GET /: a page to try the models with."""
        return Response(page(), headers=page_headers())

    async def live(self, request: Request) -> Response:
        """GET /livez: this process answers."""
        return PlainTextResponse("ok\n", headers=_NO_STORE)

    async def ready(self, request: Request) -> Response:
        """GET /readyz: whether every model serves, which is what the health of gRPC says of the whole server."""
        serves = self._health.serves("")
        states = {info.name: _state(info) for info in self._generation.catalog.infos()}
        return JSONResponse({"ready": serves, "models": states}, 200 if serves else 503, _NO_STORE)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: for Prometheus."""
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE, **_NO_STORE})

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        found = [self._object(model.info(self._generation.catalog.draining)) for model in self._models()]
        return JSONResponse({"object": "list", "data": found}, headers=_NO_STORE)

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        catalog = self._generation.catalog
        found = catalog.find(request.path_params["name"], "model")
        return JSONResponse(self._object(found.info(catalog.draining)), headers=_NO_STORE)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(request, chat=False)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(request, chat=True)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        return await self._read(request, embedding_asking_of, embed)

    async def classify(self, request: Request) -> Response:
        """POST /v1/classify."""
        return await self._read(request, classification_asking_of, classify)

    async def _read(
        self, request: Request, asking_of: Callable[..., Any], ask: Callable[..., Awaitable[Any]]
    ) -> Response:
        """The answer of a method that reads texts and makes none."""
        body = await self._bodies.read(request)
        request_id = request.headers.get("x-request-id") or new_id()
        asking = asking_of(body, request_id)
        try:
            found = await ask(self._generation, asking.message, Call(caller_of(request), request_id))
        except InvalidRequest as error:
            raise asking.told(error) from None
        return JSONResponse(asking.answer(found), headers={"x-request-id": request_id})

    async def _answer(self, request: Request, chat: bool) -> Response:
        body = await self._bodies.read(request)
        request_id = request.headers.get("x-request-id") or new_id()
        asking = asking_of(body, chat, request_id)
        if asking.tools.names:
            form = self._model(asking).prompts.chat.tool_form
            asking.tools.check(form)
            if grammar := asking.tools.grammar(form):
                asking.message.constraint.grammar = grammar
        call = Call(caller_of(request), request_id, counting=asking.counting, together=not asking.stream)
        chunks = self._generation.chunks(asking.message, call)
        try:
            answering = self._streamed if asking.stream else self._whole
            return await answering(asking, request_id, chunks)
        except InvalidRequest as error:
            raise asking.told(error) from None

    async def _whole(self, asking: Asking, request_id: str, chunks: AsyncIterator[pb.GenerateChunk]) -> Response:
        async with aclosing(chunks):  # type: ignore[type-var]
            taken = [chunk async for chunk in chunks]
        return JSONResponse(self._written(asking, request_id).whole(taken), headers={"x-request-id": request_id})

    async def _streamed(self, asking: Asking, request_id: str, chunks: AsyncIterator[pb.GenerateChunk]) -> Response:
        """With the first tokens at hand: until then a refusal has its code."""
        first = await anext(chunks)
        events = _events(asking, self._written(asking, request_id), first, chunks)
        return EventStream(events, {"x-request-id": request_id})

    def _written(self, asking: Asking, request_id: str) -> Answer:
        model = self._model(asking)
        logprobs = asking.message.sampling.HasField("logprobs")
        reader = partial(asking.tools.reader, model.prompts.chat.tool_form)
        tokenizer = model.prompts.tokenizer
        return Answer(request_id, model.name, asking.chat, tokenizer, logprobs, reader, asking.tools.one)

    def _model(self, asking: Asking) -> ServedModel:
        return self._generation.catalog.find(asking.message.model, "model")

    def _models(self) -> Any:
        return self._generation.catalog.models.values()

    def _object(self, info: pb.ModelInfo) -> Mapping[str, Any]:
        return model_object(info, self._since)


async def _events(
    asking: Asking, answer: Answer, first: pb.GenerateChunk, others: AsyncIterator[pb.GenerateChunk]
) -> AsyncGenerator[bytes, None]:
    last = first
    async with aclosing(others):  # type: ignore[type-var]
        yield event(answer.part(first, asking.counting))
        async for last in others:
            yield event(answer.part(last, asking.counting))
    if asking.usage:
        yield event(answer.last_part(last.usage))
    yield DONE


def _unknown(paths: list[str]) -> ASGIApp:
    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])[:100]
        text = f"there is nothing at {ascii(path)}{likely(path, paths)}; what there is: {', '.join(paths)}"
        raise HttpError(404, "UNKNOWN_PATH", text)

    return unknown


def _state(info: pb.ModelInfo) -> str:
    return pb.ModelInfo.State.Name(info.state)
