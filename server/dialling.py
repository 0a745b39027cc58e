"""How a client reaches a server: address, TLS, token, and what is tried again. No torch."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import grpc

from ..models.bounds import Bound
from ..models.errors import AddressError, SetupError
from .address import Address, read_address
from .private_files import read_private, read_public

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
NO_PROXY = (("grpc.enable_http_proxy", 0),)
TOKEN, TOKEN_FILE, CA = "MOESAIC_TOKEN", "MOESAIC_TOKEN_FILE", "MOESAIC_CA"
_RETRIES = 4
_BOUND = Bound(0, 4, way_out="0 tries nothing twice")
_MOST_TOKEN_BYTES, _MOST_PEM_BYTES = 4096, 1 << 20
_SERVICES = ("moesaic.v1.Generation", "moesaic.v1.Scoring", "moesaic.v1.Models")


class ClientSettings(TypedDict, total=False):
    """What a client is made with, beside the address.

    token: who calls, else what the file `token_file` holds, else $MOESAIC_TOKEN, else what $MOESAIC_TOKEN_FILE names.
    ca: PEM of those whom the client trusts to say who a server is, which asks for TLS as https:// does; else that of
    $MOESAIC_CA, else the system's. client_cert, client_key: what the client shows itself, in PEM.
    timeout: seconds for each call that is given none. retries: how often a call that was not begun is tried again (4);
    retries and push-back are gRPC's. balance: spread calls over all addresses of the name, those whose health is
    SERVING.
    """

    token: str | None
    token_file: str | Path | None
    ca: str | Path | None
    client_cert: str | Path | None
    client_key: str | Path | None
    timeout: float | None
    retries: int
    balance: bool


@dataclass(frozen=True, slots=True)
class Dialled:
    """All that a channel is made of. metadata: sent with each call; it has the token and is in no text."""

    address: Address
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    metadata: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"Dialled({self.address.target})"

    def channel(self, kind: Any) -> Any:
        """A channel of `grpc`, or of `grpc.aio`."""
        if self.credentials is None:
            return kind.insecure_channel(self.address.target, options=self.options)
        return kind.secure_channel(self.address.target, self.credentials, options=self.options)


def dial(text: str, settings: ClientSettings, environment: Mapping[str, str] = os.environ) -> Dialled:
    """Judges what a client is made with. Raises AddressError or SetupError; nothing is connected yet."""
    retries = settings.get("retries", _RETRIES)
    _BOUND.check("retries", retries)
    address = read_address(text)
    tls = address.tls or bool(settings.get("ca") or settings.get("client_cert"))
    credentials = _credentials(settings, environment) if tls else None
    token = _token(settings, environment)
    if token and not tls and not address.is_local:
        raise AddressError(
            f"a token would go to {address.target} for everybody on the way to read; write https:// before the address"
        )
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    proxy = NO_PROXY if address.is_local else ()
    config = ("grpc.service_config", json.dumps(service_config(retries, settings.get("balance", False))))
    return Dialled(replace(address, tls=tls), credentials, (*CHANNEL_OPTIONS, *proxy, config), metadata)


def service_config(retries: int, balance: bool) -> dict[str, Any]:
    """What gRPC does by itself. It waits as long as a server asks it to (grpc-retry-pushback-ms).

    CANCELLED is what gRPC makes of calls that a full or ending server never took up; an operator's abort forbids it.
    """
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
    }
    names = [{"service": name} for name in _SERVICES]
    retrying = {
        "methodConfig": [{"name": names, "retryPolicy": policy}],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
    balanced = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    return {**(retrying if retries else {}), **(balanced if balance else {})}


def _token(settings: ClientSettings, environment: Mapping[str, str]) -> str | None:
    file = settings.get("token_file")
    given = settings.get("token") or (None if file else environment.get(TOKEN))
    if given is None and (named := file or environment.get(TOKEN_FILE)):
        given = read_private(Path(named), "token_file", _MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    if given is not None and not (given.isascii() and given.isprintable() and given and " " not in given):
        raise SetupError(
            "the token is no line of printable ASCII without spaces; make one with: moesaic token new NAME"
        )
    return given


def _credentials(settings: ClientSettings, environment: Mapping[str, str]) -> grpc.ChannelCredentials:
    ca, cert, key = settings.get("ca") or environment.get(CA), settings.get("client_cert"), settings.get("client_key")
    if (cert is None) != (key is None):
        raise SetupError("client_cert and client_key come together; give both or neither")
    roots = None if ca is None else _pem(ca, "ca")
    chain = None if cert is None else _pem(cert, "client_cert")
    private = None if key is None else read_private(Path(key), "client_key", _MOST_PEM_BYTES)
    return grpc.ssl_channel_credentials(roots, private, chain)


def _pem(file: str | Path, name: str) -> bytes:
    data = read_public(Path(file), name, _MOST_PEM_BYTES)
    if b"-----BEGIN " not in data:
        raise SetupError(f"{name}: {file} holds no certificate in PEM")
    return data
