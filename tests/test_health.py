"""What the health service says, and to whom it does not wait."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from server_harness import Server

from moesaic.server.health import HealthService

OIP = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


def watch(service: HealthService, name: str = "") -> Any:
    """A watcher that is told one state a time it asks."""
    return service.Watch(pb.HealthCheckRequest(service=name), Any)


def test_a_watcher_that_falls_behind_is_told_the_newest_state_alone() -> None:
    async def scene() -> None:
        service = HealthService()
        service.tell({"": NOT_SERVING})
        watching = watch(service)
        assert (await anext(watching)).status == NOT_SERVING
        for status in (SERVING, NOT_SERVING) * 50 + (SERVING,):
            service.tell({"": status})
        assert (await anext(watching)).status == SERVING
        service.tell({"": SERVING})
        service.end()
        assert [state async for state in watching] == []

    asyncio.run(scene())


def test_the_last_state_is_told_before_a_watcher_is_let_go() -> None:
    async def scene() -> None:
        service = HealthService()
        service.tell({"": SERVING})
        watching = watch(service)
        await anext(watching)
        service.tell({"": NOT_SERVING})
        service.end()
        assert [state.status async for state in watching] == [NOT_SERVING]

    asyncio.run(scene())


def test_a_name_that_is_not_there_yet_is_watched_until_it_is() -> None:
    async def scene() -> None:
        service = HealthService()
        watching = watch(service, "model:late")
        assert (await anext(watching)).status == UNKNOWN
        service.tell({"model:late": SERVING})
        assert (await anext(watching)).status == SERVING

    asyncio.run(scene())


@pytest.fixture(scope="module")
def stub() -> Iterator[Any]:
    with Server() as server, grpc.insecure_channel(server.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def test_a_list_has_all_names(stub: Any) -> None:
    statuses = stub.List(pb.HealthListRequest()).statuses
    assert {name: each.status for name, each in statuses.items()} == dict.fromkeys(
        ("", *(f"moesaic.v1.{name}" for name in ("Generation", "Scoring", "Models")), OIP, "model:echo"), SERVING
    )


def test_a_name_that_there_is_not_is_not_found(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(pb.HealthCheckRequest(service="model:none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert next(stub.Watch(pb.HealthCheckRequest(service="model:none"))).status == UNKNOWN
