"""The door for clients of the Open Inference Protocol, as KServe and Triton have them: GRPCInferenceService."""

import grpc

from ..models.errors import InvalidRequest, NotFound, PermissionDenied, Violation
from ..models.locate import short_names
from ..models.version import VERSION
from ..proto import inference_pb2 as pb
from .catalog import ServedModel
from .engine_process import EngineState
from .fleet import Fleet
from .generation import Generation
from .health import HealthService
from .oip_tensors import OUTPUTS, TEXT_INPUT, renamed, request_of, response_of
from .services import call_of

ONLY_VERSION = "1"
_STATES = {EngineState.SERVING: "READY", EngineState.LOADING: "LOADING", EngineState.RESTARTING: "UNAVAILABLE"}


class InferenceService:
    """Every method of inference.proto. What it infers goes the way of Generate.

    control: whether callers may load and unload models.
    """

    def __init__(self, generation: Generation, fleet: Fleet, health: HealthService, control: bool) -> None:
        self._generation, self._fleet, self._health, self._control = generation, fleet, health, control

    async def ServerLive(
        self, message: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        """That it answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, message: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        """What the health of the whole server is."""
        return pb.ServerReadyResponse(ready=self._health.serves(""))

    async def ModelReady(
        self, message: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        """What the health of a model is; one that there is not is not ready."""
        right = message.version in ("", ONLY_VERSION)
        return pb.ModelReadyResponse(ready=right and self._health.serves(f"model:{message.name}"))

    async def ServerMetadata(
        self, message: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name and version."""
        return pb.ServerMetadataResponse(name="moesaic", version=VERSION, extensions=["model_repository"])

    async def ModelMetadata(
        self, message: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """The tensors of a model, which are those of every one."""
        kind = pb.ModelMetadataResponse.TensorMetadata
        text_output, token_ids, finish_reason = OUTPUTS
        return pb.ModelMetadataResponse(
            name=self._found(message.name, message.version, "name").name,
            versions=[ONLY_VERSION],
            platform="moesaic",
            inputs=[kind(name=TEXT_INPUT, datatype="BYTES", shape=[1])],
            outputs=[
                kind(name=text_output, datatype="BYTES", shape=[1]),
                kind(name=token_ids, datatype="UINT32", shape=[-1]),
                kind(name=finish_reason, datatype="BYTES", shape=[1]),
            ],
        )

    async def ModelInfer(
        self, message: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        """The whole answer to one prompt."""
        self._found(message.model_name, message.model_version, "model_name")
        request = request_of(message)
        try:
            answer = await self._generation.whole(request, call_of(context, message.id))
        except InvalidRequest as error:
            raise renamed(error, message) from None
        return response_of(message, answer)

    async def RepositoryIndex(
        self, message: pb.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """The models that are served, and those that were unloaded here."""
        _check_repository(message.repository_name)
        kind = pb.RepositoryIndexResponse.ModelIndex
        found = [
            kind(name=model.name, version=ONLY_VERSION, state=_state(model))
            for model in self._generation.catalog.models.values()
        ]
        gone = (name for name in self._fleet.gone if name not in self._generation.catalog.models)
        found += [kind(name=name, version=ONLY_VERSION, state="UNAVAILABLE", reason="unloaded") for name in gone]
        return pb.RepositoryIndexResponse(models=[each for each in found if each.state == "READY" or not message.ready])

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Returns when the model serves, at once where it does so already."""
        self._check_control(message)
        name = message.model_name
        if name not in self._generation.catalog.models:
            await self._fleet.load(name, self._path(name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Returns when the model is gone."""
        self._check_control(message)
        await self._fleet.unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _found(self, name: str, version: str, field: str) -> ServedModel:
        model = self._generation.catalog.find(name, field)
        if version not in ("", ONLY_VERSION):
            raise NotFound(f"model {model.name} has no version {ascii(version[:16])}; leave it out", model.name)
        return model

    def _path(self, name: str) -> str:
        """Of what callers may load: no path that they name."""
        if name in self._fleet.gone:
            return self._fleet.gone[name]
        if name in short_names():
            return name
        raise NotFound(f"no model {ascii(name[:64])} is at hand here", name[:64])

    def _check_control(self, message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> None:
        if not self._control:
            text = "models are loaded and unloaded on the admin socket; --repository-control allows it here too"
            raise PermissionDenied(text, "REPOSITORY_CONTROL_OFF")
        _check_repository(message.repository_name)
        for name in message.parameters:
            raise InvalidRequest([Violation("parameters", f"hold {ascii(name[:32])}; none is known here")])


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequest([Violation("repository_name", "is not empty; there are no named repositories here")])


def _state(model: ServedModel) -> str:
    return "UNAVAILABLE" if model.leaving else _STATES[model.engine.state]
