"""A client of a server's admin socket. No torch."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from ..proto import admin_pb2 as pb
from .address import Address
from .client_answers import raised
from .dialling import CHANNEL_OPTIONS, NO_PROXY
from .handlers import ADMIN, stub


class AdminClient:
    """Every method of admin.proto. Raises what the server raised, as `Client` does.

    with AdminClient("moesaic.sock") as admin:
        admin.load_model("small", "stories260k")
    """

    def __init__(self, path: str) -> None:
        self._address = Address(f"unix:{path}")
        self._channel = grpc.insecure_channel(self._address.target, options=(*CHANNEL_OPTIONS, *NO_PROXY))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def server_info(self) -> pb.ServerInfo:
        """Version, addresses, models and the configuration in effect."""
        info: pb.ServerInfo = self._call("GetServerInfo", pb.GetServerInfoRequest())
        return info

    def load(self) -> pb.GetLoadResponse:
        """How full the server and each of its models is."""
        load: pb.GetLoadResponse = self._call("GetLoad", pb.GetLoadRequest())
        return load

    def abort(self, request_id: str, caller: str = "") -> int:
        """Ends the requests of this id; how many there were."""
        return int(self._call("Abort", pb.AbortRequest(request_id=request_id, caller=caller)).aborted)

    def drain(self, seconds: float | None = None) -> Iterator[pb.DrainProgress]:
        """Ends the server; how many requests are left, again and again."""
        try:
            yield from stub(self._channel, ADMIN, "Drain")(pb.DrainRequest(seconds=seconds))
        except grpc.RpcError as error:
            raise raised(error, self._address, begun=True) from None

    def set_log_level(self, level: str) -> str:
        """Logs more or less from now on; what it was before."""
        return str(self._call("SetLogLevel", pb.SetLogLevelRequest(level=level)).before)

    def load_model(self, name: str, path: str = "") -> pb.ModelMemory:
        """Returns when the model serves."""
        loaded: pb.ModelMemory = self._call("LoadModel", pb.LoadModelRequest(name=name, path=path))
        return loaded

    def unload_model(self, name: str, seconds: float | None = None) -> int:
        """Returns when the model is gone; how many requests had to be ended for it."""
        return int(self._call("UnloadModel", pb.UnloadModelRequest(name=name, seconds=seconds)).ended)

    def _call(self, name: str, message: Any) -> Any:
        try:
            return stub(self._channel, ADMIN, name)(message)
        except grpc.RpcError as error:
            raise raised(error, self._address, begun=False) from None
