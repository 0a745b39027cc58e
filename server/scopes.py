"""What a token may do, and what each method asks. What is not named here asks for the most."""

from collections.abc import Mapping
from enum import StrEnum


class Scope(StrEnum):
    """What may be allowed."""

    GENERATE = "generate"  # prompts and what comes of them
    METRICS = "metrics"  # counters and times of all callers together
    ADMIN = "admin"  # loading, unloading, ending others' requests


class Door(StrEnum):
    """What a method asks instead of a scope."""

    OPEN = "open"  # no token: probes have none
    KNOWN = "known"  # any token


Asked = Scope | Door

_METHODS: Mapping[str, Asked] = {  # the longest beginning counts
    "/grpc.health.v1.Health/": Door.OPEN,
    "/grpc.reflection.v1.ServerReflection/": Door.KNOWN,
    "/grpc.reflection.v1alpha.ServerReflection/": Door.KNOWN,
    "/moesaic.v1.Models/": Door.KNOWN,
    "/moesaic.v1.Generation/": Scope.GENERATE,
    "/moesaic.v1.Scoring/": Scope.GENERATE,
    "/inference.GRPCInferenceService/ServerLive": Door.OPEN,
    "/inference.GRPCInferenceService/ServerReady": Door.OPEN,
    "/inference.GRPCInferenceService/ModelReady": Door.OPEN,
    "/inference.GRPCInferenceService/ServerMetadata": Door.KNOWN,
    "/inference.GRPCInferenceService/ModelMetadata": Door.KNOWN,
    "/inference.GRPCInferenceService/RepositoryIndex": Door.KNOWN,
    "/inference.GRPCInferenceService/ModelInfer": Scope.GENERATE,
    "/inference.GRPCInferenceService/ModelStreamInfer": Scope.GENERATE,
}


def asked_by(method: str) -> Asked:
    """What a caller of a method, as /package.Service/Method, must be allowed."""
    return _METHODS.get(method) or _METHODS.get(method[: method.rfind("/") + 1]) or Scope.ADMIN
