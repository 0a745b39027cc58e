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

_METHODS: Mapping[str, Asked] = {  # what ends in a slash stands for all below it
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
    "/": Door.OPEN,  # the page, which has no data; and over HTTP
    "/livez": Door.OPEN,
    "/readyz": Door.OPEN,
    "/health": Door.OPEN,
    "/metrics": Scope.METRICS,
    "/v1/models": Door.KNOWN,
    "/v1/models/": Door.KNOWN,
    "/v1/completions": Scope.GENERATE,
    "/v1/chat/completions": Scope.GENERATE,
    "/v1/embeddings": Scope.GENERATE,
    "/v1/classify": Scope.GENERATE,
}


def asked_by(method: str) -> Asked:
    """What a caller of a method, as /package.Service/Method, or of a path over HTTP must be allowed."""
    if method in _METHODS:
        return _METHODS[method]
    folders = [method[: place + 1] for place, letter in enumerate(method) if letter == "/" and place]
    return next((_METHODS[folder] for folder in reversed(folders) if folder in _METHODS), Scope.ADMIN)
